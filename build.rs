//! Builds the two data-plane binaries and hands them, compressed, to `src/image`.
//!
//! The CLI is one file that carries what runs in the sidecar container and in the proxy pod, so the three can never be
//! of different versions. Both binaries are static (musl), for the CLI's own architecture, and of one profile whatever
//! the profile of the CLI, so that a debug and a release build of the same sources carry the same images.
//!
//! The nested cargo has a target directory of its own: the outer cargo holds the lock of its own one until this script
//! has ended.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Packages of the data plane; each has one binary of the same name.
const BINARIES: [&str; 2] = ["tpdocker-sidecar", "tpdocker-proxy"];

/// Profile of the data plane, in the workspace's manifest.
const PROFILE: &str = "dataplane";

/// What the binaries are made of. The root package's own sources are not among them.
const INPUTS: [&str; 11] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "sidecar/Cargo.toml",
    "sidecar/src",
    "sidecar/protocol/Cargo.toml",
    "sidecar/protocol/src",
    "sidecar/tunnel/Cargo.toml",
    "sidecar/tunnel/src",
    "sidecar/proxy/Cargo.toml",
    "sidecar/proxy/src",
];

/// What the outer cargo, clippy or a coverage tool says to the compilers of *its* build, by prefix.
const FOREIGN_SETTINGS: [&str; 12] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
];

fn main() {
    for input in INPUTS {
        println!("cargo::rerun-if-changed={input}");
    }
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    // The name by which images call it (GOARCH, as the OCI image specification asks).
    let image_architecture = match architecture.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => give_up(&format!("tpdocker runs on x86_64 and aarch64, not on {other}")),
    };
    println!("cargo::rustc-env=TPDOCKER_DATAPLANE_ARCH={image_architecture}");

    let target = format!("{architecture}-unknown-linux-musl");
    require_target(&target);
    let out_dir = PathBuf::from(variable("OUT_DIR"));
    let target_dir = target_directory(&out_dir).join(PROFILE);
    build(&target, &target_dir);
    for binary in BINARIES {
        let built = target_dir.join(&target).join(PROFILE).join(binary);
        let carried = out_dir.join(format!("{binary}.gz"));
        if let Err(error) = compress(&built, &carried) {
            give_up(&format!("cannot compress {} into {}: {error}", built.display(), carried.display()));
        }
    }
}

fn build(target: &str, target_dir: &Path) {
    let root = variable("CARGO_MANIFEST_DIR");
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| FOREIGN_SETTINGS.iter().any(|foreign| name.starts_with(foreign))) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--profile", PROFILE, "--target", target])
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&root, target));
    // The C in the proxy's TLS library needs no libc of its own, so the compiler for this machine does, and `musl-gcc` need
    // not be there.
    let compiler = format!("CC_{}", target.replace('-', "_"));
    if env::var_os(&compiler).is_none() {
        cargo.env(compiler, env::var_os("CC").unwrap_or_else(|| "cc".into()));
    }
    for binary in BINARIES {
        cargo.args(["--package", binary]);
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => give_up(&format!("the data plane does not build ({status}); cargo's messages are above")),
        Err(error) => give_up(&format!("cannot run cargo for the data plane: {error}")),
    }
}

/// Flags of the nested build, separated as `CARGO_ENCODED_RUSTFLAGS` asks.
fn rustflags(root: &str, target: &str) -> OsString {
    let mut flags = OsString::new();
    // The digest of an image tells what is in it, not in which directory it was built.
    flags.push(format!("--remap-path-prefix={root}=/tpdocker"));
    if let Some(cargo_home) =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
    {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(cargo_home);
        flags.push("=/cargo");
    }
    // A Linux host links its own architecture with its own linker; every other host would need a cross compiler just
    // to link, so it takes the linker that comes with Rust.
    let host = variable("HOST");
    let same = host.contains("linux") && host.split('-').next() == target.split('-').next();
    if !same {
        flags.push("\u{1f}-Clinker=rust-lld");
    }
    flags
}

/// Stops with the cure when the toolchain lacks `target`: the error of the nested build would be a page of
/// `can't find crate for std`.
fn require_target(target: &str) {
    let sysroot = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output();
    let sysroot = match sysroot {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => give_up(&format!("rustc --print sysroot: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => give_up(&format!("cannot run rustc: {error}")),
    };
    if !Path::new(&sysroot).join("lib/rustlib").join(target).join("lib").is_dir() {
        give_up(&format!(
            "the binaries that run inside the containers need the target {target}: rustup target add {target}"
        ));
    }
}

/// `<target directory>[/<triple>]`, from `<that>/<profile>/build/<package>/out`.
fn target_directory(out_dir: &Path) -> &Path {
    let levels = 4;
    out_dir
        .ancestors()
        .nth(levels)
        .unwrap_or_else(|| give_up(&format!("OUT_DIR is not in a target directory: {}", out_dir.display())))
}

fn compress(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut encoder = GzEncoder::new(fs::File::create(to)?, Compression::default());
    encoder.write_all(&fs::read(from)?)?;
    encoder.finish()?.flush()
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| give_up(&format!("cargo did not set {name}: {error}")))
}

fn give_up(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
