//! Who a session is: its id, its key, its owner, and when it began.

use std::fmt;

use ed25519_dalek::SigningKey;

use crate::error::{Code, Explain};

/// A session's id: eight characters that are a valid DNS label and label value (RFC 1123), random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId(String);

impl SessionId {
    const LENGTH: usize = 8;
    /// Lower case without the letters that read like digits or form words.
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghjkmnpqrstuvwxyz";

    fn from_random(random: [u8; Self::LENGTH]) -> Self {
        let mut text: String =
            random.iter().map(|byte| char::from(Self::ALPHABET[usize::from(*byte) % Self::ALPHABET.len()])).collect();
        // Object names that end in the id also begin a label with it: start with a letter.
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            text.replace_range(..1, "t");
        }
        Self(text)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kernel gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system's random number generator failed: {0}")]
pub struct NoRandomness(getrandom::Error);

impl Explain for NoRandomness {
    fn code(&self) -> Code {
        Code::Host
    }
}

/// Who a session is.
#[derive(Clone)]
pub struct Identity {
    /// Its id.
    pub id: SessionId,
    /// Its key; the public half goes into the proxy's arguments, the private half never leaves this process.
    pub key: SigningKey,
    /// Who started it: `user@host`.
    pub owner: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} of {})", self.id, self.owner)
    }
}

impl Identity {
    /// A new session's.
    pub fn new() -> Result<Self, NoRandomness> {
        let mut id = [0; SessionId::LENGTH];
        let mut seed = [0; 32];
        getrandom::fill(&mut id).map_err(NoRandomness)?;
        getrandom::fill(&mut seed).map_err(NoRandomness)?;
        Ok(Self { id: SessionId::from_random(id), key: SigningKey::from_bytes(&seed), owner: owner() })
    }
}

/// `user@host`, for people: it is recorded in the cluster so that a colleague knows whom to ask.
fn owner() -> String {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let host = nix::unistd::gethostname().map_or_else(|_| "unknown".into(), |host| host.to_string_lossy().into_owned());
    format!("{user}@{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_a_dns_label_that_starts_with_a_letter() {
        for byte in 0..=255 {
            let id = SessionId::from_random([byte; SessionId::LENGTH]);
            assert_eq!(id.as_str().len(), SessionId::LENGTH);
            assert!(id.as_str().starts_with(|first: char| first.is_ascii_lowercase()), "{id}");
            assert!(id.as_str().chars().all(|each| each.is_ascii_lowercase() || each.is_ascii_digit()), "{id}");
        }
    }
}
