//! The files of one directory, or one file, into the store: as parcels, at the same time, in bounded memory.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rustix::fs::{Mode, OFlags};
use step_protocol::{Manifest, ManifestFile, Outcome, StepSpec};

use super::pack::{self, Parcel};
use super::walk::{self, FoundFile};
use crate::beneath;
use crate::failure::{Failure, shown};
use crate::stop::Stop;
use crate::store::{Store, StoreError};

/// Objects that are sent at the same time; their bytes are bounded by the store.
const OBJECTS: usize = 32;

/// Where files are read.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) root: Arc<OwnedFd>,
    /// What it is called in messages.
    pub(super) at: Arc<Path>,
}

/// Whose files are sent, and when that is given up.
pub(crate) struct Shipment<'a> {
    pub(crate) step: &'a StepSpec,
    pub(crate) stop: &'a Stop,
    /// How long after a signal an upload may still end well.
    pub(crate) grace: Duration,
}

/// What an error of the store means to an attempt that may be ending.
pub(super) fn failed(step: &StepSpec, stop: &Stop, error: StoreError) -> Failure {
    match (error, stop.now()) {
        (StoreError::Stopped, Some(stopped)) => crate::attempt::stopped(step, stopped, "while its outputs were sent"),
        (error, _) => error.into(),
    }
}

impl Shipment<'_> {
    /// Sends the files of a directory that was looked through. `keys` are those of all objects that may be there afterwards, also
    /// when it failed; the manifest is not yet one of them.
    #[expect(clippy::too_many_arguments, reason = "a directory is where it lies, what is in it, and where it goes")]
    pub(crate) async fn send_directory(
        &self,
        store: &Store,
        prefix: &str,
        kind: Option<&str>,
        root: Arc<OwnedFd>,
        at: PathBuf,
        files: Vec<FoundFile>,
        keys: &mut Vec<String>,
    ) -> Result<Manifest, Failure> {
        let parcels = pack::parcels(kind, true, files);
        self.send(store, prefix, true, Origin { root, at: at.into() }, parcels, keys).await
    }

    /// Sends the parcels; what the manifest of them is to say.
    pub(super) async fn send(
        &self,
        store: &Store,
        prefix: &str,
        directory: bool,
        from: Origin,
        parcels: Vec<Parcel>,
        keys: &mut Vec<String>,
    ) -> Result<Manifest, Failure> {
        for parcel in &parcels {
            let key = format!("{prefix}/{}", parcel.name());
            if let Parcel::File(file) = parcel
                && store.is_too_long(&key)
            {
                let message =
                    format!("the path {} is longer than an object's key may be", shown(&from.at.join(&file.path)));
                return Err(Failure::new(Outcome::OutputUnsafe, format!("{message}; use shorter names")));
            }
            keys.push(key);
        }
        let packs = parcels.iter().filter_map(Parcel::pack).collect();
        let from = &from;
        let broken = &Stop::quiet();
        let mut sending = stream::iter(parcels)
            .map(|parcel| async move {
                let key = format!("{prefix}/{}", parcel.name());
                let sent = async {
                    match parcel {
                        Parcel::File(file) => {
                            self.send_file(store, &key, file, from, broken).await.map(|file| vec![file])
                        }
                        Parcel::Pack { index, files, size } => {
                            self.send_pack(store, &key, index, files, size, from, broken).await
                        }
                    }
                };
                let sent = sent.await;
                // The others give up as well, and each takes back what is half there.
                if sent.is_err() {
                    broken.abandon();
                }
                sent
            })
            .buffer_unordered(OBJECTS);
        let mut files: Vec<ManifestFile> = Vec::new();
        let mut first: Option<Failure> = None;
        while let Some(sent) = sending.next().await {
            match sent {
                Ok(sent) => files.extend(sent),
                Err(failure) => {
                    first.get_or_insert(failure);
                }
            }
        }
        drop(sending);
        if let Some(failure) = first {
            return Err(failure);
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Manifest { version: step_protocol::VERSION, directory, files, packs })
    }

    async fn send_file(
        &self,
        store: &Store,
        key: &str,
        file: FoundFile,
        from: &Origin,
        broken: &Stop,
    ) -> Result<ManifestFile, Failure> {
        let FoundFile { path, size, executable } = file;
        let opened = beneath::open(from.root.as_fd(), &path, OFlags::RDONLY, Mode::empty());
        let opened = opened.map_err(|error| Failure::io("read", &from.at.join(&path), &error.into()))?;
        // One byte more than there was: a file that grows is noticed, and has an end.
        let bytes = File::from(opened).take(size.saturating_add(1));
        let sent = store.send(key, bytes, size, self.given_up(broken)).await;
        let sent = sent.map_err(|error| self.failed(error))?;
        if sent.size != size {
            return Err(walk::changed(&from.at.join(&path), size));
        }
        Ok(ManifestFile { path, size: sent.size, digest: sent.digest, executable, packed: None })
    }

    #[expect(clippy::too_many_arguments, reason = "what is sent, from where, to where, and until when")]
    async fn send_pack(
        &self,
        store: &Store,
        key: &str,
        index: usize,
        files: Vec<FoundFile>,
        size: u64,
        from: &Origin,
        broken: &Stop,
    ) -> Result<Vec<ManifestFile>, Failure> {
        let Origin { root, at } = from.clone();
        let fill = move |buffer: &mut Vec<u8>| pack::fill(root.as_fd(), index, files, &at, buffer);
        let sending = async {
            let (filled, bytes) = store.fill(size, fill).await?;
            // What cannot be read is not sent.
            let Ok(files) = filled else { return Ok(filled) };
            store.send_filled(key, bytes).await?;
            Ok(Ok(files))
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = self.given_up(broken) => Err(StoreError::Stopped),
        };
        sent.map_err(|error| self.failed(error))?
    }

    async fn given_up(&self, broken: &Stop) {
        tokio::select! {
            _ = self.stop.give_up(self.grace) => {}
            _ = broken.wait() => {}
        }
    }

    fn failed(&self, error: StoreError) -> Failure {
        failed(self.step, self.stop, error)
    }
}
