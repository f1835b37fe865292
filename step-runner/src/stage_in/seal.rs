//! The checksum that a commit record carries of itself.
//!
//! Everything else that a stage made is read by a digest that its reader knows; the record itself is where reading begins. So its bytes
//! carry their own: the first field is `checksum`, the SHA-256 of all of them with zeros in its place. A reader that does not know
//! of it passes it over, and a record without it is read as it is.

use crate::digest;

/// What a sealed record begins with, up to the digits of its checksum.
const SEAL: &[u8] = b"{\"checksum\":\"sha256:";
/// Digits of a checksum.
const DIGITS: usize = 64;

/// The bytes of a record, a JSON object with at least one field, with their checksum as the first field.
pub(crate) fn sealed(json: &[u8]) -> Vec<u8> {
    let rest = json.get(1..).unwrap_or_default();
    let bytes = [SEAL, &[b'0'; DIGITS], b"\",", rest].concat();
    with_digits(&bytes, digits(&digest::sha256(&bytes)))
}

/// Whether the bytes are those that the record's checksum stands for; if not, the checksum that they have.
pub(crate) fn verify(bytes: &[u8]) -> Result<(), String> {
    let Some(named) = bytes.strip_prefix(SEAL).and_then(|rest| rest.get(..DIGITS)) else { return Ok(()) };
    let found = digest::sha256(&with_digits(bytes, &[b'0'; DIGITS]));
    if digits(&found) == named { Ok(()) } else { Err(found) }
}

fn with_digits(bytes: &[u8], digits: &[u8]) -> Vec<u8> {
    let (before, after) = (bytes.get(..SEAL.len()).unwrap_or_default(), bytes.get(SEAL.len() + DIGITS..));
    [before, digits, after.unwrap_or_default()].concat()
}

fn digits(digest: &str) -> &[u8] {
    digest.strip_prefix("sha256:").unwrap_or(digest).as_bytes()
}

#[cfg(test)]
mod tests {
    use step_protocol::CommitRecord;

    use super::*;

    fn record() -> CommitRecord {
        serde_json::from_str(
            r#"{"version": 1, "runUid": "u", "stage": "train", "attempt": 1, "results": {"rows": 150, "object": {"checksum": "sha256:x"}}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_flipped_bit_never_makes_another_record() {
        let bytes = sealed(&serde_json::to_vec(&record()).unwrap());
        assert_eq!(verify(&bytes), Ok(()));
        assert_eq!(serde_json::from_slice::<CommitRecord>(&bytes).unwrap(), record());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = verify(&flipped).ok().and_then(|()| serde_json::from_slice::<CommitRecord>(&flipped).ok());
            assert!(read.is_none_or(|read| read == record()), "bit {bit}: {}", String::from_utf8_lossy(&flipped));
        }
    }

    #[test]
    fn a_record_without_a_checksum_is_read_as_it_is() {
        assert_eq!(verify(&serde_json::to_vec(&record()).unwrap()), Ok(()));
        assert!(verify(b"").is_ok() && verify(b"{\"checksum\":\"sha256:").is_ok());
    }
}
