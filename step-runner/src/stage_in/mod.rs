//! Before the user's code: commit records are read, inputs fetched, verified and placed, texts resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use step_protocol::{CommitRecord, CommittedOutput, InputSource, InputSpec, Outcome, Segment, StepSpec, Text, paths};

use crate::failure::Failure;
use crate::store::{Opener, Store};

mod artifact;
mod contents;
mod pack;
mod place;
mod record;
mod seal;
mod uri;

pub(crate) use record::{Record, read_record};
pub(crate) use seal::sealed;

/// Inputs that are fetched at the same time.
const INPUTS: usize = 4;

/// Why an input cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// Not there: fine if the input is optional.
    #[error("{0}")]
    Missing(String),
    #[error(transparent)]
    Other(#[from] Failure),
}

impl From<crate::store::StoreError> for InputError {
    fn from(error: crate::store::StoreError) -> Self {
        match error {
            crate::store::StoreError::NotFound { .. } => Self::Missing(error.to_string()),
            other => Self::Other(other.into()),
        }
    }
}

/// Fetches the directory at `prefix`, whose manifest carries its own checksum, into `<root>/<name>`.
pub(crate) async fn restore(store: &Store, prefix: &str, root: &Path, name: &str) -> Result<(), InputError> {
    artifact::restore(store, prefix, root, name).await
}

/// An output of another stage, by the stage's commit record. Its manifest is there and has its digest.
pub(crate) async fn committed(
    store: &Store,
    commit: &str,
    output: &str,
    digest: Option<&str>,
) -> Result<CommittedOutput, InputError> {
    let record = read_record(store, commit).await?.ok_or_else(|| no_record(store, commit))?;
    let committed = artifact::find(&record.record, output, digest)?;
    artifact::check(store, committed).await?;
    Ok(committed.clone())
}

/// Whether the manifest of an output is there and has its digest.
pub(crate) async fn check_manifest(store: &Store, output: &CommittedOutput) -> Result<(), InputError> {
    artifact::check(store, output).await
}

fn corrupt(message: String) -> InputError {
    InputError::Other(Failure::new(Outcome::ArtifactCorrupt, message))
}

/// What the step needs to start.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// Where each input that exists is.
    pub(crate) paths: BTreeMap<String, PathBuf>,
    /// The commit records that the step names, by key; `None` if there is none.
    records: BTreeMap<String, Option<Record>>,
}

/// Fetches everything that the step needs from other stages and from the store.
pub(crate) async fn fetch(spec: &StepSpec, opener: &Opener, store: &Store) -> Result<Inputs, Failure> {
    let records = records(spec, store).await?;
    let directory = Path::new(&spec.root).join(paths::IN);
    let (records, directory) = (&records, &directory);
    let fetched: Vec<Option<(String, PathBuf)>> = stream::iter(&spec.inputs)
        .map(|input| async move {
            let path = directory.join(&input.name);
            match fetch_one(input, opener, store, records, directory).await {
                Ok(true) => Ok(Some((input.name.clone(), path))),
                Ok(false) => Ok(None),
                Err(InputError::Missing(_)) if input.optional => Ok(None),
                Err(InputError::Missing(message)) => Err(Failure::new(
                    Outcome::InputMissing,
                    format!("the input {:?} is missing: {message}", input.name),
                )),
                Err(InputError::Other(mut failure)) => {
                    failure.message = format!(
                        "the input {:?} could not be fetched to {}: {}",
                        input.name,
                        path.display(),
                        failure.message
                    );
                    Err(failure)
                }
            }
        })
        .buffer_unordered(INPUTS)
        .try_collect()
        .await?;
    Ok(Inputs { paths: fetched.into_iter().flatten().collect(), records: records.clone() })
}

/// Fetches one input; false when there is nothing to fetch.
async fn fetch_one(
    input: &InputSpec,
    opener: &Opener,
    store: &Store,
    records: &BTreeMap<String, Option<Record>>,
    directory: &Path,
) -> Result<bool, InputError> {
    match &input.source {
        InputSource::Absent if input.optional => return Ok(false),
        InputSource::Absent => {
            return Err(InputError::Missing("its producer has no output, and it is not optional".into()));
        }
        InputSource::Stage { commit, output, digest } => {
            let record = records.get(commit).and_then(Option::as_ref).ok_or_else(|| no_record(store, commit))?;
            artifact::fetch(store, &record.record, output, digest.as_deref(), directory, &input.name).await?;
        }
        InputSource::Uri(uri) => uri::fetch(opener, uri, directory, &input.name).await?,
    }
    Ok(true)
}

fn no_record(store: &Store, commit: &str) -> InputError {
    InputError::Missing(format!(
        "the producer has no commit record ({}); it did not succeed, or its artifacts were deleted: run it again",
        store.name(commit)
    ))
}

/// Every commit record that the step names, each read once.
async fn records(spec: &StepSpec, store: &Store) -> Result<BTreeMap<String, Option<Record>>, Failure> {
    let texts = spec.command.iter().chain(spec.env.iter().map(|variable| &variable.value));
    let segments = texts.flat_map(|text| match text {
        Text::Known(_) => &[],
        Text::Segments(segments) => segments.as_slice(),
    });
    let of_texts = segments.filter_map(|segment| match segment {
        Segment::Literal(_) => None,
        Segment::Result { commit, .. } => Some(commit),
    });
    let of_inputs = spec.inputs.iter().filter_map(|input| match &input.source {
        InputSource::Stage { commit, .. } => Some(commit),
        InputSource::Uri(_) | InputSource::Absent => None,
    });
    let keys: BTreeSet<&String> = of_texts.chain(of_inputs).collect();
    stream::iter(keys)
        .map(|key| async move { Ok((key.clone(), read_record(store, key).await?)) })
        .buffer_unordered(8)
        .try_collect()
        .await
}

impl Inputs {
    /// The text with the results of other stages put in, once: what is put in is never looked at again.
    pub(crate) fn resolve(&self, text: &Text) -> Result<String, Failure> {
        let segments = match text {
            Text::Known(known) => return Ok(known.clone()),
            Text::Segments(segments) => segments,
        };
        let mut resolved = String::new();
        for segment in segments {
            match segment {
                Segment::Literal(literal) => resolved.push_str(literal),
                Segment::Result { commit, stage, name } => {
                    let missing = |why: &str| {
                        Failure::new(
                            Outcome::InputMissing,
                            format!(
                                "the result {name:?} of the stage {stage:?} is missing: {why}; run that stage again"
                            ),
                        )
                    };
                    let record: Option<&CommitRecord> =
                        self.records.get(commit).and_then(Option::as_ref).map(|record| &record.record);
                    let record = record.ok_or_else(|| missing("it has no commit record"))?;
                    let value =
                        record.results.get(name).ok_or_else(|| missing("its commit record does not have it"))?;
                    resolved.push_str(&crate::environment::as_text(value));
                }
            }
        }
        Ok(resolved)
    }
}
