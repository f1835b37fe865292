//! What the operator remembers of active jobs. All of it can be lost: it is read again from the API server.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;
use step_protocol::{ProgressReport, StepReport};
use trainyard_crds::v1alpha1::TrainingJob;
use trainyard_planner::AttemptState;
use trainyard_planner::training::{Job, Origin, RankPod, Ranks};

use super::observe::{self, Observation};
use crate::memory::lock;
use crate::pipeline_run::observe::{committed, version};

/// One job.
#[derive(Default)]
pub(crate) struct JobMemory {
    /// The newest version of the job that the API server has shown us, also as an answer to our own writes.
    pub(super) latest: Option<Arc<TrainingJob>>,
    /// The job as it was parsed, and whose work it does.
    pub(super) parsed: Option<Arc<Parsed>>,
    /// What is observed of its Pods.
    pub(super) ranks: Ranks,
    /// When its status was written last.
    pub(super) written: Option<Instant>,
    /// Whether the API server has answered this process a read or a write of it: what was listed may be older than what another
    /// process has done.
    pub(super) read: bool,
    /// The same of its Pods, which is asked for before the first one is stopped.
    pub(super) pods_read: bool,
    /// Whether it has been labelled as needing no more work.
    pub(super) finished: bool,
    /// Namespace and name.
    object: Option<ObjectRef<TrainingJob>>,
    /// UIDs of Pods that were shown to be deleted: an answer that comes later may still speak of them.
    buried: HashSet<String>,
    /// Ranks whose Pods were shown to go after they had been asked to.
    gone: HashSet<(u32, u32)>,
    /// Ranks whose Pods no watch shows any more, since their labels were changed. They are read by their names.
    altered: HashSet<(u32, u32)>,
    /// Pods seen in the listing that is going on.
    listed: HashSet<(u32, u32)>,
    /// UID and newest version of the Pod of a rank, by attempt and rank.
    versions: HashMap<(u32, u32), (String, u64)>,
    /// The keys of an attempt, as one of its Pods has them.
    keys: Option<AttemptKeys>,
}

/// What stays the same for a job once it is accepted.
pub(super) struct Parsed {
    pub(super) job: Job,
    pub(super) origin: Origin,
    pub(super) attempts_before: u32,
}

/// Keys that the Pods of an attempt carry. They outlive the operator's process, which has others for the next attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AttemptKeys {
    pub(super) attempt: u32,
    /// The key that the runners share.
    pub(super) gang: Option<String>,
    /// The key with which rank 0 signs.
    pub(super) report: Option<String>,
}

impl JobMemory {
    /// Takes in a rank, as a watch or the answer to a read shows it: unless the other has shown what came later. What has been seen to
    /// succeed stays so: the kubelet says the same later than the runner.
    pub(super) fn observe(&mut self, observation: Observation) {
        let Observation { mut pod, job, keys, version, .. } = observation;
        let key = (pod.attempt.number, pod.rank);
        if self.versions.get(&key).is_some_and(|(uid, newest)| *uid == pod.attempt.uid && *newest > version) {
            return;
        }
        self.object = Some(job);
        self.remember(keys);
        self.versions.insert(key, (pod.attempt.uid.clone(), version));
        self.altered.remove(&key);
        self.gone.remove(&key);
        if let Some(known) = self.ranks.pod(key.0, key.1)
            && known.attempt.uid == pod.attempt.uid
            && matches!(&known.attempt.state, AttemptState::Ended(ended) if ended.committed.is_some())
        {
            pod.attempt.state = known.attempt.state.clone();
        }
        self.ranks.insert(pod);
    }

    /// Takes in the answer to a create, which may be older than what the watch has shown meanwhile.
    pub(super) fn observe_created(&mut self, observation: Observation) {
        let (number, rank, uid) = {
            let RankPod { attempt, rank, .. } = &observation.pod;
            (attempt.number, *rank, attempt.uid.clone())
        };
        if self.buried.contains(&uid) {
            // It has been there, and is not any more.
            self.observe(observation);
            self.ranks.remove(number, rank);
        } else if self.ranks.pod(number, rank).is_none_or(|known| known.attempt.uid != uid) {
            self.observe(observation);
        }
    }

    /// Takes in a Pod that no watch shows: nothing but another read will tell how it goes on.
    pub(super) fn observe_altered(&mut self, observation: Observation) {
        let key = (observation.pod.attempt.number, observation.pod.rank);
        self.observe(observation);
        self.altered.insert(key);
    }

