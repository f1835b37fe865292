//! Attempts that are stopped, suspended, or asked for.

use trainyard_crds::condition::Reason;
use trainyard_planner::{Attempt, Node, Run};

use super::RunError;
use super::drive::Driver;
use super::observe::{self, Observation};
use crate::apply::Writer;
use crate::memory::lock;
use crate::mutant;

impl Driver<'_> {
    fn writer(&self) -> Writer {
        Writer::new(self.context.client.clone())
    }

    fn trains(&self, node: usize) -> bool {
        self.frozen.graph().nodes().get(node).is_some_and(Node::trains)
    }

    /// Deletes the Pod of an attempt, or its job that has no Pods any more.
    pub(super) async fn stop(
        &self,
        run: &Run<'_>,
        node: usize,
        attempt: u32,
        object: &str,
        uid: &str,
    ) -> Result<(), RunError> {
        if self.trains(node) {
            self.writer().delete_job(run.namespace, object, uid).await?;
        } else {
            let row = run.status.stages.get(node);
            if row.is_some_and(|row| row.reason == Reason::ContainerStartFailed.as_str())
                && self.context.mount.image_failed()
            {
                tracing::warn!(
                    pod = object,
                    "a container with an image volume could not be made: the runner comes by init container from now on"
                );
            }
            self.writer().delete_pod(run.namespace, object, uid).await?;
        }
        tracing::info!(stage = self.stage(node), attempt, object, "stopped");
        if let Some(attempt) = lock(self.memory).observed.attempt_mut(self.stage(node), attempt) {
            attempt.deleting = true;
        }
        Ok(())
    }

    /// Asks the job of an attempt to have no Pods, or to have them again.
    pub(super) async fn suspend(
        &self,
        run: &Run<'_>,
        node: usize,
        attempt: u32,
        (job, uid): (&str, &str),
        suspend: bool,
    ) -> Result<(), RunError> {
        self.writer().suspend_job(run.namespace, job, uid, suspend).await?;
        tracing::info!(stage = self.stage(node), attempt, job, suspend, "asked the training to stop or go on");
        let mut memory = lock(self.memory);
        if let Some(child) =
            memory.observed.attempt_mut(self.stage(node), attempt).and_then(|known| known.child.as_mut())
        {
            (child.suspend, child.by_run) = (suspend, suspend);
        }
        Ok(())
    }

    /// Asks the API server itself (P4): only then is a Pod gone, or a job.
    pub(super) async fn confirm(&self, run: &Run<'_>, node: usize, attempt: u32, object: &str) -> Result<(), RunError> {
        let stage = self.stage(node);
        let (observation, altered) = match self.trains(node) {
            true => self.read_job(run, attempt, object).await?,
            false => self.read_pod(run, attempt, object).await?,
        };
        let mut memory = lock(self.memory);
        match (observation, altered) {
            (Some(observation), _) if observation.stage == stage && observation.attempt.number == attempt => {
                memory.observe(observation);
            }
            (_, Some(known)) => {
                if memory.altered.is_empty() {
                    tracing::warn!(stage, attempt, object, "its labels were changed: it is read by its name");
                }
                memory.observe_altered(stage, known);
            }
            (_, None) => memory.observed.confirm_gone(stage, attempt),
        }
        Ok(())
    }

    /// A Pod, by its labels and, whatever these are, by its owner.
    async fn read_pod(&self, run: &Run<'_>, attempt: u32, pod: &str) -> Result<Seen, RunError> {
        let live = match mutant::is("no-live-read") {
            false => self.writer().read_pod(run.namespace, pod).await?,
            true => None,
        };
        let observation = live.as_ref().and_then(observe::observe).filter(|seen| seen.run_uid == run.uid);
        Ok((observation, live.as_ref().and_then(|pod| observe::observe_named(pod, run.uid, attempt))))
    }

    /// The same of a job.
    async fn read_job(&self, run: &Run<'_>, attempt: u32, job: &str) -> Result<Seen, RunError> {
        let live = self.writer().read_job(run.namespace, job).await?;
        let observation = live.as_ref().and_then(observe::observe_job).filter(|seen| seen.run_uid == run.uid);
        Ok((observation, live.as_ref().and_then(|job| observe::observe_named_job(job, run.uid, attempt))))
    }
}

type Seen = (Option<Observation>, Option<Attempt>);
