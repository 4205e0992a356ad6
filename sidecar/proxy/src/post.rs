//! One request of a letter: a connection of its own over TLS, HTTP/1.1 written by hand, and the status of the answer.
//!
//! A client for a handful of requests needs no pool, no redirects and no bodies of answers. The server is known by the
//! letter's certificates alone: the image holds none.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tpdocker_protocol::letter::{Letter, LetterError, LetterRequest};

/// Time for one request, the connection included: a network policy may drop its packets, and there are more attempts.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A status line: the version, three digits and a phrase.
const MAX_STATUS_LINE: usize = 1024;

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
        let (host, port) = (self.letter.host.clone(), self.letter.port);
        let answer = match timeout(ANSWER_WITHIN, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {ANSWER_WITHIN:?}"))),
        };
        match answer {
            Ok(status) if request.done.contains(&status) => Ok(status),
            Ok(status) => {
                let (method, path) = (request.method.as_str(), request.path.clone());
                Err(PostError::Status { host, port, method, path, status })
            }
            Err(source) => Err(PostError::Io { host, port, source }),
        }
    }

    async fn exchange(&self, request: &LetterRequest) -> io::Result<u16> {
        let connection = TcpStream::connect((self.letter.host.as_str(), self.letter.port)).await?;
        connection.set_nodelay(true)?;
        let mut stream = self.tls.connect(self.server.clone(), connection).await?;
        stream.write_all(self.encode(request).as_bytes()).await?;
        stream.flush().await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            // Byte by byte of what TLS has decrypted already; the rest of the answer is not read.
            line.push(stream.read_u8().await?);
            if line.len() > MAX_STATUS_LINE {
                break;
            }
        }
        status_of(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP/1.1"))
    }

    /// RFC 9112, section 2.1.
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
            "{} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tpdocker-proxy\r\nAccept: application/json\r\n\
             Authorization: Bearer {}\r\nConnection: close\r\n{body_is}\r\n{body}",
            method.as_str(),
            token.0
        )
    }
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
