//! Load from a pod of the cluster on the Service of the example, and an app for the laptop that can bear it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::Deserialize;

use crate::support::{NAMESPACE, PATIENCE, kubectl_in, until};

/// Serves on 8080 after a start that takes its time. SIGHUP starts it anew, SIGINT and SIGTERM end it: abruptly, or, with
/// `finish`, after it has answered whom it has accepted, as servers do that are restarted without a failed request. Such a
/// one first lets no new connection into its backlog, or who comes between the last accept and the close would be cut: from
/// then on its socket listens on a device that callers do not come by.
pub const APP: &str = r#"
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
        self.send_response(200); self.send_header("Content-Length", "8")
        if leaving.is_set(): self.send_header("Connection", "close")
        self.end_headers(); self.wfile.write(b'"laptop"')
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False; request_queue_size = 1024
def leave():
    told.wait()
    began = time.time()
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
    print(f"left {began} {time.time()}", flush=True)
    if not again: os._exit(0)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
told, again = threading.Event(), []
signal.signal(signal.SIGHUP, lambda *_: (again.append(True), told.set()))
for number in signal.SIGINT, signal.SIGTERM: signal.signal(number, lambda *_: told.set())
time.sleep(1.5)
server = Server(("0.0.0.0", 8080), Handler)
threading.Thread(target=leave, daemon=True).start()
print("listening", flush=True)
server.serve_forever(poll_interval=0.05)
threading.Event().wait()
"#;

/// Requests in six threads, four of which take a new connection for each; until its standard input ends. A line for each
/// 25 answers, and a report at the end. A request on a connection that the server had closed meanwhile is made
/// again on a new one, as clients do (RFC 9112, section 9.3.1). All of it is slow enough not to use up the pod's ports: a
/// port that is taken anew within seconds may be sent to a pod that has gone, by a node that remembers its last use.
const LOAD: &str = r#"
import collections, http.client, json, sys, threading, time
stop, lock, answers, longest, failed = threading.Event(), threading.Lock(), collections.Counter(), 0.0, []
def load(keep):
    global longest
    connection, reused = None, False
    while not stop.is_set():
        began = time.time()
        try:
            if connection is None:
                opened, reused = time.time(), False
                connection = http.client.HTTPConnection("servicename", 80, timeout=30)
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            text = answer.read().decode().strip()
            if answer.status != 200: raise ValueError(f"{answer.status} {text}")
            with lock:
                answers[text] += 1; longest = max(longest, time.time() - began)
                if answers.total() % 25 == 0: print(".", flush=True)
            reused = keep and not answer.will_close
        except ConnectionError as error:
            connection = None
            if reused: continue
            failed.append({"opened": opened, "ended": time.time(), "error": repr(error)})
        except Exception as error:
            connection = None
            failed.append({"opened": opened, "ended": time.time(), "error": repr(error)})
        if not reused and connection: connection.close(); connection = None
        time.sleep(0.02)
threads = [threading.Thread(target=load, args=(keep,)) for keep in (True, True, False, False, False, False)]
for thread in threads: thread.start()
sys.stdin.read(); stop.set()
for thread in threads: thread.join()
print(json.dumps({"answers": answers, "longest": longest, "failed": failed}))
"#;

/// What the callers met.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// How often each answer came.
    pub answers: BTreeMap<String, u64>,
    /// The longest that an answer took, in seconds.
    pub longest: f64,
    /// Requests without an answer.
    pub failed: Vec<Failed>,
}

impl Report {
    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// Seconds since 1970, by the clock that app and load share with this machine.
#[derive(Debug, Deserialize)]
pub struct Failed {
    pub opened: f64,
    pub ended: f64,
    pub error: String,
}

/// The load, in a pod of the cluster.
pub struct Load {
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Load {
    pub fn start() -> Self {
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
    pub fn goes_on(&self) {
        let printed = || self.printed.lock().unwrap().len();
        let before = printed();
        until("the load to go on", PATIENCE, || {
            let now = printed();
            if now >= before + 4 { Ok(()) } else { Err(format!("{} more", now - before)) }
        });
    }

    pub fn end(mut self) -> Report {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "the load failed");
        self.reader.join().unwrap();
        serde_json::from_str(self.printed.lock().unwrap().last().expect("a report")).unwrap()
    }
}
