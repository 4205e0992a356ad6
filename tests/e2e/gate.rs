//! A gate in front of the API server or of the Docker engine: it passes requests on, and holds the one that a test has
//! chosen when it has been carried out and before its answer comes back. There a session can be ended at a point that
//! no timing hits: the change is made, and whoever asked for it does not know.
//!
//! ```text
//! tpdocker ── HTTP ── gate ── HTTP ── kubectl proxy ── TLS, the kubeconfig's login ── API server
//! tpdocker ── HTTP over a Unix socket ── gate ── Docker engine
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use crate::support::{NAMESPACE, config_json, kubectl_in, write_config};

/// Whether a request changes something: its method and its path.
type Changes = fn(&str, &str) -> bool;

/// The way through, and who is held in it.
pub struct Gate {
    state: Arc<State>,
    /// Goes with the gate.
    _door: Door,
}

/// What a gate is made of besides its threads.
enum Door {
    Api { proxy: Child, config: tempfile::TempPath },
    Engine { directory: tempfile::TempDir },
}

struct State {
    changes: Changes,
    counted: Mutex<Counted>,
    changed: Condvar,
}

#[derive(Default)]
struct Counted {
    /// Changes asked for so far.
    asked: Vec<String>,
    /// Which of them is held, counted from 1.
    hold: Option<usize>,
    /// It was carried out and its answer is here.
    held: bool,
    /// Nobody is held any more.
    open: bool,
}

impl Gate {
    /// In front of the API server, and the kubeconfig that leads through it. The `hold`-th change of the namespace is
    /// held.
    pub fn of_the_cluster(hold: Option<usize>) -> Self {
        let mut proxy = kubectl_in(NAMESPACE)
            .args(["proxy", "--port=0", "--accept-hosts=.*"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut said = String::new();
        BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let upstream: SocketAddr = said.trim().rsplit(' ').next().unwrap().parse().expect(&said);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = config_json();
        config["clusters"][0]["cluster"] =
            serde_json::json!({ "server": format!("http://{}", listener.local_addr().unwrap()) });
        config["users"][0]["user"] = serde_json::json!({});
        let config = write_config(&config).into_temp_path();
        let changes = |method: &str, path: &str| method != "GET" && path.contains("/namespaces/");
        let state = State::new(changes, hold);
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (state, client) = (Arc::clone(&shared), client.unwrap());
                std::thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect(upstream) {
                        relay(&state, client, server);
                    }
                });
            }
        });
        Self { state, _door: Door::Api { proxy, config } }
    }

    /// In front of the Docker engine. The `hold`-th change of containers and volumes is held.
    pub fn of_the_engine(hold: Option<usize>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let changes = |method: &str, path: &str| {
            let about = path.contains("/containers/") || path.contains("/volumes/");
            about
                && method != "GET"
                && method != "HEAD"
                && !["/wait?", "/attach?", "/resize?"].iter().any(|it| path.contains(it))
        };
        let state = State::new(changes, hold);
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (state, client) = (Arc::clone(&shared), client.unwrap());
                std::thread::spawn(move || {
                    if let Ok(server) = UnixStream::connect(engine_socket()) {
                        relay(&state, client, server);
                    }
                });
            }
        });
        Self { state, _door: Door::Engine { directory } }
    }

    /// Has this command go through the gate.
    pub fn before<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match &self._door {
            Door::Api { config, .. } => command.env("KUBECONFIG", config),
            Door::Engine { directory } => {
                command.env("DOCKER_HOST", format!("unix://{}/docker.sock", directory.path().display()))
            }
        }
    }

    /// Whether the chosen request is held now; the change it asked for is made.
    pub fn holds(&self) -> bool {
        self.state.counted.lock().unwrap().held
    }

    /// Lets everybody through from now on, whoever is held too.
    pub fn open(&self) {
        self.state.counted.lock().unwrap().open = true;
        self.state.changed.notify_all();
    }

    /// The changes asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.state.counted.lock().unwrap().asked.clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        if let Door::Api { proxy, .. } = &mut self._door {
            proxy.kill().unwrap();
            proxy.wait().unwrap();
        }
    }
}

impl State {
    fn new(changes: Changes, hold: Option<usize>) -> Arc<Self> {
        let counted = Counted { hold, ..Counted::default() };
        Arc::new(Self { changes, counted: Mutex::new(counted), changed: Condvar::new() })
    }

    /// Counts a request; whether its answer has to wait.
    fn count(&self, method: &str, path: &str) -> bool {
        if !(self.changes)(method, path) {
            return false;
        }
        let mut counted = self.counted.lock().unwrap();
        counted.asked.push(format!("{method} {path}"));
        !counted.open && counted.hold == Some(counted.asked.len())
    }

    /// The answer is here, and stays here until the gate opens.
    fn wait(&self) {
        let mut counted = self.counted.lock().unwrap();
        counted.held = true;
        drop(self.changed.wait_while(counted, |counted| !counted.open).unwrap());
    }
}

/// A connection's two directions.
trait Wire: Read + Write + Send + Sized + 'static {
    fn again(&self) -> io::Result<Self>;
    fn close(&self, how: Shutdown);
}

impl Wire for TcpStream {
    fn again(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn close(&self, how: Shutdown) {
        // The other end may have closed it.
        drop(self.shutdown(how));
    }
}

impl Wire for UnixStream {
    fn again(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn close(&self, how: Shutdown) {
        drop(self.shutdown(how));
    }
}

/// One connection, until an end closes it. The requests are read one by one; what comes back is not looked at.
fn relay<W: Wire>(state: &Arc<State>, client: W, server: W) {
    let waits = Arc::new(Mutex::new(false));
    let (mut back, mut from) = (client.again().unwrap(), server.again().unwrap());
    let (shared, waiting) = (Arc::clone(state), Arc::clone(&waits));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if std::mem::take(&mut *waiting.lock().unwrap()) {
                shared.wait();
            }
            if back.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        back.close(Shutdown::Write);
    });
    let mut reader = BufReader::new(client);
    let mut to = server;
    while let Ok(Some(())) = request(state, &waits, &mut reader, &mut to) {}
    to.close(Shutdown::Write);
}

/// Passes one request on; `None` at the end of the connection.
fn request<W: Wire>(
    state: &State,
    waits: &Mutex<bool>,
    reader: &mut BufReader<W>,
    to: &mut W,
) -> io::Result<Option<()>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|it| it.1)
    };
    if state.count(method, path) {
        *waits.lock().unwrap() = true;
    }
    to.write_all(&head)?;
    if header("upgrade").is_some() {
        io::copy(reader, to)?;
        return Ok(None);
    }
    if header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            to.write_all(line.as_bytes())?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            io::copy(&mut reader.take(length + 2), to)?;
            if length == 0 {
                return Ok(Some(()));
            }
        }
    }
    let length = header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    io::copy(&mut reader.take(length), to)?;
    Ok(Some(()))
}

/// The engine's own socket.
fn engine_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").map_or_else(|| "/var/run/docker.sock".into(), PathBuf::from)
}
