//! A gate in front of the API server or of the Docker engine. It passes requests on, and holds the one that a test has
//! chosen when it has been carried out and before its answer comes back: there a session can be ended at a point that no
//! timing hits, where the change is made and whoever asked for it does not know. It can also fall silent, or be cut.
//!
//! ```text
//! tpdocker ── HTTP ── gate ── HTTP ── kubectl proxy ── TLS, the kubeconfig's login ── API server
//! tpdocker ── HTTP over a Unix socket ── gate ── Docker engine
//! ```

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::relay::{State, Way, serve};
use crate::support::{NAMESPACE, config_json, kubectl_in, write_config};

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

/// The engine's own socket.
fn engine_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").map_or_else(|| "/var/run/docker.sock".into(), PathBuf::from)
}
