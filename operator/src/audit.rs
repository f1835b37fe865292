//! A watch that is checked against what there is: events may get lost on the way, and nobody would ever say so.
//!
//! Once a minute the metadata of everything that the watch selects is listed and compared with what the watch has shown. What it
//! has not shown some seconds later either was lost: then everything is listed anew. The cost is one list of metadata a minute,
//! and does not depend on history.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kube::Resource;
use kube::api::{Api, ListParams, ObjectList, Request};
use kube::runtime::watcher::{self, Event, watcher};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::memory::lock;

/// Between two audits.
const EVERY: Duration = Duration::from_secs(50);
/// A watch may lag behind a list for so long.
const LAG: Duration = Duration::from_secs(5);
/// Objects in one answer: all of it is in memory as text, more than once.
const PAGE: u32 = 100;

/// What a watch has shown: the resourceVersion of every object, by UID.
#[derive(Debug, Default)]
struct Shown {
    versions: HashMap<String, u64>,
    /// Those of the listing that is going on.
    listing: HashMap<String, u64>,
}

impl Shown {
    fn take<K: Resource>(&mut self, event: &Event<K>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => insert(&mut self.listing, object),
            Event::InitDone => self.versions = std::mem::take(&mut self.listing),
            Event::Apply(object) => insert(&mut self.versions, object),
            Event::Delete(object) => {
                self.versions.remove(object.meta().uid.as_deref().unwrap_or_default());
            }
        }
    }

    /// The objects that differ from what there is: shown in an older version or not at all, or shown and not there.
    fn differences(&self, there: &HashMap<String, u64>) -> Vec<String> {
        let old = there.iter().filter(|(uid, version)| self.versions.get(*uid).is_none_or(|shown| shown < version));
        let extra = self.versions.keys().filter(|uid| !there.contains_key(*uid));
        old.map(|(uid, _)| uid).chain(extra).cloned().collect()
    }
}

fn insert<K: Resource>(versions: &mut HashMap<String, u64>, object: &K) {
    let meta = object.meta();
    let version = meta.resource_version.as_deref().and_then(|version| version.parse().ok());
    if let (Some(uid), Some(version)) = (meta.uid.clone(), version) {
        versions.insert(uid, version);
    }
}

/// A watch of what `config` selects, audited as long as it is polled.
pub(crate) fn audited<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = config.page_size(PAGE);
    let shown = Arc::new(Mutex::new(Shown::default()));
    let again = Arc::new(Notify::new());
    let selected = ListParams {
        label_selector: config.label_selector.clone(),
        field_selector: config.field_selector.clone(),
        limit: Some(PAGE),
        ..ListParams::default()
    };
    let auditor = tokio::spawn(audit(api.clone(), selected, Arc::clone(&shown), Arc::clone(&again)));
    let watch = Watch { stream: watcher(api.clone(), config.clone()).boxed(), api, config, shown, again, auditor };
    stream::unfold(watch, |mut watch| async move {
        loop {
            tokio::select! {
                biased;
                () = watch.again.notified() => watch.stream = watcher(watch.api.clone(), watch.config.clone()).boxed(),
                event = watch.stream.next() => {
                    let event = event?;
                    if let Ok(event) = &event {
                        lock(&watch.shown).take(event);
                    }
                    return Some((event, watch));
                }
            }
        }
    })
}

struct Watch<K: Clone> {
    stream: BoxStream<'static, watcher::Result<Event<K>>>,
    api: Api<K>,
    config: watcher::Config,
    shown: Arc<Mutex<Shown>>,
    again: Arc<Notify>,
    auditor: JoinHandle<()>,
}

impl<K: Clone> Drop for Watch<K> {
    fn drop(&mut self) {
        self.auditor.abort();
    }
}

async fn audit<K>(api: Api<K>, selected: ListParams, shown: Arc<Mutex<Shown>>, again: Arc<Notify>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let there = match there(&api, selected.clone()).await {
            Ok(there) => there,
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), error = %error, "the audit of a watch waits for the next time");
                continue;
            }
        };
        let suspicious = lock(&shown).differences(&there);
        if suspicious.is_empty() {
            continue;
        }
        tokio::time::sleep(LAG).await;
        let lost = {
            let still = lock(&shown).differences(&there);
            still.into_iter().filter(|uid| suspicious.contains(uid)).count()
        };
        if lost > 0 {
            tracing::warn!(kind = %K::kind(&()), objects = lost, "a watch has lost events: everything is listed again");
            again.notify_one();
        }
    }
}

/// What an audit reads of an object.
#[derive(Clone, Deserialize)]
struct SeenVersion {
    metadata: Version,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    uid: String,
    resource_version: String,
}

/// Every selected object's resourceVersion, by UID.
async fn there<K>(api: &Api<K>, mut selected: ListParams) -> kube::Result<HashMap<String, u64>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let client = api.clone().into_client();
    let mut versions = HashMap::new();
    loop {
        let request = Request::new(api.resource_url()).list_metadata(&selected).map_err(kube::Error::BuildRequest)?;
        let page: ObjectList<SeenVersion> = client.request(request).await?;
        for SeenVersion { metadata } in page.items {
            if let Ok(version) = metadata.resource_version.parse() {
                versions.insert(metadata.uid, version);
            }
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => selected.continue_token = Some(token),
            _ => return Ok(versions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(uid: &str, version: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid, "resourceVersion": version}})).unwrap()
    }

    fn shown(events: Vec<Event<Pod>>) -> Shown {
        let mut shown = Shown::default();
        events.iter().for_each(|event| shown.take(event));
        shown
    }

    fn there(objects: &[(&str, u64)]) -> HashMap<String, u64> {
        objects.iter().map(|(uid, version)| ((*uid).to_owned(), *version)).collect()
    }

    #[test]
    fn what_was_shown_does_not_differ() {
        let events = vec![
            Event::Init,
            Event::InitApply(pod("a", "3")),
            Event::InitApply(pod("b", "4")),
            Event::InitDone,
            Event::Apply(pod("a", "9")),
            Event::Apply(pod("c", "11")),
            Event::Delete(pod("b", "12")),
        ];
        let shown = shown(events);
        assert!(shown.differences(&there(&[("a", 9), ("c", 11)])).is_empty());
        // The watch may be ahead of the list.
        assert!(shown.differences(&there(&[("a", 8), ("c", 11)])).is_empty());
    }

    #[test]
    fn a_lost_object_a_lost_version_and_a_lost_deletion_differ() {
        let shown = shown(vec![Event::Apply(pod("a", "9")), Event::Apply(pod("b", "5"))]);
        assert_eq!(shown.differences(&there(&[("a", 9), ("b", 5), ("c", 11)])), ["c"]);
        assert_eq!(shown.differences(&there(&[("a", 10), ("b", 5)])), ["a"]);
        assert_eq!(shown.differences(&there(&[("a", 9)])), ["b"]);
    }

    #[test]
    fn a_listing_counts_when_it_is_complete() {
        let mut shown = shown(vec![Event::Apply(pod("a", "9")), Event::Init, Event::InitApply(pod("b", "10"))]);
        assert!(shown.differences(&there(&[("a", 9)])).is_empty());
        shown.take::<Pod>(&Event::InitDone);
        assert!(shown.differences(&there(&[("b", 10)])).is_empty());
    }
}
