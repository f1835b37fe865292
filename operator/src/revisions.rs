//! Frozen pipelines, each kept once for all runs of it: as ControllerRevisions that they own together, and in memory as graphs.
//!
//! Runs of one Pipeline often come together. If each made itself an owner by itself, the API server would try most of these patches
//! again and again, since they are of one object. So whoever has its turn brings along those that wait, as many as an object may have.
//! What is more goes to another object of the same content, whose name has a number in its hash.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{Param, PipelineSpec};
use trainyard_planner::{Graph, SpecProblem};

use crate::apply::{OWNERS, WriteError, Writer};
use crate::memory::lock;

/// What a run is made by. The same for all runs with the same revision.
pub(crate) struct Definition {
    pub(crate) graph: Graph,
    /// The parameters that are declared.
    pub(crate) params: Vec<Param>,
    /// Those that were given, where the revision keeps them.
    pub(crate) given: Option<BTreeMap<String, Value>>,
}

impl Definition {
    /// From a pipeline that names its store.
    pub(crate) fn new(spec: &PipelineSpec, given: Option<BTreeMap<String, Value>>) -> Result<Self, SpecProblem> {
        Ok(Self { graph: Graph::new(spec, None)?, params: spec.params.clone(), given })
    }
}

/// Namespace and name of a revision.
type Key = (String, String);

/// What is known of revisions.
#[derive(Default)]
pub(crate) struct Revisions {
    definitions: Mutex<HashMap<Key, Weak<Definition>>>,
    queues: Mutex<HashMap<Key, Arc<Queue>>>,
}

/// The owners that wait for their turn at one revision.
#[derive(Default)]
struct Queue {
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Vec<Waiting>>,
    /// The first so many objects are known to have no room.
    full: AtomicU32,
}

/// An owner that waits, and who is told the name of the object when it is one.
struct Waiting {
    owner: OwnerReference,
    kept: oneshot::Sender<String>,
}

impl Revisions {
    /// The definition that active runs with this revision share.
    pub(crate) fn known(&self, namespace: &str, revision: &str) -> Option<Arc<Definition>> {
        lock(&self.definitions).get(&key(namespace, revision))?.upgrade()
    }

    /// The definition that active runs share: the one that is known, else this one.
    pub(crate) fn share(
        &self,
        namespace: &str,
        revision: &str,
        definition: impl Into<Arc<Definition>>,
    ) -> Arc<Definition> {
        let mut definitions = lock(&self.definitions);
        // Those that no run has any more go when another one comes.
        definitions.retain(|_, definition| definition.strong_count() > 0);
        let known = definitions.entry(key(namespace, revision)).or_default();
        known.upgrade().unwrap_or_else(|| {
            let definition = definition.into();
            *known = Arc::downgrade(&definition);
            definition
        })
    }

    /// Keeps what `canonical` is the text of, and makes a run one of its owners, together with those that wait for the same. Returns the
    /// name of the revision that has it.
    pub(crate) async fn keep(
        &self,
        writer: &Writer,
        namespace: &str,
        (pipeline, canonical): (&str, &str),
        data: &impl Serialize,
        owner: OwnerReference,
    ) -> Result<String, WriteError> {
        let name = |number: u32| match number {
            0 => names::revision(pipeline, canonical),
            number => names::revision(pipeline, &format!("{canonical}#{number}")),
        };
        let key = key(namespace, &name(0));
        let queue = Arc::clone(lock(&self.queues).entry(key.clone()).or_default());
        let keep = |number: u32, owners: Vec<OwnerReference>| {
            let name = name(number);
            async move {
                let left = writer.keep_revision(namespace, &name, data, &owners).await?;
                Ok((name, left))
            }
        };
        let result = queue.pass(owner, keep).await;
        let mut queues = lock(&self.queues);
        // Ours and that of the map: nobody else waits. What is known to be full is remembered.
        if Arc::strong_count(&queue) == 2 && queue.full.load(Ordering::Relaxed) == 0 {
            queues.remove(&key);
        }
        result
    }
}

fn key(namespace: &str, revision: &str) -> Key {
    (namespace.to_owned(), revision.to_owned())
}

