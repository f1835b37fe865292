//! What the operator remembers of active runs. All of it can be lost: it is read again from the API server.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kube::runtime::reflector::ObjectRef;
use serde_json::{Map, Value};
use step_protocol::StepReport;
use tokio::sync::Notify;
use trainyard_crds::v1alpha1::PipelineRun;
use trainyard_planner::{Attempt, AttemptState, Graph, Observed};

use crate::pace::Pace;
use crate::pipeline_run::observe::{self, Observation};
use crate::revisions::Definition;

mod pipelines;
mod watched;

pub(crate) use pipelines::counts_as_success;
use pipelines::{Recorded, Refusal};
pub(crate) use watched::Watched;

/// One run.
#[derive(Default)]
pub(crate) struct RunMemory {
    /// The newest version of the run that the API server has shown us, also as an answer to our own writes.
    pub(crate) latest: Option<Arc<PipelineRun>>,
    /// Whether the API server has answered this process a read or a write of it: what was listed may be older than what another
    /// process has done.
    pub(crate) read: bool,
    /// The frozen pipeline and the parameters.
    pub(crate) frozen: Option<Arc<Frozen>>,
    /// What is observed of its Pods and TrainingJobs.
    pub(crate) observed: Observed,
    /// When its status was written last.
    pub(crate) pace: Option<Pace>,
    /// Whether it has been labelled as needing no more work.
    pub(crate) finished: bool,
    /// Namespace and name.
    pub(crate) object: Option<ObjectRef<PipelineRun>>,
    /// UIDs of Pods and TrainingJobs that were shown to be deleted: an answer that comes later may still speak of them.
    buried: HashSet<String>,
    /// Attempts whose Pods or jobs no watch shows any more, since their labels were changed. They are read by their names.
    pub(crate) altered: HashSet<(String, u32)>,
    /// UID and newest version of the Pod or job of an attempt, by stage and number.
    versions: HashMap<(String, u32), (String, u64)>,
    /// Told when more is observed of them, for whoever waits beside the queue of runs.
    pub(crate) moved: Arc<Notify>,
    /// Attempts seen in the listing of Pods that is going on.
    listed: HashSet<(String, u32)>,
    /// The same of TrainingJobs.
    listed_jobs: HashSet<(String, u32)>,
}

/// What stays the same for a run once it is accepted.
pub(crate) struct Frozen {
    pub(crate) definition: Arc<Definition>,
    pub(crate) params: Map<String, Value>,
}

impl Frozen {
    pub(crate) fn graph(&self) -> &Graph {
        &self.definition.graph
    }
}

impl RunMemory {
    /// Takes in an attempt, as a watch or the answer to a read shows it: unless the other has shown what came later. What has been seen
    /// to succeed stays so: the kubelet says the same later than the runner.
    pub(crate) fn observe(&mut self, observation: Observation) {
        let Observation { stage, attempt, run, version, .. } = observation;
        let key = (stage.clone(), attempt.number);
        if self.versions.get(&key).is_some_and(|(uid, newest)| *uid == attempt.uid && *newest > version) {
            return;
        }
        self.object = Some(run);
        self.altered.remove(&key);
        self.versions.insert(key, (attempt.uid.clone(), version));
        self.observe_attempt(&stage, attempt);
    }

    /// Takes in the answer to a create, which may be older than what the watch has shown meanwhile.
    pub(crate) fn observe_created(&mut self, observation: Observation) {
        let Observation { stage, attempt, .. } = &observation;
        if self.buried.contains(&attempt.uid) {
            self.observed.remove(stage, attempt.number);
        } else if self.observed.attempt(stage, attempt.number).is_none_or(|known| known.uid != attempt.uid) {
            self.observe(observation);
        }
    }

    /// Takes in an attempt whose Pod's labels were changed: nothing but another read will tell how it goes on.
    pub(crate) fn observe_altered(&mut self, stage: &str, attempt: Attempt) {
        self.altered.insert((stage.to_owned(), attempt.number));
        self.observe_attempt(stage, attempt);
    }

    /// Forgets what was read of altered Pods, so that they are read again.
    pub(crate) fn read_altered_again(&mut self) {
        for (stage, number) in std::mem::take(&mut self.altered) {
            let over = self
                .observed
                .attempt(&stage, number)
                .is_some_and(|known| matches!(known.state, AttemptState::Ended(_)));
            if !over {
                self.observed.remove(&stage, number);
            }
        }
    }

    fn observe_attempt(&mut self, stage: &str, mut attempt: Attempt) {
        if let Some(known) = self.observed.attempt(stage, attempt.number)
            && known.uid == attempt.uid
            && matches!(&known.state, AttemptState::Ended(ended) if ended.committed.is_some())
        {
            attempt.state = known.state.clone();
        }
        self.observed.insert(stage, attempt);
        self.moved.notify_one();
    }

