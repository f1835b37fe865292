//! A file into the store: read once, hashed while it is read, sent in parallel parts, in bounded memory.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::{Backend, PART, Store, StoreError, units};
use crate::digest::Hasher;

/// A service takes at most so many parts.
const MOST_PARTS: u64 = 10_000;

/// Files below this size have a buffer of their own size.
const SMALL: u64 = 256 * 1024;

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) size: u64,
    /// `sha256:<hex>`.
    pub(crate) digest: String,
}

/// Bytes that wait to be sent, and their room in memory.
pub(crate) struct Filled {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

enum Begun<R> {
    Whole(Sent),
    Parts(Box<Source<R>>, Bytes, OwnedSemaphorePermit),
}

/// Buffers of one part each, used again and again: freed and allocated anew, large buffers would leave holes in the heap and
/// cost a page fault for each page.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that is lent; it goes back when the last request that sends it is done.
struct Lent {
    bytes: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn lend(&self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { bytes, home: self.clone() })
    }
}

/// A reader with its hash, passed to and from the threads that block.
struct Source<R> {
    reader: R,
    hasher: Hasher,
    size: u64,
    /// Where the buffers of large files come from.
    buffers: Buffers,
}

impl Store {
    /// Sends all that `reader` has; `size` is what is expected, to choose the size of the parts.
    ///
    /// An unfinished upload of many parts is aborted, also when `stop` ends first.
    pub(crate) async fn send<R: Read + Send + 'static>(
        &self,
        key: &str,
        reader: R,
        size: u64,
        stop: impl Future<Output = ()>,
    ) -> Result<Sent, StoreError> {
        let path = self.path(key)?;
        let name = self.name(key);
        let part = part_size(size);
        tokio::pin!(stop);
        let begin = async {
            // With larger parts fewer fit.
            let permit = self.room(size.min(part)).await?;
            let source = Source { reader, hasher: Hasher::new(), size: 0, buffers: self.buffers.clone() };
            let (source, first) = source.read(part, &name).await?;
            if (first.len() as u64) < part {
                self.writing(&name, || self.objects().put(&path, first.clone().into())).await?;
                return Ok(Begun::Whole(source.finish()));
            }
            Ok(Begun::Parts(Box::new(source), first, permit))
        };
        let begun = tokio::select! {
            begun = begin => begun?,
            () = &mut stop => return Err(StoreError::Stopped),
        };
        let (source, first, permit) = match begun {
            Begun::Whole(sent) => return Ok(sent),
            Begun::Parts(source, first, permit) => (*source, first, permit),
        };
        let mut parts = tokio::select! {
            parts = Parts::begin(self, &path, &name) => parts?,
            () = &mut stop => return Err(StoreError::Stopped),
        };
        let outcome = {
            let sending = parts.send_all(source, first, permit, part);
            tokio::select! {
                sent = sending => sent,
                () = &mut stop => Err(StoreError::Stopped),
            }
        };
        if outcome.is_err() {
            parts.abort().await;
        }
        outcome
    }

    /// Has `make` fill a buffer with at most a part: `size` is how much it will be. What it returns comes with the bytes.
    pub(crate) async fn fill<T: Send + 'static>(
        &self,
        size: u64,
        make: impl FnOnce(&mut Vec<u8>) -> T + Send + 'static,
    ) -> Result<(T, Filled), StoreError> {
        let room = self.room(size).await?;
        let buffers = self.buffers.clone();
        let filling = tokio::task::spawn_blocking(move || {
            let mut buffer = buffers.take();
            // All of these have the room of a part, or they would be allocated anew when one is lent for more.
            buffer.reserve_exact(usize::try_from(PART).unwrap_or(usize::MAX));
            let made = make(&mut buffer);
            (made, buffers.lend(buffer))
        });
        let (made, bytes) = filling.await.map_err(|_| StoreError::Stopped)?;
        Ok((made, Filled { bytes, _room: room }))
    }

    /// Sends a filled buffer as one object.
    pub(crate) async fn send_filled(&self, key: &str, filled: Filled) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let put = || self.objects().put(&path, filled.bytes.clone().into());
        self.writing(&self.name(key), put).await.map(drop)
    }

    /// Waits until `bytes` more may be in memory.
    pub(super) async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, StoreError> {
        self.budget.clone().acquire_many_owned(units(bytes)).await.map_err(|_| StoreError::Stopped)
    }
}

/// 8 MiB, or what makes a large file fit the number of parts.
fn part_size(size: u64) -> u64 {
    PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20))
}

impl<R: Read + Send + 'static> Source<R> {
    async fn read(mut self, part: u64, name: &str) -> Result<(Self, Bytes), StoreError> {
        let read = tokio::task::spawn_blocking(move || {
            // Most files are small, and these need no part's room.
            let mut head = Vec::new();
            (&mut self.reader).take(SMALL.min(part)).read_to_end(&mut head)?;
            let bytes = if (head.len() as u64) < SMALL {
                Bytes::from(head)
            } else {
                let mut buffer = self.buffers.take();
                let room = usize::try_from(part).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
                buffer.try_reserve_exact(room).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
                buffer.extend_from_slice(&head);
                drop(head);
                (&mut self.reader).take(part - SMALL).read_to_end(&mut buffer)?;
                self.buffers.lend(buffer)
            };
            self.hasher.update(&bytes);
            self.size += bytes.len() as u64;
            Ok((self, bytes))
        });
        match read.await {
            Ok(result) => {
                result.map_err(|source: std::io::Error| StoreError::Local { object: name.to_owned(), source })
            }
            Err(_) => Err(StoreError::Stopped),
        }
    }

    fn finish(self) -> Sent {
        Sent { size: self.size, digest: self.hasher.finish() }
    }
}

