//! The program's own state between executions: `<root>/checkpoint`, sent to the store while the program runs, and brought back before
//! the next one starts.
//!
//! A checkpoint is complete when its manifest is there, which is written last; only complete ones are restored. It is never torn: what
//! is sent are links to the files as they were at one moment ([`snapshot`]), so a newer checkpoint may take their names meanwhile, and a
//! file that is written to while it is read makes the sending start over ([`survey`]). What goes wrong is said, and the program goes on:
//! a store that is away costs newer checkpoints, never the training.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use step_protocol::{CheckpointName, CheckpointSpec, Outcome, StepSpec, paths};

use crate::failure::{Failure, say};
use crate::process;
use crate::rank::{Restore, Unrestored};
use crate::stage_in::{self, InputError};
use crate::stop::Stop;
use crate::store::{Opener, StoreError};

mod names;
mod send;
mod snapshot;
pub(crate) mod survey;

use survey::Survey;

/// How long an upload that is given up may take to take back what is half there.
pub(crate) const FAREWELL: Duration = Duration::from_secs(8);

/// What became of checkpoints so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The newest complete one that this execution wrote.
    pub(crate) newest: Option<CheckpointName>,
    /// Why the last look did not lead to one.
    pub(crate) error: Option<String>,
    /// What the directory was when it was last sent, or restored.
    sent: Survey,
}

/// The checkpoints of one step. Cheap to clone; what it opens in the store lasts as long as one sending.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    spec: CheckpointSpec,
    step: Arc<StepSpec>,
    opener: Opener,
    /// The root of the step as it was opened before user code could replace it.
    root: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
}

impl Checkpoints {
    pub(crate) fn new(step: &StepSpec, opener: &Opener, root: OwnedFd) -> Option<Self> {
        let spec = step.checkpoint.clone()?;
        let (step, opener) = (Arc::new(step.clone()), opener.clone());
        Some(Self { spec, step, opener, root: Arc::new(root), state: Arc::default() })
    }

    fn directory(&self) -> PathBuf {
        Path::new(&self.step.root).join(paths::CHECKPOINT)
    }

    fn execution(&self) -> u32 {
        self.step.rank.as_ref().map_or(self.step.identity.attempt, |rank| rank.execution)
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sends the directory every interval, if it has changed, until it is stopped; an upload that is under way is taken back then.
    pub(crate) async fn keep(&self, stop: &Stop) {
        if !self.spec.upload {
            return;
        }
        let interval = Duration::from_secs(self.spec.interval_seconds.max(1));
        while stop.now().is_none() {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = stop.wait() => return,
            }
            self.send(stop, Duration::ZERO, true).await;
            process::give_memory_back();
        }
    }

    /// Sends what the program has left, once, before the Pod has to be gone.
    pub(crate) async fn finish(&self, stop: &Stop, grace: Duration) {
        if !self.spec.upload {
            return;
        }
        let late = async {
            stop.give_up(grace).await;
            // An upload takes back what is half there.
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = self.send(stop, grace, false) => {}
            () = late => say!("the last checkpoint could not be kept within the grace of {} s", grace.as_secs()),
        }
    }

    /// One sending; what goes wrong is said once, and kept for the report.
    async fn send(&self, stop: &Stop, grace: Duration, running: bool) {
        match send::send(self, stop, grace, running).await {
            Ok(Some((name, survey))) => {
                say!(
                    "checkpoint {name}: {} files, {} bytes",
                    survey.0.len(),
                    survey.0.iter().map(|file| file.size).sum::<u64>()
                );
                self.update(|state| *state = State { newest: Some(name), error: None, sent: survey });
            }
            Ok(None) => {}
            // The program has ended meanwhile.
            Err(_) if running && stop.now().is_some() => {}
            Err(error) => {
                let error = error.to_string();
                if self.state().error.as_deref() != Some(&error) {
                    say!("the checkpoint could not be kept, and the program goes on: {error}");
                }
                self.update(|state| state.error = Some(error));
            }
        }
    }

    /// Looks at the directory as it is.
    async fn survey(&self) -> Result<Survey, survey::SurveyError> {
        let root = self.root.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let directory = survey::open(root.as_fd())?;
            survey::survey(directory.as_fd())
        });
        looking.await.unwrap_or(Err(survey::SurveyError::Changed))
    }
}

impl Restore for Checkpoints {
    async fn newest(&self, not: &[CheckpointName]) -> Result<Option<CheckpointName>, Failure> {
        // What another shard keeps is nothing to this one.
        if !self.spec.upload && self.step.rank.as_ref().is_some_and(|rank| rank.scatter) {
            return Ok(None);
        }
        let store = self.opener.store()?;
        let listed = names::list(&store, &self.spec.prefix).await?;
        let newest = listed.complete().find(|name| !not.contains(name));
        if newest.is_none() && !not.is_empty() {
            let message = format!(
                "no checkpoint can be read, {} were tried; to begin anew, delete what is below {}",
                not.len(),
                store.name(&self.spec.prefix)
            );
            return Err(Failure::new(Outcome::ArtifactCorrupt, message));
        }
        Ok(newest)
    }

    async fn restore(&self, name: Option<CheckpointName>) -> Result<(), Unrestored> {
        let Some(name) = name else { return Ok(()) };
        let store = self.opener.store().map_err(|error| Unrestored::Other(error.into()))?;
        let prefix = format!("{}/{name}", self.spec.prefix);
        let root = Path::new(&self.step.root);
        stage_in::restore(&store, &prefix, root, paths::CHECKPOINT).await.map_err(|error| match error {
            InputError::Missing(message) => Unrestored::Unreadable(Failure::new(Outcome::InputMissing, message)),
            InputError::Other(failure)
                if matches!(failure.outcome, Outcome::ArtifactCorrupt | Outcome::InputMissing) =>
            {
                Unrestored::Unreadable(failure)
            }
            InputError::Other(failure) => Unrestored::Other(failure),
        })?;
        say!("restored the checkpoint {name} to {}", self.directory().display());
        // What was restored need not be sent again.
        if let Ok(survey) = self.survey().await {
            self.update(|state| state.sent = survey);
        }
        Ok(())
    }
}

/// For a step without checkpoints.
impl Restore for Option<Checkpoints> {
    async fn newest(&self, not: &[CheckpointName]) -> Result<Option<CheckpointName>, Failure> {
        match self {
            Some(all) => all.newest(not).await,
            None => Ok(None),
        }
    }

    async fn restore(&self, name: Option<CheckpointName>) -> Result<(), Unrestored> {
        match self {
            Some(all) => all.restore(name).await,
            None => Ok(()),
        }
    }
}

/// Why a checkpoint was not kept.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{}: {error}", at.display())]
    Survey { at: PathBuf, error: survey::SurveyError },
    #[error(
        "{} changes all the time: write to a name that ends with .tmp, and rename it when it is whole",
        at.display()
    )]
    Restless { at: PathBuf },
    #[error("{0}")]
    Failure(#[from] Failure),
    #[error("{0}")]
    Store(#[from] StoreError),
}
