//! A small world for one attempt: a root, a store in a directory, and the real runner as a child process.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "each test binary is a crate of its own")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

pub mod endpoint;
pub mod gang;
pub mod group;
pub mod network;
pub mod proxy;
pub mod publishing;
pub mod python;
pub mod worlds;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use step_protocol::{
    CommitRecord, Identity, InputSource, InputSpec, Manifest, OutputSpec, ResultSpec, StepReport, StepSpec, StoreSpec,
    Text, ValueType, paths,
};

static ROOTS: AtomicU32 = AtomicU32::new(0);

/// One run's world.
pub struct World {
    pub dir: tempfile::TempDir,
    pub store: StoreSpec,
    pub credentials: Vec<(String, String)>,
    /// Directories elsewhere that end with this world.
    pub keep: Vec<tempfile::TempDir>,
}

/// What is left when a runner has ended.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The termination message.
    pub report: StepReport,
    pub root: PathBuf,
}

/// One attempt, about to run.
pub struct Step {
    pub spec: StepSpec,
    pub env: Vec<(String, String)>,
    pub termination: PathBuf,
    /// Words before the runner's own, such as `setpriv`.
    pub wrapper: Vec<String>,
    pub stdin: Option<Stdio>,
    /// Where its output goes instead of to [`Done::stdout`].
    pub stdout: Option<Stdio>,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Tests run programs as other users.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let store = StoreSpec { uri: format!("file://{}/store", dir.path().display()), s3: None };
        Self { dir, store, credentials: Vec::new(), keep: Vec::new() }
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("store").join(key)
    }

    /// An attempt of `stage` that runs a shell script.
    pub fn shell(&self, stage: &str, attempt: u32, script: &str) -> Step {
        let mut step = self.command(stage, attempt, &["/bin/sh", "-c", script]);
        step.env.push(("PATH".into(), std::env::var("PATH").unwrap()));
        step
    }

    pub fn command(&self, stage: &str, attempt: u32, words: &[&str]) -> Step {
        let root = self.dir.path().join(format!("root-{}", ROOTS.fetch_add(1, Ordering::Relaxed)));
        let spec = StepSpec {
            version: step_protocol::VERSION,
            identity: Identity {
                namespace: "team".into(),
                pipeline: "iris".into(),
                run: "iris-1".into(),
                run_uid: "uid-1".into(),
                stage: stage.into(),
                attempt,
            },
            root: root.to_str().unwrap().into(),
            command: words.iter().map(|word| Text::from(*word)).collect(),
            script: None,
            working_dir: None,
            env: Vec::new(),
            params: serde_json::Map::new(),
            store: self.store.clone(),
            prefix: prefix(stage),
            inputs: Vec::new(),
            outputs: Vec::new(),
            results: Vec::new(),
            metrics: Vec::new(),
            timeout_seconds: None,
            grace_seconds: 20,
            report: None,
            rank: None,
            checkpoint: None,
            publish: None,
            ledger: None,
        };
        let termination = root.with_extension("termination");
        std::fs::write(&termination, "").unwrap();
        Step { spec, env: self.credentials.clone(), termination, wrapper: Vec::new(), stdin: None, stdout: None }
    }

    pub fn record(&self, stage: &str) -> Option<CommitRecord> {
        let bytes = std::fs::read(self.path(&paths::commit_key(&prefix(stage)))).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    pub fn manifest(&self, stage: &str, attempt: u32, output: &str) -> Manifest {
        let key = format!("{}/{}", paths::output_prefix(&prefix(stage), attempt, output), paths::MANIFEST);
        serde_json::from_slice(&std::fs::read(self.path(&key)).unwrap()).unwrap()
    }

    /// Every file of the store below the stage's prefix.
    pub fn objects(&self, stage: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let base = self.path(&prefix(stage));
        let mut waiting = vec![base.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    let key = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
                    found.insert(key, std::fs::read(path).unwrap());
                }
            }
        }
        found
    }
}

pub fn prefix(stage: &str) -> String {
    paths::stage_prefix("team", "iris", "iris-1", "uid-1", stage)
}

impl Step {
    pub fn outputs(mut self, names: &[&str]) -> Self {
        self.spec.outputs = names.iter().map(|name| OutputSpec { name: (*name).into(), kind: None }).collect();
        self
    }

    pub fn result(mut self, name: &str, kind: ValueType) -> Self {
        self.spec.results.push(ResultSpec { name: name.into(), kind });
        self
    }

    pub fn param(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.spec.params.insert(name.into(), value.into());
        self
    }

    pub fn input(mut self, name: &str, source: InputSource) -> Self {
        self.spec.inputs.push(InputSpec { name: name.into(), source, optional: false });
        self
    }

    pub fn optional(mut self) -> Self {
        self.spec.inputs.last_mut().unwrap().optional = true;
        self
    }

    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn grace(mut self, seconds: u64) -> Self {
        self.spec.grace_seconds = seconds;
        self
    }

    pub fn root(&self) -> &Path {
        Path::new(&self.spec.root)
    }

    pub fn start(&mut self) -> Child {
        let runner = env!("CARGO_BIN_EXE_step-runner").to_owned();
        let words: Vec<String> = self.wrapper.iter().cloned().chain([runner, "run".into()]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.spec.to_env().unwrap());
        command.env("TRAINYARD_TERMINATION_LOG", &self.termination).envs(self.env.iter().cloned());
        command.stdin(self.stdin.take().unwrap_or_else(Stdio::null));
        command.stdout(self.stdout.take().unwrap_or_else(Stdio::piped)).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    pub fn wait(&self, child: Child) -> Done {
        self.done(child.wait_with_output().unwrap())
    }

    /// What is left when the runner has ended with such an output.
    pub fn done(&self, output: Output) -> Done {
        let message = std::fs::read_to_string(&self.termination).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(message.len() <= step_protocol::MESSAGE_LIMIT, "{}", message.len());
        let report =
            serde_json::from_str(&message).unwrap_or_else(|error| panic!("{error}: {message:?}, stderr: {stderr}"));
        Done { code: output.status.code(), stdout, stderr, report, root: self.root().to_owned() }
    }

    pub fn run(mut self) -> Done {
        let child = self.start();
        self.wait(child)
    }
}

impl Done {
    /// Asserts the outcome in both places where it is said.
    #[track_caller]
    pub fn ended(self, outcome: step_protocol::Outcome) -> Self {
        assert_eq!(self.report.outcome, outcome, "{self:#?}");
        assert_eq!(self.code, Some(i32::from(outcome.exit_code())), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.report.message.contains(words), "{words:?} is not in {:#?}", self.report);
        self
    }

    pub fn input(&self, path: &str) -> PathBuf {
        self.root.join(paths::IN).join(path)
    }
}

pub fn stage(commit_of: &str, output: &str) -> InputSource {
    InputSource::Stage { commit: paths::commit_key(&prefix(commit_of)), output: output.into(), digest: None }
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
