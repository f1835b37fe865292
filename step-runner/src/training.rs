//! What a rank of a training does beside its program: it meets the others, restores and keeps checkpoints, watches for hangs, and
//! tells how far it is. A stage without ranks and checkpoints has none of this.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use step_protocol::{CheckpointName, Outcome, StepReport, StepSpec};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::checkpoint::{self, Checkpoints};
use crate::environment::Environment;
use crate::exec::{self, Ended, Program};
use crate::failure::Failure;
use crate::log::Log;
use crate::progress::Teller;
use crate::rank::stall::{self, Signs};
use crate::rank::{self, Met, Party, launch};
use crate::stop::{Reason, Stop};
use crate::store::Opener;

/// One rank, or one Pod whose state is kept.
pub(crate) struct Training {
    spec: StepSpec,
    key: Option<Vec<u8>>,
    report_key: Option<Vec<u8>>,
    since: Instant,
    root: OwnedFd,
    checkpoints: Option<Checkpoints>,
    /// Set when the ranks have met.
    met: Mutex<Met>,
}

/// A program that the watchdog has ended.
pub(crate) fn stalled(spec: &StepSpec) -> Failure {
    let seconds = spec.rank.as_ref().and_then(|rank| rank.stall_timeout_seconds).unwrap_or_default();
    let message = format!(
        "the program showed no sign of progress for {seconds} s (`stallTimeout`) and was killed: no output, no metric, no \
         progress.json, no change in its checkpoint"
    );
    Failure::new(Outcome::Stalled, message)
}

/// A program of rank 0 for which the other ranks have waited in vain.
pub(crate) fn not_listening(spec: &StepSpec) -> Failure {
    let (port, seconds) = spec.rank.as_ref().map_or((0, 0), |rank| (rank.port, rank.start_timeout_seconds));
    let message = format!(
        "the program of rank 0 does not listen on port {port} within {seconds} s (`startTimeout`), and the other ranks wait for it"
    );
    Failure::new(Outcome::GangTimeout, message)
}

impl Training {
    pub(crate) fn prepare(
        spec: &StepSpec,
        environment: &Environment,
        opener: &Opener,
        root: &OwnedFd,
        since: Instant,
    ) -> Result<Option<Self>, Failure> {
        if spec.rank.is_none() && spec.checkpoint.is_none() {
            return Ok(None);
        }
        let key = match &environment.gang_key {
            Some(Err(())) => {
                return Err(Failure::config(format!("{} is not hex", step_protocol::paths::ENV_GANG_KEY)));
            }
            Some(Ok(key)) => Some(key.clone()),
            None => None,
        };
        let copy = || {
            let copied = rustix::io::fcntl_dupfd_cloexec(root, 3);
            copied.map_err(|error| Failure::new(Outcome::RunnerError, format!("failed to copy a descriptor: {error}")))
        };
        let checkpoints = Checkpoints::new(spec, opener, copy()?);
        let report_key = environment.report_key.as_ref().and_then(|key| key.clone().ok());
        let met = Mutex::new(Met::default());
        Ok(Some(Self { spec: spec.clone(), key, report_key, since, root: copy()?, checkpoints, met }))
    }

    /// Waits for the other ranks and restores what all of them restore.
    pub(crate) async fn meet(&self) -> Result<Option<CheckpointName>, Failure> {
        let met = match &self.spec.rank {
            Some(rank) => {
                let root = PathBuf::from(&self.spec.root);
                rank::meet(rank, self.key.as_deref(), self.since, &root, &self.checkpoints).await?
            }
            None => Met { restored: rank::restore_newest(&self.checkpoints).await?, party: Party::Alone },
        };
        let restored = met.restored;
        *self.met.lock().await = met;
        Ok(restored)
    }

    /// Runs the program, or what rank 0 asks for, with all that goes on beside it.
    pub(crate) async fn run(
        &self,
        program: Program,
        stop: &Stop,
        grace: Duration,
        log: &Log,
    ) -> Result<Ended, Failure> {
        let mut met = self.met.lock().await;
        if let Some(serving) = met.serving() {
            let Program { environment, directory, .. } = program;
            let shell = |command| Program {
                name: "/bin/sh".into(),
                arguments: vec!["-c".into(), command],
                environment: environment.clone(),
                directory: directory.clone(),
            };
            return launch::serve(serving, shell, stop, grace, log).await;
        }
        let ending = Stop::quiet();
        let keeping = async {
            if let Some(all) = &self.checkpoints {
                all.keep(&ending).await;
            }
        };
        let running = async {
            let ended = tokio::select! {
                ended = exec::run(program, stop, grace, log) => ended,
                never = self.beside(&met, stop, log) => match never {},
            };
            ending.abandon();
            ended
        };
        let late = async {
            ending.wait().await;
            tokio::time::sleep(checkpoint::FAREWELL).await;
        };
        let kept = async {
            tokio::select! {
                () = keeping => {}
                () = late => {}
            }
        };
        let (ended, ()) = tokio::join!(running, kept);
        let ended = ended?;
        if let Some(all) = &self.checkpoints
            && ended.stopped.is_some_and(|why| why.reason == Reason::Signal)
        {
            all.finish(stop, grace).await;
        }
        Ok(ended)
    }

    /// Goes on as long as the program runs.
    async fn beside(&self, met: &Met, stop: &Stop, log: &Log) -> Infallible {
        let letting_go = async {
            match &self.spec.rank {
                Some(rank) => met.let_go(rank, self.since, stop).await,
                None => std::future::pending().await,
            }
        };
        let watching = async {
            match self.signs(log) {
                Some((signs, timeout)) => stall::watch(signs, timeout, stop).await,
                None => std::future::pending().await,
            }
        };
        let telling = async {
            match self.teller() {
                Some(teller) => teller.tell().await,
                None => std::future::pending().await,
            }
        };
        let (never, _, _) = tokio::join!(letting_go, watching, telling);
        never
    }

    fn signs(&self, log: &Log) -> Option<(Signs, Duration)> {
        let rank = self.spec.rank.as_ref()?;
        let timeout = stall::timeout(rank)?;
        let root = Arc::new(rustix::io::fcntl_dupfd_cloexec(&self.root, 3).ok()?);
        let checkpoint = self.checkpoints.is_some();
        Some((Signs { log: log.clone(), root, checkpoint, processor: rank.rank != 0 }, timeout))
    }

    fn teller(&self) -> Option<Teller> {
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 3).ok()?;
        Teller::new(&self.spec, self.report_key.as_deref(), root, self.checkpoints.clone())
    }

    /// Says what became of checkpoints, and tells ranks that wait for it that this one is done.
    pub(crate) async fn conclude(&self, report: &mut StepReport) {
        let met = self.met.lock().await;
        report.restored = met.restored;
        if let Some(state) = self.checkpoints.as_ref().map(Checkpoints::state) {
            report.checkpoint = state.newest;
            report.checkpoint_error = state.error;
        }
        if let Some(rank) = &self.spec.rank
            && report.outcome == Outcome::Succeeded
        {
            met.end(rank).await;
        }
    }
}
