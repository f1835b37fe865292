//! The version: that of an earlier execution of this stage, or a new one at the first free number.

use bytes::Bytes;
use step_protocol::{CommittedOutput, ModelRecord, Outcome, PublishSource};

use super::registry::{Listing, Registry, Unread, Version};
use super::source::Source;
use super::{TRIES, now};
use crate::failure::{Failure, say};
use crate::store::Claimed;

/// The version's number, and its files.
pub(super) async fn make_or_find(
    registry: &Registry<'_>,
    source: Source,
    first: &Listing,
    second: &Listing,
) -> Result<(u64, CommittedOutput), Failure> {
    let output = match source {
        Source::Version(version, record) => return Ok((version, record.output)),
        Source::Output(output) => output,
    };
    if let Some((number, ours)) = registry.find_ours::<Version>(&second.versions, |_| true).await? {
        say!("an earlier execution of this stage has made version {number}; it counts");
        return Ok((number, ours.output));
    }
    let mut highest = first.versions.last_key_value().map(|(number, _)| *number);
    for _ in 0..TRIES {
        let number = registry.after::<Version>(highest)?;
        let key = step_protocol::paths::version_key(&registry.spec.prefix, number);
        match registry.store.claim(&key, record(registry, number, &output)?).await {
            Ok(Claimed::Ours) => return Ok((number, output)),
            Ok(Claimed::Taken(bytes)) => match registry.parse::<Version>(number, &bytes) {
                Ok(found) if registry.is_ours(&found.run) => return Ok((number, found.output)),
                Ok(_) => {}
                Err(Unread::Garbled(why)) => say!("the number {number} is passed over: {why}"),
                Err(Unread::Failed(failure)) => return Err(failure),
            },
            Err(error) => match Unread::from(error) {
                Unread::Garbled(why) => say!("the number {number} is passed over: {why}"),
                Unread::Failed(failure) => return Err(failure),
            },
        }
        highest = Some(number);
    }
    Err(registry.too_many())
}

fn record(registry: &Registry<'_>, version: u64, output: &CommittedOutput) -> Result<Bytes, Failure> {
    let (metrics, lineage) = match &registry.spec.source {
        PublishSource::Output { metrics, lineage, .. } => (metrics.clone(), lineage.clone()),
        PublishSource::Version { .. } => Default::default(),
    };
    let record = ModelRecord {
        protocol: step_protocol::VERSION,
        model: registry.spec.model.clone(),
        version,
        namespace: registry.identity.namespace.clone(),
        pipeline: registry.identity.pipeline.clone(),
        run: registry.run(),
        output: output.clone(),
        uri: registry.uri(output),
        metrics,
        lineage,
        created: now(),
    };
    let bytes = serde_json::to_vec(&record)
        .map_err(|error| Failure::new(Outcome::RunnerError, format!("the record of the version: {error}")))?;
    Ok(Bytes::from(bytes))
}
