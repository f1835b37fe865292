//! Paths in the stage's container, names of environment variables, and keys in the store.
//!
//! ```text
//! store   <store>/<namespace>/<pipeline>/<run>.<run UID>/<stage>/COMMIT
//!                                                       /<attempt>/<output>/manifest.json, and the files or packs of them
//!                                                       /<attempt>/log.txt, metrics.jsonl
//!         <store>/<namespace>/<pipeline>/models/<model>/<version>/model.json
//!                                                      /promotions/<sequence>.json
//!                                                      /champion.json, previous.json
//!         <store>/<namespace>/<pipeline>/ledger/<run key>-<retries>.json
//! ```
//!
//! A run's directory has a dot in its name and the others have none.

/// The root of everything that user code reads and writes, in a Pod.
pub const ROOT: &str = "/trainyard";
/// Where the runner's image volume (or the emptyDir that the init container fills) is mounted.
pub const RUNNER_MOUNT: &str = "/trainyard-runner";
/// The runner's file name in its image and below [`RUNNER_MOUNT`].
pub const RUNNER_BINARY: &str = "step-runner";

/// Below the root: inputs, each a file or a directory by its name.
pub const IN: &str = "in";
/// Below the root: outputs, each a file or a directory by its name.
pub const OUT: &str = "out";
/// Below the root: all parameters as one JSON object.
pub const PARAMS: &str = "params.json";
/// Below the root: one file per result.
pub const RESULTS: &str = "results";
/// Below the root: metrics, one JSON object a line.
pub const METRICS: &str = "metrics.jsonl";
/// Below the root: the check report.
pub const CHECKS: &str = "checks.json";
/// Below the root: the mounted code, the working directory when the pipeline has `code`.
pub const CODE: &str = "code";
/// Below the root: the child's `HOME`.
pub const HOME: &str = "home";
/// Below the root: the child's `TMPDIR`.
pub const TMP: &str = "tmp";
/// Below the root: the inline script of a stage.
pub const SCRIPT: &str = "script";

/// Below the root: the directory that a training keeps its state in.
pub const CHECKPOINT: &str = "checkpoint";
/// Below the root: how far the program is, `{"progress": 0.4, "eta": "12 min"}`.
pub const PROGRESS: &str = "progress.json";
/// Below the root: the hosts of all ranks, one a line, in the order of the ranks.
pub const HOSTS: &str = "hosts";
/// Below the root: LightGBM's machines, `<address> <port>` a line.
pub const MACHINES: &str = "machines";
/// Below the root: the hosts as `mpirun` reads them, `<host> slots=<n>` or `<host>:<n>` a line.
pub const HOSTFILE: &str = "hostfile";

/// Container variable with the [`crate::StepSpec`] as JSON; continued in `TRAINYARD_SPEC_1`, `TRAINYARD_SPEC_2`, ...
pub const ENV_SPEC: &str = "TRAINYARD_SPEC";
/// Container variable with the [`crate::TaskSpec`] as JSON, of a Pod that is no stage's.
pub const ENV_TASK: &str = "TRAINYARD_TASK";
/// Most bytes of the spec in one variable: Linux allows 128 KiB for one environment string.
pub const ENV_SPEC_CHUNK: usize = 96 * 1024;
/// Container variable with the attempt's report key (hex), never seen by the child.
pub const ENV_REPORT_KEY: &str = "TRAINYARD_REPORT_KEY";
/// Container variable with the key (hex) that the runners of one attempt of a training share, never seen by the child.
pub const ENV_GANG_KEY: &str = "TRAINYARD_GANG_KEY";
/// Prefix of the container variables that carry store credentials, never seen by the child.
/// `TRAINYARD_STORE_AWS_ACCESS_KEY_ID` is what the provider's SDK calls `AWS_ACCESS_KEY_ID`.
pub const ENV_STORE_PREFIX: &str = "TRAINYARD_STORE_";
/// Child variable with the root, so that the same program runs elsewhere.
pub const ENV_ROOT: &str = "TRAINYARD_ROOT";
/// Where a `volume` store is mounted in the container.
pub const STORE_MOUNT: &str = "/trainyard-store";

/// File name of the commit record below a stage's prefix.
pub const COMMIT: &str = "COMMIT";
/// File name of an output's manifest below the output's prefix.
pub const MANIFEST: &str = "manifest.json";
/// File name of the kept log below the attempt's prefix.
pub const LOG: &str = "log.txt";

/// What stands for the pipeline in the keys of a TrainingJob that is no stage's.
pub const JOBS: &str = "trainingjobs";
/// Directory of a pipeline's models, below its prefix.
pub const MODELS: &str = "models";
/// File name of a version's record.
pub const MODEL: &str = "model.json";
/// Directory of a model's promotions.
pub const PROMOTIONS: &str = "promotions";
/// File name of the alias of the version that was promoted last, below its model's prefix.
pub const CHAMPION: &str = "champion.json";
/// File name of the alias of the version that was champion before it.
pub const PREVIOUS: &str = "previous.json";
/// Directory of a pipeline's revisions that were taken, below its prefix.
pub const LEDGER: &str = "ledger";