/// An upload of many parts that is under way.
struct Parts<'a> {
    store: &'a Store,
    path: &'a Path,
    name: &'a str,
    sink: Sink,
}

enum Sink {
    Cloud(String),
    Local(Box<dyn MultipartUpload>),
}

impl<'a> Parts<'a> {
    async fn begin(store: &'a Store, path: &'a Path, name: &'a str) -> Result<Self, StoreError> {
        let sink = match &store.backend {
            Backend::Cloud { multipart, .. } => {
                Sink::Cloud(store.writing(name, || multipart.create_multipart(path)).await?)
            }
            Backend::Local { .. } => Sink::Local(store.trying(name, || store.objects().put_multipart(path)).await?),
        };
        Ok(Self { store, path, name, sink })
    }

    async fn send_all<R: Read + Send + 'static>(
        &mut self,
        mut source: Source<R>,
        first: Bytes,
        permit: OwnedSemaphorePermit,
        part: u64,
    ) -> Result<Sent, StoreError> {
        let mut sending = JoinSet::new();
        let mut done = Vec::new();
        let mut index = 0;
        let mut next = Some((first, permit));
        while let Some((bytes, permit)) = next.take() {
            let full = bytes.len() as u64 == part;
            if !bytes.is_empty() {
                self.send_one(index, bytes, permit, &mut sending);
                index += 1;
            }
            if full {
                // Room is made by parts that arrive, so look at them while waiting: a failure ends the upload at once.
                let permit = loop {
                    tokio::select! {
                        permit = self.store.room(part) => break permit?,
                        Some(arrived) = sending.join_next() => done.push(arrived.map_err(|_| StoreError::Stopped)??),
                    }
                };
                let (back, bytes) = source.read(part, self.name).await?;
                source = back;
                next = Some((bytes, permit));
            }
        }
        while let Some(arrived) = sending.join_next().await {
            done.push(arrived.map_err(|_| StoreError::Stopped)??);
        }
        done.sort_by_key(|(index, _)| *index);
        let ids: Vec<_> = done.into_iter().map(|(_, id)| id).collect();
        match &mut self.sink {
            Sink::Cloud(id) => {
                let Backend::Cloud { multipart, .. } = &self.store.backend else { return Err(StoreError::Stopped) };
                let completed =
                    self.store.trying(self.name, || multipart.complete_multipart(self.path, id, ids.clone())).await;
                match completed {
                    // A lost answer: the upload is gone because it was completed.
                    Err(StoreError::NotFound { .. }) if self.arrived(source.size).await? => {}
                    other => drop(other?),
                }
            }
            Sink::Local(upload) => {
                upload.complete().await.map_err(|error| super::error::classify(self.name, error))?;
            }
        }
        Ok(source.finish())
    }

    fn send_one(
        &mut self,
        index: usize,
        bytes: Bytes,
        permit: OwnedSemaphorePermit,
        sending: &mut JoinSet<Result<(usize, object_store::multipart::PartId), StoreError>>,
    ) {
        let payload = PutPayload::from(bytes);
        match &mut self.sink {
            Sink::Cloud(id) => {
                let (store, path, name, id) = (self.store.clone(), self.path.clone(), self.name.to_owned(), id.clone());
                sending.spawn(async move {
                    let Backend::Cloud { multipart, .. } = &store.backend else { return Err(StoreError::Stopped) };
                    let sent = store.trying(&name, || multipart.put_part(&path, &id, index, payload.clone())).await?;
                    drop(permit);
                    Ok((index, sent))
                });
            }
            Sink::Local(upload) => {
                let part = upload.put_part(payload);
                let name = self.name.to_owned();
                sending.spawn(async move {
                    part.await.map_err(|error| super::error::classify(&name, error))?;
                    drop(permit);
                    Ok((index, object_store::multipart::PartId { content_id: String::new() }))
                });
            }
        }
    }

    async fn arrived(&self, size: u64) -> Result<bool, StoreError> {
        let meta = self.store.trying(self.name, || self.store.objects().head(self.path)).await;
        match meta {
            Ok(meta) => Ok(meta.size == size),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn abort(&mut self) {
        let abort = async {
            match &mut self.sink {
                Sink::Cloud(id) => {
                    if let Backend::Cloud { multipart, .. } = &self.store.backend {
                        let _ = multipart.abort_multipart(self.path, id).await;
                    }
                }
                Sink::Local(upload) => {
                    let _ = upload.abort().await;
                }
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), abort).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_always_fit_the_service() {
        for size in [0, 1, PART, 80 << 30, 1 << 40, 5 << 40] {
            assert!(size.div_ceil(part_size(size)) <= MOST_PARTS, "{size}");
        }
        assert_eq!(part_size(1 << 30), PART);
    }
}
