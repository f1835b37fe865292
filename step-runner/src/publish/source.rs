//! What is published: an output of a stage, or a version that exists. Its manifest is there, with its digest.

use step_protocol::{CommittedOutput, Outcome, PublishSource};

use super::registry::{Registry, Version, is_number};
use crate::failure::Failure;
use crate::stage_in::{self, InputError};

/// So many versions are named when one is not there.
const NAMED: usize = 10;

/// The source, found.
pub(super) enum Source {
    /// Becomes the next version.
    Output(CommittedOutput),
    /// Is one, with its record.
    Version(u64, Box<Version>),
}

pub(super) async fn find(registry: &Registry<'_>) -> Result<Source, Failure> {
    match &registry.spec.source {
        PublishSource::Output { commit, output, digest, .. } => {
            let found = stage_in::committed(registry.store, commit, output, digest.as_deref()).await;
            let of = || format!("the output {output:?} that is to be published");
            Ok(Source::Output(found.map_err(|error| explain(error, &of()))?))
        }
        PublishSource::Version { version } => {
            let found = if is_number(*version) { registry.read::<Version>(*version).await? } else { None };
            let Some(found) = found else { return Err(missing(registry, *version).await?) };
            let of = || format!("the version {version} of the model {}", registry.spec.model);
            let there = stage_in::check_manifest(registry.store, &found.output).await;
            there.map_err(|error| explain(error, &of()))?;
            Ok(Source::Version(*version, Box::new(found)))
        }
    }
}

fn explain(error: InputError, what: &str) -> Failure {
    match error {
        InputError::Missing(message) => Failure::new(Outcome::InputMissing, format!("{what} is missing: {message}")),
        InputError::Other(failure) => Failure { message: format!("{what}: {}", failure.message), ..failure },
    }
}

/// Says which versions there are.
async fn missing(registry: &Registry<'_>, version: u64) -> Result<Failure, Failure> {
    let versions = registry.list().await?.versions;
    let last: Vec<String> = versions.keys().rev().take(NAMED).map(u64::to_string).collect();
    let there = match (last.len(), versions.len()) {
        (0, _) => "there is none yet".to_owned(),
        (named, all) if named < all => format!("the last of {all} are {}", last.join(", ")),
        _ => format!("there are {}", last.join(", ")),
    };
    let message = format!(
        "the model {} has no version {version} ({}); {there}",
        registry.spec.model,
        registry.name::<Version>(version)
    );
    Ok(Failure::new(Outcome::InputMissing, message))
}
