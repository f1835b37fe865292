//! Class E: what others do to Pods, by hand or as a controller of the cluster would.

use super::api::{Api, ApiError};
use super::fault::{Fault, Place, PodPhase, Strike};
use super::history::{Kind, Recorder, What, World};
use super::kubelet::Runners;
use super::observer::collection;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A Pod that nobody of ours made carries this label.
pub const FOREIGN: &str = "foreign";
/// How long the programs of a lost node go on.
const SWITCHED_OFF: Duration = Duration::from_secs(3);
/// No Pod comes so late.
const LIMIT: Duration = Duration::from_secs(300);

/// Does what the strikes at Pods say, as long as this value lives.
pub struct Monkey {
    tasks: Vec<JoinHandle<()>>,
}

impl Monkey {
    /// Waits for the Pods of these strikes.
    #[must_use]
    pub fn start(api: &Api, namespace: &str, strikes: &[Strike], runners: &Arc<Runners>, recorder: &Recorder) -> Self {
        let at_pods = strikes.iter().copied().filter(|strike| strike.fault.class() == 'E');
        let tasks = at_pods.filter_map(|strike| {
            let Place::Pod(number, phase) = strike.place else { return None };
            let hand = Hand {
                api: api.clone(),
                collection: collection(Kind::Pod, namespace),
                runners: Arc::clone(runners),
                recorder: recorder.clone(),
            };
            Some(tokio::spawn(async move { hand.strike(strike, number, phase).await }))
        });
        Self { tasks: tasks.collect() }
    }
}

impl Drop for Monkey {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Hand {
    api: Api,
    collection: String,
    runners: Arc<Runners>,
    recorder: Recorder,
}

impl Hand {
    async fn strike(&self, strike: Strike, number: u32, phase: PodPhase) {
        let reached = |world: &World| {
            let pod = world.object(Kind::Pod, world.pod(number)?)?;
            let has = match (phase, pod["status"]["phase"].as_str().unwrap_or("Pending")) {
                (PodPhase::Created, _) | (_, "Succeeded" | "Failed") => true,
                (PodPhase::Running, now) => now == "Running",
                (PodPhase::Ended, _) => false,
            };
            has.then(|| pod.clone())
        };
        let Ok(pod) = self.recorder.wait(LIMIT, "a Pod", reached).await else { return };
        self.recorder.push(What::Fault(strike.to_string()));
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        match self
            .act(strike.fault, &format!("{}/{}", self.collection, text("name")), &text("uid"), &text("name"))
            .await
        {
            Ok(()) => {}
            // It was gone already.
            Err(error) if matches!(error.code(), Some(404 | 409)) => {}
            Err(error) => self.recorder.push(What::Trouble(format!("{strike}: {error}"))),
        }
    }

    async fn act(&self, fault: Fault, path: &str, uid: &str, name: &str) -> Result<(), ApiError> {
        match fault {
            Fault::Delete => {
                self.api.delete(path, &options(None, uid)).await?;
            }
            Fault::ForceDelete => {
                self.api.delete(path, &options(Some(0), uid)).await?;
            }
            Fault::Evict => {
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
                self.api.create(&format!("{path}/eviction"), &eviction).await?;
            }
            Fault::Fail => {
                self.runners.cut(uid);
                let status =
                    json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."});
                self.end(path, uid, status).await?;
                self.runners.kill(uid);
            }
            Fault::Relabel => {
                let labels = json!({"trainyard.dev/run-uid": null, "trainyard.dev/job-uid": null});
                self.api.merge(path, &json!({"metadata": {"uid": uid, "labels": labels}})).await?;
            }
            Fault::Disown => {
                let pod = self.api.merge(path, &json!({"metadata": {"uid": uid, "ownerReferences": null}})).await?;
                if pod["metadata"]["labels"]["trainyard.dev/rank"].is_string() {
                    // Who has taken it has no use for it in the end: a rank alone would wait for the others for minutes.
                    tokio::time::sleep(SWITCHED_OFF).await;
                    self.api.delete(path, &options(None, uid)).await?;
                }
            }
            Fault::NodeLost => {
                self.runners.cut(uid);
                let deleted = self.lose(path, uid).await;
                // In the end it is switched off: a program that does not end by itself would go on for ever.
                tokio::time::sleep(SWITCHED_OFF).await;
                self.runners.kill(uid);
                deleted?;
            }
            Fault::SucceedWithoutCommit => {
                self.runners.cut(uid);
                self.runners.kill(uid);
                let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
                let container = json!({
                    "name": "stage", "image": "x", "imageID": "x", "ready": false, "restartCount": 0, "state": ended,
                });
                let status = json!({"phase": "Succeeded", "containerStatuses": [container]});
                self.end(path, uid, status).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Deletes a Pod as the controllers of a cluster do whose node does not answer: nobody is there to see to its end.
    async fn lose(&self, path: &str, uid: &str) -> Result<(), ApiError> {
        self.api.delete(path, &options(None, uid)).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.api.delete(path, &options(Some(0), uid)).await?;
        Ok(())
    }

    /// Ends a Pod in this way, unless it has ended: no kubelet changes that.
    async fn end(&self, path: &str, uid: &str, status: Value) -> Result<(), ApiError> {
        let (path, mut patch) = (format!("{path}/status"), json!({"metadata": {"uid": uid}, "status": status}));
        loop {
            let pod = self.api.get(&path).await?;
            if pod["metadata"]["uid"] != uid || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
            {
                return Ok(());
            }
            patch["metadata"]["resourceVersion"] = pod["metadata"]["resourceVersion"].clone();
            match self.api.merge(&path, &patch).await {
                Err(error) if error.code() == Some(409) => {}
                other => return other.map(|_| ()),
            }
        }
    }
}

fn options(grace: Option<u32>, uid: &str) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = grace.into();
    }
    options
}

/// Creates somebody else's Pod of this name in this collection. It even has the labels of ours, but not its owner.
pub async fn foreign_pod(api: &Api, collection: &str, name: &str, labels: &Value) -> Result<(), ApiError> {
    let mut labels = labels.clone();
    if !labels.is_object() {
        labels = json!({});
    }
    labels[FOREIGN] = "true".into();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "localhost/none:1"}]},
    });
    api.create(collection, &pod).await.map(|_| ())
}

/// Replaces the Pod of this path by somebody else's of the same name.
pub async fn swap(api: &Api, path: &str) -> Result<(), ApiError> {
    let force = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    match api.delete(path, &force).await {
        Err(error) if error.code() != Some(404) => return Err(error),
        _ => {}
    }
    let (collection, name) = path.rsplit_once('/').unwrap_or((path, ""));
    foreign_pod(api, collection, name, &Value::Null).await
}
