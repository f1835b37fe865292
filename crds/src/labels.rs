//! Every label, annotation, and field manager that Trainyard writes, once.

/// Label on runs and Pods: name of the Pipeline (of the run itself for an inline pipeline), cut to 63 characters. Also an annotation on
/// the TrainingJob of a stage, with the whole name.
pub const PIPELINE: &str = "trainyard.dev/pipeline";
/// Label on Pods and on the TrainingJob of a stage: name of the PipelineRun, cut to 63 characters. The UID label is what selects.
pub const RUN: &str = "trainyard.dev/run";
/// Label on Pods and on the TrainingJob of a stage: UID of the PipelineRun.
pub const RUN_UID: &str = "trainyard.dev/run-uid";
/// Label on Pods and on the TrainingJob of a stage: name of the stage.
pub const STAGE: &str = "trainyard.dev/stage";
/// Label on Pods and on the TrainingJob of a stage: number of the attempt.
pub const ATTEMPT: &str = "trainyard.dev/attempt";
/// Label on Pods of a training: name of the TrainingJob, cut to 63 characters. The UID label is what selects.
pub const JOB: &str = "trainyard.dev/job";
/// Label on Pods of a training: UID of the TrainingJob.
pub const JOB_UID: &str = "trainyard.dev/job-uid";
/// Label on Pods of a training: name of the role.
pub const ROLE: &str = "trainyard.dev/role";
/// Label on Pods of a training: place in the role, from 0.
pub const INDEX: &str = "trainyard.dev/index";
/// Label on Pods of a training: place among all ranks, from 0.
pub const RANK: &str = "trainyard.dev/rank";
/// Kueue's label on a job and its Pods: the queue that they wait in.
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Kueue's label on Pods that are admitted together.
pub const POD_GROUP: &str = "kueue.x-k8s.io/pod-group-name";
/// Kueue's annotation on such Pods: how many there are.
pub const POD_GROUP_COUNT: &str = "kueue.x-k8s.io/pod-group-total-count";
/// Kueue's annotation on such Pods: whether one that has failed is replaced within its group. Ours never are: the next attempt is
/// another group. Without it Kueue would wait for replacements, and keep Pods and quota.
pub const POD_GROUP_RETRIABLE: &str = "kueue.x-k8s.io/retriable-in-group";
/// Label on runs and jobs that need no more work: such runs leave the operator's watch.
pub const FINISHED: &str = "trainyard.dev/finished";
/// Value of [`FINISHED`].
pub const FINISHED_TRUE: &str = "true";
/// Annotation on Pods and on the TrainingJob of a stage: hash of the attempt's description; one with another is not ours to adopt.
pub const SPEC_HASH: &str = "trainyard.dev/spec-hash";
/// Annotation on the TrainingJob of a stage: that it was its run which suspended it, so that the run takes back nothing but its own.
pub const SUSPENDED_BY_RUN: &str = "trainyard.dev/suspended-by-run";
/// Label on runs that a trigger started: its name.
pub const TRIGGER: &str = "trainyard.dev/trigger";
/// Annotation on runs: whatever its value, retention does not delete the run.
pub const PIN: &str = "trainyard.dev/pin";
/// Label on short Pods that work for a Pipeline and are of no run, and on runs that outlive the Pipeline whose trigger started them: its UID.
pub const PIPELINE_UID: &str = "trainyard.dev/pipeline-uid";
/// Annotation on runs that were started by a trigger or at a request, and on the TrainingJobs of their first stages: the key of their
/// revision.
pub const RUN_KEY: &str = "trainyard.dev/run-key";
/// Annotation on such runs: what started them, as JSON.
pub const CAUSE: &str = "trainyard.dev/cause";
/// Annotation on runs that another pipeline's output has started: which run wrote it and where it lies, as JSON.
pub const UPSTREAM: &str = "trainyard.dev/upstream";
/// Annotation on such runs and jobs: how often their revision was repeated after a failure.
pub const RUN_RETRIES: &str = "trainyard.dev/run-retries";
/// Annotation on a Pipeline: another value than before asks for one run.
pub const RERUN_REQUESTED_AT: &str = "trainyard.dev/rerun-requested-at";
/// Annotation on Pods: how the runner comes into the image (`Image` or `Init`).
pub const RUNNER_MOUNT: &str = "trainyard.dev/runner-mount";
/// Well-known label: what manages the object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`], and the field manager of every write.
pub const MANAGER: &str = "trainyard";
/// Annotation that makes `kubectl logs POD` show the stage's container.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Cuts a name to what a label value may hold: 63 characters that end with a letter or digit.
///
/// ```
/// assert_eq!(trainyard_crds::labels::value(&format!("{}.b", "a".repeat(62))), "a".repeat(62));
/// ```
#[must_use]
pub fn value(name: &str) -> String {
    let mut end = name.len().min(63);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}
