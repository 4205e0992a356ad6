//! The sealed letter: what the proxy does by itself once its client is gone for good.
//!
//! The CLI hands it over a control connection: ready-made HTTP/1.1 requests, where to post them, by which CA to know the
//! server, and a bearer token. The proxy keeps it in memory and posts it in order when no client has been there for
//! [`Letter::grace`], or forgets it. It understands none of it: that the requests undo a swap is known to who wrote them,
//! and so is which answers mean that there is nothing left to do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Requests of a letter; a swap is undone by four.
pub const MAX_REQUESTS: usize = 8;
/// Services whose endpoints are asked for; a workload has one or two.
pub const MAX_SERVING: usize = 32;
/// Bytes of a path: a namespace, a kind and a name are a tenth of it.
pub const MAX_PATH: usize = 2048;
/// Bytes of a body: a patch holds one annotation, and those are small.
pub const MAX_BODY: usize = 64 << 10;
/// Bytes of a token; servers refuse headers that are larger.
pub const MAX_TOKEN: usize = 16 << 10;
/// Bytes of the certificates: a bundle of a few dozen.
pub const MAX_CA: usize = 256 << 10;

/// A letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Name or address of the server, as the pod reaches it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Certificates by which the server is known, as PEM (RFC 7468).
    pub ca: String,
    /// What the server is shown.
    pub token: Token,
    /// How long no client must have been there.
    pub grace: Duration,
    /// How long the token is good for, from now on.
    pub valid: Duration,
    /// What is posted, in this order. The first one changes nothing: it is also posted to see whether the server is there.
    pub requests: Vec<LetterRequest>,
    /// Paths under which the server lists the Endpoints of the workload's Services. Asked before the first DELETE, until
    /// they name somebody: callers who wait meanwhile are passed on there.
    pub serving: Vec<String>,
}

/// A bearer token (RFC 6750). `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterRequest {
    /// Its method.
    pub method: Method,
    /// Its path, with the query.
    pub path: String,
    /// What the body is; `None` where there is none.
    pub content_type: Option<String>,
    /// The body.
    pub body: String,
    /// Statuses after which the next request follows; any other one is tried again.
    pub done: Vec<u16>,
}

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Changes nothing.
    Get,
    /// Changes a part.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What is wrong with a letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LetterError {
    /// A part is too large.
    #[error("{what} of a letter has {length}, over the limit of {limit}")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// How large.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A part that goes into a line of HTTP could end it, or begin another.
    #[error("{0} of a letter cannot stand in a line of HTTP")]
    Line(&'static str),
    /// Nothing to post, or the first request would change something.
    #[error("a letter does not begin with a request that changes nothing")]
    First,
}

impl Letter {
    /// Whether it can be posted as it is.
    pub fn check(&self) -> Result<(), LetterError> {
        let bounded = |what, length: usize, limit| {
            if length > limit { Err(LetterError::TooLarge { what, length, limit }) } else { Ok(()) }
        };
        bounded("the list of requests", self.requests.len(), MAX_REQUESTS)?;
        bounded("the list of Services", self.serving.len(), MAX_SERVING)?;
        bounded("the token", self.token.0.len(), MAX_TOKEN)?;
        bounded("the certificates", self.ca.len(), MAX_CA)?;
        in_a_line("the host", &self.host)?;
        in_a_line("the token", &self.token.0)?;
        for path in self.requests.iter().map(|request| &request.path).chain(&self.serving) {
            bounded("a path", path.len(), MAX_PATH)?;
            in_a_line("a path", path)?;
            if !path.starts_with('/') {
                return Err(LetterError::Line("a path"));
            }
        }
        for request in &self.requests {
            bounded("a body", request.body.len(), MAX_BODY)?;
            if let Some(kind) = &request.content_type {
                in_a_line("a content type", kind)?;
            }
        }
        match self.requests.first() {
            Some(first) if first.method == Method::Get => Ok(()),
            _ => Err(LetterError::First),
        }
    }
}

/// Visible ASCII alone (RFC 9112, section 3): no space, no end of a line.
fn in_a_line(what: &'static str, text: &str) -> Result<(), LetterError> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(LetterError::Line(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            host: "10.96.0.1".into(),
            port: 443,
            ca: "-----BEGIN CERTIFICATE-----".into(),
            token: Token("secret".into()),
            grace: Duration::from_mins(1),
            valid: Duration::from_mins(20),
            requests: vec![request(Method::Get), request(Method::Delete)],
            serving: vec!["/api/v1/namespaces/a/endpoints".into()],
        }
    }

    fn request(method: Method) -> LetterRequest {
        LetterRequest {
            method,
            path: "/apis/apps/v1/namespaces/a/deployments/b".into(),
            content_type: Some("application/json".into()),
            body: "{}".into(),
            done: vec![200, 404],
        }
    }

    /// A letter with one thing changed.
    fn but(change: impl FnOnce(&mut Letter)) -> Letter {
        let mut letter = letter();
        change(&mut letter);
        letter
    }

    #[test]
    fn a_letter_that_begins_by_looking_is_in_order() {
        assert_eq!(letter().check(), Ok(()));
        assert_eq!(but(|it| it.requests.clear()).check(), Err(LetterError::First));
        assert_eq!(but(|it| it.requests.reverse()).check(), Err(LetterError::First));
    }

    #[test]
    fn nothing_in_it_ends_a_line_of_http() {
        for bad in ["", "a b", "a\r\nb", "a\nb", "é", "\0"] {
            for wrong in [
                but(|it| it.host = bad.into()),
                but(|it| it.token = Token(bad.into())),
                but(|it| it.requests[1].path = format!("/{bad}\n")),
                but(|it| it.requests[1].content_type = Some(bad.into())),
                but(|it| it.serving[0] = format!("/{bad}\n")),
            ] {
                assert!(matches!(wrong.check(), Err(LetterError::Line(_))), "{wrong:?}");
            }
        }
        assert!(but(|it| it.requests[1].path = "http://elsewhere/".into()).check().is_err());
    }

    #[test]
    fn every_part_of_it_is_bounded() {
        for large in [
            but(|it| it.requests = vec![request(Method::Get); MAX_REQUESTS + 1]),
            but(|it| it.token = Token("t".repeat(MAX_TOKEN + 1))),
            but(|it| it.ca = "c".repeat(MAX_CA + 1)),
            but(|it| it.requests[0].path = format!("/{}", "p".repeat(MAX_PATH))),
            but(|it| it.requests[1].body = "b".repeat(MAX_BODY + 1)),
            but(|it| it.serving = vec!["/s".into(); MAX_SERVING + 1]),
            but(|it| it.serving[0] = format!("/{}", "p".repeat(MAX_PATH))),
        ] {
            assert!(matches!(large.check(), Err(LetterError::TooLarge { .. })));
        }
    }

    #[test]
    fn what_is_logged_of_it_does_not_show_the_token() {
        let shown = format!("{:?}", letter());
        assert!(!shown.contains("secret") && shown.contains("<6 bytes>"), "{shown}");
    }
}
