//! Events: what a person should know of a run, where `kubectl describe` shows it.
//!
//! They are for people and nothing depends on them, so a failure to publish one is only logged. An event's name follows from what it
//! says of whom: said again after a crash, or every minute, it is still one event. (The recorder of kube-runtime counts repetitions
//! by reason alone, which would fold the failures of different stages into the first one's message, and patches, for which this
//! operator has no permission.)

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio::time::timeout;
use trainyard_crds::{labels, names};
use trainyard_planner::{Note, NoteKind};

use crate::metrics::Metrics;

/// What the API server takes of a note.
const NOTE_LIMIT: usize = 1024;
/// What the API server takes of a reason, an action and an instance.
const WORD_LIMIT: usize = 128;
/// How much of the object's name is in the event's.
const NAME_LIMIT: usize = 100;
/// Nothing waits longer for an event.
const PATIENCE: Duration = Duration::from_secs(2);

/// Events that wait to be published; more are dropped, since nothing may wait for them.
const WAITING: usize = 1024;

/// Publishes events as this process, one after the other, while the work goes on.
#[derive(Clone)]
pub struct Events {
    waiting: mpsc::Sender<(ObjectReference, Note)>,
}

impl Events {
    /// `instance` = this process's identity.
    ///
    /// Must be called within a tokio runtime; the publishing ends with the last clone.
    #[must_use]
    pub fn new(client: Client, instance: &str, metrics: Metrics) -> Self {
        let (waiting, mut queue) = mpsc::channel(WAITING);
        let publisher = Publisher { client, instance: cut(instance, WORD_LIMIT).to_owned(), metrics };
        tokio::spawn(async move {
            while let Some((regarding, note)) = queue.recv().await {
                publisher.publish(regarding, &note).await;
            }
        });
        Self { waiting }
    }

    /// What there is to say of an object, mostly by the planner of a run.
    pub fn note<K: Resource<DynamicType = ()>>(&self, object: &K, note: Note) {
        self.enqueue(object.object_ref(&()), note);
    }

    /// An object of a kind such as `PipelineRun` cannot be read, so nothing is done about it.
    pub fn unreadable<K: Resource<DynamicType = ()>>(&self, metadata: &ObjectMeta, error: &str) {
        let regarding = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        };
        let message = format!(
            "this object cannot be read and is left alone: {error}. Delete it and create it again, or install the operator of the release that wrote it"
        );
        self.enqueue(regarding, Note { kind: NoteKind::Warning, reason: "Unreadable", message });
    }

    fn enqueue(&self, regarding: ObjectReference, note: Note) {
        let reason = note.reason;
        if self.waiting.try_send((regarding, note)).is_err() {
            tracing::debug!(reason, "dropped an event: too many wait");
        }
    }
}

struct Publisher {
    client: Client,
    instance: String,
    metrics: Metrics,
}

impl Publisher {
    async fn publish(&self, regarding: ObjectReference, note: &Note) {
        let event = build(&regarding, note, &self.instance, Timestamp::now());
        let api: Api<Event> = Api::namespaced(self.client.clone(), regarding.namespace.as_deref().unwrap_or("default"));
        let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
        let published = match timeout(PATIENCE, api.create(&params, &event)).await {
            Ok(Ok(_)) => true,
            // It has been said already.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, reason = note.reason, "failed to publish an event");
                false
            }
            Err(_) => {
                tracing::debug!(reason = note.reason, "failed to publish an event: no answer");
                false
            }
        };
        self.metrics.event(type_of(note.kind), published);
    }
}

/// The event, complete.
fn build(regarding: &ObjectReference, note: &Note, instance: &str, now: Timestamp) -> Event {
    let name = regarding.name.as_deref().unwrap_or_default();
    let uid = regarding.uid.as_deref().unwrap_or_default();
    // A dot or a dash before the separating dot would make the name invalid.
    let readable = cut(name, NAME_LIMIT).trim_end_matches(['.', '-']);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{readable}.{}", names::hash(&[uid, note.reason, &note.message]))),
            namespace: Some(regarding.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        type_: Some(type_of(note.kind).to_owned()),
        reason: Some(cut(note.reason, WORD_LIMIT).to_owned()),
        note: Some(shorten(&note.message)),
        action: Some("Run".to_owned()),
        event_time: Some(MicroTime(now)),
        regarding: Some(regarding.clone()),
        reporting_controller: Some("trainyard.dev/operator".to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

const fn type_of(kind: NoteKind) -> &'static str {
    match kind {
        NoteKind::Normal => "Normal",
        NoteKind::Warning => "Warning",
    }
}

/// At most 1,024 bytes, with a mark where something is missing.
fn shorten(text: &str) -> String {
    const MARK: &str = " ...";
    if text.len() <= NOTE_LIMIT { text.to_owned() } else { cut(text, NOTE_LIMIT - MARK.len()).to_owned() + MARK }
}

/// The first `limit` bytes, or fewer where a character would be cut.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run() -> ObjectReference {
        ObjectReference {
            api_version: Some("trainyard.dev/v1alpha1".into()),
            kind: Some("PipelineRun".into()),
            name: Some("iris-7".into()),
            namespace: Some("team".into()),
            uid: Some("u-1".into()),
            ..ObjectReference::default()
        }
    }

    fn note(message: &str) -> Note {
        Note { kind: NoteKind::Warning, reason: "Retry", message: message.into() }
    }

    fn event(regarding: &ObjectReference, message: &str) -> Event {
        build(regarding, &note(message), "trainyard-operator-0", Timestamp::from_second(1_700_000_000).unwrap())
    }

    #[test]
    fn an_event_as_it_is_sent() {
        insta::assert_yaml_snapshot!(event(&run(), "stage train failed: exit code 3, trying again in 10 s"));
    }

    #[test]
    fn what_is_said_again_is_the_same_event_and_anything_else_is_another() {
        let name = |regarding: &ObjectReference, message: &str| event(regarding, message).metadata.name;
        let again = ObjectReference { uid: Some("u-2".into()), ..run() };
        assert_eq!(name(&run(), "a"), name(&run(), "a"));
        assert_ne!(name(&run(), "a"), name(&run(), "b"));
        assert_ne!(name(&run(), "a"), name(&again, "a"));
    }

    proptest! {
        #[test]
        fn whatever_is_said_the_api_server_takes_it(
            name in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,2}",
            message in "\\PC{0,2000}",
        ) {
            let event = event(&ObjectReference { name: Some(name), ..run() }, &message);
            let note = event.note.unwrap();
            prop_assert!(note.len() <= 1024);
            prop_assert!(note == message || (message.len() > 1024 && note.ends_with(" ...")));
            let name = event.metadata.name.unwrap();
            prop_assert!(name.len() <= 253);
            let outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            prop_assert!(name.split('.').all(|part| part.starts_with(outer) && part.ends_with(outer)), "{}", name);
        }
    }
}
