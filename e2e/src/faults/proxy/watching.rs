//! Class C: what happens to the events of a watch on their way.

use super::{Body, Cut, Scene};
use crate::faults::api::Lines;
use crate::faults::fault::{Fault, Place, Strike};
use crate::faults::history::{Kind, What};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};

/// How long a black hole swallows everything.
const BLACK_HOLE: Duration = Duration::from_secs(120);

type Sent = Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>;

/// A watch that is recorded on its way, and to whose events the faults of the case happen.
pub(super) fn tapped(scene: &Arc<Scene>, process: u32, path: &str, body: Incoming) -> Body {
    let (sender, mut receiver) = mpsc::channel(16);
    let kind = Kind::of_path(path);
    let (counted, pods) = (kind.is_some(), kind == Some(Kind::Pod));
    let watch = Watch { scene: Arc::clone(scene), process, counted, pods, sender };
    tokio::spawn(watch.pump(body));
    let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
    BoxBody::new(StreamBody::new(stream))
}

struct Watch {
    scene: Arc<Scene>,
    process: u32,
    counted: bool,
    pods: bool,
    sender: Sender<Sent>,
}

/// What follows an event.
enum Then {
    /// The next.
    Goes,
    /// Nothing: the watch has ended.
    Ends,
}

impl Watch {
    async fn pump(self, mut body: Incoming) {
        let mut lines = Lines::default();
        let held = self.pods.then(|| self.scene.stale().held(self.process)).flatten();
        if let Some(held) = held {
            tokio::time::sleep(held).await;
        }
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                // Nobody listens any more: the API server is told so by the end of this task.
                () = self.sender.closed() => return,
            };
            let Some(Ok(frame)) = frame else { return };
            let Some(data) = frame.data_ref() else { continue };
            for line in lines.push(data) {
                if matches!(self.event(line).await, Then::Ends) {
                    return;
                }
            }
        }
    }

    async fn event(&self, line: Vec<u8>) -> Then {
        let event: Value = serde_json::from_slice(&line).unwrap_or_default();
        let is_change = self.counted && event["type"] != "BOOKMARK" && event["type"] != "ERROR";
        let strike = is_change.then(|| self.count()).flatten();
        let Some(strike) = strike else { return self.send(line, &event).await };
        self.scene.struck(strike);
        match strike.fault {
            Fault::Drop => Then::Goes,
            Fault::DelayOneSecond => self.later(Duration::from_secs(1), line, &event).await,
            Fault::DelayTenSeconds => self.later(Duration::from_secs(10), line, &event).await,
            Fault::DelayOneMinute => self.later(Duration::from_secs(60), line, &event).await,
            Fault::Duplicate => {
                let _ = self.send(line.clone(), &event).await;
                self.send(line, &event).await
            }
            Fault::Disconnect => {
                let _ = self.sender.send(Err(Box::new(Cut))).await;
                Then::Ends
            }
            Fault::Expired => {
                let gone = json!({"type": "ERROR", "object": {
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
                    "message": "too old resource version",
                }});
                let _ = self.send(gone.to_string().into_bytes(), &gone).await;
                Then::Ends
            }
            Fault::BlackHole => {
                tokio::select! {
                    () = tokio::time::sleep(BLACK_HOLE) => {}
                    () = self.sender.closed() => {}
                }
                Then::Ends
            }
            _ => self.send(line, &event).await,
        }
    }

    /// The fault at this event.
    fn count(&self) -> Option<Strike> {
        let number = {
            let mut numbers = self.scene.numbers();
            numbers.events += 1;
            numbers.events
        };
        self.scene.strike(Place::Event(number))
    }

    async fn later(&self, wait: Duration, line: Vec<u8>, event: &Value) -> Then {
        tokio::select! {
            () = tokio::time::sleep(wait) => self.send(line, event).await,
            () = self.sender.closed() => Then::Ends,
        }
    }

    async fn send(&self, mut line: Vec<u8>, event: &Value) -> Then {
        self.scene.recorder.push(watched(self.process, event));
        line.push(b'\n');
        if self.sender.send(Ok(Frame::data(line.into()))).await.is_err() { Then::Ends } else { Then::Goes }
    }
}

fn watched(process: u32, event: &Value) -> What {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    let (kind, name) = (text("/object/kind"), text("/object/metadata/name"));
    What::Watched {
        process,
        event: text("/type"),
        object: format!("{kind} {name}@{}", text("/object/metadata/resourceVersion")),
    }
}
