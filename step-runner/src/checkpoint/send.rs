//! One checkpoint into the store: looked at, sent, looked at again, and only then complete.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use step_protocol::{CheckpointName, Manifest, paths};

use super::snapshot::Snapshot;
use super::survey::{self, Survey, SurveyError};
use super::{Checkpoints, SendError, names};
use crate::stage_in::sealed;
use crate::stage_out::{FoundFile, Shipment};
use crate::stop::Stop;
use crate::store::Store;

/// Pauses between two looks that must agree before anything is sent. A checkpoint of many files is written for a while, so quiet for a
/// second is waited for first; a program that puts a new one in place every second is never so quiet.
const QUIET: [Duration; 3] = [Duration::from_secs(1); 3];
const BRIEFLY_QUIET: [Duration; 20] = [Duration::from_millis(100); 20];
/// How often it is sent anew.
const SENDINGS: u32 = 3;
/// Parts in memory at once: half of what outputs may use, as the program runs beside it.
const PARTS: usize = 2;

/// Sends the directory, unless it is empty or as it was sent last. `running` is whether the program may still write.
pub(super) async fn send(
    all: &Checkpoints,
    stop: &Stop,
    grace: Duration,
    running: bool,
) -> Result<Option<(CheckpointName, Survey)>, SendError> {
    let Some(mut survey) = changed(all, running).await? else { return Ok(None) };
    let store = all.opener.store()?.with_parts(PARTS);
    let mut listed = names::list(&store, &all.spec.prefix).await?;
    for _ in 0..SENDINGS {
        let name = CheckpointName { execution: all.execution(), sequence: listed.next(all.execution()) };
        let sent = once(all, &store, name, &survey, stop, grace).await;
        match sent {
            Ok(true) => {
                listed = names::list(&store, &all.spec.prefix).await?;
                let outdated = listed.outdated(name, all.spec.keep);
                store.delete(outdated.into_iter().map(|key| format!("{}/{key}", all.spec.prefix))).await;
                return Ok(Some((name, survey)));
            }
            Ok(false) if running && stop.now().is_some() => return Ok(None),
            Ok(false) => {}
            Err(error) => return Err(error),
        }
        match changed(all, running).await? {
            Some(now) => survey = now,
            None => return Ok(None),
        }
    }
    Err(SendError::Restless { at: all.directory() })
}

/// What is to be sent, as it is once nothing changes for a moment.
async fn changed(all: &Checkpoints, running: bool) -> Result<Option<Survey>, SendError> {
    let mut last: Option<Survey> = None;
    for pause in QUIET.into_iter().chain(BRIEFLY_QUIET) {
        match all.survey().await {
            Ok(now) if now.0.is_empty() || now == all.state().sent => return Ok(None),
            Ok(now) if !running || last.as_ref() == Some(&now) => return Ok(Some(now)),
            Ok(now) => last = Some(now),
            Err(SurveyError::Changed) => last = None,
            Err(error) => return Err(SendError::Survey { at: all.directory(), error }),
        }
        tokio::time::sleep(pause).await;
    }
    Err(SendError::Restless { at: all.directory() })
}

/// Sends what was seen; false if it is not what it was any more, and then nothing of it stays.
async fn once(
    all: &Checkpoints,
    store: &Store,
    name: CheckpointName,
    survey: &Survey,
    stop: &Stop,
    grace: Duration,
) -> Result<bool, SendError> {
    let (root, of, wanted) = (all.root.clone(), PathBuf::from(&all.step.root), survey.clone());
    let taken = tokio::task::spawn_blocking(move || Snapshot::take(root.as_fd(), &of, &wanted)).await;
    let snapshot = match taken {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(SurveyError::Changed)) | Err(_) => return Ok(false),
        Ok(Err(error)) => return Err(SendError::Survey { at: all.directory(), error }),
    };
    let found =
        |file: &survey::Seen| FoundFile { path: file.path.clone(), size: file.size, executable: file.executable };
    let files = survey.0.iter().map(found).collect();
    let shipment = Shipment { step: &all.step, stop, grace };
    let (prefix, mut keys) = (format!("{}/{name}", all.spec.prefix), Vec::new());
    let directory = snapshot.directory();
    let shipped = shipment.send_directory(store, &prefix, None, directory, all.directory(), files, &mut keys).await;
    let untouched = tokio::task::spawn_blocking(move || snapshot.is_untouched()).await.unwrap_or(false);
    match shipped {
        Ok(manifest) if untouched => {
            complete(store, &prefix, &manifest).await?;
            Ok(true)
        }
        other => {
            store.delete(keys).await;
            match other {
                // A file that is shorter or gone is a change as well.
                Err(failure) if untouched => Err(failure.into()),
                Ok(_) | Err(_) => Ok(false),
            }
        }
    }
}

/// Writes the manifest, after all that it names is there to stay.
async fn complete(store: &Store, prefix: &str, manifest: &Manifest) -> Result<(), SendError> {
    store.flush().await?;
    let json = serde_json::to_vec(manifest)
        .map_err(|error| crate::failure::Failure::new(step_protocol::Outcome::RunnerError, error.to_string()))?;
    let sealed = Bytes::from(sealed(&json));
    store.durable().write(&format!("{prefix}/{}", paths::MANIFEST), sealed).await?;
    Ok(())
}
