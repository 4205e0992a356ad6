//! A gate in front of the API server or of the Docker engine. It passes requests on, and holds the one that a test has
//! chosen when it has been carried out and before its answer comes back: there a session can be ended at a point that no
//! timing hits, where the change is made and whoever asked for it does not know. It can also fall silent, or be cut.
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
    door: Door,
}

/// What a gate is made of besides its threads.
enum Door {
    Api { proxy: Child, config: tempfile::TempPath },
    Engine { directory: tempfile::TempDir },
}

struct State {
    changes: Changes,
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Default)]
struct Now {
    way: Way,
    /// Changes asked for so far.
    asked: Vec<String>,
    /// Which of them is to be held, counted from 1.
    hold: Option<usize>,
    /// It was carried out, and its answer is here.
    held: bool,
    /// How to end each connection.
    connections: Vec<Box<dyn Fn() + Send>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    /// Nothing comes through, as with a server that hangs or a network that drops packets.
    Silent,
    /// Connections end at once, as with a server that is not there.
    Cut,
}

impl Gate {
    /// In front of the API server. The `hold`-th change in a namespace is held.
    pub fn of_the_cluster(hold: Option<usize>) -> Self {
        let mut command = kubectl_in(NAMESPACE);
        let mut proxy =
            command.args(["proxy", "--port=0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let upstream: SocketAddr = said.trim().rsplit(' ').next().unwrap().parse().expect(&said);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = config_json();
        let server = format!("http://{}", listener.local_addr().unwrap());
        config["clusters"][0]["cluster"] = serde_json::json!({ "server": server });
        config["users"][0]["user"] = serde_json::json!({});
        let config = write_config(&config).into_temp_path();
        let state = State::new(|method, path| method != "GET" && path.contains("/namespaces/"), hold);
        serve(&state, move || Ok(listener.accept()?.0), move || TcpStream::connect(upstream));
        Self { state, door: Door::Api { proxy, config } }
    }

    /// In front of the Docker engine. The `hold`-th change of containers and volumes is held.
    pub fn of_the_engine(hold: Option<usize>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let changes = |method: &str, path: &str| {
            let about = path.contains("/containers/") || path.contains("/volumes/");
            let waits = ["/wait?", "/attach?", "/resize?"].iter().any(|it| path.contains(it));
            about && !waits && method != "GET" && method != "HEAD"
        };
        let state = State::new(changes, hold);
        serve(&state, move || Ok(listener.accept()?.0), || UnixStream::connect(engine_socket()));
        Self { state, door: Door::Engine { directory } }
    }

    /// Has this command go through the gate.
    pub fn before<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match &self.door {
            Door::Api { config, .. } => command.env("KUBECONFIG", config),
            Door::Engine { directory } => {
                command.env("DOCKER_HOST", format!("unix://{}/docker.sock", directory.path().display()))
            }
        }
    }

    /// Whether the chosen request is held now; the change that it asked for is made.
    pub fn holds(&self) -> bool {
        self.state.now.lock().unwrap().held
    }

    /// The changes asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.state.now.lock().unwrap().asked.clone()
    }

    /// Falls silent: nothing comes through, and everything that waits will.
    pub fn silence(&self) {
        self.turn(Way::Silent);
    }

    /// Ends all connections, and those that come.
    pub fn cut(&self) {
        self.turn(Way::Cut);
        for end in std::mem::take(&mut self.state.now.lock().unwrap().connections) {
            end();
        }
    }

    /// Lets everything through from now on, and holds nobody.
    pub fn open(&self) {
        self.state.now.lock().unwrap().hold = None;
        self.turn(Way::Open);
    }

    fn turn(&self, way: Way) {
        self.state.now.lock().unwrap().way = way;
        self.state.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        if let Door::Api { proxy, .. } = &mut self.door {
            proxy.kill().unwrap();
            proxy.wait().unwrap();
        }
    }
}

impl State {
    fn new(changes: Changes, hold: Option<usize>) -> Arc<Self> {
        let now = Mutex::new(Now { hold, ..Now::default() });
        Arc::new(Self { changes, now, changed: Condvar::new() })
    }

