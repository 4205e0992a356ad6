//! A restart of the app under load: callers wait, and none is refused.
//!
//! What a connection has to survive is the time in which nobody listens. What it cannot survive is the end of the process
//! that has accepted it, or in whose backlog it waits: such a connection is cut in a pod as well. So the app says when it
//! has closed its listening socket, and a request may fail only if its connection is older than such a moment.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, get_from_a_pod, kubeconfig, repo, staging,
    until, world,
};

/// Serves on 8080 after a start that takes its time, and starts anew at SIGHUP.
const APP: &str = r#"
import http.server, os, signal, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "4"); self.end_headers(); self.wfile.write(b'"ok"')
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True; request_queue_size = 1024
def again():
    hup.wait()
    server.socket.close()
    print(f"left {time.time()}", flush=True)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
hup = threading.Event()
signal.signal(signal.SIGHUP, lambda *_: hup.set())
time.sleep(1.5)
server = Server(("0.0.0.0", 8080), Handler)
threading.Thread(target=again, daemon=True).start()
print("listening", flush=True)
server.serve_forever()
"#;

/// Requests in six threads, four of which take a new connection for each; until its standard input ends.
const LOAD: &str = r#"
import http.client, json, sys, threading, time
stop, requests, longest, failed = threading.Event(), 0, 0.0, []
def load(keep):
    global requests, longest
    connection = None
    while not stop.is_set():
        began = time.time()
        try:
            if connection is None:
                opened = began
                connection = http.client.HTTPConnection("servicename", 80, timeout=30)
            connection.request("GET", "/")
            if connection.getresponse().read() != b'"ok"': raise ValueError("another answer")
            requests += 1; longest = max(longest, time.time() - began)
        except Exception as error:
            failed.append({"opened": opened, "ended": time.time(), "error": repr(error)})
            connection = None
        if not keep and connection: connection.close(); connection = None
        time.sleep(0.005)
threads = [threading.Thread(target=load, args=(keep,)) for keep in (True, True, False, False, False, False)]
for thread in threads: thread.start()
sys.stdin.read(); stop.set()
for thread in threads: thread.join()
print(json.dumps({"requests": requests, "longest": longest, "failed": failed}))
"#;

#[derive(Debug, Deserialize)]
struct Report {
    requests: u64,
    longest: f64,
    failed: Vec<Failed>,
}

/// Seconds since 1970, by the clock that app and load share with this machine.
#[derive(Debug, Deserialize)]
struct Failed {
    opened: f64,
    ended: f64,
    error: String,
}

/// The load, in a pod of the cluster.
fn start_load() -> Child {
    let own = repo("target/staging/bin/kubectl");
    let program = if own.exists() { own } else { "kubectl".into() };
    Command::new(program)
        .arg("--kubeconfig")
        .arg(kubeconfig())
        .args(["-n", NAMESPACE, "exec", "-i", "deploy/thing1", "--", "python3", "-c", LOAD])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn no_caller_is_refused_while_the_app_is_restarted() {
    const RESTARTS: usize = 3;
    /// Answers in a row, of which each takes a few tenths of a second.
    const SETTLED: usize = 5;
    /// Within this the caller hears of the end of the process; who waits longer hangs.
    const CUT_WITHIN: f64 = 1.0;
    let _staging = staging();
    let before = world();
    let name = format!("tpdocker-e2e-hold-{}", std::process::id());
    let session = Tpdocker::start(&[
        "run",
        "--swap",
        "servicename",
        "-n",
        NAMESPACE,
        "--rm",
        "--name",
        &name,
        SERVICE_IMAGE,
        "python3",
        "-c",
        APP,
    ]);
    session.says("servicename is at 0");
    // The node may send to the original's pods for a second longer than they live: whom it does waits in vain.
    for _ in 0..SETTLED {
        until("the app to answer the Service", PATIENCE, || match get_from_a_pod("http://servicename/") {
            Ok(answer) if answer == "ok" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let load = start_load();
    for restart in 1..=RESTARTS {
        // Under load before, while and after nobody listens.
        std::thread::sleep(Duration::from_secs(1));
        docker(&["kill", "--signal", "HUP", &name]);
        until("the app to listen again", PATIENCE, || {
            let listening = session.stdout().matches("listening").count();
            if listening > restart { Ok(()) } else { Err(format!("listened {listening} times")) }
        });
    }
    std::thread::sleep(Duration::from_secs(1));
    // Its standard input ends here.
    let ended = load.wait_with_output().unwrap();
    assert!(ended.status.success(), "the load failed");
    let report: Report = serde_json::from_slice(&ended.stdout).unwrap();
    let stdout = session.stdout();
    let left: Vec<f64> = stdout.lines().filter_map(|line| line.strip_prefix("left ")?.parse().ok()).collect();
    println!("{RESTARTS} restarts, {} requests, {} cut", report.requests, report.failed.len());

    assert_eq!(left.len(), RESTARTS, "{stdout}");
    assert!(report.longest > 1.0, "the load has met no restart: {report:?}");
    for failed in &report.failed {
        let cut = left
            .iter()
            .any(|moment| failed.opened <= *moment && (*moment..*moment + CUT_WITHIN).contains(&failed.ended));
        let error = &failed.error;
        assert!(cut, "{error}: the connection was not that of a process that ended at one of {left:?}: {failed:?}");
    }
    session.interrupt();
    assert_restored(&before);
}
