//! Who may speak to a proxy.
//!
//! The proxy listens on the pod's loopback only, so nobody reaches it who may not port-forward to the pod or run in
//! it. That is not enough: a sibling container shares the loopback. So the pod's spec carries the *public* half of the
//! session's Ed25519 key (RFC 8032), and whoever connects signs the proxy's nonce. No secret is in the cluster.
//!
//! ```text
//! proxy → client   Challenge  "TPDK" version:u16 nonce:[u8;32]
//! client → proxy   Answer     role:u8 signature:[u8;64]     over CONTEXT ‖ nonce ‖ role ‖ session id
//! proxy → client   Outcome    0 = admitted; else the length of a reason in UTF-8, and the reason
//! ```
//! After an `admitted` the connection belongs to the role.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::contract::PROTOCOL_VERSION;

/// Domain separation: a signature made here is good for nothing else.
const CONTEXT: &[u8] = b"tpdocker admission v1\0";
const MAGIC: [u8; 4] = *b"TPDK";

/// What an admitted connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Bytes of a carrier: the other end is the sidecar, behind the CLI's pump.
    Tunnel,
    /// [`crate::control`] messages of the CLI.
    Control,
}

impl Role {
    fn code(self) -> u8 {
        match self {
            Self::Tunnel => 1,
            Self::Control => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Tunnel, Self::Control].into_iter().find(|role| role.code() == code)
    }
}

/// Why a connection is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The first bytes are not a challenge of ours.
    #[error("the other end is not a tpdocker proxy")]
    NotAProxy,
    /// The ends come from different releases.
    #[error("the other end speaks protocol version {theirs}, this end {PROTOCOL_VERSION}")]
    Version {
        /// Theirs.
        theirs: u16,
    },
    /// Unknown role.
    #[error("unknown role {0}")]
    Role(u8),
    /// The signature is not by the session's key over this challenge.
    #[error("the signature does not belong to this session")]
    Signature,
    /// The proxy said no.
    #[error("the proxy refused: {0}")]
    Refused(String),
}

/// What the proxy asks of whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    nonce: [u8; 32],
}

impl Challenge {
    /// Bytes on the wire.
    pub const LEN: usize = 4 + 2 + 32;

    /// A challenge with this nonce, which must be random and used once.
    pub fn new(nonce: [u8; 32]) -> Self {
        Self { nonce }
    }

    /// For the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        out[6..].copy_from_slice(&self.nonce);
        out
    }

    /// From the wire.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, AdmissionError> {
        if bytes[..4] != MAGIC {
            return Err(AdmissionError::NotAProxy);
        }
        let theirs = u16::from_be_bytes([bytes[4], bytes[5]]);
        if theirs != PROTOCOL_VERSION {
            return Err(AdmissionError::Version { theirs });
        }
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&bytes[6..]);
        Ok(Self { nonce })
    }

    fn statement(&self, role: u8, session: &str) -> Vec<u8> {
        [CONTEXT, &self.nonce, &[role], session.as_bytes()].concat()
    }

    /// The answer of whoever holds the session's key.
    pub fn answer(&self, key: &SigningKey, role: Role, session: &str) -> Answer {
        let signature = key.sign(&self.statement(role.code(), session));
        Answer { role: role.code(), signature: signature.to_bytes() }
    }

    /// The role of a rightful answer.
    pub fn verify(&self, answer: &Answer, key: &VerifyingKey, session: &str) -> Result<Role, AdmissionError> {
        let role = Role::from_code(answer.role).ok_or(AdmissionError::Role(answer.role))?;
        key.verify_strict(&self.statement(answer.role, session), &Signature::from_bytes(&answer.signature))
            .map_err(|_| AdmissionError::Signature)?;
        Ok(role)
    }
}

/// A signed challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    role: u8,
    signature: [u8; 64],
}

impl Answer {
    /// Bytes on the wire.
    pub const LEN: usize = 1 + 64;

    /// For the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = self.role;
        out[1..].copy_from_slice(&self.signature);
        out
    }

    /// From the wire; whether it is worth anything, [`Challenge::verify`] tells.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let mut signature = [0; 64];
        signature.copy_from_slice(&bytes[1..]);
        Self { role: bytes[0], signature }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn the_holder_of_the_session_key_is_admitted_in_the_role_it_signed() {
        let challenge = Challenge::decode(&Challenge::new([7; 32]).encode()).unwrap();
        for role in [Role::Tunnel, Role::Control] {
            let answer = Answer::decode(&challenge.answer(&key(1), role, "s1").encode());
            assert_eq!(challenge.verify(&answer, &key(1).verifying_key(), "s1"), Ok(role));
        }
    }

    #[test]
    fn another_key_another_session_another_nonce_and_another_role_are_refused() {
        let challenge = Challenge::new([7; 32]);
        let answer = challenge.answer(&key(1), Role::Tunnel, "s1");
        let public = key(1).verifying_key();
        assert_eq!(challenge.verify(&answer, &key(2).verifying_key(), "s1"), Err(AdmissionError::Signature));
        assert_eq!(challenge.verify(&answer, &public, "s2"), Err(AdmissionError::Signature));
        assert_eq!(Challenge::new([8; 32]).verify(&answer, &public, "s1"), Err(AdmissionError::Signature));
        let mut promoted = answer.encode();
        promoted[0] = 2;
        assert_eq!(challenge.verify(&Answer::decode(&promoted), &public, "s1"), Err(AdmissionError::Signature));
        promoted[0] = 9;
        assert_eq!(challenge.verify(&Answer::decode(&promoted), &public, "s1"), Err(AdmissionError::Role(9)));
    }

    #[test]
    fn a_stranger_and_another_release_are_told_apart() {
        assert_eq!(Challenge::decode(b"HTTP/1.1 400 Bad Request\r\n0123456789ab"), Err(AdmissionError::NotAProxy));
        let mut newer = Challenge::new([0; 32]).encode();
        newer[5] = 99;
        assert_eq!(Challenge::decode(&newer), Err(AdmissionError::Version { theirs: 99 }));
    }
}
