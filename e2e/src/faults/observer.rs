//! Watches beside the operator's own, straight at the API server: every version of every object becomes part of the history.

use super::api::Api;
use super::history::{Change, Kind, Recorder, Version, What};
use anyhow::Result;
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

/// Path of a kind's collection in a namespace.
#[must_use]
pub fn collection(kind: Kind, namespace: &str) -> String {
    let group = if kind == Kind::Pod { "/api/v1" } else { "/apis/trainyard.dev/v1alpha1" };
    format!("{group}/namespaces/{namespace}/{}", kind.plural())
}

/// Watches as long as this value lives.
pub struct Observer {
    tasks: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Watches Pods, runs, pipelines and jobs of a namespace from now on. The Pods' versions are handed on, too.
    pub async fn start(api: &Api, namespace: &str, recorder: &Recorder) -> Result<(Self, UnboundedReceiver<Version>)> {
        let (pods, receiver) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for kind in Kind::ALL {
            let path = collection(kind, namespace);
            let list = api.get(&path).await?;
            let mut from = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
            let (api, recorder, pods) = (api.clone(), recorder.clone(), pods.clone());
            tasks.push(tokio::spawn(async move {
                let trouble = loop {
                    let mut refused = None;
                    let began = from.clone();
                    let ended = api.watch(&path, &began, |event| match seen(kind, &event, &recorder, &pods) {
                        Some(version) => {
                            from = version;
                            true
                        }
                        None => {
                            refused = Some(event);
                            false
                        }
                    });
                    match (ended.await, refused) {
                        // The API server closes the watch of whoever does not take its events fast enough. It goes on where it ended.
                        (Ok(()), None) if from != began => {}
                        (ended, refused) => break format!("{ended:?}, {refused:?}"),
                    }
                };
                recorder.push(What::Trouble(format!("the watch of {path} ended: {trouble}")));
            }));
        }
        Ok((Self { tasks }, receiver))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Takes in an event and says where a watch would go on after it; `None` for one that ends the watch.
fn seen(kind: Kind, event: &Value, recorder: &Recorder, pods: &UnboundedSender<Version>) -> Option<String> {
    let change = match event["type"].as_str() {
        Some("ADDED") => Change::Added,
        Some("MODIFIED") => Change::Modified,
        Some("DELETED") => Change::Deleted,
        _ => return None,
    };
    let mut object = event["object"].clone();
    let revision = object["metadata"]["resourceVersion"].as_str()?.to_owned();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let version = Version { kind, change, object };
    if kind == Kind::Pod {
        // Nobody may be listening: not every case has a kubelet.
        let _ = pods.send(version.clone());
    }
    recorder.push(What::Version(version));
    Some(revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_become_versions_and_pods_go_on_to_the_kubelet() {
        let recorder = Recorder::default();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let object = json!({"metadata": {"name": "a", "resourceVersion": "5", "managedFields": [{}]}});
        let take = |kind: Kind, event: Value| seen(kind, &event, &recorder, &sender);
        assert_eq!(take(Kind::Pod, json!({"type": "ADDED", "object": object})).as_deref(), Some("5"));
        assert_eq!(take(Kind::Run, json!({"type": "DELETED", "object": object})).as_deref(), Some("5"));
        assert_eq!(take(Kind::Run, json!({"type": "ERROR", "object": {"code": 410}})), None);
        let history = recorder.history();
        assert_eq!(history.versions(Kind::Run)[0].change, Change::Deleted);
        let handed = receiver.try_recv().unwrap();
        assert_eq!((handed.revision(), &handed.object["metadata"]["managedFields"]), (5, &Value::Null));
        assert!(receiver.try_recv().is_err());
    }
}
