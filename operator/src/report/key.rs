//! Keys of early reports.

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Header with the hex of HMAC-SHA256 over the report's bytes, with the attempt's key.
pub const SIGNATURE_HEADER: &str = "x-trainyard-signature";

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system's random number generator gave nothing: early reports cannot be signed")]
pub struct KeyError;

/// The keys of all attempts, derived from one master of this process.
///
/// The master is random and lives as long as the process: a report that was signed for another process is refused, and the Pod's
/// status says the same a moment later.
#[derive(Clone)]
pub struct ReportKeys {
    master: hmac::Key,
}

impl std::fmt::Debug for ReportKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReportKeys")
    }
}

impl ReportKeys {
    /// With a new random master.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, KeyError> {
        let mut master = [0; 32];
        SystemRandom::new().fill(&mut master).map_err(|_| KeyError)?;
        Ok(Self::from_master(&master))
    }

    pub(super) fn from_master(master: &[u8; 32]) -> Self {
        Self { master: hmac::Key::new(hmac::HMAC_SHA256, master) }
    }

    /// The key of one attempt, in hex: what its Pod carries.
    #[must_use]
    pub fn derive(&self, run_uid: &str, stage: &str, attempt: u32) -> String {
        hex(self.key(run_uid, stage, attempt).as_ref())
    }

    /// Whether this is the attempt's signature of these bytes. Takes as long whatever is wrong with it.
    #[must_use]
    pub fn verify(&self, run_uid: &str, stage: &str, attempt: u32, body: &[u8], signature: &str) -> bool {
        let Some(signature) = unhex(signature) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key(run_uid, stage, attempt).as_ref());
        hmac::verify(&key, body, &signature).is_ok()
    }

    /// The message is unambiguous: a number after the last `|`, and no `|` in a UID or in a stage's name.
    fn key(&self, run_uid: &str, stage: &str, attempt: u32) -> hmac::Tag {
        hmac::sign(&self.master, format!("{run_uid}|{stage}|{attempt}").as_bytes())
    }
}

/// Whether these bytes are signed with this key, in hex.
pub(super) fn is_signed_with(key: &str, body: &[u8], signature: &str) -> bool {
    let (Some(key), Some(signature)) = (unhex(key), unhex(signature)) else { return false };
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), body, &signature).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of a signature.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let text = text.trim().as_bytes();
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a runner does with its key.
    pub(in crate::report) fn sign(key: &str, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &unhex(key).unwrap());
        hex(hmac::sign(&key, body).as_ref())
    }

    #[test]
    fn only_the_attempts_own_key_signs_for_it() {
        let keys = ReportKeys::from_master(&[7; 32]);
        let signature = sign(&keys.derive("uid", "train", 1), b"body");
        assert!(keys.verify("uid", "train", 1, b"body", &signature));
        assert!(keys.verify("uid", "train", 1, b"body", &signature.to_uppercase()));
        assert!(!keys.verify("uid", "train", 1, b"Body", &signature));
        assert!(!keys.verify("uid", "train", 2, b"body", &signature));
        assert!(!keys.verify("uid", "tune", 1, b"body", &signature));
        assert!(!keys.verify("other", "train", 1, b"body", &signature));
        assert!(!ReportKeys::from_master(&[8; 32]).verify("uid", "train", 1, b"body", &signature));
        for garbled in ["", "00", &signature[1..], &format!("{signature}00"), &"é".repeat(32)] {
            assert!(!keys.verify("uid", "train", 1, b"body", garbled));
        }
    }

    /// The expected value is another implementation's (Python's hmac).
    #[test]
    fn the_derivation_is_hmac_of_the_three_parts() {
        let key = ReportKeys::from_master(&[7; 32]).derive("uid", "train", 1);
        assert_eq!(key, "2eb6560e941a1b3976f3787e5045f62ff119f83d80cd90fa9b53e4a2da4323ec");
    }

    #[test]
    fn every_process_has_its_own_master_and_never_prints_it() {
        let (one, other) = (ReportKeys::random().unwrap(), ReportKeys::random().unwrap());
        assert_ne!(one.derive("uid", "train", 1), other.derive("uid", "train", 1));
        assert_eq!(format!("{one:?}"), "ReportKeys");
    }
}
