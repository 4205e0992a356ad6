//! Sessions that swap nothing: `tpdocker run` on its own, and `--like`.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, copy_that_answers, kubectl, staging, status, until,
    world,
};

/// Says what it sees of the cluster, and serves on 8080 from then on.
const LOOK: &str = "import http.server, json, os, socket, urllib.request\n\
    get = lambda url: json.load(urllib.request.urlopen(url, timeout=20))\n\
    read = lambda path: open(path).read() if os.path.exists(path) else None\n\
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    udp.connect(('198.51.100.1', 9))\n\
    print(json.dumps({'copy': get('http://servicename/')['copy'], 'thing1': get('http://thing1.staging.svc.cluster.local/')['thing'],\n\
    \x20   'env': dict(os.environ), 'own': udp.getsockname()[0],\n\
    \x20   'token': read('/var/run/secrets/kubernetes.io/serviceaccount/token')}), flush=True)\n\
    http.server.HTTPServer(('', 8080), http.server.BaseHTTPRequestHandler).serve_forever()";

/// Starts a session with these flags whose app looks around; what it said.
fn start(flags: &[&str]) -> (Tpdocker, Value) {
    let app = ["-n", NAMESPACE, "--rm", "--entrypoint", "python3", SERVICE_IMAGE, "-c", LOOK];
    let session = Tpdocker::start(&[&["run"], flags, &app].concat());
    let seen = until("the app to look around", PATIENCE, || {
        let said = session.stdout();
        if said.ends_with('\n') { Ok(said) } else { Err(session.stderr()) }
    });
    (session, serde_json::from_str(&seen).unwrap())
}

/// The one proxy there is.
fn proxy(kind: &str) -> Value {
    let list: Value =
        serde_json::from_str(&kubectl(&["get", kind, "-l", "tpdocker.dev/session", "-o", "json"])).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    list["items"][0].clone()
}

/// Nobody sends to the pod, and whoever does all the same finds its port closed; the workload is as it was.
fn assert_no_traffic_is_taken(pod: &Value) {
    let labels: Vec<&String> = pod["metadata"]["labels"].as_object().unwrap().keys().collect();
    assert_eq!(labels, ["pod-template-hash", "tpdocker.dev/role", "tpdocker.dev/session"]);
    let ip = pod["status"]["podIP"].as_str().unwrap();
    assert!(!kubectl(&["get", "endpoints", "-o", "json"]).contains(&format!("\"{ip}\"")), "a Service sends to {ip}");
    let script = format!("import socket; print(socket.socket().connect_ex(('{ip}', 8080)))");
    let errno = kubectl(&["exec", "deploy/thing1", "--", "python3", "-c", &script]);
    assert_eq!(errno.trim(), nix::libc::ECONNREFUSED.to_string(), "port 8080 of the pod");
    assert_eq!(copy_that_answers().as_deref(), Ok("cluster"));
    let form = "-o=jsonpath={.spec.replicas} {.metadata.annotations.tpdocker\\.dev/swap}";
    assert_eq!(kubectl(&["get", "deployment", "servicename", form]), "2 ");
}

/// The proxy alone tells whose it is: there is no record on a workload.
fn assert_it_tells_whose_it_is(deployment: &Value, stance: &str) {
    let annotations = &deployment["metadata"]["annotations"];
    assert!(annotations["tpdocker.dev/owner"].as_str().unwrap().contains('@'), "{annotations}");
    assert!(annotations["tpdocker.dev/since"].as_str().unwrap().ends_with('Z'), "{annotations}");
    assert_eq!(annotations["tpdocker.dev/stance"], stance);
}

#[test]
fn a_run_on_its_own_reaches_what_a_plain_pod_reaches_and_is_nobody() {
    let _staging = staging();
    let before = world();
    let (session, seen) = start(&[]);
    assert_eq!((&seen["copy"], &seen["thing1"]), (&"cluster".into(), &"thing1".into()));
    assert_eq!((&seen["env"]["DATABASE_USER"], &seen["token"]), (&Value::Null, &Value::Null));
    let pod = proxy("pods");
    assert_eq!(seen["own"], pod["status"]["podIP"], "the app's address is the pod's");
    assert_no_traffic_is_taken(&pod);
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(pod["spec"]["volumes"].as_array().map_or(0, Vec::len), 0, "no token, no files");
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_it_tells_whose_it_is(&proxy("deployments"), "only outgoing");
    let ended = session.interrupt();
    for words in ["only outgoing; nothing is swapped", "proxy deleted; nothing was swapped"] {
        assert!(ended.stderr.contains(words), "{words:?} was not said:\n{}", ended.stderr);
    }
    assert_restored(&before);
}