    /// Whether it is a run of this namespace; every one is of all.
    fn is_within(&self, scope: Option<&str>) -> bool {
        let Some(scope) = scope else { return true };
        let of_pods = self.object.as_ref().and_then(|object| object.namespace.as_deref());
        of_pods.or_else(|| self.latest.as_ref()?.metadata.namespace.as_deref()) == Some(scope)
    }

    /// Takes in an early report. Returns whether it is news.
    pub(crate) fn report(&mut self, stage: &str, number: u32, report: StepReport) -> bool {
        let Some(attempt) = self.observed.attempt_mut(stage, number) else { return false };
        // Of a training only its job says when it has succeeded.
        if attempt.child.is_some() || matches!(attempt.state, AttemptState::Ended(_)) {
            return false;
        }
        attempt.state = AttemptState::Ended(observe::committed(report));
        self.moved.notify_one();
        true
    }
}

/// All active runs, by UID.
#[derive(Clone, Default)]
pub struct Memory {
    runs: Arc<Mutex<HashMap<String, Arc<Mutex<RunMemory>>>>>,
    /// The last run that each Pipeline's status names, by namespace and name.
    recorded: Arc<Mutex<HashMap<(String, String), Recorded>>>,
    /// When the status of a Pipeline was written last, by UID.
    paces: Arc<Mutex<HashMap<String, Pace>>>,
    /// When the ended runs of a Pipeline were counted last, and how many of its revisions had ended then.
    counted: Arc<Mutex<HashMap<String, (Instant, usize)>>>,
    /// The generation of a Pipeline, by UID, whose deletionPolicy its runs follow; or when they last could not be brought to it.
    policies: Arc<Mutex<HashMap<String, Result<i64, Instant>>>>,
    /// Why the API server refused runs of triggers for good, by namespace and name, and when. The next look takes it into the ledger.
    refusals: Arc<Mutex<HashMap<(String, String), Refusal>>>,
}

