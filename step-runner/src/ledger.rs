//! Which run has taken a revision: asked before the program, so that no revision is trained twice.

use std::time::SystemTime;

use bytes::Bytes;
use step_protocol::{LedgerEntry, LedgerSpec, Outcome, StepSpec};

use crate::failure::Failure;
use crate::stage_out::commit::rfc3339;
use crate::store::{Claimed, Store};

/// Most bytes of a word in an entry: more than any name has.
const LONGEST: usize = 253;

/// Takes the revision for the run of this step, or finds it taken by the same run: by another attempt or another first stage.
pub(crate) async fn take(store: &Store, step: &StepSpec, ledger: &LedgerSpec) -> Result<(), Failure> {
    let entry = LedgerEntry {
        protocol: step_protocol::VERSION,
        run: step.identity.run.clone(),
        run_uid: step.identity.run_uid.clone(),
        created: rfc3339(SystemTime::now()),
    };
    let bytes = serde_json::to_vec(&entry)
        .map_err(|error| Failure::new(Outcome::RunnerError, format!("the entry of the ledger: {error}")))?;
    let Claimed::Taken(bytes) = store.claim(&ledger.key, Bytes::from(bytes)).await? else { return Ok(()) };
    let name = store.name(&ledger.key);
    let found = read(&bytes).map_err(|why| {
        let message = format!(
            "the entry {name} of the store's ledger cannot be read: {why}; delete that object if no run has trained this revision"
        );
        Failure::new(Outcome::ArtifactCorrupt, message)
    })?;
    if found.run_uid == step.identity.run_uid {
        return Ok(());
    }
    let LedgerEntry { run, run_uid, created, .. } = found;
    let message = format!(
        "run {run} (UID {run_uid}) has taken this revision on {created}: its key is in the store's ledger as {name}; set another \
         rerunToken to train it again, or delete that object"
    );
    Err(Failure::new(Outcome::AlreadyRun, message))
}

/// An entry, whose words are going to be shown.
fn read(bytes: &[u8]) -> Result<LedgerEntry, String> {
    let entry: LedgerEntry = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    for word in [&entry.run, &entry.run_uid, &entry.created] {
        if word.is_empty() || word.len() > LONGEST || word.contains(char::is_control) {
            return Err("it has a word that is no name, UID or time".to_owned());
        }
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_entry_is_read() {
        let entry = |run: &str| {
            serde_json::json!({"protocol": 1, "run": run, "runUid": "u", "created": "2026-01-02T03:04:05Z"}).to_string()
        };
        assert_eq!(read(entry("iris-1").as_bytes()).map(|entry| entry.run), Ok("iris-1".into()));
        for garbled in
            [String::new(), "{".into(), "{}".into(), "[]".into(), entry(""), entry("a\nb"), entry(&"x".repeat(254))]
        {
            assert!(read(garbled.as_bytes()).is_err(), "{garbled}");
        }
    }
}
