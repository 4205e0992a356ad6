//! Any image: glibc (Python, in `main_job`), a static musl binary from scratch, and busybox all see the cluster.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{NAMESPACE, Tpdocker, assert_restored, docker, output, repo, staging, world};

const RDS: &str = "mydb.abc123.us-east-1.rds.amazonaws.com";

/// Builds `tests/support/reach.rs` as a static binary and an image `FROM scratch` with nothing else in it.
fn static_image() -> &'static str {
    const IMAGE: &str = "tpdocker-test/reach";
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("reach");
    std::fs::create_dir_all(&directory).unwrap();
    output(
        Command::new("rustc")
            .args(["--edition", "2024", "--target", "x86_64-unknown-linux-musl", "-O", "-o"])
            .arg(directory.join("reach"))
            .arg(repo("tests/support/reach.rs")),
    );
    std::fs::write(directory.join("Dockerfile"), "FROM scratch\nCOPY reach /reach\nENTRYPOINT [\"/reach\"]\n").unwrap();
    docker(&["build", "-q", "-t", IMAGE, directory.to_str().unwrap()]);
    IMAGE
}

#[test]
fn a_static_musl_binary_from_scratch_reaches_thing1_thing2_and_rds() {
    let _staging = staging();
    let image = static_image();
    let before = world();
    let ended = Tpdocker::run(&["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", image, RDS]).code(0);
    assert_eq!(ended.stdout, "thing1 HTTP 200\nthing2 HTTP 200\nrds answers TLS with N\n");
    assert_restored(&before);
}

#[test]
fn busybox_reaches_thing1_thing2_and_rds() {
    let _staging = staging();
    let image = output(&mut Command::new(repo("tests/support/busybox-image")));
    let before = world();
    let script = format!(
        "wget -qO- http://thing1/ | grep -q '\"thing1\"' && echo thing1; \
         wget -qO- http://thing2.staging:9090/ | grep -q '\"thing2\"' && echo thing2; \
         nc {RDS} 5432 -w 3 </dev/null && echo rds"
    );
    let arguments = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", image.trim(), "sh", "-c", &script];
    let ended = Tpdocker::run(&arguments).code(0);
    assert_eq!(ended.stdout, "thing1\nthing2\nrds\n");
    assert_restored(&before);
}
