//! The real binary: what it prints where, and with which code it exits.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output};

mod docs;
mod fidelity;

/// Runs `tpdocker` in an environment that has nothing of the machine's in it.
fn tpdocker(args: &[&str]) -> Output {
    command().args(args).output().expect("the binary runs")
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tpdocker"));
    command.env_clear().current_dir("/");
    command
}

/// Exit code, stdout and stderr in one text.
fn told(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("exit: {}\n--- stdout\n{stdout}--- stderr\n{stderr}", output.status.code().unwrap_or(-1))
}

#[test]
fn help_goes_to_stdout() {
    insta::assert_snapshot!("help", told(&tpdocker(&["--help"])));
    insta::assert_snapshot!("run-help", told(&tpdocker(&["run", "--help"])));
    insta::assert_snapshot!("compose-help", told(&tpdocker(&["compose", "--help"])));
    insta::assert_snapshot!("doctor-help", told(&tpdocker(&["doctor", "--help"])));
    insta::assert_snapshot!("rbac-help", told(&tpdocker(&["rbac", "--help"])));
    insta::assert_snapshot!("status-help", told(&tpdocker(&["status", "--help"])));
    insta::assert_snapshot!("stop-help", told(&tpdocker(&["stop", "--help"])));
    insta::assert_snapshot!("restore-help", told(&tpdocker(&["restore", "--help"])));
    insta::assert_snapshot!("image-save-help", told(&tpdocker(&["image", "save", "--help"])));
}

#[test]
fn help_of_run_is_the_same_by_either_way() {
    assert_eq!(tpdocker(&["help", "run"]).stdout, tpdocker(&["run", "--help"]).stdout);
}

