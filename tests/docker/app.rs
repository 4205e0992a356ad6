//! What an app gets and gives.

use std::time::Duration;

use nix::unistd::pipe;
use tpdocker::docker::{Fate, Stdio};
use tpdocker::error::{Code, Explain};
use tpdocker::settings::{AppSpec, MountKind, MountSpec};

use crate::support::{BUSYBOX, PATIENCE, Session, docker, shell, until_says};

#[tokio::test]
async fn exit_codes_are_passed_on_verbatim() {
    let Some(session) = Session::begin().await else { return };
    for code in [0, 3, 125, 255] {
        let app = session.create(&shell(&format!("exit {code}"))).await;
        let mut running = app.run(Stdio::of_this_process().unwrap()).await.unwrap();
        assert_eq!(running.wait().await.unwrap().code, code);
        app.remove().await.unwrap();
        app.remove().await.unwrap();
        assert_eq!(docker(&["ps", "-aq", "--filter", &format!("id={}", app.id())]), "");
    }
}

#[tokio::test]
async fn a_signal_reaches_the_app_and_one_that_kills_it_is_in_its_exit_code() {
    let Some(session) = Session::begin().await else { return };
    let talk = session.run(&shell("trap 'echo caught; exit 9' USR1; echo up; sleep 60 & wait"), &[]).await.unwrap();
    let app = talk.app.clone();
    until_says(&app, "up").await;
    app.signal("SIGUSR1").await.unwrap();
    let said = talk.end().await;
    assert_eq!((said.exit.code, said.stdout.as_slice()), (9, &b"up\ncaught\n"[..]));
    app.signal("SIGUSR1").await.expect("an app that has ended needs no signal");

    let app = session.create(&shell("sleep 60")).await;
    let mut running = app.run(Stdio::of_this_process().unwrap()).await.unwrap();
    app.signal("KILL").await.unwrap();
    let exit = running.wait().await.unwrap();
    assert_eq!((exit.code, exit.fate), (137, Fate::Ended));
}

#[tokio::test]
async fn an_app_that_ignores_the_order_to_stop_is_killed_after_its_time() {
    let Some(session) = Session::begin().await else { return };
    let talk = session.run(&shell("trap '' TERM; echo up; while :; do sleep 1; done"), &[]).await.unwrap();
    until_says(&talk.app, "up").await;
    talk.app.stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(talk.end().await.exit.code, 137);
}

#[tokio::test]
async fn a_command_that_is_missing_or_cannot_be_invoked_has_the_codes_of_docker_run() {
    let Some(session) = Session::begin().await else { return };
    for (command, code) in [
        ("/no/such/command", Code::NotFound),
        ("nosuchcommand", Code::NotFound),
        ("/etc/passwd", Code::CannotInvoke),
        ("/etc", Code::CannotInvoke),
    ] {
        let spec = AppSpec { image: BUSYBOX.clone(), command: vec![command.to_owned()], ..Default::default() };
        let error = session.create(&spec).await.run(Stdio::of_this_process().unwrap()).await.unwrap_err();
        assert_eq!(error.code(), code, "{command}: {error}");
    }
}

#[tokio::test]
async fn ten_mebibytes_go_in_and_come_back_and_the_end_of_stdin_ends_the_app() {
    let Some(session) = Session::begin().await else { return };
    let spec = AppSpec { interactive: true, ..shell("cat") };
    let mut talk = session.run(&spec, &[]).await.unwrap();
    // Not periodic in any power of two, so that no lost or repeated chunk goes unnoticed.
    let input: Vec<u8> = (0..10 << 20).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let telling = talk.tell(input.clone());
    let said = talk.end().await;
    telling.join().unwrap();
    assert_eq!(said.exit.code, 0);
    assert!(said.stdout == input, "{} of {} bytes came back, or other ones", said.stdout.len(), input.len());
}

#[tokio::test]
async fn without_interactive_the_app_has_no_stdin_and_ours_may_stay_open() {
    let Some(session) = Session::begin().await else { return };
    let talk = session.run(&shell("cat; echo end"), &[]).await.unwrap();
    assert_eq!(talk.end().await.stdout, b"end\n");
}

#[tokio::test]
async fn stdout_and_stderr_are_two_streams_and_binary_safe() {
    let Some(session) = Session::begin().await else { return };
    let script = r"printf '\001\000\000\377out'; printf '\002err' >&2; dd if=/dev/zero bs=1k count=300 2>/dev/null";
    let said = session.run(&shell(script), &[]).await.unwrap().end().await;
    assert_eq!(said.stderr, b"\x02err");
    assert_eq!(&said.stdout[..7], b"\x01\0\0\xffout");
    assert_eq!(said.stdout.len(), 7 + 300 * 1024);
}

#[tokio::test]
async fn a_reader_that_leaves_is_told_and_does_not_end_the_app() {
    let Some(session) = Session::begin().await else { return };
    let app = session.create(&shell("yes")).await;
    let (stdin, _stdin_tx) = pipe().unwrap();
    let (stdout_rx, stdout) = pipe().unwrap();
    let mut running = app.run(Stdio { stdin, stderr: stdout.try_clone().unwrap(), stdout }).await.unwrap();
    drop(stdout_rx);
    tokio::time::timeout(PATIENCE, running.reader_gone()).await.expect("EPIPE is told");
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", app.id()]), "true");
    app.signal("KILL").await.unwrap();
    assert_eq!(running.wait().await.unwrap().code, 137);
}

#[tokio::test]
async fn an_app_has_the_environment_user_directory_entrypoint_and_labels_it_was_given() {
    let Some(session) = Session::begin().await else { return };
    let spec = AppSpec {
        entrypoint: Some("/bin/sh".to_owned()),
        command: vec!["-c".to_owned(), "echo $A-$B; id -u; pwd".to_owned()],
        user: Some("1234".to_owned()),
        workdir: Some("/work".to_owned()),
        labels: [("mine".to_owned(), "yes".to_owned())].into(),
        ..shell("")
    };
    let talk = session.run(&spec, &["A=1", "B=two words"]).await.unwrap();
    let id = talk.app.id().to_owned();
    let said = String::from_utf8(talk.end().await.stdout).unwrap();
    assert!(said.starts_with("1-two words\n1234\n/work\n"), "{said}");
    assert_eq!(docker(&["inspect", "-f", "{{.Config.Labels.mine}}", &id]), "yes");
}

#[tokio::test]
async fn binds_mounts_and_tmpfs_are_where_they_were_asked_for() {
    let Some(session) = Session::begin().await else { return };
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "from the host\n").unwrap();
    let path = directory.path().to_str().unwrap().to_owned();
    let spec = AppSpec {
        binds: vec![format!("{path}:/bound")],
        mounts: vec![
            MountSpec { kind: MountKind::Bind, source: Some(path), target: "/mounted".to_owned(), read_only: true },
            MountSpec { kind: MountKind::Tmpfs, source: None, target: "/memory".to_owned(), read_only: false },
        ],
        ..shell(
            "cat /mounted/file; echo x >/mounted/new || echo read-only; echo hello >/bound/new; grep -o 'tmpfs /memory' /proc/mounts",
        )
    };
    let said = session.run(&spec, &[]).await.unwrap().end().await;
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "from the host\nread-only\ntmpfs /memory\n");
    assert_eq!(std::fs::read_to_string(directory.path().join("new")).unwrap(), "hello\n");
}
