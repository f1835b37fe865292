//! The runner as a process of this machine, without a cluster: the static binary of its image, with a step of ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Map;
use step_protocol::{Identity, InputSpec, OutputSpec, S3Spec, StepSpec, StoreSpec, Text, paths};

use super::Error;
use crate::store::{BUCKET, LocalVersity, REGION};

/// A store that the runner writes to.
pub struct Place {
    /// As in the name of an arm.
    pub words: &'static str,
    /// How the runner is told.
    pub store: StoreSpec,
    /// The variables of its credentials.
    pub credentials: Vec<(String, String)>,
}

impl Place {
    /// A store below `folder`.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        let uri = format!("file://{}", folder.join("store").display());
        Self { words: "in a folder", store: StoreSpec { uri, s3: None }, credentials: Vec::new() }
    }

    /// A store on the server.
    #[must_use]
    pub fn on_server(server: &LocalVersity) -> Self {
        let s3 =
            S3Spec { endpoint: Some(server.endpoint.clone()), region: Some(REGION.to_owned()), ..S3Spec::default() };
        let variable = |name: &str, value: &str| (format!("{}{name}", paths::ENV_STORE_PREFIX), value.to_owned());
        Self {
            words: "an S3 server",
            store: StoreSpec { uri: format!("s3://{BUCKET}"), s3: Some(s3) },
            credentials: vec![
                variable("AWS_ACCESS_KEY_ID", &server.access_key),
                variable("AWS_SECRET_ACCESS_KEY", &server.secret_key),
            ],
        }
    }
}

/// One attempt of one stage of a run of its own.
pub struct Step<'a> {
    /// The runner.
    pub runner: &'a Path,
    /// Where it stores.
    pub place: &'a Place,
    /// The run's UID: no two attempts are of one stage, or a commit record would be found.
    pub run: &'a str,
    /// The directory of the contract's files.
    pub root: PathBuf,
    /// Program and arguments.
    pub words: Vec<String>,
    /// What is fetched first.
    pub inputs: Vec<InputSpec>,
    /// What is sent at the end.
    pub outputs: Vec<OutputSpec>,
}

/// The stage of every step.
const STAGE: &str = "stage";

/// The prefix of the stage of that run.
#[must_use]
pub fn prefix(run: &str) -> String {
    paths::stage_prefix("bench", "bench", "bench", run, STAGE)
}

impl Step<'_> {
    /// How it is started. Its report goes to a file beside its root.
    pub fn command(self) -> Result<Command, Error> {
        let Self { runner, place, run, root, words, inputs, outputs } = self;
        let report = root.with_extension("report.json");
        let spec = StepSpec {
            version: step_protocol::VERSION,
            identity: Identity {
                namespace: "bench".to_owned(),
                pipeline: "bench".to_owned(),
                run: "bench".to_owned(),
                run_uid: run.to_owned(),
                stage: STAGE.to_owned(),
                attempt: 1,
            },
            root: root.display().to_string(),
            command: words.iter().map(|word| Text::from(word.as_str())).collect(),
            script: None,
            working_dir: None,
            env: Vec::new(),
            params: Map::new(),
            store: place.store.clone(),
            prefix: prefix(run),
            inputs,
            outputs,
            results: Vec::new(),
            metrics: Vec::new(),
            timeout_seconds: None,
            grace_seconds: 30,
            report: None,
            rank: None,
            checkpoint: None,
            publish: None,
            ledger: None,
        };
        let mut command = Command::new(runner);
        command.arg("run").env_clear().envs(spec.to_env()?).envs(place.credentials.iter().cloned());
        command.env("TRAINYARD_TERMINATION_LOG", report);
        Ok(command)
    }
}
