//! The promotion: that of an earlier execution of this stage, or a new one after all that there are.

use bytes::Bytes;
use step_protocol::{Outcome, Promotion};

use super::registry::{Listing, Registry};
use super::{TRIES, now};
use crate::failure::{Failure, say};
use crate::store::Claimed;

/// Makes the version champion, if it is not.
pub(super) async fn promote(
    registry: &Registry<'_>,
    version: u64,
    first: &Listing,
    second: &Listing,
) -> Result<Promotion, Failure> {
    let same = |promotion: &Promotion| promotion.version == version;
    if let Some((number, ours)) = registry.find_ours::<Promotion>(&second.promotions, same).await? {
        say!("an earlier execution of this stage has made promotion {number}; it counts");
        return Ok(ours);
    }
    let mut highest = match first.promotions.last_key_value() {
        Some((number, _)) => Some(read(registry, *number).await?),
        None => None,
    };
    for _ in 0..TRIES {
        if let Some(champion) = highest.take_if(|champion| same(champion)) {
            return Ok(champion);
        }
        let sequence = registry.after::<Promotion>(highest.as_ref().map(|before| before.sequence))?;
        let promotion = Promotion {
            protocol: step_protocol::VERSION,
            sequence,
            model: registry.spec.model.clone(),
            version,
            // What it is compared with is the one right before it, always: its number is the next.
            previous: highest.map(|before| before.version),
            run: registry.run(),
            created: now(),
        };
        let bytes = serde_json::to_vec(&promotion)
            .map_err(|error| Failure::new(Outcome::RunnerError, format!("the record of the promotion: {error}")))?;
        let key = step_protocol::paths::promotion_key(&registry.spec.prefix, sequence);
        let found = match registry.store.claim(&key, Bytes::from(bytes)).await? {
            Claimed::Ours => return Ok(promotion),
            Claimed::Taken(bytes) => registry.parse::<Promotion>(sequence, &bytes)?,
        };
        if registry.is_ours(&found.run) && same(&found) {
            return Ok(found);
        }
        highest = Some(found);
    }
    Err(registry.too_many())
}

/// A promotion that the store lists: by its number it says who is champion, so it must be read.
pub(super) async fn read(registry: &Registry<'_>, sequence: u64) -> Result<Promotion, Failure> {
    registry.read(sequence).await?.ok_or_else(|| {
        let message = format!(
            "the promotion {} is listed and not there: something deletes records of the model",
            registry.name::<Promotion>(sequence)
        );
        Failure::new(Outcome::ArtifactCorrupt, message)
    })
}