    /// Forgets what was read of altered Pods, so that they are read again.
    pub(super) fn read_altered_again(&mut self) {
        for (attempt, rank) in std::mem::take(&mut self.altered) {
            self.ranks.remove(attempt, rank);
        }
    }

    pub(super) fn has_altered(&self) -> bool {
        !self.altered.is_empty()
    }

    /// Whether the Pod of a rank has been shown to go after it had been asked to.
    pub(super) fn is_gone(&self, attempt: u32, rank: u32) -> bool {
        self.gone.contains(&(attempt, rank))
    }

    /// No Pod of this attempt or an earlier one is left.
    pub(super) fn forget_attempts(&mut self, attempt: u32) {
        self.ranks.clear(attempt);
        self.gone.retain(|(number, _)| *number > attempt);
        self.versions.retain(|(number, _), _| *number > attempt);
    }

    fn remember(&mut self, keys: AttemptKeys) {
        if keys.gang.is_none() && keys.report.is_none() {
            return;
        }
        match &mut self.keys {
            Some(known) if known.attempt > keys.attempt => {}
            Some(known) if known.attempt == keys.attempt => {
                // What a Pod has counts more than what this process thought of: rank 0 may be the work of one that led before.
                known.gang = keys.gang.or(known.gang.take());
                known.report = keys.report.or(known.report.take());
            }
            _ => self.keys = Some(keys),
        }
    }

    /// The key that the runners of an attempt share: that of a Pod that exists, else a fresh one.
    pub(super) fn gang_key(&mut self, attempt: u32, fresh: impl FnOnce() -> String) -> String {
        let known = self.keys.take().filter(|keys| keys.attempt == attempt);
        let mut keys = known.unwrap_or(AttemptKeys { attempt, ..AttemptKeys::default() });
        let gang = keys.gang.get_or_insert_with(fresh).clone();
        self.keys = Some(keys);
        gang
    }

    /// Takes in an early report of rank 0. Returns whether it is news.
    fn report(&mut self, attempt: u32, report: StepReport) -> bool {
        let Some(pod) = self.ranks.pod_mut(attempt, 0) else { return false };
        if pod.has_ended() {
            return false;
        }
        pod.attempt.state = AttemptState::Ended(committed(report));
        true
    }

    fn is_within(&self, scope: Option<&str>) -> bool {
        let Some(scope) = scope else { return true };
        let of_pods = self.object.as_ref().and_then(|object| object.namespace.as_deref());
        of_pods.or_else(|| self.latest.as_ref()?.metadata.namespace.as_deref()) == Some(scope)
    }

    fn is_of(&self, run_uid: &str, stage: Option<&str>) -> bool {
        let origin = self.parsed.as_ref().map(|parsed| &parsed.origin);
        origin.is_some_and(|origin| origin.run_uid == run_uid && stage.is_none_or(|stage| origin.stage == stage))
    }
}

/// All active jobs, by UID.
#[derive(Clone, Default)]
pub struct Jobs {
    jobs: Arc<Mutex<HashMap<String, Arc<Mutex<JobMemory>>>>>,
}

impl Jobs {
    /// The memory of a job, new if need be.
    pub(crate) fn job(&self, uid: &str) -> Arc<Mutex<JobMemory>> {
        Arc::clone(lock(&self.jobs).entry(uid.to_owned()).or_default())
    }

    /// The memory of a job, if there is one.
    pub(crate) fn known(&self, uid: &str) -> Option<Arc<Mutex<JobMemory>>> {
        lock(&self.jobs).get(uid).cloned()
    }

    fn all(&self) -> Vec<Arc<Mutex<JobMemory>>> {
        lock(&self.jobs).values().cloned().collect()
    }

    /// Takes in an early report of the rank 0 that works as this stage of this run. Returns its job if that is news.
    pub(crate) fn report(
        &self,
        run_uid: &str,
        stage: &str,
        attempt: u32,
        report: &StepReport,
    ) -> Option<ObjectRef<TrainingJob>> {
        self.all().iter().find_map(|job| {
            let mut job = lock(job);
            let news = job.is_of(run_uid, Some(stage)) && job.report(attempt, report.clone());
            if news { job.object.clone() } else { None }
        })
    }

    /// Keys with which rank 0 of an attempt of a job of this run may have signed.
    pub(crate) fn report_keys(&self, run_uid: &str, attempt: u32) -> Vec<String> {
        let key = |job: &Arc<Mutex<JobMemory>>| {
            let job = lock(job);
            let keys = job.keys.as_ref().filter(|keys| keys.attempt == attempt && job.is_of(run_uid, None))?;
            keys.report.clone()
        };
        self.all().iter().filter_map(key).collect()
    }