/// A lock that is held for a moment and never across an await. A panic elsewhere leaves data that is read again anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// The memory of a run, new if need be.
    pub(crate) fn run(&self, uid: &str) -> Arc<Mutex<RunMemory>> {
        Arc::clone(lock(&self.runs).entry(uid.to_owned()).or_default())
    }

    /// The memory of a run, if there is one.
    pub(crate) fn known(&self, uid: &str) -> Option<Arc<Mutex<RunMemory>>> {
        lock(&self.runs).get(uid).cloned()
    }

    /// Forgets a run.
    pub(crate) fn forget(&self, uid: &str) {
        lock(&self.runs).remove(uid);
    }

    /// Forgets every run of a namespace, or of all, that is not among these.
    pub(crate) fn retain(&self, scope: Option<&str>, uids: &HashSet<String>) {
        lock(&self.runs).retain(|uid, run| uids.contains(uid) || !lock(run).is_within(scope));
    }

    /// The newest version of every run that is remembered.
    pub(crate) fn runs(&self) -> Vec<Arc<PipelineRun>> {
        let runs: Vec<_> = lock(&self.runs).values().cloned().collect();
        runs.iter().filter_map(|run| lock(run).latest.clone()).collect()
    }

    /// Forgets what Pods told of a run that is not watched.
    pub(crate) fn forget_unknown(&self, object: &ObjectRef<PipelineRun>) {
        lock(&self.runs).retain(|_, run| {
            let run = lock(run);
            run.latest.is_some() || run.object.as_ref() != Some(object)
        });
    }

    /// How many runs are remembered.
    pub(crate) fn len(&self) -> usize {
        lock(&self.runs).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;
    use trainyard_crds::labels;

    fn pod(namespace: &str, run: &str) -> Pod {
        let controller = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "name": run, "uid": run, "controller": true});
        serde_json::from_value(json!({
            "metadata": {
                "namespace": namespace, "name": format!("{run}-train-a1-x"), "uid": "p", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": { labels::RUN_UID: run, labels::STAGE: "train", labels::ATTEMPT: "1" },
                "ownerReferences": [controller],
            },
        }))
        .unwrap()
    }

    fn attempts(memory: &Memory, run: &str) -> usize {
        memory.known(run).map_or(0, |run| lock(&run).observed.attempts("train").len())
    }

    #[test]
    fn a_pod_that_goes_after_its_run_leaves_nothing() {
        let memory = Memory::default();
        for pod in [pod("a", "one"), pod("a", "two")] {
            let object = memory.pod_deleted(&pod).unwrap();
            memory.forget_unknown(&object);
        }
        assert_eq!(memory.len(), 0);
    }

    #[test]
    fn a_listing_of_one_namespace_says_nothing_of_another() {
        let memory = Memory::default();
        for (namespace, run) in [("a", "one"), ("b", "two")] {
            memory.pod_seen(&pod(namespace, run), false);
        }
        memory.listing(Watched::Pods, Some("a"));
        let concerned = memory.listed(Watched::Pods, Some("a"));
        assert_eq!(concerned.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["one"]);
        assert_eq!((attempts(&memory, "one"), attempts(&memory, "two")), (0, 1));

        memory.retain(Some("a"), &HashSet::new());
        assert!(memory.known("one").is_none() && memory.known("two").is_some());
        memory.listing(Watched::Pods, None);
        memory.pod_seen(&pod("b", "two"), true);
        assert_eq!((memory.listed(Watched::Pods, None), attempts(&memory, "two")), (Vec::new(), 1));
        memory.retain(None, &HashSet::new());
        assert_eq!(memory.len(), 0);
    }

    /// The Pod of [`pod`] as it is seen.
    fn observation(pod: &Pod) -> Observation {
        observe::observe(pod).unwrap()
    }

    #[test]
    fn an_answer_to_a_create_that_comes_after_the_deletion_brings_nothing_back() {
        let memory = Memory::default();
        let pod = pod("a", "one");
        let run = memory.run("one");
        memory.pod_deleted(&pod);
        lock(&run).observe_created(observation(&pod));
        assert_eq!(attempts(&memory, "one"), 0);
    }

    #[test]
    fn an_answer_to_a_create_that_comes_late_is_older_than_what_was_shown() {
        let memory = Memory::default();
        let created = pod("a", "one");
        let mut running = created.clone();
        let status = json!({"phase": "Running", "containerStatuses": [{"name": "stage", "image": "i", "imageID": "i", "ready": true,
            "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}}]});
        running.status = serde_json::from_value(status).unwrap();
        memory.pod_seen(&running, false);
        let run = memory.run("one");
        lock(&run).observe_created(observation(&created));
        let state = lock(&run).observed.attempt("train", 1).unwrap().state.clone();
        assert!(matches!(state, AttemptState::Running(_)), "{state:?}");
    }

    #[test]
    fn what_is_older_than_what_the_watch_or_an_answer_has_shown_changes_nothing() {
        let seen = |version: &str, phase: &str| {
            let mut pod = pod("a", "one");
            pod.metadata.resource_version = Some(version.to_owned());
            pod.status = serde_json::from_value(json!({ "phase": phase })).unwrap();
            pod
        };
        let memory = Memory::default();
        let run = memory.run("one");
        lock(&run).observe(observation(&seen("12", "Failed")));
        memory.pod_seen(&seen("10", "Running"), true);
        assert_eq!(memory.listed(Watched::Pods, None), []);
        memory.pod_seen(&seen("11", "Running"), false);
        let has_ended = || matches!(lock(&run).observed.attempt("train", 1).unwrap().state, AttemptState::Ended(_));
        assert!(has_ended());
        memory.pod_seen(&seen("13", "Running"), false);
        assert!(!has_ended());
    }

    #[test]
    fn a_pod_that_lost_its_owner_is_asked_for() {
        let memory = Memory::default();
        let mut pod = pod("a", "one");
        memory.pod_seen(&pod, false);
        pod.metadata.owner_references = None;
        assert_eq!(memory.pod_seen(&pod, false).map(|run| run.name), Some("one".to_owned()));
        assert_eq!(attempts(&memory, "one"), 0);
    }

    #[test]
    fn what_a_listing_of_pods_does_not_show_says_nothing_of_jobs() {
        let job: trainyard_crds::v1alpha1::TrainingJob = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {
                "namespace": "a", "name": "one-train-x", "uid": "j", "resourceVersion": "3",
                "labels": { labels::RUN_UID: "one", labels::STAGE: "train", labels::ATTEMPT: "1" },
                "ownerReferences": [{"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "name": "one", "uid": "one", "controller": true}],
            },
            "spec": {"framework": "None", "roles": [{"name": "worker", "replicas": 2, "container": {"command": ["x"]}}]},
        }))
        .unwrap();
        let memory = Memory::default();
        assert_eq!(memory.job_seen(&job, false), None, "of a run that is not remembered nothing is");
        assert_eq!(memory.len(), 0);
        let run = memory.run("one");
        memory.job_seen(&job, false);
        memory.listing(Watched::Pods, None);
        assert_eq!((memory.listed(Watched::Pods, None), attempts(&memory, "one")), (Vec::new(), 1));
        // An early report of its rank 0 is not the stage's.
        let report = step_protocol::StepReport::new(step_protocol::Outcome::Succeeded, "");
        assert!(!lock(&run).report("train", 1, report));
        memory.listing(Watched::Jobs, None);
        assert_eq!(memory.listed(Watched::Jobs, None).len(), 1);
        assert_eq!(attempts(&memory, "one"), 0);
        memory.job_seen(&job, false);
        assert!(memory.job_deleted(&job).is_some());
        assert_eq!(attempts(&memory, "one"), 0);
    }
}