#[test]
fn a_wrong_command_line_has_a_message_a_hint_and_code_2() {
    let lines: &[&[&str]] = &[
        &[],
        &["bogus"],
        &["--bogus"],
        &["compose"],
        &["image", "push"],
        &["--output", "xml", "version"],
        &["run"],
        &["run", "--swap", "web"],
        &["run", "--swap", "web", "--like", "web", "img"],
        &["run", "--swap", "web", "--volmue", "/a:/b", "img"],
        &["run", "--swap", "web", "--gpus", "all", "img"],
        &["run", "--swap", "web", "-d", "img"],
        &["run", "--swap", "web", "-h"],
        &["run", "--swap", "web", "-p", "80:http", "img"],
        &["run", "--swap", "web", "-p", "8000-8010:80", "img"],
        &["run", "--swap", "web", "--network", "host", "img"],
        &["run", "--swap", "web", "--env-file", "missing.env", "img"],
        &["run", "--swap", "rollout/web", "img"],
        &["run", "--take-over", "--like", "web", "img"],
        &["rbac", "--swap", "pod/web"],
        &["rbac", "--like", "web", "--outgoing"],
        &["run", "--output=json", "--swap", "web", "-v", "~/src:/app", "img"],
    ];
    let mut all = String::new();
    for line in lines {
        let output = tpdocker(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert!(output.stdout.is_empty(), "{line:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        writeln!(all, "$ tpdocker {}\n{stderr}", line.join(" ")).expect("in memory");
    }
    insta::assert_snapshot!("wrong-command-lines", all);
}

#[test]
fn a_role_that_depends_on_nothing_in_the_cluster_is_printed_without_one() {
    let one = ["rbac", "-n", "staging", "--swap", "deploy/web", "--user", "ann \"x\"", "--service-account", "ci"];
    insta::assert_snapshot!("rbac-one", told(&tpdocker(&one)));
    insta::assert_snapshot!(
        "rbac-kind",
        told(&tpdocker(&["rbac", "-n", "staging", "--swap", "sts", "--group", "dev"]))
    );
    insta::assert_snapshot!("rbac-like", told(&tpdocker(&["rbac", "-n", "staging", "--like", "ds/agent"])));
    insta::assert_snapshot!("rbac-outgoing", told(&tpdocker(&["rbac", "-n", "staging", "--outgoing"])));
    insta::assert_snapshot!("rbac-any", told(&tpdocker(&["rbac", "-n", "staging"])));
    assert_eq!(
        tpdocker(&["rbac", "-n", "staging", "--swap", "svc"]).stdout,
        tpdocker(&["rbac", "-n", "staging"]).stdout,
        "any workload may be behind a Service"
    );
    for needs_a_cluster in [&["rbac"][..], &["rbac", "-n", "staging", "--swap", "web"], &["rbac", "--like", "svc/web"]]
    {
        assert_eq!(tpdocker(needs_a_cluster).status.code(), Some(81), "{needs_a_cluster:?}");
    }
}

#[test]
fn an_argument_that_is_not_utf8_is_a_wrong_command_line() {
    let output = command().arg("run").arg(std::ffi::OsStr::from_bytes(b"\xff")).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: argument 2 is not valid UTF-8"));
}

#[test]
fn a_result_into_a_closed_pipe_is_no_error() {
    for args in [&["run", "--help"][..], &["version"], &["--version"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command().args(args).stdout(writer).output().expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", told(&output));
    }
}

#[test]
fn a_result_that_cannot_be_written_is_said() {
    for args in [&["run", "--help"][..], &["version"], &["image", "save"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is full");
        let output = command().args(args).stdout(full).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(91), "{args:?}: {}", told(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"), "{}", told(&output));
    }
}

#[test]
fn a_working_directory_that_is_gone_is_said() {
    let gone = tempfile::tempdir().expect("a directory");
    let path = gone.path().to_owned();
    let mut shell = Command::new("sh");
    shell.current_dir(&path).args(["-c", "rmdir \"$1\" && exec \"$2\" version", "sh"]);
    let output = shell.arg(&path).arg(env!("CARGO_BIN_EXE_tpdocker")).output().expect("sh runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: cannot tell the working directory"), "{stderr}");
}

#[test]
fn a_client_without_compose_is_said_with_what_to_install() {
    use std::os::unix::fs::PermissionsExt as _;

    let path = tempfile::tempdir().expect("a directory");
    let up = || {
        let output = command().env("PATH", path.path()).args(["compose", "up"]).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(85), "{}", told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(up().starts_with("error: `docker` cannot be run\ncaused by: No such file or directory"), "{}", up());

    // What clients without the plugin, with one that does not start, and what is no Docker at all, print.
    let client = path.path().join("docker");
    for (prints, said) in [
        ("echo '[]'", "Docker's client has no usable Compose plugin\n"),
        ("echo null", "Docker's client has no usable Compose plugin\n"),
        (
            r#"echo '[{"Name":"compose","Path":"/p/docker-compose","Err":"exec format error"}]'"#,
            "Docker's client has no usable Compose plugin: \"exec format error\"\n",
        ),
        (
            r#"echo '[{"Name":"compose","Path":"/p/docker-compose","Version":"v2.17.2"}]'"#,
            "Docker's client has Compose v2.17.2, and 2.20 is the oldest that will do\n",
        ),
        (
            "echo 'no such option' >&2; exit 1",
            "`docker info` does not tell where Docker's plugins are: no such option\n",
        ),
    ] {
        std::fs::write(&client, format!("#!/bin/sh\n{prints}\n")).expect("a file");
        std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        let stderr = up();
        assert!(stderr.starts_with(&format!("error: {said}hint: install ")), "{prints}: {stderr}");
    }
}

#[test]
fn a_status_without_engine_and_cluster_shows_what_there_is_and_says_what_is_missing() {
    let runtime = tempfile::tempdir().expect("a directory");
    let output = command()
        .env("XDG_RUNTIME_DIR", runtime.path())
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .args(["--output", "json", "status"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(81), "{}", told(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"machine\":{\"sessions\":[],\"engine\":false,\"strangers\":[]},\"cluster\":null}\n"
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    let codes: Vec<u64> = stderr
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON")["code"].as_u64())
        .map(|code| code.expect("a code"))
        .collect();
    assert_eq!(codes, [85, 81], "{stderr}");
}

#[test]
fn a_machine_without_sessions_has_nothing_to_stop() {
    let runtime = tempfile::tempdir().expect("a directory");
    let stop = |args: &[&str]| {
        let output = command()
            .env("XDG_RUNTIME_DIR", runtime.path())
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .arg("stop")
            .args(args)
            .output();
        told(&output.expect("the binary runs"))
    };
    insta::assert_snapshot!("stop-without-sessions", format!("{}\n{}\n{}", stop(&[]), stop(&["--all"]), stop(&["a1"])));
}
