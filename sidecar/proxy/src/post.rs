//! One request of a letter: a connection of its own over TLS, HTTP written by hand, and the status of the answer, or its
//! content.
//!
//! A client for a handful of requests needs no pool and no redirects. It speaks HTTP/1.0, whose answers come in one piece
//! (RFC 9112, section 6.1: no transfer coding to a client of that version). The server is known by the letter's
//! certificates alone: the image holds none.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tpdocker_protocol::letter::{Letter, LetterError, LetterRequest, Method};

/// Time for one request, the connection included: a network policy may drop its packets, and there are more attempts.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A status line: the version, three digits and a phrase.
const MAX_STATUS_LINE: usize = 1024;
/// Of an answer that is read: the endpoints of a Service with a few thousand pods.
const MAX_ANSWER: u64 = 4 << 20;

/// Why a letter cannot be posted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    /// It breaks its own rules.
    #[error(transparent)]
    Letter(#[from] LetterError),
    /// No server can be known by its certificates, or by its host's name.
    #[error("the letter's {0}")]
    Unusable(String),
    /// The server cannot be reached, or is another one.
    #[error("{host}, port {port}: {source}")]
    Io {
        /// The server.
        host: String,
        /// Its port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// An answer of another kind.
    #[error("{host}, port {port} answered {method} {path} with {status}")]
    Status {
        /// The server.
        host: String,
        /// Its port.
        port: u16,
        /// The request's method.
        method: &'static str,
        /// The request's path.
        path: String,
        /// The answer's status.
        status: u16,
    },
}

impl PostError {
    /// Whether the server knows the token no more, or lets it do nothing: its account or Role is not there.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status: 401 | 403, .. })
    }
}

/// A letter that can be posted.
pub(crate) struct Post {
    letter: Letter,
    server: ServerName<'static>,
    tls: TlsConnector,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Post").field("letter", &self.letter).finish_non_exhaustive()
    }
}

impl Post {
    /// Of a letter that keeps its rules.
    pub(crate) fn new(letter: Letter) -> Result<Self, PostError> {
        letter.check()?;
        let unusable = |what: &str, why: &dyn std::fmt::Display| PostError::Unusable(format!("{what}: {why}"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(letter.ca.as_bytes()) {
            let certificate = certificate.map_err(|why| unusable("certificates are no PEM", &why))?;
            roots.add(certificate).map_err(|why| unusable("certificate cannot be used", &why))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|why: rustls::Error| unusable("server cannot be spoken to", &why))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerName::try_from(letter.host.clone()).map_err(|why| unusable("host is no name", &why))?;
        Ok(Self { letter, server, tls: TlsConnector::from(Arc::new(config)) })
    }

    pub(crate) fn letter(&self) -> &Letter {
        &self.letter
    }

    /// Posts one request; done when its answer is one of those that are expected.
    pub(crate) async fn send(&self, request: &LetterRequest) -> Result<u16, PostError> {
        match in_time(async { self.exchange(request).await.map(|(status, _)| status) }).await {
            Ok(status) if request.done.contains(&status) => Ok(status),
            Ok(status) => Err(self.answered(request, status)),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// What the server has under a path.
    pub(crate) async fn read(&self, path: &str) -> Result<Vec<u8>, PostError> {
        let path = path.to_owned();
        let request =
            LetterRequest { method: Method::Get, path, content_type: None, body: String::new(), done: vec![200] };
        let read = in_time(async {
            let (status, stream) = self.exchange(&request).await?;
            let mut rest = Vec::new();
            stream.take(MAX_ANSWER).read_to_end(&mut rest).await?;
            Ok((status, rest))
        });
        match read.await {
            Ok((200, rest)) => {
                let begins = rest.windows(4).position(|end| end == b"\r\n\r\n").map_or(rest.len(), |head| head + 4);
                Ok(rest[begins..].to_vec())
            }
            Ok((status, _)) => Err(self.answered(&request, status)),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn answered(&self, request: &LetterRequest, status: u16) -> PostError {
        let (host, port) = (self.letter.host.clone(), self.letter.port);
        PostError::Status { host, port, method: request.method.as_str(), path: request.path.clone(), status }
    }

    fn failed(&self, source: io::Error) -> PostError {
        PostError::Io { host: self.letter.host.clone(), port: self.letter.port, source }
    }

    /// The status of the answer, and where its fields come from.
    async fn exchange(&self, request: &LetterRequest) -> io::Result<(u16, TlsStream<TcpStream>)> {
        let connection = TcpStream::connect((self.letter.host.as_str(), self.letter.port)).await?;
        connection.set_nodelay(true)?;
        let mut stream = self.tls.connect(self.server.clone(), connection).await?;
        stream.write_all(self.encode(request).as_bytes()).await?;
        stream.flush().await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            // Byte by byte of what TLS has decrypted already.
            line.push(stream.read_u8().await?);
            if line.len() > MAX_STATUS_LINE {
                break;
            }
        }
        let status = status_of(&line);
        let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP/1"))?;
        Ok((status, stream))
    }

    /// RFC 9112, section 2.1. The field `Host` is of HTTP/1.1, and does no harm.
    fn encode(&self, request: &LetterRequest) -> String {
        let Letter { host, port, token, .. } = &self.letter;
        let LetterRequest { method, path, content_type, body, .. } = request;
        let host = match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        let body_is = content_type
            .as_ref()
            .map(|kind| format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()))
            .unwrap_or_default();
        let body = if content_type.is_some() { body } else { "" };
        format!(
            "{} {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: tpdocker-proxy\r\nAccept: application/json\r\n\
             Authorization: Bearer {}\r\n{body_is}\r\n{body}",
            method.as_str(),
            token.0
        )
    }
}

async fn in_time<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {ANSWER_WITHIN:?}"));
    timeout(ANSWER_WITHIN, answer).await.map_err(late)?
}

/// The status of `HTTP/1.1 200 OK`.
fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_its_line_and_from_no_other() {
        assert_eq!(status_of(b"HTTP/1.1 404 Not Found\r\n"), Some(404));
        assert_eq!(status_of(b"HTTP/1.0 200\r\n"), Some(200));
        for bad in [&b""[..], b"HTTP/1.1\r\n", b"HTTP/1.1 2x0 \r\n", b"HTTP/1.1 099 \r\n", b"SSH-2.0-x\r\n"] {
            assert_eq!(status_of(bad), None);
        }
    }
}
