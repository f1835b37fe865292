//! What a publishing stage does instead of running a program: it makes an output the next version of a model, or takes a version
//! that exists, and promotes it to champion. Exactly once, whoever else publishes or does the same.
//!
//! ```text
//! source -> list, list -> <version>/model.json -> promotions/<sequence>.json -> champion.json, previous.json -> COMMIT
//! ```
//!
//! Versions and promotions are records that are written once with put-if-absent, at the first free number above all that there
//! are. [`version`] and [`promotion`] do that, [`source`] finds what is published, [`alias`] copies what the newest promotion says,
//! [`registry`] lists and reads what others wrote.
//!
//! An execution that follows one which died, or is there beside it, finds the records of its own stage and writes no second ones: it
//! looks for them in the second of two listings, and takes numbers above the highest of the first. A record of its own that comes
//! after the second listing began has a number above all that the first listing shows, without a free one between, so it is met
//! on the way up. With one listing that would not be so: it is no picture of one moment, and may have a record without one that is
//! older.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;
use step_protocol::{CommittedOutput, PublishSpec, StepSpec, paths};

use crate::failure::Failure;
use crate::stage_out::Made;
use crate::store::Store;

mod alias;
mod promotion;
mod registry;
mod source;
mod version;

use registry::Registry;
use source::Source;

/// Name of the one output of a publishing stage.
const OUTPUT: &str = "model";
/// Metrics of a version that are told, at most.
const METRICS: usize = 64;
/// How many numbers are tried, and how often aliases are written: each more is another publisher who was quicker.
const TRIES: u32 = 1_000;

/// Publishes; what is left to do is to commit what it gives.
pub(crate) async fn publish(step: &StepSpec, spec: &PublishSpec, store: &Store) -> Result<Made, Failure> {
    if !step.command.is_empty() || step.script.is_some() {
        return Err(Failure::config("the stage publishes a model and has a program: it can do one of both"));
    }
    let registry = Registry::new(step, spec, store)?;
    let probe = async {
        let attempt = paths::attempt_prefix(&step.prefix, step.identity.attempt);
        store.probe(&attempt).await.map_err(Failure::from)
    };
    // Nothing is written before the store has shown that it writes once.
    let ((), found) = futures_util::try_join!(probe, source::find(&registry))?;
    // What a Pipeline that has lost its status would not know of a version that it takes up again.
    let (metrics, key) = match &found {
        Source::Output(_) => (BTreeMap::new(), None),
        Source::Version(_, record) => {
            let metrics = record.metrics.iter().take(METRICS);
            (metrics.map(|(name, value)| (name.clone(), value.clone())).collect(), record.lineage.key.clone())
        }
    };
    let (first, second) = (registry.list().await?, registry.list().await?);
    let (version, output) = version::make_or_find(&registry, found, &first, &second).await?;
    let promotion = promotion::promote(&registry, version, &first, &second).await?;
    alias::write(&registry).await?;

    let mut results: BTreeMap<String, Value> = [
        ("model".to_owned(), Value::from(spec.model.clone())),
        ("version".to_owned(), version.into()),
        ("sequence".to_owned(), promotion.sequence.into()),
        ("uri".to_owned(), registry.uri(&output).into()),
    ]
    .into();
    if let Some(previous) = promotion.previous {
        results.insert("previous".to_owned(), previous.into());
    }
    results.extend(key.map(|key| ("key".to_owned(), key.into())));
    let output = CommittedOutput { name: OUTPUT.to_owned(), ..output };
    Ok(Made { outputs: vec![output], results, metrics, keys: Vec::new() })
}

/// Now, as records say it.
fn now() -> String {
    crate::stage_out::commit::rfc3339(SystemTime::now())
}
