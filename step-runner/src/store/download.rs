//! An object into a file, in bounded memory: parts are fetched in parallel and written as they arrive, and hashed in order.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Backend, Fetched, PART, PARTS, Store, StoreError};
use crate::digest::Hasher;

/// Bytes that are written at once: few enough to be in the processor's cache still, and enough to be worth a change of threads.
const WRITE: usize = 256 * 1024;

/// What is known of the object before it is fetched.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) size: u64,
    /// The version that was listed: all parts must be of the same one.
    pub(crate) etag: Option<String>,
}

/// A part, of which nothing is left to do but to hash it.
enum Part {
    /// It is in the file.
    Written(Vec<Bytes>, OwnedSemaphorePermit),
    /// A volume gives the whole file at once.
    File(File),
}

/// The sum of all parts so far, passed to and from the threads that block.
struct Sum {
    hasher: Hasher,
    size: u64,
}

impl Store {
    /// Fetches the object into `file` and gives its digest. Shorter or longer than expected is [`StoreError::Corrupt`].
    pub(crate) async fn fetch(&self, key: &str, expected: &Expected, file: File) -> Result<String, StoreError> {
        let name = self.name(key);
        let file = Arc::new(file);
        // Hashing is as much work as all the rest: parts go on arriving meanwhile.
        let (sender, receiver) = mpsc::channel(PARTS);
        let (fetched, sum) = tokio::join!(
            self.fetch_parts(key, expected, &file, sender),
            Sum { hasher: Hasher::new(), size: 0 }.of(receiver, &file),
        );
        fetched?;
        let sum = sum.map_err(|error| unwritten(error, &name))?;
        if sum.size != expected.size {
            let detail = format!("it has {} bytes instead of {}", sum.size, expected.size);
            return Err(StoreError::Corrupt { object: name, detail });
        }
        Ok(sum.hasher.finish())
    }

    /// Every part, in order, as long as somebody takes them.
    async fn fetch_parts(
        &self,
        key: &str,
        expected: &Expected,
        file: &Arc<File>,
        parts: mpsc::Sender<Part>,
    ) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let name = self.name(key);
        let size = expected.size;
        let ranges = (0..size.div_ceil(PART).max(1)).map(|n| n * PART..((n + 1) * PART).min(size));
        let whole = size <= PART;
        let mut fetching = stream::iter(ranges.map(|range| {
            let (path, name) = (&path, &name);
            async move {
                let room = self.room(range.end - range.start).await?;
                let options = GetOptions {
                    range: (!whole).then(|| GetRange::Bounded(range.clone())),
                    if_match: expected.etag.clone(),
                    ..GetOptions::default()
                };
                let fetched = self.trying(name, || self.fetch_part(path, options.clone(), range.clone(), file)).await?;
                let part = match fetched.map_err(|error| unwritten(error, name))? {
                    Arrived::Chunks(chunks) => Part::Written(chunks, room),
                    Arrived::File(file) => Part::File(file),
                };
                Ok::<_, StoreError>(part)
            }
        }))
        .buffered(PARTS);
        while let Some(part) = fetching.try_next().await? {
            let is_last = matches!(part, Part::File(_));
            // Nobody takes it: then they know why.
            if parts.send(part).await.is_err() || is_last {
                break;
            }
        }
        Ok(())
    }

    /// One part into its place in the file. The inner error is the file's.
    async fn fetch_part(
        &self,
        path: &Path,
        options: GetOptions,
        range: Range<u64>,
        file: &Arc<File>,
    ) -> object_store::Result<io::Result<Arrived>> {
        let mut body = match self.objects().get_opts(path, options).await?.payload {
            GetResultPayload::File(file, _) => return Ok(Ok(Arrived::File(file))),
            GetResultPayload::Stream(body) => body,
        };
        let (mut chunks, mut written, mut waiting, mut at) = (Vec::new(), 0, 0, range.start);
        loop {
            let chunk: Option<Bytes> = body.try_next().await?;
            let mut ended = chunk.is_none();
            if let Some(chunk) = chunk {
                waiting += chunk.len();
                at += chunk.len() as u64;
                chunks.push(chunk);
                // What is longer than it should be is known by one byte more.
                ended = at > range.end;
            }
            if ended || waiting >= WRITE {
                let (file, late, from) = (file.clone(), chunks[written..].to_vec(), at - waiting as u64);
                let writing = blocking(move || write_at(&file, from, &late)).await;
                if let Err(error) = writing {
                    return Ok(Err(error));
                }
                (written, waiting) = (chunks.len(), 0);
            }
            if ended {
                return Ok(Ok(Arrived::Chunks(chunks)));
            }
        }
    }
}

enum Arrived {
    Chunks(Vec<Bytes>),
    File(File),
}

fn write_at(file: &File, mut at: u64, chunks: &[Bytes]) -> io::Result<()> {
    for chunk in chunks {
        file.write_all_at(chunk, at)?;
        at += chunk.len() as u64;
    }
    Ok(())
}

impl Sum {
    async fn of(mut self, mut parts: mpsc::Receiver<Part>, file: &Arc<File>) -> io::Result<Self> {
        while let Some(part) = parts.recv().await {
            let file = file.clone();
            self = blocking(move || {
                match part {
                    Part::Written(chunks, _room) => chunks.iter().for_each(|chunk| self.put(chunk)),
                    Part::File(from) => self.copy(from, &file)?,
                }
                Ok(self)
            })
            .await?;
        }
        Ok(self)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn copy(&mut self, mut from: File, to: &File) -> io::Result<()> {
        let mut buffer = vec![0; WRITE];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    to.write_all_at(&buffer[..count], self.size)?;
                    self.put(&buffer[..count]);
                }
            }
        }
    }
}

/// Does what may wait for a disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

/// The copy of an object could not be written, or a volume not be read.
fn unwritten(error: io::Error, name: &str) -> StoreError {
    if crate::failure::is_disk_full(&error) {
        return StoreError::DiskFull { object: format!("the copy of {name}") };
    }
    StoreError::Local { object: name.to_owned(), source: error }
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
    let reading = blocking(move || {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(range.start))?;
        file.take(range.end - range.start).read_to_end(&mut bytes)?;
        Ok(Bytes::from(bytes))
    });
    reading.await.map_err(|source| StoreError::Local { object: name.to_owned(), source })
}
