//! An app that others end: the exit code is that of `docker run`, what it does not tell is said, and the original is back.

use std::process::Command;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_put_back, assert_restored, docker, output, staging, until,
    world,
};

const APP: &str = "tpdocker-e2e-ended";
/// Listens, and needs half a gigabyte when it is told to.
const SCRIPT: &str = "import pathlib, socket, time\n\
    s = socket.create_server(('', 8080))\n\
    while not pathlib.Path('/tmp/go').exists(): time.sleep(0.05)\n\
    much = [bytes([1]) * (1 << 20) for _ in range(512)]\n\
    time.sleep(600)";

/// What `end` makes of a session whose original is away: its standard error, after 128 + SIGKILL.
fn ended_by(end: impl FnOnce()) -> String {
    let flags = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "--name", APP, "--entrypoint", "python3"];
    let session = Tpdocker::start(&[&flags[..], &[SERVICE_IMAGE, "-c", SCRIPT]].concat());
    session.says("is answered here");
    end();
    session.wait().code(137).stderr
}

#[test]
fn an_app_that_others_kill_or_remove_or_that_runs_out_of_memory_is_told_apart_and_the_original_is_back() {
    let _staging = staging();
    let before = world();

    let said = ended_by(|| drop(docker(&["kill", APP])));
    assert!(!said.contains("out of memory") && !said.contains("removed the app's"), "{said}");
    assert_put_back(&before);

    let said = ended_by(|| drop(docker(&["rm", "-f", APP])));
    assert!(said.contains("warning: somebody removed the app's container"), "{said}");
    assert_put_back(&before);

    let said = ended_by(|| {
        // An engine that cannot bound swap says so and bounds the rest.
        output(Command::new("docker").args(["update", "--memory", "64m", "--memory-swap", "64m", APP]));
        docker(&["exec", APP, "touch", "/tmp/go"]);
    });
    assert!(said.contains("warning: the app was out of memory, and the kernel killed it"), "{said}");
    assert_restored(&before);
    until("the app's containers to be gone", PATIENCE, || {
        let left = docker(&["ps", "-aq", "--filter", &format!("name={APP}")]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
