//! What the watches show of runs' Pods and TrainingJobs, taken into memory.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use trainyard_crds::v1alpha1::{PipelineRun, TrainingJob};
use trainyard_planner::{Attempt, AttemptState};

use super::{Memory, RunMemory, lock};
use crate::pipeline_run::observe::{self, Observation};

/// What a watch shows. Each says nothing of the others' objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Pods of stages.
    Pods,
    /// TrainingJobs of stages.
    Jobs,
}

impl Watched {
    /// What has been seen in the listing that is going on.
    fn listed(self, run: &mut RunMemory) -> &mut HashSet<(String, u32)> {
        match self {
            Self::Pods => &mut run.listed,
            Self::Jobs => &mut run.listed_jobs,
        }
    }

    fn shows(self, attempt: &Attempt) -> bool {
        attempt.child.is_some() == (self == Self::Jobs)
    }
}

impl Memory {
    /// A Pod was seen. Returns its run.
    pub(crate) fn pod_seen(&self, pod: &Pod, listing: bool) -> Option<ObjectRef<PipelineRun>> {
        let Some(observation) = observe::observe(pod) else { return self.released(pod) };
        let object = observation.run.clone();
        let run = self.run(&observation.run_uid);
        seen(&mut lock(&run), observation, Watched::Pods, listing);
        Some(object)
    }

    /// A Pod was deleted: its last words count, else its absence will be confirmed by a live read.
    pub(crate) fn pod_deleted(&self, pod: &Pod) -> Option<ObjectRef<PipelineRun>> {
        let Some(observation) = observe::observe(pod) else { return self.released(pod) };
        let object = observation.run.clone();
        let run = self.run(&observation.run_uid);
        deleted(&mut lock(&run), observation);
        Some(object)
    }

    /// A Pod has our labels and is not our run's: if it was, it will be asked for again, and count as gone.
    fn released(&self, pod: &Pod) -> Option<ObjectRef<PipelineRun>> {
        let (run_uid, stage, number) = observe::labelled(pod)?;
        let run = self.known(&run_uid)?;
        let mut run = lock(&run);
        let known = run.observed.attempt(&stage, number)?;
        if pod.metadata.uid.as_ref() != Some(&known.uid) || matches!(known.state, AttemptState::Ended(_)) {
            return None;
        }
        let version = (known.uid.clone(), observe::version(pod));
        run.observed.remove(&stage, number);
        run.versions.insert((stage, number), version);
        run.object.clone()
    }

    /// A TrainingJob was seen. Returns its run, if that is remembered: of another one nothing is, and a job that its run needs to know
    /// of is read by its name.
    pub(crate) fn job_seen(&self, job: &TrainingJob, listing: bool) -> Option<ObjectRef<PipelineRun>> {
        let Some(observation) = observe::observe_job(job) else { return self.job_released(job) };
        let object = observation.run.clone();
        let run = self.known(&observation.run_uid)?;
        seen(&mut lock(&run), observation, Watched::Jobs, listing);
        Some(object)
    }

    /// A TrainingJob was deleted, or has ended long ago and left the watch: its last words count, else its absence will be confirmed by
    /// a live read.
    pub(crate) fn job_deleted(&self, job: &TrainingJob) -> Option<ObjectRef<PipelineRun>> {
        let Some(observation) = observe::observe_job(job) else { return self.job_released(job) };
        let object = observation.run.clone();
        let run = self.known(&observation.run_uid)?;
        deleted(&mut lock(&run), observation);
        Some(object)
    }

    /// A job is not, or no longer, a run's by its labels: if it was, it will be read by its name.
    fn job_released(&self, job: &TrainingJob) -> Option<ObjectRef<PipelineRun>> {
        let owner = job.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        let run = self.known(&owner.uid)?;
        let mut run = lock(&run);
        let uid = job.uid().unwrap_or_default();
        let known = run.observed.iter().find(|(_, attempt)| attempt.uid == uid);
        let (stage, number) = known.map(|(stage, attempt)| (stage.to_owned(), attempt.number))?;
        let over = run.observed.attempt(&stage, number).is_some_and(has_ended);
        if over || run.altered.contains(&(stage.clone(), number)) {
            return None;
        }
        run.observed.remove(&stage, number);
        run.object.clone()
    }

    /// A listing of a namespace, or of all, begins.
    pub(crate) fn listing(&self, watched: Watched, scope: Option<&str>) {
        for run in lock(&self.runs).values() {
            let mut run = lock(run);
            if run.is_within(scope) {
                watched.listed(&mut run).clear();
            }
        }
    }

    /// That listing is complete: attempts that it did not show and that have not ended are asked for again. Returns the runs
    /// that this concerns.
    pub(crate) fn listed(&self, watched: Watched, scope: Option<&str>) -> Vec<ObjectRef<PipelineRun>> {
        let mut concerned = Vec::new();
        for run in lock(&self.runs).values() {
            let mut run = lock(run);
            if !run.is_within(scope) {
                continue;
            }
            let listed = std::mem::take(watched.listed(&mut run));
            let missing: Vec<(String, u32)> = run
                .observed
                .iter()
                .filter(|(stage, attempt)| {
                    watched.shows(attempt)
                        && !has_ended(attempt)
                        && !listed.contains(&((*stage).to_owned(), attempt.number))
                })
                .map(|(stage, attempt)| (stage.to_owned(), attempt.number))
                .collect();
            if !missing.is_empty() {
                concerned.extend(run.object.clone());
            }
            for (stage, number) in missing {
                run.observed.remove(&stage, number);
            }
        }
        concerned
    }
}

fn has_ended(attempt: &Attempt) -> bool {
    matches!(attempt.state, AttemptState::Ended(_))
}

fn seen(run: &mut RunMemory, observation: Observation, watched: Watched, listing: bool) {
    if listing {
        watched.listed(run).insert((observation.stage.clone(), observation.attempt.number));
    }
    run.observe(observation);
}

fn deleted(run: &mut RunMemory, observation: Observation) {
    // Whose it was must be known even if nothing else is: the run may have been forgotten before.
    run.object = Some(observation.run.clone());
    run.buried.insert(observation.attempt.uid.clone());
    let known = run.observed.attempt(&observation.stage, observation.attempt.number);
    if known.is_some_and(|known| known.uid != observation.attempt.uid) {
        return;
    }
    if has_ended(&observation.attempt) || known.is_some_and(has_ended) {
        run.observe(observation);
    } else {
        run.observed.remove(&observation.stage, observation.attempt.number);
        let Observation { stage, attempt, version, .. } = observation;
        run.versions.insert((stage, attempt.number), (attempt.uid, version));
    }
}
