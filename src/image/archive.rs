//! The archive format of `docker save`: `manifest.json`, the image's configuration, and each layer as a tar.
//!
//! Engines from 20.10 on and containerd read it alike. It is written by hand because everything that varies (times,
//! owners, order) has to be pinned anyway: the same input must give the same digest on every machine.
//! Shapes: Docker Image Specification v1.2 and the OCI image configuration.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Recipe;

/// Of this build, as images call it.
pub(super) const ARCHITECTURE: &str = env!("TPDOCKER_DATAPLANE_ARCH");

/// Every time in an image: it may not depend on when it was made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Mode of the one file in an image.
const EXECUTABLE: u32 = 0o755;
/// Mode of the archive's own members.
const MEMBER: u32 = 0o644;

/// An image, less its name.
#[derive(Debug)]
pub(super) struct Archive {
    config: Vec<u8>,
    config_digest: String,
    layer: Vec<u8>,
    layer_digest: String,
}

#[derive(Serialize)]
struct ImageConfig<'a> {
    created: &'a str,
    architecture: &'a str,
    os: &'a str,
    config: RuntimeConfig<'a>,
    rootfs: RootFs,
    history: [History<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RuntimeConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    entrypoint: Vec<&'a str>,
    working_dir: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: [String; 1],
}

#[derive(Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestEntry<'a> {
    config: String,
    repo_tags: [&'a str; 1],
    layers: [String; 1],
}

impl Archive {
    /// The image of `recipe` around `binary`.
    pub(super) fn new(recipe: &Recipe, binary: &[u8]) -> Self {
        let layer = layer(recipe.path, binary).expect("writing to memory does not fail");
        let layer_digest = hex_digest(&layer);
        let config = ImageConfig {
            created: CREATED,
            architecture: ARCHITECTURE,
            os: "linux",
            config: RuntimeConfig {
                user: recipe.user.map(|id| format!("{id}:{id}")),
                entrypoint: std::iter::once(recipe.path).chain(recipe.arguments.iter().copied()).collect(),
                working_dir: "/",
                labels: BTreeMap::from([
                    ("org.opencontainers.image.title", recipe.title),
                    ("org.opencontainers.image.description", recipe.description),
                    ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
                    ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
                ]),
            },
            rootfs: RootFs { kind: "layers", diff_ids: [format!("sha256:{layer_digest}")] },
            history: [History { created: CREATED, created_by: format!("tpdocker: {}", recipe.path) }],
        };
        let config = serde_json::to_vec(&config).expect("strings and lists are JSON");
        let config_digest = hex_digest(&config);
        Self { config, config_digest, layer, layer_digest }
    }

    /// SHA-256 of the configuration, which names the layer's: a digest of the whole image, in hexadecimal.
    pub(super) fn config_digest(&self) -> &str {
        &self.config_digest
    }

    /// Writes the archive under the name `reference`.
    pub(super) fn write(&self, reference: &str, out: impl Write) -> io::Result<()> {
        let config_path = format!("{}.json", self.config_digest);
        let layer_path = format!("{}/layer.tar", self.layer_digest);
        let manifest =
            [ManifestEntry { config: config_path.clone(), repo_tags: [reference], layers: [layer_path.clone()] }];
        let mut tar = tar::Builder::new(out);
        append(&mut tar, &config_path, MEMBER, &self.config)?;
        append(&mut tar, &layer_path, MEMBER, &self.layer)?;
        append(&mut tar, "manifest.json", MEMBER, &serde_json::to_vec(&manifest)?)?;
        tar.into_inner()?.flush()
    }
}

fn layer(path: &str, binary: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::with_capacity(binary.len() + 4096));
    append(&mut tar, path.trim_start_matches('/'), EXECUTABLE, binary)?;
    tar.into_inner()
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data)
}

fn hex_digest(data: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(data).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string does not fail");
        hex
    })
}
