//! `tpdocker image save` by the real binary: where the tar goes, and what an engine makes of it.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use nix::pty::openpty;
use tpdocker::image;

use crate::support::{Session, docker, output};

fn save(arguments: &[&str], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tpdocker"));
    command.args(["image", "save"]).args(arguments).stdout(stdout).stderr(Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[tokio::test]
async fn a_saved_image_is_loaded_under_the_reference_that_image_load_prints() {
    let Some(_session) = Session::begin().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let (by_flag, by_stdout) = (directory.path().join("flag.tar"), directory.path().join("stdout.tar"));
    let saved = save(&["-o", by_flag.to_str().unwrap()], Stdio::piped());
    assert!(saved.status.success() && saved.stdout.is_empty(), "{saved:?}");
    let saved = save(&[], File::create(&by_stdout).unwrap());
    assert!(saved.status.success(), "{saved:?}");
    assert!(std::fs::read(&by_flag).unwrap() == std::fs::read(&by_stdout).unwrap(), "the two ways give one tar");

    let loaded = docker(&["load", "-i", by_stdout.to_str().unwrap()]);
    assert_eq!(loaded, format!("Loaded image: {}", image::proxy().reference()));
    let load = output(Command::new(env!("CARGO_BIN_EXE_tpdocker")).args(["image", "load"]));
    assert_eq!(load, image::proxy().reference());
}

#[test]
fn a_terminal_gets_no_tar() {
    let pty = openpty(None, None).unwrap();
    let refused = save(&[], pty.slave);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("an image is not written to a terminal"), "{stderr}");
    assert!(stderr.contains("tpdocker image save -o proxy.tar"), "{stderr}");
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let refused = save(&["-o", "/proc/tpdocker.tar"], Stdio::piped());
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot write /proc/tpdocker.tar"), "{stderr}");
}
