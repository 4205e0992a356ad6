//! A server for letters: HTTPS on 127.0.0.1, by certificates of its own.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tpdocker_protocol::control::{ProxyReply, ProxyRequest};
use tpdocker_protocol::letter::{Letter, LetterRequest, Method, Token};
use tpdocker_tunnel::messages::Messages;

use super::PATIENCE;

const CA: &str = include_str!("../tls/ca.pem");
/// Of another server.
pub const OTHER_CA: &str = include_str!("../tls/other-ca.pem");
/// As long as a test takes: its client does not go.
pub const NEVER: Duration = Duration::from_mins(10);
pub const SOON: Duration = Duration::from_millis(300);
/// Where the letter's Service tells who stands behind it.
pub const SERVING: &str = "GET /serving";

/// What the server was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// `PATCH /a`
    pub line: String,
    pub body: String,
}

/// Answers with these statuses in turn, and with 200 after them; 0 hangs up.
pub struct Server {
    pub port: u16,
    pub asked: mpsc::UnboundedReceiver<Asked>,
    serving: Arc<Mutex<String>>,
}

impl Server {
    pub async fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let certificates =
            CertificateDer::pem_slice_iter(include_bytes!("../tls/server.pem")).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tls/server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut statuses: VecDeque<u16> = statuses.to_vec().into();
        let (asked_tx, asked) = mpsc::unbounded_channel();
        let serving = Arc::new(Mutex::new(endpoints(&[])));
        let content = Arc::clone(&serving);
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                // A client that does not trust this server leaves during the handshake.
                let Ok(mut stream) = acceptor.accept(connection).await else { continue };
                let asked = read(&mut stream).await;
                let looks = asked.line == SERVING;
                let status = if looks { 200 } else { statuses.pop_front().unwrap_or(200) };
                let content = if looks { content.lock().unwrap().clone() } else { "{}".to_owned() };
                if asked_tx.send(asked).is_err() {
                    return;
                }
                if status != 0 {
                    let answer = format!("HTTP/1.0 {status} So\r\nContent-Type: application/json\r\n\r\n{content}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    // Who has read the status may have left.
                    drop(stream.shutdown().await);
                }
            }
        });
        Self { port, asked, serving }
    }

    pub async fn next(&mut self) -> Asked {
        timeout(PATIENCE, self.asked.recv()).await.expect("a request in time").unwrap()
    }

    pub async fn lines(&mut self, number: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..number {
            lines.push(self.next().await.line);
        }
        lines
    }

    /// Who stands behind the letter's Service from now on.
    pub fn serves(&self, addresses: &[&str]) {
        *self.serving.lock().unwrap() = endpoints(addresses);
    }

    /// Nobody asks for as long as nothing would take.
    pub async fn is_left_alone(&mut self) {
        let asked = timeout(SOON * 4, self.asked.recv()).await;
        assert!(asked.is_err(), "{asked:?}");
    }
}

fn endpoints(addresses: &[&str]) -> String {
    let addresses: Vec<_> = addresses.iter().map(|ip| serde_json::json!({"ip": ip})).collect();
    serde_json::json!({"items": [{"subsets": [{"addresses": addresses}]}]}).to_string()
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Asked {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    assert_eq!(field("Authorization"), Some("Bearer t0ken"));
    assert!(field("Host").unwrap().starts_with("127.0.0.1:"));
    let length = field("Content-Length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let line = head.lines().next().unwrap().strip_suffix(" HTTP/1.0").unwrap().to_owned();
    Asked { line, body: String::from_utf8(body).unwrap() }
}

fn request(method: Method, path: &str, body: &str, done: &[u16]) -> LetterRequest {
    let content_type = (!body.is_empty()).then(|| "application/json".to_owned());
    LetterRequest { method, path: path.into(), content_type, body: body.into(), done: done.to_vec() }
}

pub fn letter(port: u16, grace: Duration) -> Letter {
    Letter {
        host: "127.0.0.1".into(),
        port,
        ca: CA.into(),
        token: Token("t0ken".into()),
        grace,
        valid: NEVER,
        requests: vec![
            request(Method::Get, "/look", "", &[200]),
            request(Method::Patch, "/a", "[1]", &[200, 404, 422]),
            request(Method::Delete, "/b", "{}", &[200, 404]),
        ],
        serving: vec!["/serving".into()],
    }
}

pub async fn ask(client: &mut Messages<TcpStream>, request: &ProxyRequest) -> ProxyReply {
    client.send(request).await.unwrap();
    timeout(PATIENCE, client.receive()).await.expect("an answer in time").unwrap().expect("an answer")
}

pub async fn keep(client: &mut Messages<TcpStream>, letter: Letter) {
    assert_eq!(ask(client, &ProxyRequest::Keep(Box::new(letter))).await, ProxyReply::Kept);
}
