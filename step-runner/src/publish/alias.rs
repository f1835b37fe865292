//! The aliases: what the newest promotion says, at keys that do not change.
//!
//! They are written without a condition. So that whoever writes last writes the newest, each looks after it has written whether a
//! newer promotion is there now, and then writes again by that one.

use bytes::Bytes;
use step_protocol::{Alias, Outcome, Promotion, paths};

use super::registry::{Registry, Unread, Version};
use super::{TRIES, promotion};
use crate::failure::{Failure, say};

/// Writes both, until no newer promotion is there.
pub(super) async fn write(registry: &Registry<'_>) -> Result<(), Failure> {
    let mut written = None;
    for _ in 0..TRIES {
        let newest = registry.newest_promotion().await?;
        let Some(sequence) = newest.filter(|newest| Some(*newest) > written) else { break };
        let promotion = promotion::read(registry, sequence).await?;
        write_by(registry, &promotion).await?;
        written = Some(sequence);
    }
    match written {
        Some(_) => Ok(()),
        None => {
            let message = format!(
                "the store does not list the promotion that was just written below {}: it is not consistent after a write, which \
                 Trainyard needs",
                registry.store.name(&registry.spec.prefix)
            );
            Err(Failure::new(Outcome::StoreUnsupported, message))
        }
    }
}

async fn write_by(registry: &Registry<'_>, promotion: &Promotion) -> Result<(), Failure> {
    let champion = registry.read::<Version>(promotion.version).await?.ok_or_else(|| {
        let message = format!(
            "promotion {} of the model {} names version {}, and {} does not exist; put it back, or promote another version",
            promotion.sequence,
            registry.spec.model,
            promotion.version,
            registry.name::<Version>(promotion.version)
        );
        Failure::new(Outcome::ArtifactCorrupt, message)
    })?;
    write_one(registry, paths::CHAMPION, promotion, promotion.version, &champion).await?;
    let Some(version) = promotion.previous else { return Ok(()) };
    match registry.read::<Version>(version).await {
        Ok(Some(previous)) => write_one(registry, paths::PREVIOUS, promotion, version, &previous).await,
        // The champion counts all the same.
        Ok(None) => {
            say!(
                "version {version} was champion before and does not exist any more; {} stays as it is",
                paths::PREVIOUS
            );
            Ok(())
        }
        Err(Unread::Garbled(why)) => {
            say!("{why}; {} stays as it is", paths::PREVIOUS);
            Ok(())
        }
        Err(Unread::Failed(failure)) => Err(failure),
    }
}

async fn write_one(
    registry: &Registry<'_>,
    name: &str,
    promotion: &Promotion,
    version: u64,
    record: &Version,
) -> Result<(), Failure> {
    let alias = Alias {
        protocol: step_protocol::VERSION,
        model: registry.spec.model.clone(),
        version,
        sequence: promotion.sequence,
        uri: registry.uri(&record.output),
        digest: record.output.digest.clone(),
    };
    let bytes = serde_json::to_vec(&alias)
        .map_err(|error| Failure::new(Outcome::RunnerError, format!("the alias {name}: {error}")))?;
    let key = format!("{}/{name}", registry.spec.prefix);
    Ok(registry.store.durable().write(&key, Bytes::from(bytes)).await?)
}
