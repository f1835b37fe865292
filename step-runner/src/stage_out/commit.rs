//! The commit record: written once per stage, whoever comes first.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use step_protocol::{CommitRecord, Outcome, StepSpec, paths};

use super::{Made, Publisher};
use crate::digest;
use crate::failure::{Failure, say};
use crate::stage_in::{Record, read_record, sealed};
use crate::store::{Created, Store};

/// How often a record that is said to exist is looked for.
const LOOKS: u32 = 5;
/// The last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// The stage's record, if there is one already.
pub(crate) async fn existing(store: &Store, spec: &StepSpec) -> Result<Option<Record>, Failure> {
    let key = paths::commit_key(&spec.prefix);
    let Some(record) = read_record(store, &key).await? else { return Ok(None) };
    let CommitRecord { run_uid, stage, .. } = &record.record;
    if *run_uid != spec.identity.run_uid || *stage != spec.identity.stage {
        let message = format!(
            "the commit record {} is of the stage {stage:?} of the run {run_uid}, not of {:?} of {}: something else writes below \
             the store's prefix",
            store.name(&key),
            spec.identity.stage,
            spec.identity.run_uid
        );
        return Err(Failure::new(Outcome::ArtifactCorrupt, message));
    }
    Ok(Some(record))
}

impl Publisher<'_> {
    /// Writes the record, or adopts the one that was there first.
    pub(crate) async fn commit(
        &self,
        made: Made,
        started: SystemTime,
        finished: SystemTime,
    ) -> Result<Record, Failure> {
        let Made { outputs, results, metrics, keys } = made;
        let record = CommitRecord {
            version: step_protocol::VERSION,
            run_uid: self.spec.identity.run_uid.clone(),
            stage: self.spec.identity.stage.clone(),
            attempt: self.spec.identity.attempt,
            outputs,
            results,
            metrics,
            started: Some(rfc3339(started)),
            finished: Some(rfc3339(finished)),
        };
        let bytes = serde_json::to_vec(&record)
            .map_err(|error| Failure::new(Outcome::RunnerError, format!("the commit record: {error}")))?;
        let bytes = Bytes::from(sealed(&bytes));
        let ours = Record { record, digest: digest::sha256(&bytes), bytes: bytes.clone() };
        let key = paths::commit_key(&self.spec.prefix);
        let durable = self.store.durable();
        for look in 0..LOOKS {
            if durable.create(&key, bytes.clone()).await? == Created::Yes {
                return Ok(ours);
            }
            match existing(self.store, self.spec).await? {
                // An earlier try of ours, whose answer was lost.
                Some(record) if record.bytes == bytes => return Ok(ours),
                Some(record) => {
                    say!("attempt {} had committed before; its outputs count, ours are deleted", record.record.attempt);
                    let deleting = self.store.delete(keys);
                    let _ = tokio::time::timeout(Duration::from_secs(20), deleting).await;
                    return Ok(record);
                }
                // Two writers at the same time: some services then refuse both for a moment.
                None => tokio::time::sleep(Duration::from_millis(200 << look)).await,
            }
        }
        let message = format!(
            "the store says that {} exists, and does not show it: it is not consistent after a write, which Trainyard needs",
            self.store.name(&key)
        );
        Err(Failure::new(Outcome::StoreUnsupported, message))
    }
}

/// Milliseconds, UTC. Of a time that cannot be written so, before 1970 or after 9999, the nearest that can.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    let time = time.clamp(SystemTime::UNIX_EPOCH, end);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_can_be_written() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(at(1)), "1970-01-01T00:00:01.000Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00.000Z");
        for late in [LAST_SECOND, LAST_SECOND + 1, 1 << 60] {
            assert_eq!(rfc3339(at(late)), "9999-12-31T23:59:59.000Z");
        }
    }
}
