//! Short work in the store that is no stage of a run: what `step-runner task` does.
//!
//! The operator starts it in a Pod of its own, since it holds no keys itself. It has an outcome and an exit code as a stage has, and
//! what it found is in the Pod's termination message ([`TaskReport`]).

use std::collections::BTreeMap;
use std::time::Duration;

use step_protocol::{MESSAGE_LIMIT, Outcome, Task, TaskReport, TaskSpec, paths};
use tokio::time::Instant;

use crate::environment::Environment;
use crate::failure::{Failure, say};
use crate::report::TerminationLog;
use crate::runtime;
use crate::stop::{Reason, Stop, Stopped};
use crate::store::Opener;

mod collect;
mod fingerprint;

/// Does the task that the environment describes; the process's exit code.
pub(crate) fn run(environment: Environment) -> u8 {
    runtime::block_on(whole(environment, Instant::now()))
}

async fn whole(environment: Environment, since: Instant) -> Outcome {
    let termination = TerminationLog::open(&environment.termination_log);
    let report = match work(environment, since).await {
        Ok(report) => report,
        Err(Failure { outcome, message, .. }) => TaskReport::new(outcome, message),
    };
    if report.outcome != Outcome::Succeeded {
        say!("{}: {}", report.outcome.as_str(), report.message);
    }
    let outcome = report.outcome;
    match to_message(report) {
        Ok(message) => termination.write(&message),
        Err(error) => say!("the report is not JSON: {error}"),
    }
    outcome
}

async fn work(environment: Environment, since: Instant) -> Result<TaskReport, Failure> {
    let spec = read(&environment.task)?;
    let stop = Stop::listen(Some(Duration::from_secs(spec.timeout_seconds)), since)
        .map_err(|error| Failure::new(Outcome::RunnerError, format!("failed to listen for signals: {error}")))?;
    let opener = Opener::new(&spec.store, environment.credentials, environment.patience);
    let store = opener.store()?;
    let work = async {
        let mut report = TaskReport::new(Outcome::Succeeded, "");
        match &spec.task {
            Task::Fingerprint(prefix) => report.fingerprint = Some(fingerprint::take(&opener, prefix).await?),
            Task::Collect(artifacts) => report.collected = Some(collect::collect(&store, artifacts).await?),
        }
        Ok(report)
    };
    tokio::select! {
        report = work => report,
        why = stop.wait() => Err(stopped(&spec, why)),
    }
}

fn stopped(spec: &TaskSpec, why: Stopped) -> Failure {
    let what = match spec.task {
        Task::Fingerprint(_) => "looked through the prefix",
        Task::Collect(_) => "deleted artifacts",
    };
    if why.reason == Reason::Timeout {
        let message = format!("the task's {} s passed while it {what}; the next one goes on", spec.timeout_seconds);
        return Failure::new(Outcome::Timeout, message);
    }
    Failure::new(Outcome::Disrupted, format!("the Pod was asked to stop while it {what}; the next one goes on"))
}

/// The task in the container's variables. A long one goes on in numbered ones, as a step does.
fn read(variables: &BTreeMap<String, String>) -> Result<TaskSpec, Failure> {
    let name = paths::ENV_TASK;
    let mut json = variables.get(name).cloned().ok_or_else(|| {
        Failure::config(format!("the variable {name} is not set: the runner is started by the operator"))
    })?;
    for chunk in (1..).map_while(|n| variables.get(&format!("{name}_{n}"))) {
        json.push_str(chunk);
    }
    let spec: TaskSpec = serde_json::from_str(&json)
        .map_err(|error| Failure::config(format!("the variable {name} is not a task: {error}")))?;
    if spec.version != step_protocol::VERSION {
        return Err(Failure::config(format!(
            "the task has protocol version {} and this runner speaks {}: install operator and runner of one release",
            spec.version,
            step_protocol::VERSION
        )));
    }
    Ok(spec)
}

/// The JSON of the report. Only its sentence can be long: of that there is as much as fits.
fn to_message(mut report: TaskReport) -> serde_json::Result<String> {
    loop {
        let json = serde_json::to_string(&report)?;
        let over = json.len().saturating_sub(MESSAGE_LIMIT);
        if over == 0 || report.message.is_empty() {
            return Ok(json);
        }
        // A character of it has up to six bytes in JSON: too much is never cut off, and something always.
        let mut end = report.message.len() - over.div_ceil(6).min(report.message.len());
        while !report.message.is_char_boundary(end) {
            end -= 1;
        }
        report.message.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, text: &str) -> BTreeMap<String, String> {
        [(name.to_owned(), text.to_owned())].into()
    }

    const FINGERPRINT: &str =
        r#"{"version":1,"store":{"uri":"s3://b/p"},"task":{"fingerprint":{"uri":"s3://b/raw/"}},"timeoutSeconds":60}"#;

    #[test]
    fn a_task_is_read_from_its_variables() {
        let spec = read(&task(paths::ENV_TASK, FINGERPRINT)).unwrap();
        assert_eq!(spec.timeout_seconds, 60);
        let (first, second) = FINGERPRINT.split_at(50);
        let mut cut = task(paths::ENV_TASK, first);
        cut.extend(task("TRAINYARD_TASK_1", second));
        cut.extend(task("TRAINYARD_TASK_3", "none of it"));
        assert_eq!(read(&cut).unwrap(), spec);
        let newer = FINGERPRINT.replace("\"version\":1", "\"version\":9");
        let other = FINGERPRINT.replace("fingerprint", "sing");
        for (text, why) in [(newer.as_str(), "protocol version 9"), (&other, "unknown variant"), ("", "is not a task")]
        {
            let failure = read(&task(paths::ENV_TASK, text)).unwrap_err();
            assert!(failure.outcome == Outcome::ConfigError && failure.message.contains(why), "{failure}");
        }
        assert!(read(&BTreeMap::new()).unwrap_err().message.contains("TRAINYARD_TASK is not set"));
    }

    #[test]
    fn any_sentence_fits_the_message() {
        for text in ["x".repeat(10_000), "\u{1}".repeat(3_000), "ä".repeat(4_000), "\"ü\u{0}".repeat(2_000)] {
            let message = to_message(TaskReport::new(Outcome::StoreUnavailable, text.clone())).unwrap();
            assert!((MESSAGE_LIMIT - 12..=MESSAGE_LIMIT).contains(&message.len()), "{}", message.len());
            let back: TaskReport = serde_json::from_str(&message).unwrap();
            assert!(text.starts_with(&back.message));
        }
        let short = TaskReport::new(Outcome::Timeout, "short");
        assert_eq!(serde_json::from_str::<TaskReport>(&to_message(short.clone()).unwrap()).unwrap(), short);
    }
}