    /// Counts a request; whether its answer has to wait.
    fn count(&self, method: &str, path: &str) -> bool {
        if !(self.changes)(method, path) {
            return false;
        }
        let mut now = self.now.lock().unwrap();
        now.asked.push(format!("{method} {path}"));
        now.hold == Some(now.asked.len())
    }

    /// The answer is here, and stays here.
    fn hold(&self) {
        let mut now = self.now.lock().unwrap();
        now.held = true;
        drop(self.changed.wait_while(now, |now| now.hold.is_some() && now.way != Way::Cut).unwrap());
    }

    /// Waits while nothing comes through.
    fn pass(&self) -> io::Result<()> {
        let now = self.changed.wait_while(self.now.lock().unwrap(), |now| now.way == Way::Silent).unwrap();
        if now.way == Way::Cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

/// A connection's two directions.
trait Wire: Read + Write + Send + Sized + 'static {
    fn again(&self) -> Self;
    fn close(&self, how: Shutdown);
}

impl Wire for TcpStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn close(&self, how: Shutdown) {
        // The other end may have closed it.
        drop(self.shutdown(how));
    }
}

impl Wire for UnixStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn close(&self, how: Shutdown) {
        drop(self.shutdown(how));
    }
}

/// Every connection gets one to the other side, for as long as the process of the tests lives.
fn serve<W: Wire>(
    state: &Arc<State>,
    accept: impl Fn() -> io::Result<W> + Send + 'static,
    connect: impl Fn() -> io::Result<W> + Send + 'static,
) {
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        while let Ok(client) = accept() {
            // Who is refused here finds its connection closed.
            if state.pass().is_ok()
                && let Ok(server) = connect()
            {
                let state = Arc::clone(&state);
                std::thread::spawn(move || relay(&state, client, server));
            }
        }
    });
}

/// One connection, until an end closes it. The requests are read one by one; what comes back is not looked at.
fn relay<W: Wire>(state: &Arc<State>, client: W, mut server: W) {
    let ends = (client.again(), server.again());
    let end = move || {
        ends.0.close(Shutdown::Both);
        ends.1.close(Shutdown::Both);
    };
    state.now.lock().unwrap().connections.push(Box::new(end));
    let waits = Arc::new(Mutex::new(false));
    let (mut back, from) = (client.again(), server.again());
    let (shared, waiting) = (Arc::clone(state), Arc::clone(&waits));
    std::thread::spawn(move || {
        let answered = pump(from, &mut back, || {
            if std::mem::take(&mut *waiting.lock().unwrap()) {
                shared.hold();
            }
            shared.pass()
        });
        back.close(if answered.is_ok() { Shutdown::Write } else { Shutdown::Both });
    });
    let mut reader = BufReader::new(client);
    while let Ok(true) = request(state, &waits, &mut reader, &mut server) {}
    server.close(Shutdown::Write);
}

/// Passes one request on; `false` at the end of the connection.
fn request<W: Wire>(state: &State, waits: &Mutex<bool>, reader: &mut BufReader<W>, to: &mut W) -> io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(false);
        }
    }
    state.pass()?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    if state.count(words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        *waits.lock().unwrap() = true;
    }
    to.write_all(&head)?;
    let header = |name: &str| {
        let mut headers = text.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    if header("upgrade").is_some() {
        pump(reader, to, || state.pass())?;
        return Ok(false);
    }
    if header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            to.write_all(line.as_bytes())?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            io::copy(&mut reader.take(length + 2), to)?;
            if length == 0 {
                return Ok(true);
            }
        }
    }
    let length = header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    io::copy(&mut reader.take(length), to)?;
    Ok(true)
}

/// Copies until the end, each piece as soon as it may pass.
fn pump(mut from: impl Read, to: &mut impl Write, pass: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        pass()?;
        to.write_all(&buffer[..length])?;
    }
}

/// The engine's own socket.
fn engine_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").map_or_else(|| "/var/run/docker.sock".into(), PathBuf::from)
}
