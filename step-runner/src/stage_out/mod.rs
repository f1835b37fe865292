//! After the user's code: outputs, results and metrics are checked and sent, then the commit record is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use step_protocol::{CommittedOutput, Manifest, ManifestFile, Outcome, OutputSpec, StepSpec, paths};

use crate::beneath;
use crate::failure::{Failure, say};
use crate::log::Log;
use crate::stop::Stop;
use crate::store::{Store, StoreError};

pub(crate) mod commit;
mod metrics;
mod results;
mod walk;

use walk::Found;

/// Files that are sent at the same time; their bytes are bounded by the store.
const FILES: usize = 32;

/// Up to so many files are written durably one by one; more, all at once at the end.
const FEW: usize = 64;

/// What a stage made, as the commit record will say it.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) outputs: Vec<CommittedOutput>,
    pub(crate) results: BTreeMap<String, Value>,
    pub(crate) metrics: BTreeMap<String, Value>,
    /// Keys below the store that are garbage if another attempt wins.
    pub(crate) keys: Vec<String>,
}

/// Where the results of one attempt go.
pub(crate) struct Publisher<'a> {
    pub(crate) spec: &'a StepSpec,
    pub(crate) store: &'a Store,
    pub(crate) stop: &'a Stop,
    /// How long after a signal an upload may still end well.
    pub(crate) grace: Duration,
    /// The root as it was opened before user code could replace it.
    pub(crate) root: OwnedFd,
}

impl Publisher<'_> {
    fn attempt_key(&self, name: &str) -> String {
        format!("{}/{name}", paths::attempt_prefix(&self.spec.prefix, self.spec.identity.attempt))
    }

    /// Checks everything first, so that a missing output costs no upload; then sends.
    pub(crate) async fn publish(&self) -> Result<Made, Failure> {
        let mut found = Vec::new();
        for output in &self.spec.outputs {
            found.push((output, walk::output(self.root.as_fd(), self.spec, &output.name)?));
        }
        let results = results::read(self.root.as_fd(), self.spec)?;
        let metrics = self.metrics();
        let mut made = Made { outputs: Vec::new(), results, metrics, keys: Vec::new() };
        let files: usize = found.iter().map(|(_, found)| found.files.len()).sum();
        let few = files <= FEW;
        let durable = self.store.durable();
        let store = if few { &durable } else { self.store };
        for (output, found) in found {
            let committed = self.send_output(store, output, found, &mut made.keys).await?;
            made.outputs.push(committed);
        }
        for name in [paths::METRICS, paths::CHECKS] {
            if let Some(file) = self.open_file(name) {
                let size = file.metadata().map_or(0, |meta| meta.len());
                let key = self.attempt_key(name);
                store.send(&key, file, size, self.given_up()).await.map_err(|error| self.failed(error))?;
                made.keys.push(key);
            }
        }
        if !few {
            self.store.flush().await?;
        }
        Ok(made)
    }

    fn metrics(&self) -> BTreeMap<String, Value> {
        let Some(file) = self.open_file(paths::METRICS) else { return BTreeMap::new() };
        let summary = metrics::read(std::io::BufReader::new(file), &self.spec.metrics);
        if let Some((line, why)) = &summary.first_bad {
            say!("{}: {} lines are not metrics, the first is line {line}: {why}", paths::METRICS, summary.bad);
        }
        if summary.dropped > 0 {
            say!(
                "{}: {} metrics beyond the first {} names are not kept",
                paths::METRICS,
                summary.dropped,
                metrics::MOST
            );
        }
        summary.values
    }

    /// A regular file at the root that user code may have written.
    fn open_file(&self, name: &str) -> Option<File> {
        let file = File::from(beneath::open(self.root.as_fd(), name, OFlags::RDONLY, Mode::empty()).ok()?);
        file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
    }

    pub(crate) async fn given_up(&self) {
        self.stop.give_up(self.grace).await;
    }

    fn failed(&self, error: StoreError) -> Failure {
        match (error, self.stop.now()) {
            (StoreError::Stopped, Some(stopped)) => {
                crate::attempt::stopped(self.spec, stopped, "while its outputs were sent")
            }
            (error, _) => error.into(),
        }
    }

    async fn send_output(
        &self,
        store: &Store,
        output: &OutputSpec,
        found: Found,
        keys: &mut Vec<String>,
    ) -> Result<CommittedOutput, Failure> {
        let prefix = paths::output_prefix(&self.spec.prefix, self.spec.identity.attempt, &output.name);
        let too_long =
            |file: &&walk::FoundFile| store.is_too_long(&format!("{prefix}/{}", paths::object_name(&file.path)));
        if let Some(file) = found.files.iter().find(too_long) {
            let message = format!(
                "the path {:?} of the output {:?} is longer than an object's key may be",
                file.path, output.name
            );
            return Err(Failure::new(Outcome::OutputUnsafe, format!("{message}; use shorter names")));
        }
        keys.extend(found.files.iter().map(|file| format!("{prefix}/{}", paths::object_name(&file.path))));
        let (directory, found_root) = (found.directory, &found.root);
        let at = Path::new(&self.spec.root).join(paths::OUT);
        let (at, prefix_of) = (&at, prefix.as_str());
        let files: Vec<ManifestFile> = stream::iter(found.files)
            .map(|file| async move {
                // A single file is opened by the output's name below the directory of outputs.
                let opened = beneath::open(found_root.as_fd(), &file.path, OFlags::RDONLY, Mode::empty());
                let path = if directory { at.join(&output.name).join(&file.path) } else { at.join(&file.path) };
                let opened = opened.map_err(|error| Failure::io("read", &path, &error.into()))?;
                let key = format!("{prefix_of}/{}", paths::object_name(&file.path));
                let sent = store.send(&key, File::from(opened), file.size, self.given_up()).await;
                let sent = sent.map_err(|error| self.failed(error))?;
                Ok::<_, Failure>(ManifestFile {
                    path: file.path,
                    size: sent.size,
                    digest: sent.digest,
                    executable: file.executable,
                })
            })
            .buffered(FILES)
            .try_collect()
            .await?;
        let bytes = files.iter().map(|file| file.size).sum();
        let count = files.len() as u64;
        let manifest = Manifest { version: step_protocol::VERSION, directory, files };
        let json = serde_json::to_vec(&manifest).map_err(|error| {
            Failure::new(Outcome::RunnerError, format!("the manifest of {:?}: {error}", output.name))
        })?;
        let digest = crate::digest::sha256(&json);
        let key = format!("{prefix}/{}", paths::MANIFEST);
        let size = json.len() as u64;
        store.send(&key, std::io::Cursor::new(json), size, self.given_up()).await.map_err(|e| self.failed(e))?;
        keys.push(key);
        Ok(CommittedOutput {
            name: output.name.clone(),
            kind: output.kind.clone(),
            prefix,
            digest,
            bytes,
            files: count,
        })
    }

    /// Sends the kept log, unless `limit` ends first.
    pub(crate) async fn send_log(&self, log: &Log, limit: impl Future<Output = ()>) {
        let Some((reader, size)) = log.reader() else { return };
        if size == 0 {
            return;
        }
        let key = self.attempt_key(paths::LOG);
        if let Err(error) = self.store.send(&key, reader, size, limit).await {
            say!("the log could not be kept: {error}");
        }
    }
}
