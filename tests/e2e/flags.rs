//! Flags of `docker run`, through the whole command.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::libc;
use nix::pty::{OpenptyResult, Winsize, openpty};
use serde_json::Value;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, kubectl, output, staging, until, world,
};

nix::ioctl_write_ptr_bad!(set_window, libc::TIOCSWINSZ, Winsize);

const APP: &str = "tpdocker-e2e-flags";
const SWAP: [&str; 7] = ["run", "--swap", "servicename", "-n", NAMESPACE, "--name", APP];
/// Who and where the app is.
const SELF: &str = "import json, os\n\
    names = 'FROM_FILE', 'GIVEN', 'GREETING', 'PATH'\n\
    print(json.dumps({'ids': [os.getuid(), os.getgid()], 'cwd': os.getcwd(), 'first': open('/proc/1/comm').read().strip(),\n\
    \x20   'env': {name: os.environ.get(name) for name in names}, 'mounted': open('/given/file').read()}))";

fn run(flags: &[&str], after: &[&str]) -> Vec<String> {
    SWAP.iter().chain(flags).chain(&[SERVICE_IMAGE]).chain(after).map(|&argument| argument.to_owned()).collect()
}

fn start(flags: &[&str], after: &[&str]) -> Tpdocker {
    let arguments = run(flags, after);
    Tpdocker::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn flags_mean_what_they_mean_to_docker() {
    let _staging = staging();
    let before = world();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "of the laptop").unwrap();
    let env_file = directory.path().join("env");
    std::fs::write(&env_file, "# a comment\nFROM_FILE=yes\nGIVEN=file\nGREETING=file\n").unwrap();
    let mount = format!("type=bind,source={},target=/given,readonly", directory.path().display());
    let platform = docker(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"]);
    let flags = [
        &[
            "--init",
            "--platform",
            platform.trim(),
            "--pull",
            "never",
            "-l",
            "team=shop",
            "-w",
            "/tmp",
            "-u",
            "1234:2345",
        ][..],
        &["--env-file", env_file.to_str().unwrap(), "-e", "GIVEN=flag", "--mount", &mount, "--entrypoint", "python3"],
    ];
    // Without --rm the container stays, as docker's does.
    let session = start(&flags.concat(), &["-c", SELF]);
    let ended = session.wait().code(0);
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(said["ids"], serde_json::json!([1234, 2345]));
    assert_eq!((said["cwd"].as_str(), said["mounted"].as_str()), (Some("/tmp"), Some("of the laptop")));
    assert!(said["first"].as_str().unwrap().contains("init"), "--init: {said}");
    assert_eq!((&said["env"]["FROM_FILE"], &said["env"]["GIVEN"]), (&"yes".into(), &"flag".into()));
    assert_eq!(said["env"]["GREETING"], "file", "the user's file wins over the pod");
    let form = "{{.State.Status}} {{.State.ExitCode}} {{index .Config.Labels \"team\"}}";
    assert_eq!(docker(&["inspect", "--format", form, APP]).trim(), "exited 0 shop");
    docker(&["rm", APP]);
    assert_restored(&before);
}

#[test]
fn a_resolver_of_the_users_own_is_asked_through_the_tunnel() {
    let _staging = staging();
    let before = world();
    let resolver = kubectl(&[
        "-n",
        "kube-system",
        "get",
        "service",
        "-l",
        "k8s-app=kube-dns",
        "-o=jsonpath={.items[0].spec.clusterIP}",
    ]);
    let script = "import socket; print(open('/etc/resolv.conf').read()); \
        print('found', socket.gethostbyname('thing1.staging.svc.cluster.local.'))";
    let session = start(&["--rm", "--dns", resolver.trim(), "--entrypoint", "python3"], &["-c", script]);
    let ended = session.wait().code(0);
    let thing1 = kubectl(&["get", "service", "thing1", "-o=jsonpath={.spec.clusterIP}"]);
    assert!(ended.stdout.contains(&format!("nameserver {}", resolver.trim())), "{}", ended.stdout);
    assert!(!ended.stdout.contains("search staging"), "docker's own file: {}", ended.stdout);
    assert!(ended.stdout.contains(&format!("found {thing1}")), "{}", ended.stdout);
    assert_restored(&before);
}

#[test]
fn a_terminal_is_the_apps_with_its_window_and_its_input() {
    let _staging = staging();
    let before = world();
    let window = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(&window(33, 101), None).unwrap();
    let screen = Arc::new(Mutex::new(Vec::new()));
    let (shown, mut from) = (Arc::clone(&screen), File::from(master.try_clone().unwrap()));
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            shown.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    });
    let shows = |text: &str| {
        until(text, PATIENCE, || {
            let screen = String::from_utf8_lossy(&screen.lock().unwrap()).into_owned();
            if screen.contains(text) { Ok(()) } else { Err(screen) }
        });
    };
    let script = "import os, sys\n\
        while os.get_terminal_size().lines != 33: pass\n\
        print('size', *os.get_terminal_size(), all(f.isatty() for f in (sys.stdin, sys.stdout, sys.stderr)))\n\
        print('got', input('name? '))\n\
        while os.get_terminal_size().lines != 17: pass\n\
        sys.exit(7)";
    let arguments = run(&["--rm", "-it", "--entrypoint", "python3"], &["-c", script]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let stdio = || slave.try_clone().unwrap();
    let mut command = Tpdocker::command(&arguments);
    let mut child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    shows("size 101 33 True");
    shows("name? ");
    File::from(master.try_clone().unwrap()).write_all(b"somebody\r").unwrap();
    shows("got somebody");
    // SAFETY: the descriptor is open, and the value is a winsize.
    unsafe { set_window(slave.as_raw_fd(), &window(17, 71)) }.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::SIGWINCH).unwrap();
    let status = until("the end", PATIENCE, || match child.try_wait().unwrap() {
        Some(status) => Ok(status),
        None => Err("it runs".to_owned()),
    });
    assert_eq!(status.code(), Some(7));
    assert_restored(&before);
}

/// Processes, network namespaces and rules: what a session could leave on the laptop beside Docker's objects.
#[test]
fn nothing_of_a_session_is_left_on_the_laptop() {
    let _staging = staging();
    let world_before = world();
    let machine = || {
        let lines = |program: &str, arguments: &[&str]| output(Command::new(program).args(arguments));
        let links = lines("ip", &["-o", "link"]);
        let names = links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned);
        (names.collect::<BTreeSet<_>>(), lines("ip", &["rule"]), lines("ip", &["netns"]))
    };
    let (links, rules, namespaces) = machine();
    start(&["--rm", "-p", "127.0.0.1::8080", "--entrypoint", "true"], &[]).wait().code(0);
    assert_restored(&world_before);
    until("the laptop to be as it was", PATIENCE, || {
        let after = machine();
        // A link of before may go meanwhile; none may have come.
        let as_it_was = after.0.is_subset(&links) && after.1 == rules && after.2 == namespaces;
        if as_it_was { Ok(()) } else { Err(format!("{links:?}\n{rules}{namespaces}{after:?}")) }
    });
    let processes = output(Command::new("ps").args(["-eo", "args"]));
    let ours = |line: &&str| line.starts_with("/tpdocker-sidecar") || line.starts_with("/tpdocker-proxy");
    assert_eq!(processes.lines().filter(ours).collect::<Vec<_>>(), [""; 0]);
}
