//! Pods of short tasks, which work for a Pipeline in its store and are of no run.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use step_protocol::{TaskSpec, paths};

/// The container whose command is the task.
pub(super) const TASK: &str = "task";

/// The task in the variables of its container.
pub(super) fn read(variables: &BTreeMap<String, String>) -> Result<TaskSpec> {
    let parts = (1..).map_while(|part| variables.get(&format!("{}_{part}", paths::ENV_TASK)));
    let first = variables.get(paths::ENV_TASK).context("no task")?;
    let json: String = std::iter::once(first).chain(parts).map(String::as_str).collect();
    Ok(serde_json::from_str(&json)?)
}

/// Puts a task into the variables in place of the one that is there.
pub(super) fn write(task: &TaskSpec, variables: &mut BTreeMap<String, String>) -> Result<()> {
    variables.retain(|name, _| !name.starts_with(paths::ENV_TASK));
    variables.extend(task.to_env()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use step_protocol::{FingerprintSpec, StoreSpec, Task};

    #[test]
    fn a_task_is_taken_out_and_put_back() {
        let long = format!("s3://bucket/{}/", "x".repeat(200_000));
        let mut task = TaskSpec {
            version: step_protocol::VERSION,
            store: StoreSpec { uri: "s3://bucket/runs".into(), s3: None },
            task: Task::Fingerprint(FingerprintSpec { uri: long, marker: None }),
            timeout_seconds: 5,
        };
        let mut variables = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        write(&task, &mut variables).unwrap();
        assert_eq!(read(&variables).unwrap(), task);
        let before = variables.len();
        task.task = Task::Fingerprint(FingerprintSpec { uri: "s3://bucket/raw/".into(), marker: None });
        write(&task, &mut variables).unwrap();
        assert_eq!(read(&variables).unwrap(), task);
        assert!(before > variables.len() && variables.contains_key("PATH"));
    }
}
