//! A commit record: sealed, it is read as it was, and any change of its bytes is found. The first two bytes choose one.

use step_protocol::CommitRecord;

use crate::seal::{sealed, verify};
use crate::there_and_back;

/// Any bytes.
pub fn run(data: &[u8]) {
    let Some(([place, flip], data)) = data.split_first_chunk().map(|(first, rest)| (*first, rest)) else { return };
    // What the store has need not be sealed, and may be anything.
    let _ = verify(data);
    let Ok(record) = serde_json::from_slice::<CommitRecord>(data) else { return };
    let record = there_and_back(&record);
    let bytes = sealed(&serde_json::to_vec(&record).unwrap());
    assert_eq!(verify(&bytes), Ok(()));
    assert_eq!(serde_json::from_slice::<CommitRecord>(&bytes).unwrap(), record);
    let mut changed = bytes.clone();
    let at = usize::from(place) * bytes.len() / 256;
    changed[at] ^= flip;
    let read = verify(&changed).ok().and_then(|()| serde_json::from_slice::<CommitRecord>(&changed).ok());
    assert!(read.is_none_or(|read| read == record), "{}", String::from_utf8_lossy(&changed));
}
