//! The container's environment: what is the runner's own, what is secret, and what the child gets.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use step_protocol::{CheckpointName, StepSpec, paths};

use crate::digest;
use crate::rank;

/// Where the kubelet looks for the termination message.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Variable that moves the termination message, for processes outside of a Pod.
const ENV_TERMINATION_LOG: &str = "TRAINYARD_TERMINATION_LOG";
/// Variable with the seconds that an unavailable store is waited for.
const ENV_PATIENCE: &str = "TRAINYARD_PATIENCE_SECONDS";
/// As long as a store may be away: longer than a restart of a storage service, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Store credentials by their lower-case provider names. Never printed.
#[derive(Clone, Default)]
pub(crate) struct Credentials(pub(crate) BTreeMap<String, String>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The environment of the container, sorted by who may see it.
pub struct Environment {
    /// What the child inherits.
    pub(crate) inherited: BTreeMap<OsString, OsString>,
    /// The variables of the step.
    pub(crate) spec: BTreeMap<String, String>,
    /// The variables of the task.
    pub(crate) task: BTreeMap<String, String>,
    /// The attempt's key for reports; `Err` when it is not hex.
    pub(crate) report_key: Option<Result<Vec<u8>, ()>>,
    /// The key that the ranks of an attempt share; `Err` when it is not hex.
    pub(crate) gang_key: Option<Result<Vec<u8>, ()>>,
    pub(crate) credentials: Credentials,
    pub(crate) termination_log: PathBuf,
    pub(crate) patience: Duration,
}

impl Environment {
    /// Sorts the variables of the container.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self {
            inherited: BTreeMap::new(),
            spec: BTreeMap::new(),
            task: BTreeMap::new(),
            report_key: None,
            gang_key: None,
            credentials: Credentials::default(),
            termination_log: TERMINATION_LOG.into(),
            patience: PATIENCE,
        };
        for (name, value) in variables {
            environment.sort(name, value);
        }
        environment
    }

    fn sort(&mut self, name: OsString, value: OsString) {
        let text = || value.to_string_lossy().into_owned();
        match name.to_str() {
            Some(paths::ENV_REPORT_KEY) => self.report_key = Some(digest::unhex(text().trim()).ok_or(())),
            Some(paths::ENV_GANG_KEY) => self.gang_key = Some(digest::unhex(text().trim()).ok_or(())),
            Some(ENV_TERMINATION_LOG) => self.termination_log = value.into(),
            Some(ENV_PATIENCE) => {
                self.patience = text().parse().map_or(PATIENCE, Duration::from_secs);
            }
            Some(name) if is_spec(name) => {
                self.spec.insert(name.to_owned(), text());
            }
            Some(name) if is_task(name) => {
                self.task.insert(name.to_owned(), text());
            }
            Some(name) if name.starts_with(paths::ENV_STORE_PREFIX) => {
                let provider = name[paths::ENV_STORE_PREFIX.len()..].to_ascii_lowercase();
                self.credentials.0.insert(provider, text());
            }
            _ => {
                self.inherited.insert(name, value);
            }
        }
    }

    /// The child's environment but for `spec.env`, whose values may have to be read first.
    pub(crate) fn for_child(
        &self,
        spec: &StepSpec,
        inputs: &BTreeMap<String, PathBuf>,
        restored: Option<CheckpointName>,
    ) -> BTreeMap<OsString, OsString> {
        let root = PathBuf::from(&spec.root);
        let mut child = self.inherited.clone();
        let mut set = |name: String, value: OsString| {
            child.insert(name.into(), value);
        };
        set("HOME".into(), root.join(paths::HOME).into());
        set("TMPDIR".into(), root.join(paths::TMP).into());
        set(paths::ENV_ROOT.into(), spec.root.clone().into());
        let identity = &spec.identity;
        set("TRAINYARD_NAMESPACE".into(), identity.namespace.clone().into());
        set("TRAINYARD_PIPELINE".into(), identity.pipeline.clone().into());
        set("TRAINYARD_RUN".into(), identity.run.clone().into());
        set("TRAINYARD_STAGE".into(), identity.stage.clone().into());
        set("TRAINYARD_ATTEMPT".into(), identity.attempt.to_string().into());
        for (name, value) in &spec.params {
            let text = as_text(value);
            // Linux takes no string beyond 128 KiB in an environment, and none with a NUL: params.json has the value.
            if text.len() < 120 * 1024 && !text.contains('\0') {
                set(format!("TRAINYARD_PARAM_{}", paths::env_name(name)), text.into());
            }
        }
        for (name, path) in inputs {
            set(format!("TRAINYARD_IN_{}", paths::env_name(name)), path.clone().into());
        }
        for output in &spec.outputs {
            let path = root.join(paths::OUT).join(&output.name);
            set(format!("TRAINYARD_OUT_{}", paths::env_name(&output.name)), path.into());
        }
        if spec.checkpoint.is_some() {
            set("TRAINYARD_CHECKPOINT".into(), root.join(paths::CHECKPOINT).into());
            set("TRAINYARD_RESTORED".into(), restored.map(|name| name.to_string()).unwrap_or_default().into());
        }
        for (name, value) in spec.rank.iter().flat_map(|rank| rank::environment::variables(&identity.run, rank, &root))
        {
            set(name, value.into());
        }
        child
    }
}

/// A string as it is, anything else as JSON.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether the value of the variable must not stay in this process's initial environment.
pub fn is_secret(name: &[u8]) -> bool {
    let name = OsStr::from_bytes(name);
    name == paths::ENV_REPORT_KEY
        || name == paths::ENV_GANG_KEY
        || name.as_bytes().starts_with(paths::ENV_STORE_PREFIX.as_bytes())
}

fn is_spec(name: &str) -> bool {
    name.strip_prefix(paths::ENV_SPEC).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

fn is_task(name: &str) -> bool {
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix(paths::ENV_TASK).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('_').is_some_and(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_the_step_are_not_inherited() {
        let environment = Environment::new(
            [
                ("PATH", "/bin"),
                ("TRAINYARD_SPEC", "{}"),
                ("TRAINYARD_SPEC_1", "x"),
                ("TRAINYARD_TASK", "{"),
                ("TRAINYARD_TASK_1", "}"),
                ("TRAINYARD_TASK_OF_MINE", "theirs"),
                ("TRAINYARD_REPORT_KEY", "00ff"),
                ("TRAINYARD_GANG_KEY", "ff"),
                ("TRAINYARD_STORE_AWS_SECRET_ACCESS_KEY", "hush"),
                ("TRAINYARD_TERMINATION_LOG", "/tmp/t"),
            ]
            .map(|(name, value)| (name.into(), value.into())),
        );
        assert_eq!(environment.inherited.keys().collect::<Vec<_>>(), ["PATH", "TRAINYARD_TASK_OF_MINE"]);
        assert_eq!(environment.task.values().collect::<Vec<_>>(), ["{", "}"]);
        assert_eq!(environment.report_key, Some(Ok(vec![0, 255])));
        assert_eq!(environment.gang_key, Some(Ok(vec![255])));
        assert_eq!(environment.credentials.0["aws_secret_access_key"], "hush");
        assert!(!format!("{:?}", environment.credentials).contains("hush"));
        assert!(is_secret(b"TRAINYARD_STORE_X") && is_secret(b"TRAINYARD_REPORT_KEY"));
        assert!(is_secret(b"TRAINYARD_GANG_KEY") && !is_secret(b"PATH"));
    }
}