    /// Takes in what the rank 0 with this key says of its progress. Returns its job if that is news.
    pub(crate) fn progress(&self, key: &str, attempt: u32, report: &ProgressReport) -> Option<ObjectRef<TrainingJob>> {
        self.all().iter().find_map(|job| {
            let mut job = lock(job);
            let keys = job.keys.as_ref().filter(|keys| keys.attempt == attempt)?;
            let news = keys.report.as_deref() == Some(key) && job.ranks.report_progress(attempt, report.clone());
            if news { job.object.clone() } else { None }
        })
    }

    /// Forgets a job.
    pub(crate) fn forget(&self, uid: &str) {
        lock(&self.jobs).remove(uid);
    }

    /// Forgets every job of a namespace, or of all, that is not among these.
    pub(crate) fn retain(&self, scope: Option<&str>, uids: &HashSet<String>) {
        lock(&self.jobs).retain(|uid, job| uids.contains(uid) || !lock(job).is_within(scope));
    }

    /// Forgets what Pods told of a job that is not watched.
    pub(crate) fn forget_unknown(&self, object: &ObjectRef<TrainingJob>) {
        lock(&self.jobs).retain(|_, job| {
            let job = lock(job);
            job.latest.is_some() || job.object.as_ref() != Some(object)
        });
    }

    /// A Pod was seen. Returns its job.
    pub(crate) fn pod_seen(&self, pod: &Pod, listing: bool) -> Option<ObjectRef<TrainingJob>> {
        let Some(observation) = observe::observe(pod) else { return self.released(pod) };
        let object = observation.job.clone();
        let job = self.job(&observation.job_uid);
        let mut job = lock(&job);
        if listing {
            job.listed.insert((observation.pod.attempt.number, observation.pod.rank));
        }
        job.observe(observation);
        Some(object)
    }

    /// A Pod was deleted: its last words count, else its absence will be confirmed by a live read.
    pub(crate) fn pod_deleted(&self, pod: &Pod) -> Option<ObjectRef<TrainingJob>> {
        let Some(observation) = observe::observe(pod) else { return self.released_and_deleted(pod) };
        let object = observation.job.clone();
        let job = self.job(&observation.job_uid);
        let mut job = lock(&job);
        // Whose it was must be known even if nothing else is: the job may have been forgotten before.
        job.object = Some(object.clone());
        let RankPod { rank, attempt, .. } = &observation.pod;
        let (number, rank) = (attempt.number, *rank);
        job.buried.insert(attempt.uid.clone());
        if job.ranks.pod(number, rank).is_some_and(|known| known.attempt.uid != attempt.uid) {
            return Some(object);
        }
        let version = (attempt.uid.clone(), observation.version);
        job.versions.insert((number, rank), version);
        if attempt.deleting {
            job.gone.insert((number, rank));
        }
        job.ranks.bury(observation.pod);
        Some(object)
    }

    /// A Pod that has our labels, and is not our job's any more, was deleted. Of one that had ended before it was given up, the end is
    /// kept, as that of any other.
    fn released_and_deleted(&self, pod: &Pod) -> Option<ObjectRef<TrainingJob>> {
        if let Some((job_uid, number, rank)) = observe::labelled(pod)
            && let Some(job) = self.known(&job_uid)
        {
            let mut job = lock(&job);
            let known = job.ranks.pod(number, rank).filter(|known| known.has_ended()).cloned();
            if let Some(known) = known.filter(|known| pod.metadata.uid.as_ref() == Some(&known.attempt.uid)) {
                job.buried.insert(known.attempt.uid.clone());
                job.gone.insert((number, rank));
                job.versions.insert((number, rank), (known.attempt.uid.clone(), version(pod)));
                job.ranks.bury(known);
                return job.object.clone();
            }
        }
        self.released(pod)
    }

    /// A Pod has our labels and is not our job's: if it was, it will be asked for again, and count as gone.
    fn released(&self, pod: &Pod) -> Option<ObjectRef<TrainingJob>> {
        let (job_uid, number, rank) = observe::labelled(pod)?;
        let job = self.known(&job_uid)?;
        let mut job = lock(&job);
        let known = job.ranks.pod(number, rank)?;
        if pod.metadata.uid.as_ref() != Some(&known.attempt.uid) || known.has_ended() {
            return None;
        }
        let version = (known.attempt.uid.clone(), version(pod));
        job.versions.insert((number, rank), version);
        job.ranks.remove(number, rank);
        job.object.clone()
    }

