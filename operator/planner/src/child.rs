//! Stages that train: their attempts are TrainingJobs, which have their own Pods and their own restarts.
//!
//! A job is asked to stop by `spec.suspend`: its ranks then have their grace, and a last checkpoint is kept. Only when it has no Pods any
//! more is it deleted, if the run is being stopped; a run that is only suspended takes it up again.

use trainyard_crds::names;
use trainyard_crds::v1alpha1::StageStatus;

use crate::observed::Attempt;
use crate::schedule::{Action, Pass};

impl Pass<'_> {
    /// Name of the Pod of an attempt, or of its TrainingJob.
    pub(crate) fn object(&self, node: usize, attempt: u32) -> String {
        let (run, uid, node) = (self.run.name, self.run.uid, self.node(node));
        match node.trains() {
            true => names::job(run, uid, node.name(), attempt),
            false => names::pod(run, uid, node.name(), attempt),
        }
    }

    /// The same by the status or, before it names it, by its rule.
    pub(crate) fn object_of(&self, node: usize, attempt: u32) -> String {
        let prior = self.prior(node);
        let named = prior.training.as_ref().map_or(&prior.pod, |training| &training.job);
        if prior.attempt == Some(attempt) && !named.is_empty() { named.clone() } else { self.object(node, attempt) }
    }

    /// What an attempt's object is called for people.
    pub(crate) fn kind(&self, node: usize) -> &'static str {
        if self.node(node).trains() { "TrainingJob" } else { "Pod" }
    }

    /// Names the Pod of an attempt in its stage's row, or its TrainingJob.
    pub(crate) fn put_name(&self, node: usize, row: &mut StageStatus, object: &str) {
        if !self.node(node).trains() {
            object.clone_into(&mut row.pod);
            return;
        }
        let known = row.training.take().filter(|training| training.job == object);
        let mut training = known.unwrap_or_default();
        object.clone_into(&mut training.job);
        row.training = Some(training);
    }

    /// The same of an attempt that is observed, with what is known of its job.
    pub(crate) fn put_object(&self, node: usize, row: &mut StageStatus, attempt: &Attempt) {
        self.put_name(node, row, &attempt.pod);
        if let Some(child) = &attempt.child {
            row.training = Some(child.shown.clone());
        }
    }

    /// Stops an attempt: deletes its Pod, or asks its job to stop and deletes it when it has.
    pub(crate) fn stop(&mut self, node: usize, attempt: &Attempt) {
        if attempt.deleting {
            return;
        }
        match &attempt.child {
            // Whoever has asked it, the run needs it.
            Some(child) if !child.suspended && child.suspend => {}
            Some(child) if !child.suspended => self.suspend(node, attempt, true),
            Some(_) | None => {
                let (pod, uid) = (attempt.pod.clone(), attempt.uid.clone());
                self.actions.push(Action::Stop { node, attempt: attempt.number, pod, uid });
            }
        }
    }

    /// A job is suspended when its run is, and goes on with it. What others have suspended, a person or a queue, they let go on.
    pub(crate) fn follow(&mut self, node: usize, attempt: &Attempt) {
        let Some(child) = attempt.child.as_ref().filter(|_| !attempt.deleting) else { return };
        if self.run.suspend && !child.suspend {
            self.suspend(node, attempt, true);
        } else if !self.run.suspend && child.by_run {
            self.suspend(node, attempt, false);
        }
    }

    fn suspend(&mut self, node: usize, attempt: &Attempt, suspend: bool) {
        let (job, uid) = (attempt.pod.clone(), attempt.uid.clone());
        self.actions.push(Action::Suspend { node, attempt: attempt.number, job, uid, suspend });
    }
}
