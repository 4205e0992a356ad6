//! `tpdocker run --swap servicename examplecom/servicename`.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, copy_that_answers, docker, get_from_a_pod, kubectl,
    staging, until, until_answered_by, world,
};
use crate::swap::{self, replicas, swapped};

const SWAP: [&str; 5] = ["run", "--swap", "servicename", "-n", NAMESPACE];

fn swap<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SWAP.iter().chain(more).copied().collect()
}

#[test]
fn the_laptops_copy_answers_the_service_with_thing1_thing2_and_rds_and_then_the_original_is_back() {
    let _staging = staging();
    let before = world();
    let session = swapped();
    let answer = until("the laptop's copy to answer", PATIENCE, || match get_from_a_pod("http://servicename/") {
        Ok(answer) if answer["copy"] == "laptop" => Ok(answer),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(answer["greeting"], "hello from staging", "{answer}");
    assert_eq!(answer["thing1"]["thing"], "thing1", "{answer}");
    assert_eq!(answer["thing2"]["thing"], "thing2", "{answer}");
    assert!(answer["rds"].is_object(), "{answer}");
    assert_eq!(replicas(), "0");
    session.interrupt();
    assert_restored(&before);
    until_answered_by("cluster");
}

/// Each request makes three connections to different destinations, from few source ports: hundreds of them share ports.
#[test]
fn hundreds_of_requests_in_a_row_are_all_answered() {
    const SCRIPT: &str = "import collections, urllib.request, urllib.error\n\
        seen = collections.Counter()\n\
        for _ in range(400):\n\
        \x20   try: seen[urllib.request.urlopen('http://servicename/', timeout=10).status] += 1\n\
        \x20   except urllib.error.HTTPError as e: seen[e.read().decode()] += 1\n\
        \x20   except Exception as e: seen[repr(e)] += 1\n\
        print(dict(seen))";
    let _staging = staging();
    let before = world();
    let session = swapped();
    until_answered_by("laptop");
    assert_eq!(kubectl(&["exec", "deploy/thing1", "--", "python3", "-c", SCRIPT]).trim(), "{200: 400}");
    session.interrupt();
    assert_restored(&before);
}

#[test]
fn a_termination_restores_as_an_interrupt_does() {
    let _staging = staging();
    let before = world();
    let session = Tpdocker::start(&swap::SWAP);
    until_answered_by("laptop");
    session.signal(Signal::SIGTERM);
    session.wait();
    assert_restored(&before);
}

#[test]
fn an_interrupt_while_the_session_is_built_leaves_nothing_behind() {
    let _staging = staging();
    for step in ["cluster", "workload", "record", "sidecar", "proxy", "tunnel"] {
        let before = world();
        // An app that an interrupt ends with 130 as well, should it be up already.
        let app = ["--rm", "--entrypoint", "python3", SERVICE_IMAGE, "-c", "import signal; signal.pause()"];
        let session = Tpdocker::start(&swap(&app));
        session.says(step);
        session.interrupt().code(130);
        assert_restored(&before);
    }
}

#[test]
fn an_app_that_does_not_start_or_that_ends_before_it_listens_leaves_nothing_behind() {
    let _staging = staging();
    for (command, code, said) in [("no-such-program", 127, "no-such-program"), ("false", 1, "")] {
        let before = world();
        let ended = Tpdocker::run(&swap(&["--rm", "--entrypoint", command, SERVICE_IMAGE])).code(code);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        assert_restored(&before);
    }
}

#[test]
fn a_swap_whose_record_was_removed_by_somebody_fails_and_leaves_nothing_behind() {
    let _staging = staging();
    let before = world();
    let script = "import pathlib, socket, time\n\
        while not pathlib.Path('/tmp/go').exists(): time.sleep(0.05)\n\
        s = socket.create_server(('', 8080)); time.sleep(600)";
    let app = "tpdocker-e2e-late";
    let session =
        Tpdocker::start(&swap(&["--rm", "--name", app, "--entrypoint", "python3", SERVICE_IMAGE, "-c", script]));
    session.says("in container ");
    kubectl(&["annotate", "deployment", "servicename", "tpdocker.dev/swap-"]);
    docker(&["exec", app, "touch", "/tmp/go"]);
    let ended = session.wait();
    assert!(ended.stderr.contains("lost its swap record"), "{}", ended.stderr);
    assert!(matches!(ended.status.code(), Some(80..=99)), "{ended:?}");
    assert_restored(&before);
    until_answered_by("cluster");
}

#[test]
fn standard_output_and_the_exit_code_are_the_apps_own_and_what_follows_the_image_is_its_business() {
    let _staging = staging();
    let before = world();
    let script = "import sys; print(sys.argv[1:]); print('to stderr', file=sys.stderr); sys.exit(42)";
    let ended = Tpdocker::run(&swap(&["--rm", "--entrypoint", "python3", SERVICE_IMAGE, "-c", script, "-p", "--help"]));
    let ended = ended.code(42);
    assert_eq!(ended.stdout, "['-p', '--help']\n");
    assert!(ended.stderr.contains("to stderr\n"), "{}", ended.stderr);
    assert_restored(&before);
}

#[test]
fn the_environment_is_the_pods_with_e_winning_and_path_and_home_from_the_image() {
    let _staging = staging();
    let before = world();
    let script = "import json, os; print(json.dumps(dict(os.environ)))";
    let ended =
        Tpdocker::run(&swap(&["--rm", "-e", "GREETING=mine", "--entrypoint", "python3", SERVICE_IMAGE, "-c", script]))
            .code(0);
    let env: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(env["GREETING"], "mine");
    assert_eq!(env["DATABASE_USER"], "shop");
    assert_eq!(env["DATABASE_PASSWORD"], "correct-horse-battery-staple");
    assert_eq!(env["THING2_SERVICE_PORT"], "9090");
    assert_eq!(env["HOSTNAME"], env["POD_NAME"], "the host name is the pod's");
    let by_itself = docker(&["run", "--rm", "--entrypoint", "env", SERVICE_IMAGE]);
    for name in ["HOME", "PATH"] {
        let own = format!("{name}={}", env[name].as_str().unwrap());
        assert!(by_itself.lines().any(|line| line == own), "{own} is not the image's:\n{by_itself}");
    }
    assert!(!ended.stderr.contains("correct-horse"), "a secret is in the messages: {}", ended.stderr);
    assert_restored(&before);
}

#[test]
fn a_connection_fails_in_the_container_as_it_does_in_the_pod() {
    let _staging = staging();
    let before = world();
    // A pod's address with nobody on the port; a Service port that does not exist; a name that does not exist.
    let script = "
import errno, os, socket
def reach(host, port):
    try: socket.create_connection((host, port), timeout=20).close(); return 'connected'
    except socket.gaierror as e: return 'gaierror %d' % e.errno
    except OSError as e: return errno.errorcode.get(e.errno, repr(e))
print(reach('thing1', 80), reach(os.environ['THING'], 8080), reach(os.environ['THING'], 9), reach('nowhere', 80))
";
    let thing = kubectl(&["get", "pod", "-l", "app=thing1", "-o=jsonpath={.items[0].status.podIP}"]);
    let given = format!("THING={thing}");
    let ended =
        Tpdocker::run(&swap(&["--rm", "-e", &given, "--entrypoint", "python3", SERVICE_IMAGE, "-c", script])).code(0);
    let in_the_pod = kubectl(&["exec", "deploy/servicename", "--", "env", &given, "python3", "-c", script]);
    assert_eq!(ended.stdout, in_the_pod);
    assert_eq!(in_the_pod, "connected connected ECONNREFUSED gaierror -2\n");
    assert_restored(&before);
}

#[test]
fn published_ports_hosts_and_host_name_act_on_the_shared_namespace() {
    let _staging = staging();
    let before = world();
    let session = Tpdocker::start(&swap(&[
        "--rm",
        "-p",
        "127.0.0.1:18080:8080",
        "--add-host",
        "printer:10.9.8.7",
        "--hostname",
        "mylaptop",
        "--name",
        "tpdocker-e2e-app",
        SERVICE_IMAGE,
    ]));
    let answer = until("the published port to answer", PATIENCE, || {
        let body = crate::support::http_get("127.0.0.1:18080", "/").map_err(|error| error.to_string())?;
        serde_json::from_str::<Value>(&body).map_err(|error| format!("{error}: {body}"))
    });
    assert_eq!(answer["thing1"]["thing"], "thing1", "{answer}");
    let files = docker(&["exec", "tpdocker-e2e-app", "sh", "-c", "hostname; cat /etc/hosts /etc/resolv.conf"]);
    assert!(files.starts_with("mylaptop\n"), "{files}");
    assert!(files.contains("10.9.8.7\tprinter"), "{files}");
    assert!(files.contains("search staging.svc.cluster.local"), "{files}");
    session.interrupt();
    assert_restored(&before);
}

#[test]
fn neither_the_session_key_nor_a_kubeconfig_is_to_be_seen_in_the_engine_or_in_the_cluster() {
    let _staging = staging();
    let before = world();
    let session = swapped();
    let said = session.stderr();
    let sidecar = said.split_once("sidecar       container ").and_then(|(_, rest)| rest.split_once(',')).unwrap().0;
    let inspected: Value = serde_json::from_str(&docker(&["inspect", sidecar])).unwrap();
    let host_config = &inspected[0]["HostConfig"];
    assert_eq!(host_config["Privileged"], false);
    assert_eq!(host_config["CapDrop"], serde_json::json!(["ALL"]));
    let mut capabilities: Vec<&str> = host_config["CapAdd"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .map(|c| c.trim_start_matches("CAP_"))
        .collect();
    capabilities.sort_unstable();
    assert_eq!(capabilities, ["NET_ADMIN", "NET_RAW"]);
    let in_the_cluster = kubectl(&["get", "deployments,pods", "-l", "tpdocker.dev/session", "-o", "yaml"]);
    assert!(in_the_cluster.contains("tpdocker.dev/role: proxy"), "{in_the_cluster}");
    for (place, text) in [("docker inspect of the sidecar", inspected.to_string()), ("the cluster", in_the_cluster)] {
        for secret in ["correct-horse", "client-key", "kubeconfig", "bearer", "private key"] {
            assert!(!text.to_lowercase().contains(secret), "{secret} is in {place}");
        }
    }
    session.interrupt();
    assert_restored(&before);
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let _staging = staging();
    let before = world();
    let ended = Tpdocker::run(&swap(&["--dry-run", SERVICE_IMAGE])).code(0);
    for part in ["deployment/servicename", "2 replicas", "8080/tcp"] {
        assert!(ended.stdout.contains(part), "{part} is not in the plan:\n{}", ended.stdout);
    }
    assert_restored(&before);
}

#[test]
fn a_port_that_the_pod_may_not_open_is_said_and_the_original_goes_on_serving() {
    let _staging = staging();
    let before = world();
    let script = "import socket, time; s = socket.create_server(('', 80)); time.sleep(600)";
    let session = Tpdocker::start(&swap(&["--rm", "-u", "0", "--entrypoint", "python3", SERVICE_IMAGE, "-c", script]));
    session.says("port 80/tcp cannot be opened in the pod: permission denied");
    assert_eq!(copy_that_answers().as_deref(), Ok("cluster"));
    session.interrupt();
    assert_restored(&before);
}