    /// A listing of the Pods of a namespace, or of all, begins.
    pub(crate) fn listing(&self, scope: Option<&str>) {
        for job in self.all() {
            let mut job = lock(&job);
            if job.is_within(scope) {
                job.listed.clear();
            }
        }
    }

    /// That listing is complete: ranks that it did not show are asked for again. Returns the jobs that this concerns.
    pub(crate) fn listed(&self, scope: Option<&str>) -> Vec<ObjectRef<TrainingJob>> {
        let mut concerned = Vec::new();
        for job in self.all() {
            let mut job = lock(&job);
            if !job.is_within(scope) {
                continue;
            }
            let listed = std::mem::take(&mut job.listed);
            let shown =
                job.ranks.iter().filter(|pod| !pod.attempt.uid.is_empty()).map(|pod| (pod.attempt.number, pod.rank));
            let missing: Vec<(u32, u32)> = shown.filter(|key| !listed.contains(key)).collect();
            if !missing.is_empty() {
                concerned.extend(job.object.clone());
            }
            for (attempt, rank) in missing {
                job.ranks.remove(attempt, rank);
            }
        }
        concerned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use trainyard_crds::labels;

    fn pod(version: u64, phase: &str, owned: bool) -> Pod {
        let owner = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "name": "j", "uid": "j", "controller": true});
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "n", "name": "p", "uid": "p", "resourceVersion": version.to_string(),
                "ownerReferences": if owned { json!([owner]) } else { json!(null) },
                "labels": {labels::JOB_UID: "j", labels::ATTEMPT: "1", labels::RANK: "0"},
            },
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_that_ended_and_lost_its_owner_is_gone_when_it_is_deleted() {
        let jobs = Jobs::default();
        jobs.pod_seen(&pod(1, "Failed", true), false);
        jobs.pod_seen(&pod(2, "Failed", false), false);
        assert!(jobs.pod_deleted(&pod(3, "Failed", false)).is_some());
        let job = jobs.known("j").unwrap();
        let job = lock(&job);
        let rank = job.ranks.pod(1, 0).unwrap();
        assert!(rank.has_ended() && rank.attempt.uid.is_empty() && job.is_gone(1, 0));
    }

    #[test]
    fn what_is_older_than_what_the_watch_or_an_answer_has_shown_changes_nothing() {
        let seen = |version: u64, phase: &str| observe::observe(&pod(version, phase, true)).unwrap();
        let mut memory = JobMemory::default();
        memory.observe(seen(12, "Failed"));
        memory.observe(seen(11, "Running"));
        assert!(memory.ranks.pod(1, 0).unwrap().has_ended());
        memory.observe(seen(13, "Running"));
        assert!(!memory.ranks.pod(1, 0).unwrap().has_ended());
        // Nor does it bring back what has gone; what is read again as it was counts.
        memory.ranks.remove(1, 0);
        memory.observe(seen(12, "Failed"));
        assert!(memory.ranks.pod(1, 0).is_none());
        memory.observe(seen(13, "Failed"));
        assert!(memory.ranks.pod(1, 0).unwrap().has_ended());
    }

    #[test]
    fn a_watch_that_lags_behind_an_answer_brings_no_ended_pod_back_to_life() {
        let jobs = Jobs::default();
        lock(&jobs.job("j")).observe(observe::observe(&pod(12, "Failed", true)).unwrap());
        jobs.pod_seen(&pod(10, "Running", true), true);
        assert_eq!(jobs.listed(None), []);
        jobs.pod_seen(&pod(11, "Running", true), false);
        let job = jobs.known("j").unwrap();
        assert!(lock(&job).ranks.pod(1, 0).unwrap().has_ended());
    }

    #[test]
    fn all_ranks_have_the_key_of_the_pod_that_exists() {
        let mut memory = JobMemory::default();
        assert_eq!(memory.gang_key(1, || "mine".into()), "mine");
        // Its create is answered with a Pod that another operator has made meanwhile.
        let theirs = AttemptKeys { attempt: 1, gang: Some("theirs".into()), report: None };
        memory.remember(theirs);
        assert_eq!(memory.gang_key(1, || "another".into()), "theirs");
        assert_eq!(memory.gang_key(2, || "next".into()), "next");
    }
}
