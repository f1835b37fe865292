//! An object into a file: parts are fetched in parallel, written and hashed in order, in bounded memory.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{GetOptions, GetRange};
use tokio::sync::OwnedSemaphorePermit;

use super::{Backend, Fetched, PART, PARTS, Store, StoreError};
use crate::digest::Hasher;

/// What is known of the object before it is fetched.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) size: u64,
    /// The version that was listed: all parts must be of the same one.
    pub(crate) etag: Option<String>,
}

/// The file that is written and its hash, passed to and from the threads that block.
struct Target {
    file: File,
    hasher: Hasher,
    written: u64,
}

impl Store {
    /// Fetches the object into `file` and gives its digest. Shorter or longer than expected is [`StoreError::Corrupt`].
    pub(crate) async fn fetch(&self, key: &str, expected: &Expected, file: File) -> Result<String, StoreError> {
        let path = self.path(key)?;
        let name = self.name(key);
        let mut target = Target { file, hasher: Hasher::new(), written: 0 };
        let ranges = (0..expected.size.div_ceil(PART).max(1)).map(|n| n * PART..((n + 1) * PART).min(expected.size));
        let whole = expected.size <= PART;
        let mut parts = stream::iter(ranges.map(|range| {
            let (path, name) = (&path, &name);
            async move {
                let room = self.room(range.end - range.start).await?;
                let options = GetOptions {
                    range: (!whole).then_some(GetRange::Bounded(range)),
                    if_match: expected.etag.clone(),
                    ..GetOptions::default()
                };
                let fetched = self.trying(name, || self.get(path, options.clone())).await?;
                Ok::<_, StoreError>((fetched, room))
            }
        }))
        .buffered(PARTS);
        while let Some((fetched, room)) = parts.try_next().await? {
            let is_file = matches!(fetched, Fetched::File(_));
            target = target.write(fetched, &name).await?;
            drop(room);
            if is_file {
                // A volume gives the whole file at once.
                break;
            }
        }
        if target.written != expected.size {
            let detail = format!("it has {} bytes instead of {}", target.written, expected.size);
            return Err(StoreError::Corrupt { object: name.clone(), detail });
        }
        Ok(target.hasher.finish())
    }
}

/// Bytes in memory, and their room there.
#[derive(Default)]
pub(crate) struct InMemory {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl std::ops::Deref for InMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Store {
    /// The bytes of a range that is not empty and no larger than a part. An object that ends before it is [`StoreError::Corrupt`].
    pub(crate) async fn fetch_range(&self, key: &str, range: Range<u64>) -> Result<InMemory, StoreError> {
        let path = self.path(key)?;
        let name = self.name(key);
        let expected = range.end - range.start;
        let room = self.room(expected).await?;
        let asked = match self.backend {
            Backend::Cloud { .. } => Some(GetRange::Bounded(range.clone())),
            // A volume gives the whole file.
            Backend::Local { .. } => None,
        };
        let options = GetOptions { range: asked, ..GetOptions::default() };
        let bytes = match self.trying(&name, || self.get(&path, options.clone())).await? {
            Fetched::Bytes(bytes) => bytes,
            Fetched::File(file) => read_range(file, range, &name).await?,
        };
        if bytes.len() as u64 != expected {
            let detail = format!("it has {} of the {expected} bytes that are in it", bytes.len());
            return Err(StoreError::Corrupt { object: name, detail });
        }
        Ok(InMemory { bytes, _room: Some(room) })
    }
}

/// What the file has of the range.
async fn read_range(mut file: File, range: Range<u64>, name: &str) -> Result<Bytes, StoreError> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(range.start))?;
        file.take(range.end - range.start).read_to_end(&mut bytes)?;
        Ok(Bytes::from(bytes))
    });
    let read = reading.await.map_err(|_| StoreError::Stopped)?;
    read.map_err(|source: std::io::Error| StoreError::Local { object: name.to_owned(), source })
}

impl Target {
    async fn write(mut self, fetched: Fetched, name: &str) -> Result<Self, StoreError> {
        let written = tokio::task::spawn_blocking(move || {
            match fetched {
                Fetched::Bytes(bytes) => self.put(&bytes)?,
                Fetched::File(mut from) => {
                    let mut buffer = vec![0; 256 * 1024];
                    loop {
                        match from.read(&mut buffer)? {
                            0 => break,
                            count => self.put(&buffer[..count])?,
                        }
                    }
                }
            }
            Ok(self)
        });
        match written.await {
            Ok(Err(error)) if crate::failure::is_disk_full(&error) => {
                Err(StoreError::DiskFull { object: format!("the copy of {name}") })
            }
            Ok(result) => {
                result.map_err(|source: std::io::Error| StoreError::Local { object: name.to_owned(), source })
            }
            Err(_) => Err(StoreError::Stopped),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}
