//! A node of which only what it tells is there: Pods are bound, run for a moment, and have ended with the report of a success; one in
//! a hundred is killed instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Shared, expected, follow, lock};
use crate::faults::api::{Api, ApiError};

const NODE: &str = "soak-node";

/// A run's UID, a stage, an attempt.
type Attempt = (String, String, u64);

/// What was seen of Pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The UIDs of every attempt's Pods.
    pods: BTreeMap<Attempt, BTreeSet<String>>,
    /// Attempts that run.
    alive: BTreeSet<Attempt>,
    /// Attempts whose Pods were killed.
    killed: BTreeSet<Attempt>,
    /// What should never be.
    pub(super) wrong: Vec<String>,
}

impl Seen {
    pub(super) fn killed(&self) -> usize {
        self.killed.len()
    }

    /// How often Pods of a stage were killed.
    pub(super) fn kills(&self, run: &str, stage: &str) -> u64 {
        self.killed.iter().filter(|(of, name, _)| of == run && name == stage).map(|_| 1).sum()
    }

    /// A Pod was seen. Returns whether for the first time.
    fn is_new(&mut self, attempt: &Attempt, uid: &str) -> bool {
        let uids = self.pods.entry(attempt.clone()).or_default();
        if !uids.insert(uid.to_owned()) {
            return false;
        }
        if uids.len() > 1 {
            self.wrong.push(format!("{attempt:?} has more than one Pod: {uids:?}"));
        }
        let twin = self.alive.iter().find(|other| other.0 == attempt.0 && other.1 == attempt.1);
        if let Some(twin) = twin {
            self.wrong.push(format!("{attempt:?} has a Pod while attempt {} runs", twin.2));
        }
        if attempt.2 > 1 && !self.killed.contains(&(attempt.0.clone(), attempt.1.clone(), attempt.2 - 1)) {
            self.wrong.push(format!("{attempt:?} exists, and nobody has killed the one before"));
        }
        self.alive.insert(attempt.clone());
        true
    }

    /// A Pod ended, or is about to be killed.
    fn ended(&mut self, attempt: &Attempt, killed: bool) {
        self.alive.remove(attempt);
        if killed {
            self.killed.insert(attempt.clone());
        }
    }
}

/// A node that works as long as this value lives.
pub(super) struct Node {
    seen: Shared<Seen>,
    task: JoinHandle<()>,
}

impl Node {
    pub(super) fn start(api: Api, namespace: &str, percent: f64, seed: u64) -> Self {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let seen: Shared<Seen> = Shared::default();
        let shared = Arc::clone(&seen);
        let mut dice = fastrand::Rng::with_seed(seed);
        let task = tokio::spawn(async move {
            let pods = |object: &Value| {
                let Some(pod) = Pod::of(object, &path) else { return };
                if lock(&shared).is_new(&pod.attempt, &pod.uid) {
                    let dies = dice.f64() * 100.0 < percent;
                    let takes = Duration::from_millis(dice.u64(0..40));
                    tokio::spawn(life(api.clone(), pod, dies, takes, Arc::clone(&shared)));
                }
            };
            let Err(error) = follow(&api, &path, pods).await;
            lock(&shared).wrong.push(format!("the watch of Pods ended: {error:#}"));
        });
        Self { seen, task }
    }

    pub(super) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Pod {
    path: String,
    name: String,
    uid: String,
    attempt: Attempt,
}

impl Pod {
    fn of(object: &Value, collection: &str) -> Option<Self> {
        let metadata = &object["metadata"];
        let label = |name: &str| metadata["labels"][format!("trainyard.dev/{name}")].as_str().map(str::to_owned);
        let name = metadata["name"].as_str()?.to_owned();
        Some(Self {
            path: format!("{collection}/{name}"),
            name,
            uid: metadata["uid"].as_str()?.to_owned(),
            attempt: (label("run-uid")?, label("stage")?, label("attempt")?.parse().ok()?),
        })
    }
}

async fn life(api: Api, pod: Pod, dies: bool, takes: Duration, seen: Shared<Seen>) {
    let attempt = pod.attempt.clone();
    if let Err(error) = live(&api, &pod, dies, takes, &seen).await {
        lock(&seen).wrong.push(format!("{attempt:?}: {error}"));
    }
}

async fn live(api: &Api, pod: &Pod, dies: bool, takes: Duration, seen: &Shared<Seen>) -> Result<(), ApiError> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name, "uid": pod.uid},
        "target": {"kind": "Node", "name": NODE},
    });
    api.create(&format!("{}/binding", pod.path), &binding).await?;
    if dies {
        tell(api, pod, "Running", &json!({"running": {"startedAt": now()}})).await?;
    }
    tokio::time::sleep(takes).await;
    lock(seen).ended(&pod.attempt, dies);
    if dies {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}});
        return api.delete(&pod.path, &options).await.map(|_| ());
    }
    // As the step-runner says it.
    let report = json!({
        "version": step_protocol::VERSION, "outcome": "Succeeded", "commit": format!("sha256:{:064x}", 7), "winner": pod.attempt.2,
        "results": {"n": expected(&pod.attempt.1)}, "started": now(), "finished": now(),
    });
    let terminated = json!({"exitCode": 0, "reason": "Completed", "message": report.to_string(), "startedAt": now(), "finishedAt": now()});
    tell(api, pod, "Succeeded", &json!({"terminated": terminated})).await
}

async fn tell(api: &Api, pod: &Pod, phase: &str, state: &Value) -> Result<(), ApiError> {
    let status = json!({"name": "stage", "image": "none", "imageID": "none", "ready": phase == "Running", "restartCount": 0, "state": state});
    let patch = json!({"metadata": {"uid": pod.uid}, "status": {"phase": phase, "containerStatuses": [status]}});
    api.merge(&format!("{}/status", pod.path), &patch).await.map(|_| ())
}

fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u64) -> Attempt {
        ("run".into(), "s1".into(), number)
    }

    #[test]
    fn two_pods_of_an_attempt_or_of_a_stage_are_told() {
        let mut seen = Seen::default();
        assert!(seen.is_new(&attempt(1), "a") && !seen.is_new(&attempt(1), "a"));
        assert!(seen.wrong.is_empty());
        seen.alive.remove(&attempt(1));
        seen.is_new(&attempt(1), "b");
        assert!(seen.wrong[0].contains("more than one Pod"), "{:?}", seen.wrong);
        seen.wrong.clear();
        seen.killed.insert(attempt(1));
        seen.is_new(&attempt(2), "c");
        assert!(seen.wrong[0].contains("while attempt 1 runs"), "{:?}", seen.wrong);
        assert_eq!((seen.killed(), seen.kills("run", "s1"), seen.kills("run", "s2")), (1, 1, 0));
    }

    #[test]
    fn an_attempt_needs_the_death_of_the_one_before() {
        let mut seen = Seen::default();
        seen.is_new(&attempt(2), "a");
        assert!(seen.wrong[0].contains("nobody has killed"), "{:?}", seen.wrong);
    }
}
