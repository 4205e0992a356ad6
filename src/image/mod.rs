//! The images that this binary carries inside itself: one static binary each, FROM scratch.
//!
//! `build.rs` compiled and compressed the binaries; here they become images without an engine or a registry. The same
//! binary gives the same image byte for byte, and the tag holds a digest of the content, so a sidecar or a proxy of
//! another build can never be taken for ours, and an image that is already there need not be loaded again.

mod archive;

use std::io::{self, Read, Write};
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use tpdocker_protocol::contract::{PROXY_PATH, SIDECAR_PATH};

use archive::Archive;

/// User and group of the proxy in its pod. Any but 0 passes `runAsNonRoot`; this one is what other images without a
/// user database use, so policies that list ids tend to know it.
const PROXY_USER: u32 = 65_532;

/// Hexadecimal digits of the content digest in a tag: 48 bits tell builds apart, and people can still read them.
const TAG_DIGITS: usize = 12;

static SIDECAR: LazyLock<CarriedImage> = LazyLock::new(|| {
    CarriedImage::new(&Recipe {
        name: "sidecar",
        title: "tpdocker sidecar",
        description: "The container's end of a tpdocker tunnel",
        path: SIDECAR_PATH,
        arguments: &["hold"],
        // Root of the container, less what the engine takes from it: it programs nftables in its own namespace.
        user: None,
        compressed: include_bytes!(concat!(env!("OUT_DIR"), "/tpdocker-sidecar.gz")),
    })
});

static PROXY: LazyLock<CarriedImage> = LazyLock::new(|| {
    CarriedImage::new(&Recipe {
        name: "proxy",
        title: "tpdocker proxy",
        description: "The cluster's end of a tpdocker tunnel",
        path: PROXY_PATH,
        arguments: &[],
        user: Some(PROXY_USER),
        compressed: include_bytes!(concat!(env!("OUT_DIR"), "/tpdocker-proxy.gz")),
    })
});

/// The image of the sidecar container.
pub fn sidecar() -> &'static CarriedImage {
    &SIDECAR
}

/// The image of the proxy pod.
pub fn proxy() -> &'static CarriedImage {
    &PROXY
}

/// What an image is made of.
struct Recipe {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    path: &'static str,
    arguments: &'static [&'static str],
    user: Option<u32>,
    compressed: &'static [u8],
}

/// An image inside this binary.
#[derive(Debug)]
pub struct CarriedImage {
    reference: String,
    archive: Archive,
}

impl CarriedImage {
    fn new(recipe: &Recipe) -> Self {
        let mut binary = Vec::new();
        GzDecoder::new(recipe.compressed).read_to_end(&mut binary).expect("build.rs compressed this binary");
        let archive = Archive::new(recipe, &binary);
        let digest = &archive.config_digest()[..TAG_DIGITS];
        let reference = format!("tpdocker/{}:{}-{digest}", recipe.name, env!("CARGO_PKG_VERSION"));
        Self { reference, archive }
    }

    /// `tpdocker/<name>:<version>-<digest of the content>`.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The architecture, as images call it: `amd64` or `arm64`.
    pub fn architecture(&self) -> &'static str {
        archive::ARCHITECTURE
    }

    /// Writes the image as a tar that `docker load` and `ctr images import` take.
    pub fn write_tar(&self, out: impl Write) -> io::Result<()> {
        self.archive.write(&self.reference, out)
    }

    /// The same tar in memory: a few megabytes.
    pub fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut tar = Vec::new();
        self.write_tar(&mut tar)?;
        Ok(tar)
    }
}

#[cfg(test)]
mod tests;
