//! Commit records, read back.

use bytes::Bytes;
use step_protocol::{CommitRecord, Outcome};

use crate::digest;
use crate::failure::Failure;
use crate::store::Store;

use super::seal::verify;

/// A commit record with the digest of its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) record: CommitRecord,
    /// `sha256:<hex>` of the bytes in the store.
    pub(crate) digest: String,
    pub(crate) bytes: Bytes,
}

/// The commit record at `key`; `None` if there is none. One that cannot be read is tried three times.
pub(crate) async fn read_record(store: &Store, key: &str) -> Result<Option<Record>, Failure> {
    let mut why = String::new();
    for _ in 0..super::artifact::TRIES {
        let Some(bytes) = store.read(key).await? else { return Ok(None) };
        if let Err(found) = verify(&bytes) {
            why = format!("its bytes have the checksum {found}, which is not the one that it names");
            continue;
        }
        match serde_json::from_slice::<CommitRecord>(&bytes) {
            Ok(record) if record.version > step_protocol::VERSION => {
                return Err(Failure::config(format!(
                    "the commit record {} has protocol version {} and this runner speaks {}: a newer release wrote it",
                    store.name(key),
                    record.version,
                    step_protocol::VERSION
                )));
            }
            Ok(record) => return Ok(Some(Record { record, digest: digest::sha256(&bytes), bytes })),
            Err(error) => why = error.to_string(),
        }
    }
    let message = format!("the commit record {} cannot be read: {why}; run its stage in a new run", store.name(key));
    Err(Failure::new(Outcome::ArtifactCorrupt, message))
}