impl Queue {
    /// Waits for the turn of this owner and has `keep` do it, at the object of a number, for those that wait then; `keep` returns that
    /// object's name and the owners for which it has no room. An owner that another one has brought along has nothing left to do; if
    /// that went wrong, it tries by itself.
    async fn pass<E, F: Future<Output = Result<(String, Vec<OwnerReference>), E>>>(
        &self,
        owner: OwnerReference,
        keep: impl Fn(u32, Vec<OwnerReference>) -> F,
    ) -> Result<String, E> {
        let (kept, mut told) = oneshot::channel();
        lock(&self.waiting).push(Waiting { owner, kept });
        let _turn = self.turn.lock().await;
        loop {
            if let Ok(name) = told.try_recv() {
                return Ok(name);
            }
            let mut along = Along::of(self);
            let owners = along.waiting.iter().map(|waiting| waiting.owner.clone()).collect();
            let (name, left) = keep(self.full.load(Ordering::Relaxed), owners).await?;
            let is_left = |waiting: &Waiting| left.iter().any(|owner| owner.uid == waiting.owner.uid);
            for waiting in along.waiting.extract_if(.., |waiting| !is_left(waiting)) {
                // Nobody listens any more where the reconcile has been given up.
                let _ = waiting.kept.send(name.clone());
            }
            if !left.is_empty() {
                self.full.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Owners that are being brought along. Those that are not kept in the end wait again, also when a panic ends it.
struct Along<'a> {
    queue: &'a Queue,
    waiting: Vec<Waiting>,
}

impl<'a> Along<'a> {
    /// The first that wait, as many as an object has room for.
    fn of(queue: &'a Queue) -> Self {
        let mut waiting = lock(&queue.waiting);
        waiting.retain(|waiting| !waiting.kept.is_closed());
        let first = OWNERS.min(waiting.len());
        Self { queue, waiting: waiting.drain(..first).collect() }
    }
}

impl Drop for Along<'_> {
    fn drop(&mut self) {
        lock(&self.queue.waiting).splice(0..0, self.waiting.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use serde_json::json;

    use super::*;

    fn owner(uid: usize) -> OwnerReference {
        OwnerReference { uid: uid.to_string(), ..OwnerReference::default() }
    }

    fn definition() -> Definition {
        let spec = json!({"store": {"uri": "s3://b"}, "stages": [{"name": "a", "container": {"image": "i", "command": ["c"]}}]});
        Definition::new(&serde_json::from_value(spec).unwrap(), None).unwrap()
    }

    /// What each pass was for: the object's number and the owners.
    type Passed = Vec<(u32, Vec<usize>)>;

    /// So many owners come together, and objects have room for so many. Each pass lets all others arrive before it ends.
    async fn passes(
        queue: &Queue,
        owners: usize,
        room: usize,
        fails: impl Fn(usize) -> bool,
    ) -> (Vec<Result<String, String>>, Passed) {
        let passed = Mutex::new(Passed::new());
        let one = |uid: usize| {
            let (passed, fails) = (&passed, &fails);
            queue.pass(owner(uid), move |number: u32, owners: Vec<OwnerReference>| async move {
                tokio::task::yield_now().await;
                let mut passed = lock(passed);
                let there: usize =
                    passed.iter().filter(|(other, _)| *other == number).map(|(_, kept)| kept.len()).sum();
                let (kept, left) = owners.split_at(owners.len().min(room.saturating_sub(there)));
                passed.push((number, kept.iter().map(|owner| owner.uid.parse().unwrap()).collect()));
                if fails(passed.len()) {
                    Err(format!("pass {}", passed.len()))
                } else {
                    Ok((number.to_string(), left.to_vec()))
                }
            })
        };
        let results = join_all((0..owners).map(one)).await;
        (results, passed.into_inner().unwrap())
    }

    fn kept(number: u32) -> Result<String, String> {
        Ok(number.to_string())
    }

    #[tokio::test]
    async fn owners_that_wait_are_brought_along() {
        let (results, passed) = passes(&Queue::default(), 4, OWNERS, |_| false).await;
        assert_eq!(results, vec![kept(0); 4]);
        assert_eq!(passed, [(0, vec![0]), (0, vec![1, 2, 3])]);
    }

    #[tokio::test]
    async fn a_failure_is_of_the_one_whose_turn_it_was() {
        let queue = Queue::default();
        let (results, passed) = passes(&queue, 4, OWNERS, |number| number == 2).await;
        assert_eq!(results, [kept(0), Err("pass 2".to_owned()), kept(0), kept(0)]);
        assert_eq!(passed, [(0, vec![0]), (0, vec![1, 2, 3]), (0, vec![2, 3])]);
        assert!(lock(&queue.waiting).is_empty());
    }

    #[tokio::test]
    async fn an_object_without_room_is_followed_by_another_one_and_not_asked_again() {
        let queue = Queue::default();
        let (results, passed) = passes(&queue, 6, 2, |_| false).await;
        assert_eq!(results, [kept(0), kept(0), kept(1), kept(1), kept(2), kept(2)]);
        assert_eq!(passed, [(0, vec![0]), (0, vec![1]), (1, vec![2, 3]), (2, vec![4, 5])]);
        assert_eq!(queue.full.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn no_pass_is_for_more_than_an_object_has_room_for() {
        let (results, passed) = passes(&Queue::default(), 2 * OWNERS + 1, OWNERS, |_| false).await;
        assert_eq!(results.iter().filter(|result| **result == kept(1)).count(), OWNERS);
        assert_eq!(passed.iter().map(|(_, kept)| kept.len()).sum::<usize>(), 2 * OWNERS + 1);
        assert!(passed.iter().all(|(_, kept)| kept.len() <= OWNERS));
    }

    #[tokio::test]
    async fn a_panic_loses_nobody() {
        let queue = Arc::new(Queue::default());
        let (kept, _told) = oneshot::channel();
        lock(&queue.waiting).push(Waiting { owner: owner(7), kept });
        let panicking = Arc::clone(&queue);
        let task = tokio::spawn(async move {
            let panics = async |_: u32, _: Vec<OwnerReference>| -> Result<(String, Vec<OwnerReference>), String> {
                panic!("as tested")
            };
            panicking.pass(owner(1), panics).await
        });
        assert!(task.await.unwrap_err().is_panic());
        let waiting: Vec<_> = Along::of(&queue).waiting.iter().map(|waiting| waiting.owner.uid.clone()).collect();
        assert_eq!(waiting, ["7"]);
    }

    #[test]
    fn runs_share_a_definition_as_long_as_one_has_it() {
        let revisions = Revisions::default();
        assert!(revisions.known("n", "r").is_none());
        let first = revisions.share("n", "r", definition());
        let second = revisions.share("n", "r", definition());
        assert!(Arc::ptr_eq(&first, &second) && revisions.known("other", "r").is_none());
        drop((first, second));
        assert!(revisions.known("n", "r").is_none());
        let _other = revisions.share("n", "s", definition());
        assert_eq!(lock(&revisions.definitions).len(), 1);
    }
}