/// A name as a part of an environment variable: upper-cased, every `-` and `.` a `_`.
///
/// ```
/// assert_eq!(step_protocol::paths::env_name("min-accuracy"), "MIN_ACCURACY");
/// ```
#[must_use]
pub fn env_name(name: &str) -> String {
    name.chars().map(|c| if c == '-' || c == '.' { '_' } else { c.to_ascii_uppercase() }).collect()
}

/// `<namespace>/<pipeline>/<run>.<run UID>/<stage>`: the prefix of all that a stage of one run writes.
#[must_use]
pub fn stage_prefix(namespace: &str, pipeline: &str, run: &str, run_uid: &str, stage: &str) -> String {
    format!("{namespace}/{pipeline}/{run}.{run_uid}/{stage}")
}

/// The key of the commit record below a stage's prefix.
#[must_use]
pub fn commit_key(stage_prefix: &str) -> String {
    format!("{stage_prefix}/{COMMIT}")
}

/// `<namespace>/<pipeline>`: the prefix of everything that belongs to a pipeline.
#[must_use]
pub fn pipeline_prefix(namespace: &str, pipeline: &str) -> String {
    format!("{namespace}/{pipeline}")
}

/// The prefix of a model of a pipeline: its versions, promotions and aliases.
#[must_use]
pub fn model_prefix(namespace: &str, pipeline: &str, model: &str) -> String {
    format!("{namespace}/{pipeline}/{MODELS}/{model}")
}

/// The key of a version's record below its model's prefix.
///
/// ```
/// assert_eq!(step_protocol::paths::version_key("team/iris/models/iris", 3), "team/iris/models/iris/3/model.json");
/// ```
#[must_use]
pub fn version_key(model_prefix: &str, version: u64) -> String {
    format!("{model_prefix}/{version}/{MODEL}")
}

/// The key of a promotion's record below its model's prefix; their order is that of their numbers.
///
/// ```
/// assert_eq!(step_protocol::paths::promotion_key("team/iris/models/iris", 7), "team/iris/models/iris/promotions/00000007.json");
/// ```
#[must_use]
pub fn promotion_key(model_prefix: &str, sequence: u64) -> String {
    format!("{model_prefix}/{PROMOTIONS}/{sequence:08}.json")
}

/// The key of the record that says which run has taken a revision: the run's key, and how often it was repeated after a failure.
#[must_use]
pub fn ledger_key(namespace: &str, pipeline: &str, run_key: &str, retries: u32) -> String {
    format!("{namespace}/{pipeline}/{LEDGER}/{run_key}-{retries}.json")
}

/// The prefix of one attempt.
#[must_use]
pub fn attempt_prefix(stage_prefix: &str, attempt: u32) -> String {
    format!("{stage_prefix}/{attempt}")
}

/// The prefix of one output of one attempt.
#[must_use]
pub fn output_prefix(stage_prefix: &str, attempt: u32, output: &str) -> String {
    format!("{stage_prefix}/{attempt}/{output}")
}

/// The prefix of a training's checkpoints, each of them below it by its [`crate::CheckpointName`].
#[must_use]
pub fn checkpoint_prefix(job_prefix: &str) -> String {
    format!("{job_prefix}/{CHECKPOINT}")
}

/// The prefix of a rank that is not rank 0: its own commit record says that it has succeeded in this execution.
#[must_use]
pub fn rank_prefix(job_prefix: &str, execution: u32, role: &str, index: u32) -> String {
    format!("{job_prefix}/ranks/{execution}/{role}-{index}")
}

/// The prefix of a rank other than 0 of a training whose ranks each count once, whatever the execution.
#[must_use]
pub fn shard_prefix(job_prefix: &str, role: &str, index: u32) -> String {
    format!("{job_prefix}/ranks/{role}-{index}")
}

/// The key of a pack below its output's prefix: one that no file has, as [`object_name`] writes a `%` with two digits after it.
///
/// ```
/// assert_eq!(step_protocol::paths::pack_name(12), "%pack-00012");
/// ```
#[must_use]
pub fn pack_name(index: usize) -> String {
    format!("%pack-{index:05}")
}

/// The key of a file below its output's prefix: its path as it is, so that people and model servers find it.
///
/// Only a few paths are written otherwise, one-to-one, with `%` and two hex digits: those with a `%` or a control character, a part
/// that ends with `#` and digits (a volume uses such names while it writes), and a top-level `manifest.json`, which is ours.
///
/// ```
/// use step_protocol::paths::object_name;
/// assert_eq!(object_name("data/train 1.csv"), "data/train 1.csv");
/// assert_eq!(object_name("manifest.json"), "%6Danifest.json");
/// assert_eq!(object_name("a/100%/x#1"), "a/100%25/x%231");
/// ```
#[must_use]
pub fn object_name(path: &str) -> String {
    if path == MANIFEST {
        return format!("%6D{}", &MANIFEST[1..]);
    }
    let part = |part: &str| {
        let numbered = part
            .rsplit_once('#')
            .is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
        let plain = !numbered && !part.contains('%') && !part.contains(|c: char| c.is_ascii_control());
        if plain {
            return part.to_owned();
        }
        part.chars().fold(String::new(), |mut text, c| {
            if c == '%' || c == '#' || c.is_ascii_control() {
                text.push_str(&format!("%{:02X}", u32::from(c)));
            } else {
                text.push(c);
            }
            text
        })
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}
