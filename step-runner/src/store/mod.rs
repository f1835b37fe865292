//! Artifacts in object storage or on a volume, by one small set of operations.
//!
//! [`open`] turns a URL into a [`Store`], [`http`] carries its requests, [`upload`] and [`download`] move files in bounded
//! memory, [`claim`] takes a key that only one may have, [`listing`] says what there is, [`removal`] takes much of it away, [`probe`]
//! asks whether it can create exclusively, [`error`] says what went wrong. Each operation tries again by itself as long as the store
//! is merely unavailable.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

mod claim;
#[cfg(test)]
mod conformance;
mod download;
mod error;
mod http;
mod listing;
mod open;
mod probe;
mod removal;
mod upload;

pub(crate) use claim::Claimed;
pub(crate) use download::{Expected, InMemory};
pub(crate) use error::StoreError;
pub(crate) use http::post;
pub(crate) use open::Opener;

/// Bytes of one part of a large file, and the most of a pack of small ones.
pub(crate) const PART: u64 = 8 << 20;
/// Parts in memory at once, over all files: with the rest of the process this stays below 64 MiB.
const PARTS: usize = 4;
/// Bytes of the longest key of S3, GCS and Azure.
const LONGEST_KEY: usize = 1024;
/// The budget counts in units, so that many small files share a part's room.
const UNIT: u64 = 64 << 10;

/// A store, opened. Cheap to clone.
use crate::mutant;

#[derive(Clone)]
pub(crate) struct Store {
    backend: Backend,
    below: Path,
    label: Arc<str>,
    patience: Duration,
    budget: Arc<Semaphore>,
    buffers: upload::Buffers,
}

#[derive(Clone)]
enum Backend {
    Cloud { store: Arc<dyn ObjectStore>, multipart: Arc<dyn MultipartStore> },
    Local { store: Arc<LocalFileSystem>, directory: PathBuf },
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// What became of an exclusive creation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// By this call.
    Yes,
    /// The object exists: by another, or by an earlier try of ours whose answer was lost.
    Exists,
}

impl Store {
    fn new(backend: Backend, below: Path, label: String, patience: Duration) -> Self {
        let budget = Arc::new(Semaphore::new(PARTS * units(PART) as usize));
        Self { backend, below, label: label.into(), patience, budget, buffers: upload::Buffers::default() }
    }

    fn objects(&self) -> &dyn ObjectStore {
        match &self.backend {
            Backend::Cloud { store, .. } => store.as_ref(),
            Backend::Local { store, .. } => store.as_ref(),
        }
    }

