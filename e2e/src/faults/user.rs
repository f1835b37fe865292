//! What the user of a run or job does while it runs.

use super::api::Api;
use super::history::{Kind, Recorder, What, World};
use super::observer::collection;
use super::workload::parameter;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The name of a Pipeline that follows another.
pub const DOWNSTREAM: &str = "downstream";
/// A run does not take so long to get there.
const LIMIT: Duration = Duration::from_secs(300);

/// What is done when the program of the second stage runs, or all ranks of a job do, also of one that is the second stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// The run is cancelled.
    Cancel,
    /// The run or job is deleted. What the garbage collector of a cluster does then is done here, too.
    Delete,
    /// The job is suspended, and resumed when it has said that it is.
    Suspend,
    /// The Pipeline is changed in a way that changes no result, and what asked for a run is taken back.
    Touch,
    /// Another object is written to where a trigger looks, when it has looked once.
    Write,
    /// The Pipeline goes on, when the one that follows it has looked at it.
    Release,
    /// What waits for approval is approved.
    Approve,
    /// The parameter of the Pipeline gets another default, which is another revision; also when the run has ended without coming so far.
    Change,
}

/// Does it, as long as this value lives.
pub struct User {
    task: JoinHandle<()>,
}

impl User {
    /// Waits for the moment.
    #[must_use]
    pub fn start(
        api: Api,
        namespace: &str,
        (kind, run, pipeline): (Kind, &'static str, &'static str),
        (during, data): (During, &Path),
        recorder: Recorder,
    ) -> Self {
        let object = data.join("second.csv");
        let path = format!("{}/{run}", collection(kind, namespace));
        let pods = collection(Kind::Pod, namespace);
        let pipeline = format!("{}/{pipeline}", collection(Kind::Pipeline, namespace));
        let task = tokio::spawn(async move {
            let moment = |world: &World| has_come(world, during, kind, run);
            if recorder.wait(LIMIT, "the second stage or all ranks to run", moment).await.is_err() {
                return;
            }
            let done = match during {
                During::Cancel => api.merge(&path, &json!({"spec": {"state": "Cancelled"}})).await.map(|_| ()),
                During::Delete => {
                    let options =
                        json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
                    api.delete(&path, &options).await.map(|_| ())
                }
                During::Touch => {
                    let change = json!({
                        "metadata": {"labels": {"touched": "yes"}, "annotations": {"trainyard.dev/rerun-requested-at": null}},
                        "spec": {"description": "another", "parallel": 7},
                    });
                    api.merge(&pipeline, &change).await.map(|_| ())
                }
                During::Write => {
                    if let Err(error) = std::fs::write(&object, "2\n") {
                        recorder.push(What::Trouble(format!("the user: {}: {error}", object.display())));
                    }
                    Ok(())
                }
                During::Release => api.merge(&pipeline, &json!({"spec": {"suspend": false}})).await.map(|_| ()),
                During::Approve => {
                    let word = json!({"decision": "Approved", "by": "somebody"});
                    api.merge(&path, &json!({"spec": {"approvals": {"approve": word}}})).await.map(|_| ())
                }
                During::Change => {
                    api.merge(&pipeline, &json!({"spec": {"params": parameter("after")}})).await.map(|_| ())
                }
                During::Suspend => {
                    let suspended = |world: &World| has_phase(world, run, "Suspended");
                    let switch = async |suspend: bool| api.merge(&path, &json!({"spec": {"suspend": suspend}})).await;
                    match switch(true).await {
                        // A job that has ended meanwhile never says that it is suspended.
                        Ok(_) if recorder.wait(LIMIT, "the job to be suspended", suspended).await.is_err() => Ok(()),
                        Ok(_) => switch(false).await.map(|_| ()),
                        Err(error) => Err(error),
                    }
                }
            };
            if let Err(error) = done {
                recorder.push(What::Trouble(format!("the user: {error}")));
            }
            // Where runs go, also those that the operator deletes.
            if matches!(during, During::Delete | During::Change) {
                collect(&api, &pods, &recorder).await;
            }
        });
        Self { task }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the moment for it is there.
fn has_come(world: &World, during: During, kind: Kind, run: &str) -> Option<()> {
    let runs = |pod: &Value| {
        pod["metadata"]["labels"]["trainyard.dev/stage"] == "second" && pod["status"]["phase"] == "Running"
    };
    let second_runs = || world.objects(Kind::Pod).any(runs);
    let trains = || world.objects(Kind::Job).any(|job| job["status"]["phase"] == "Running");
    let is_there = match during {
        _ if kind == Kind::Job => return has_phase(world, run, "Running"),
        During::Approve => world.object(Kind::Run, run).is_some_and(|run| {
            let mut rows = run["status"]["stages"].as_array().into_iter().flatten();
            rows.any(|row| row["reason"] == "AwaitingApproval")
        }),
        During::Write => world.objects(Kind::Pipeline).any(|pipeline| {
            let seen = &pipeline["status"]["triggers"][0]["data"]["fingerprint"];
            seen.as_str().is_some_and(|fingerprint| !fingerprint.is_empty())
        }),
        During::Release => world
            .object(Kind::Pipeline, DOWNSTREAM)
            .is_some_and(|pipeline| pipeline["status"]["triggers"][0]["upstream"].is_object()),
        During::Change => second_runs() || world.objects(Kind::Run).any(has_ended),
        _ => second_runs() || trains(),
    };
    is_there.then_some(())
}

/// Whether a run has ended.
#[must_use]
pub fn has_ended(run: &Value) -> bool {
    matches!(run["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Cancelled"))
}

fn has_phase(world: &World, job: &str, phase: &str) -> Option<()> {
    world.object(Kind::Job, job).filter(|job| job["status"]["phase"] == phase).map(|_| ())
}

/// Deletes every Pod whose owner is gone, as the garbage collector does.
async fn collect(api: &Api, pods: &str, recorder: &Recorder) {
    loop {
        let orphan = |world: &World| {
            let lives = |pod: &&Value| {
                let owner = pod["metadata"]["ownerReferences"][0]["name"].as_str();
                pod["metadata"]["deletionTimestamp"].is_null() && owner.is_some_and(|owner| world.is_deleted(owner))
            };
            world.objects(Kind::Pod).find(lives).and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        };
        let Ok(name) = recorder.wait(LIMIT, "an orphan", orphan).await else { return };
        let path = format!("{pods}/{name}");
        match api.delete(&path, &json!({"apiVersion": "v1", "kind": "DeleteOptions"})).await {
            Ok(_) => {}
            Err(error) if error.code() == Some(404) => {}
            Err(error) => recorder.push(What::Trouble(format!("the collector: {error}"))),
        }
        // Its deletion is seen by the own watch before it is looked at again.
        let seen = |world: &World| {
            let gone = world.object(Kind::Pod, &name).is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
            gone.then_some(())
        };
        if recorder.wait(LIMIT, "the deletion", seen).await.is_err() {
            return;
        }
    }
}
