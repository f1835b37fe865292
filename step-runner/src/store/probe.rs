//! Whether a store can create exclusively: without that two attempts could both commit.
//!
//! The answer cannot be wrong in the direction that matters. Two creations of one key are asked for one after the other: a store
//! that says yes twice ignores the condition; one that refuses the second honours it. If already the first is refused and the
//! object is there (an earlier try of ours whose answer was lost), the refusal itself is the proof; if it is not there, the
//! refusal was a moment's conflict and proves nothing.

use std::time::Duration;

use bytes::Bytes;

use super::error::USE_URI;
use super::{Backend, Created, Store, StoreError};

/// File name below the attempt's prefix.
const KEY: &str = ".probe";
/// How often a creation that was refused for nothing is tried again.
const LOOKS: u32 = 5;

impl Store {
    /// Probes below the attempt's prefix and leaves nothing behind.
    pub(crate) async fn probe(&self, attempt_prefix: &str) -> Result<(), StoreError> {
        let key = format!("{attempt_prefix}/{KEY}");
        let verdict = self.try_twice(&key).await;
        self.delete([key]).await;
        match (verdict, &self.backend) {
            (
                Err(StoreError::Unavailable { detail, .. } | StoreError::Denied { detail, .. }),
                Backend::Local { .. },
            ) => {
                // A file can be written but not linked: EPERM, ENOSYS or EIO, by the driver's taste.
                Err(StoreError::Unsupported { detail: format!("cannot create exclusively ({detail}): {USE_URI}") })
            }
            (verdict, _) => verdict,
        }
    }

    async fn try_twice(&self, key: &str) -> Result<(), StoreError> {
        let bytes = Bytes::from_static(b"probe");
        if let Backend::Local { .. } = self.backend {
            // A plain write is a rename there, which a volume must be able to do as well. If even that is refused, the volume
            // is read-only or not ours, and the error already says so.
            self.write(key, bytes.clone()).await?;
        }
        let mut refused = false;
        for look in 0..LOOKS {
            refused = match self.create(key, bytes.clone()).await? {
                Created::Yes => self.create(key, bytes.clone()).await? == Created::Exists,
                Created::Exists if self.read(key).await?.is_some() => true,
                Created::Exists => {
                    tokio::time::sleep(Duration::from_millis(100 << look)).await;
                    continue;
                }
            };
            break;
        }
        if !refused {
            return Err(StoreError::Unsupported {
                detail: format!(
                    "{} let an existing object be created again: it ignores If-None-Match, so two attempts could both win; use a \
                     store or a newer version of it that has conditional writes",
                    self.label
                ),
            });
        }
        Ok(())
    }
}