    /// The key below the store's own prefix, as the backend takes it.
    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let joined = if self.below.as_ref().is_empty() { key.to_owned() } else { format!("{}/{key}", self.below) };
        if key.is_empty() || key.starts_with('/') || key.ends_with('/') {
            return Err(StoreError::Config(format!("{} is not the key of an object", self.name(key))));
        }
        Path::parse(&joined).map_err(|error| StoreError::Config(format!("{}: {error}", self.name(key))))
    }

    /// Whether the key is longer than a service takes.
    pub(crate) fn is_too_long(&self, key: &str) -> bool {
        matches!(self.backend, Backend::Cloud { .. }) && self.below.as_ref().len() + 1 + key.len() > LONGEST_KEY
    }

    /// How an object is called in messages.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}/{key}", self.label)
    }

    /// Does `operation` until it has an answer, for as long as the store may be away.
    async fn trying<T, F>(&self, what: &str, mut operation: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.until_answered(&mut operation, |error| error::classify(what, error)).await
    }

    /// As [`Self::trying`] for a plain write: that something does not exist, or is in conflict, is then no answer but a moment's
    /// disorder (a service that keeps objects in directories may delete an empty one at the same time).
    async fn writing<T, F>(&self, what: &str, mut operation: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let classify = |error| match error::classify(what, error) {
            StoreError::NotFound { object } => passing(object, "404 for a write"),
            StoreError::Exists { object } => passing(object, "409 for a write"),
            other => other,
        };
        self.until_answered(&mut operation, classify).await
    }

    async fn until_answered<T, F>(
        &self,
        operation: &mut impl FnMut() -> F,
        classify: impl Fn(object_store::Error) -> StoreError,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let begin = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => classify(error),
            };
            if !error.is_transient() {
                return Err(error);
            }
            let elapsed = begin.elapsed();
            let pause = backoff(tries);
            if elapsed + pause > self.patience {
                return Err(match error {
                    StoreError::Unavailable { object, detail, .. } => {
                        StoreError::Unavailable { object, detail, tries, seconds: elapsed.as_secs() }
                    }
                    other => other,
                });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// A small object as a whole; `None` if there is none.
    pub(crate) async fn read(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(key)?;
        let name = self.name(key);
        let read = self.trying(&name, || async { self.objects().get(&path).await?.bytes().await }).await;
        match read {
            Err(StoreError::NotFound { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Writes a small object, whether or not it exists.
    pub(crate) async fn write(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.writing(&self.name(key), || self.objects().put(&path, bytes.clone().into())).await.map(drop)
    }

    /// Writes a small object, if and only if it does not exist.
    ///
    /// [`Created::Exists`] is what the service says. Some also say it of a moment's conflict: who relies on it looks for the object.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let name = self.name(key);
        if mutant::is("upload-in-place")
            && let Backend::Local { directory, .. } = &self.backend
        {
            let path = directory.join(key);
            return match std::fs::File::create_new(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes))
            {
                Ok(()) => Ok(Created::Yes),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Created::Exists),
                Err(source) => Err(StoreError::Local { object: name, source }),
            };
        }
        let mut put = || self.objects().put_opts(&path, bytes.clone().into(), PutMode::Create.into());
        let classify = |error| match error::classify(&name, error) {
            StoreError::NotFound { object } => passing(object, "404 for a write"),
            other => other,
        };
        match self.until_answered(&mut put, classify).await {
            Ok(_) => Ok(Created::Yes),
            Err(StoreError::Exists { .. }) => Ok(Created::Exists),
            Err(error) => Err(error),
        }
    }

    /// The same store with room of its own for so many parts in memory.
    pub(crate) fn with_parts(&self, parts: usize) -> Self {
        let budget = Arc::new(Semaphore::new(parts.max(1) * units(PART) as usize));
        Self { budget, buffers: upload::Buffers::default(), ..self.clone() }
    }

    /// The same store, but what it writes on a volume survives a power cut, each object by itself. Elsewhere that is the store's
    /// own promise.
    pub(crate) fn durable(&self) -> Self {
        let mut durable = self.clone();
        if let Backend::Local { store, .. } = &mut durable.backend {
            *store = Arc::new(store.as_ref().clone().with_fsync(true));
        }
        durable
    }

    /// Makes everything that was written so far survive a power cut: what is better than [`Self::durable`] for many objects.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let Backend::Local { directory, .. } = &self.backend else { return Ok(()) };
        let (directory, name) = (directory.clone(), self.label.to_string());
        let synced = tokio::task::spawn_blocking(move || {
            let root = crate::beneath::open_root(&directory)?;
            // One call for the whole file system: an fsync per file would be thousands.
            Ok(rustix::fs::syncfs(root)?)
        });
        match synced.await {
            Ok(result) => result.map_err(|source| StoreError::Local { object: name, source }),
            Err(_) => Err(StoreError::Stopped),
        }
    }

    /// What is known of one object; `None` if there is none.
    pub(crate) async fn stat(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let path = self.path(key)?;
        match self.trying(&self.name(key), || self.objects().head(&path)).await {
            Err(StoreError::NotFound { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Deletes objects that nobody reads any more; what cannot be deleted stays for retention.
    pub(crate) async fn delete(&self, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            if let Ok(path) = self.path(&key) {
                let _ = self.objects().delete(&path).await;
            }
        }
    }

    /// The bytes of a range, or the file itself on a volume.
    async fn get(&self, path: &Path, options: GetOptions) -> object_store::Result<Fetched> {
        let answer = self.objects().get_opts(path, options).await?;
        match answer.payload {
            GetResultPayload::File(file, _) => Ok(Fetched::File(file)),
            GetResultPayload::Stream(_) => Ok(Fetched::Bytes(answer.bytes().await?)),
        }
    }
}

enum Fetched {
    Bytes(Bytes),
    File(std::fs::File),
}

/// A disorder that passes.
fn passing(object: String, detail: &str) -> StoreError {
    StoreError::Unavailable { object, detail: detail.into(), tries: 1, seconds: 0 }
}

/// Half a second, doubling to half a minute, with a share that differs between runners.
fn backoff(tries: u32) -> Duration {
    let base = Duration::from_millis(500 << tries.saturating_sub(1).min(6));
    let share = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos() ^ std::process::id())
        % 256;
    base.min(Duration::from_secs(30)) * (192 + share / 2) / 256
}

/// The budget's units for so many bytes: at least one, at most a part's.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.clamp(1, PART).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        assert!(backoff(1) <= Duration::from_millis(650) && backoff(1) >= Duration::from_millis(370));
        assert!(backoff(50) <= Duration::from_secs(38) && backoff(50) >= Duration::from_secs(22));
    }

    #[test]
    fn the_budget_counts_whole_units() {
        assert_eq!((units(0), units(1), units(UNIT), units(UNIT + 1), units(u64::MAX)), (1, 1, 1, 2, 128));
    }
}
