//! After the user's code: outputs, results and metrics are checked and sent, then the commit record is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use step_protocol::{CommittedOutput, Outcome, OutputSpec, StepSpec, paths};

use crate::beneath;
use crate::failure::{Failure, say};
use crate::log::Log;
use crate::stop::Stop;
use crate::store::{Store, StoreError};

pub(crate) mod commit;
pub(crate) mod metrics;
mod pack;
mod results;
mod shipment;
mod walk;

pub(crate) use shipment::Shipment;
pub(crate) use walk::{FoundFile, small_file};

use pack::Parcel;
use shipment::{Origin, failed};
use walk::Found;

/// Up to so many objects are written durably one by one; more, all at once at the end.
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

/// An output that was looked through, and in what objects it is to be sent.
struct Publishable<'a> {
    output: &'a OutputSpec,
    directory: bool,
    root: Arc<OwnedFd>,
    parcels: Vec<Parcel>,
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
            let Found { directory, root, files } = walk::output(self.root.as_fd(), self.spec, &output.name)?;
            let parcels = pack::parcels(output.kind.as_deref(), directory, files);
            found.push(Publishable { output, directory, root: Arc::new(root), parcels });
        }
        let results = results::read(self.root.as_fd(), self.spec)?;
        let metrics = self.metrics();
        let mut made = Made { outputs: Vec::new(), results, metrics, keys: Vec::new() };
        let objects: usize = found.iter().map(|found| found.parcels.len()).sum();
        let few = objects <= FEW;
        let durable = self.store.durable();
        let store = if few { &durable } else { self.store };
        for found in found {
            let committed = self.send_output(store, found, &mut made.keys).await?;
            made.outputs.push(committed);
        }
        for name in [paths::METRICS, paths::CHECKS] {
            if let Some(file) = self.open_file(name) {
                let size = file.metadata().map_or(0, |meta| meta.len());
                let file = file.take(size);
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
        failed(self.spec, self.stop, error)
    }

    async fn send_output(
        &self,
        store: &Store,
        found: Publishable<'_>,
        keys: &mut Vec<String>,
    ) -> Result<CommittedOutput, Failure> {
        let Publishable { output, directory, root, parcels } = found;
        let prefix = paths::output_prefix(&self.spec.prefix, self.spec.identity.attempt, &output.name);
        // A single file is opened by the output's name below the directory of outputs.
        let mut at = Path::new(&self.spec.root).join(paths::OUT);
        if directory {
            at.push(&output.name);
        }
        let from = Origin { root, at: at.into() };
        let shipment = Shipment { step: self.spec, stop: self.stop, grace: self.grace };
        let manifest = shipment.send(store, &prefix, directory, from, parcels, keys).await?;
        let bytes = manifest.files.iter().map(|file| file.size).sum();
        let count = manifest.files.len() as u64;
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
