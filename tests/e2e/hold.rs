//! A restart of the app under load: callers wait, and none is refused.
//!
//! What a connection has to survive is the time in which nobody listens. What it cannot survive is the end of the process
//! that has accepted it, or in whose backlog it waits: such a connection is cut in a pod as well. An app that answers whom
//! it has accepted before it goes is restarted without a failed request. For one that just goes, a request may fail only
//! if its connection is older than the moment in which the app says that it has closed its listening socket.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::Deserialize;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, get_from_a_pod, kubectl_in, staging, until,
    world,
};

/// Serves on 8080 after a start that takes its time, and starts anew at SIGHUP: abruptly, or, with `finish`, after it has
/// answered whom it has accepted, as servers do that are restarted without a failed request. Such a one first lets no new
/// connection into its backlog, or who comes between the last accept and the close would be cut: from then on its socket
/// listens on a device that callers do not come by.
const APP: &str = r#"
import http.server, os, select, signal, socket, sys, threading, time
leaving, (woken, wake) = threading.Event(), os.pipe()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def handle(self):
        self.close_connection = True
        self.handle_one_request()
        while not self.close_connection and not leaving.is_set():
            if self.connection not in select.select([self.connection, woken], [], [])[0]: return
            self.handle_one_request()
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "4")
        if leaving.is_set(): self.send_header("Connection", "close")
        self.end_headers(); self.wfile.write(b'"ok"')
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False; request_queue_size = 1024
def again():
    hup.wait()
    if "finish" in sys.argv:
        leaving.set(); os.close(wake)
        server.shutdown()
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        server.socket.setblocking(False)
        while True:
            try: connection, peer = server.socket.accept()
            except BlockingIOError: break
            connection.setblocking(True); server.process_request(connection, peer)
        server.server_close()
    else:
        server.socket.close()
    print(f"left {time.time()}", flush=True)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
hup = threading.Event()
signal.signal(signal.SIGHUP, lambda *_: hup.set())
time.sleep(1.5)
server = Server(("0.0.0.0", 8080), Handler)
threading.Thread(target=again, daemon=True).start()
print("listening", flush=True)
server.serve_forever(poll_interval=0.05)
threading.Event().wait()
"#;

/// Requests in six threads, four of which take a new connection for each; until its standard input ends. A line for each
/// 25 answers, and a report at the end. A request on a connection that the server had closed meanwhile is made
/// again on a new one, as clients do (RFC 9112, section 9.3.1).
const LOAD: &str = r#"
import http.client, json, sys, threading, time
stop, lock, requests, longest, failed = threading.Event(), threading.Lock(), 0, 0.0, []
def load(keep):
    global requests, longest
    connection, reused = None, False
    while not stop.is_set():
        began = time.time()
        try:
            if connection is None:
                opened, reused = time.time(), False
                connection = http.client.HTTPConnection("servicename", 80, timeout=30)
            connection.request("GET", "/")
            answer = connection.getresponse()
            if answer.read() != b'"ok"': raise ValueError("another answer")
            with lock:
                requests += 1; longest = max(longest, time.time() - began)
                if requests % 25 == 0: print(".", flush=True)
            reused = keep and not answer.will_close
        except ConnectionError as error:
            connection = None
            if reused: continue
            failed.append({"opened": opened, "ended": time.time(), "error": repr(error)})
        except Exception as error:
            connection = None
            failed.append({"opened": opened, "ended": time.time(), "error": repr(error)})
        if not reused and connection: connection.close(); connection = None
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
struct Load {
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Load {
    fn start() -> Self {
        let mut child = kubectl_in(NAMESPACE)
            .args(["exec", "-i", "deploy/thing1", "--", "python3", "-c", LOAD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let (lines, stdout) = (Arc::clone(&printed), BufReader::new(child.stdout.take().unwrap()));
        let reader = std::thread::spawn(move || {
            for line in stdout.lines() {
                lines.lock().unwrap().push(line.unwrap());
            }
        });
        Self { child, printed, reader }
    }

    /// Waits until there are many more answers than now.
    fn goes_on(&self) {
        let printed = || self.printed.lock().unwrap().len();
        let before = printed();
        until("the load to go on", PATIENCE, || {
            let now = printed();
            if now >= before + 4 { Ok(()) } else { Err(format!("{} more", now - before)) }
        });
    }

    fn end(mut self) -> Report {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "the load failed");
        self.reader.join().unwrap();
        serde_json::from_str(self.printed.lock().unwrap().last().expect("a report")).unwrap()
    }
}

/// Restarts the app under load; gives what the callers met, and when the app had closed its listening socket.
fn restart_under_load(how: &str) -> (Report, Vec<f64>) {
    const RESTARTS: usize = 3;
    /// Answers in a row, of which each takes a few tenths of a second.
    const SETTLED: usize = 5;
    let before = world();
    let name = format!("tpdocker-e2e-hold-{}", std::process::id());
    let flags = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "--name", &name];
    let session = Tpdocker::start(&[&flags[..], &[SERVICE_IMAGE, "python3", "-c", APP, how]].concat());
    session.says("servicename is at 0");
    // The node may send to the original's pods for a second longer than they live: whom it does waits in vain.
    for _ in 0..SETTLED {
        until("the app to answer the Service", PATIENCE, || match get_from_a_pod("http://servicename/") {
            Ok(answer) if answer == "ok" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let load = Load::start();
    for restart in 1..=RESTARTS {
        load.goes_on();
        docker(&["kill", "--signal", "HUP", &name]);
        until("the app to listen again", PATIENCE, || {
            let listening = session.stdout().matches("listening").count();
            if listening > restart { Ok(()) } else { Err(format!("listened {listening} times")) }
        });
    }
    load.goes_on();
    let report = load.end();
    let stdout = session.stdout();
    let left: Vec<f64> = stdout.lines().filter_map(|line| line.strip_prefix("left ")?.parse().ok()).collect();
    println!("{RESTARTS} restarts, {} requests, {} failed", report.requests, report.failed.len());
    assert_eq!(left.len(), RESTARTS, "{stdout}");
    assert!(report.longest > 1.0, "the load has met no restart: {report:?}");
    session.interrupt();
    assert_restored(&before);
    (report, left)
}

#[test]
fn no_request_fails_while_an_app_that_answers_whom_it_has_accepted_is_restarted() {
    let _staging = staging();
    let (report, _) = restart_under_load("finish");
    assert!(report.failed.is_empty(), "{report:?}");
}

#[test]
fn no_caller_is_refused_while_an_app_is_restarted_that_leaves_at_once() {
    /// Within this the caller hears of the end of the process; who waits longer hangs.
    const CUT_WITHIN: f64 = 1.0;
    let _staging = staging();
    let (report, left) = restart_under_load("leave");
    for failed in &report.failed {
        let cut = left
            .iter()
            .any(|moment| failed.opened <= *moment && (*moment..*moment + CUT_WITHIN).contains(&failed.ended));
        let error = &failed.error;
        assert!(cut, "{error}: the connection was not that of a process that ended at one of {left:?}: {failed:?}");
    }
}
