//! Small records that are written once: taken by whoever comes first, and read with a bound.

use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStoreExt as _;

use super::{Created, Store, StoreError};

/// Most bytes of a record: more than the variables of a container can carry into one, and little enough to read a few at once.
const LARGEST: u64 = 4 << 20;
/// How often a record that is said to exist is looked for.
const LOOKS: u32 = 5;

/// Whose record lies at a key now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// The bytes are those that were to be written.
    Ours,
    /// Somebody was there first, with these bytes.
    Taken(Bytes),
}

impl Store {
    /// A record as a whole; `None` if there is none. An object that is larger than any record is [`StoreError::Corrupt`], unread.
    pub(crate) async fn read_bounded(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(key)?;
        let name = self.name(key);
        let read = self.trying(&name, || async {
            let answer = self.objects().get(&path).await?;
            let size = answer.meta.size;
            if size > LARGEST { Ok(Err(size)) } else { answer.bytes().await.map(Ok) }
        });
        match read.await {
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => {
                let detail = format!("it has {size} bytes, and a record has at most {LARGEST}");
                Err(StoreError::Corrupt { object: name, detail })
            }
        }
    }

    /// Writes a record durably if there is none, else reads the one that is there.
    pub(crate) async fn claim(&self, key: &str, bytes: Bytes) -> Result<Claimed, StoreError> {
        let durable = self.durable();
        for look in 0..LOOKS {
            if durable.create(key, bytes.clone()).await? == Created::Yes {
                return Ok(Claimed::Ours);
            }
            match self.read_bounded(key).await? {
                // An earlier try of ours, whose answer was lost.
                Some(found) if found == bytes => return Ok(Claimed::Ours),
                Some(found) => return Ok(Claimed::Taken(found)),
                // Two writers at the same time: some services then refuse both for a moment.
                None => tokio::time::sleep(Duration::from_millis(200 << look)).await,
            }
        }
        let detail = format!(
            "says that {} exists, and does not show it: it is not consistent after a write, which Trainyard needs",
            self.name(key)
        );
        Err(StoreError::Unsupported { detail })
    }
}