#[test]
fn a_run_like_a_service_has_its_environment_and_files_and_none_of_its_traffic() {
    let _staging = staging();
    let before = world();
    let (session, seen) = start(&["--like", "servicename"]);
    assert_eq!(seen["copy"], "cluster");
    assert_eq!(seen["env"]["GREETING"], "hello from staging");
    assert!(seen["env"]["DATABASE_USER"].is_string() && seen["token"].is_string(), "{seen}");
    let pod = proxy("pods");
    assert_eq!(pod["spec"]["serviceAccountName"], "servicename");
    assert_no_traffic_is_taken(&pod);
    assert_it_tells_whose_it_is(&proxy("deployments"), "like deployment/servicename");
    let ended = session.interrupt();
    for words in ["like deployment/servicename", "nothing is swapped", "proxy deleted; nothing was swapped"] {
        assert!(ended.stderr.contains(words), "{words:?} was not said:\n{}", ended.stderr);
    }
    assert_restored(&before);
}

#[test]
fn what_a_killed_session_that_swapped_nothing_left_is_seen_and_cleaned_by_stop() {
    let _staging = staging();
    for (flags, stance) in [(&[][..], "only outgoing"), (&["--like", "servicename"], "like deployment/servicename")] {
        let before = world();
        let (session, _) = start(flags);
        let id = proxy("deployments")["metadata"]["labels"]["tpdocker.dev/session"].as_str().unwrap().to_owned();
        let seen = until("the proxy to be ready", PATIENCE, || {
            let seen = status();
            if seen["cluster"]["others"][0]["proxyState"] == "attached" { Ok(seen) } else { Err(seen.to_string()) }
        });
        let other = &seen["cluster"]["others"][0];
        assert_eq!((&other["session"], &other["stance"]), (&id.as_str().into(), &stance.into()));
        assert_eq!(seen["cluster"]["swaps"].as_array().map(Vec::len), Some(0), "{seen}");

        // Whoever puts everything back leaves it alone: it has taken nothing.
        let all = Tpdocker::run(&["restore", "-n", NAMESPACE, "--all"]).code(0);
        assert!(all.stderr.contains("nothing is swapped"), "{}", all.stderr);
        assert_eq!(status()["machine"]["sessions"][0]["alive"], true);
        proxy("deployments");

        session.signal(Signal::SIGKILL);
        session.wait();
        let seen = status();
        let dead = &seen["machine"]["sessions"][0];
        assert_eq!((&dead["alive"], &dead["workload"]), (&false.into(), &stance.into()), "{seen}");
        assert_eq!(seen["cluster"]["orphans"].as_array().map(Vec::len), Some(0), "it may be starting: {seen}");
        let stopped = Tpdocker::run(&["stop", &id]).code(0);
        assert!(stopped.stderr.contains("its proxy is gone"), "{}", stopped.stderr);
        assert_restored(&before);
        assert_eq!(status()["cluster"]["others"].as_array().map(Vec::len), Some(0));
    }
}

#[test]
fn a_session_that_swaps_nothing_ends_when_its_proxy_is_deleted_and_is_stopped_by_its_id() {
    let _staging = staging();
    let before = world();
    let (session, _) = start(&[]);
    kubectl(&["delete", "deployment", "-l", "tpdocker.dev/session", "--wait=false"]);
    let ended = session.wait();
    assert!(ended.stderr.contains("somebody else deleted the proxy of this session"), "{}", ended.stderr);
    assert_restored(&before);

    let (session, _) = start(&[]);
    Tpdocker::run(&["stop"]).code(0);
    let ended = session.wait();
    assert!(ended.stderr.contains("proxy deleted; nothing was swapped"), "{}", ended.stderr);
    assert_restored(&before);
}

#[test]
fn the_exit_of_an_app_on_its_own_ends_the_session_with_its_code() {
    let _staging = staging();
    let before = world();
    let app = ["--entrypoint", "sh", SERVICE_IMAGE, "-c", "exit 7"];
    Tpdocker::run(&[&["run", "-n", NAMESPACE, "--rm"][..], &app].concat()).code(7);
    assert_restored(&before);
}

#[test]
fn dry_runs_tell_that_nothing_is_swapped() {
    let _staging = staging();
    let before = world();
    for (flags, words) in [
        (&[][..], "only outgoing; nothing is swapped"),
        (&["--like", "svc/servicename"], "like deployment/servicename, container servicename; nothing is swapped"),
    ] {
        let ended = Tpdocker::run(&[&["run", "--dry-run", "-n", NAMESPACE], flags, &[SERVICE_IMAGE]].concat()).code(0);
        assert!(ended.stdout.contains(words), "{}", ended.stdout);
        assert!(!ended.stdout.contains("scale"), "{}", ended.stdout);
    }
    assert_restored(&before);
}
