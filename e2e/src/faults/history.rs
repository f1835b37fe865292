//! What happened in one case, in order: every request of the operator and its answer, every version of every object, every
//! start and end of a process.
//!
//! [`Recorder`] is written by the proxy, the observer, the kubelet and the supervisor at the same time. [`History`] is what is
//! judged: plain data, so that a test can write one by hand.

use super::monkey::FOREIGN;
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Processes of one operator are numbered from a multiple of this, so that those of two are told apart.
pub const OPERATOR: u32 = 100;

/// The kinds whose every version is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// Pods.
    Pod,
    /// PipelineRuns.
    Run,
    /// Pipelines.
    Pipeline,
    /// TrainingJobs.
    Job,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pod, Self::Run, Self::Pipeline, Self::Job];

    /// The word in the `kind` of an object.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Run => "PipelineRun",
            Self::Pipeline => "Pipeline",
            Self::Job => "TrainingJob",
        }
    }

    /// The last word of the path of its collection.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Run => "pipelineruns",
            Self::Pipeline => "pipelines",
            Self::Job => "trainingjobs",
        }
    }

    /// The kind of this collection.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let last = path.rsplit('/').next()?;
        Self::ALL.into_iter().find(|kind| kind.plural() == last)
    }
}

/// Whether a Pod is a stage's or a rank's. Labels are written out: that the operator's words are these is part of what is tested.
#[must_use]
pub fn is_ours(pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let has = |label: &str| labels[format!("trainyard.dev/{label}")].is_string();
    (has("stage") || has("rank")) && labels[FOREIGN].is_null()
}

/// Whether a Pod works for a Pipeline in its store, and is of no run.
#[must_use]
pub fn is_task(pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    labels["trainyard.dev/pipeline-uid"].is_string() && labels[FOREIGN].is_null() && !is_ours(pod)
}

/// What a version is to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Change {
    /// The first.
    Added,
    /// Another.
    Modified,
    /// The last: the object is gone.
    Deleted,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Since the beginning of the case.
    pub at: Duration,
    /// What happened.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum What {
    /// The operator asked something of the API server.
    Request(Request),
    /// The API server answered. Whether the operator got the answer, the fault tells.
    Reply(Reply),
    /// The operator was shown a change.
    Watched {
        /// Which of the operator's processes, from 1.
        process: u32,
        /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
        event: String,
        /// Kind, name and resourceVersion.
        object: String,
    },
    /// The API server stored this, as seen by an own watch beside the operator's.
    Version(Version),
    /// A process of the operator began.
    Started(u32),
    /// It was killed by a fault, or at the end of the case.
    Killed(u32),
    /// It ended by itself, which it never should.
    Ended(u32, String),
    /// A fault of the case took place.
    Fault(String),
    /// Everything has come to its end; from now on nothing is left to be written. So many reconciles have been counted until then.
    Rest {
        /// The operator's own count.
        reconciles: u64,
    },
    /// Another process has written something while this one was frozen.
    TakenOver(u32),
    /// The test kubelet started the runner of a Pod.
    RunnerStarted {
        /// The Pod.
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// The runner of a Pod ended.
    RunnerEnded {
        /// The Pod.
        pod: String,
        /// Its UID.
        uid: String,
        /// Its exit code; 128 and the number of the signal.
        code: i32,
        /// What it wrote to its termination log.
        message: String,
    },
    /// The operator took a forged report.
    Believed(String),
    /// The harness itself could not do something.
    Trouble(String),
}

/// A request of the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Request {
    /// Its number among all requests of the case.
    pub id: u64,
    /// Which of the operator's processes sent it, from 1.
    pub process: u32,
    /// Its number among all writes of the case, from 1; `None` for a read.
    pub write: Option<u32>,
    /// `GET`, `POST`, `PATCH`, `PUT` or `DELETE`.
    pub method: String,
    /// The path.
    pub path: String,
    /// What follows `?`.
    pub query: String,
    /// What is sent, as JSON.
    pub body: Value,
}

/// The answer to the request with the same number.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reply {
    /// The request's number.
    pub id: u64,
    /// The HTTP status.
    pub status: u16,
    /// What was answered, for writes only.
    pub body: Value,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// Of which kind.
    pub kind: Kind,
    /// Its place in the object's life.
    pub change: Change,
    /// The object.
    pub object: Value,
}

impl Version {
    /// `metadata.resourceVersion`: one counter for all objects of the API server.
    #[must_use]
    pub fn revision(&self) -> u64 {
        revision(&self.object)
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().unwrap_or_default()
    }
}

/// An object's resourceVersion as a number.
#[must_use]
pub fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// All that happened, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    /// Line by line.
    pub entries: Vec<Entry>,
}

/// A write of the operator with what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// When it came to the proxy.
    pub at: Duration,
    /// The request.
    pub request: &'a Request,
    /// The answer; `None` if it was never sent on.
    pub reply: Option<&'a Reply>,
}

impl Write<'_> {
    /// Whether the API server has done it.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reply.is_some_and(|reply| (200..300).contains(&reply.status))
    }
}

impl History {
    /// Every version of every object of this kind, in the API server's order.
    #[must_use]
    pub fn versions(&self, kind: Kind) -> Vec<&Version> {
        let mut versions: Vec<&Version> = self.all_versions().filter(|version| version.kind == kind).collect();
        versions.sort_by_key(|version| version.revision());
        versions
    }

    /// Every version of every object, in the order in which they were seen.
    pub fn all_versions(&self) -> impl Iterator<Item = &Version> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            What::Version(version) => Some(version),
            _ => None,
        })
    }

    /// The writes of the operator, in order.
    #[must_use]
    pub fn writes(&self) -> Vec<Write<'_>> {
        let replies: BTreeMap<u64, &Reply> = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.what {
                What::Reply(reply) => Some((reply.id, reply)),
                _ => None,
            })
            .collect();
        let writes = self.entries.iter().filter_map(|entry| match &entry.what {
            What::Request(request) if request.write.is_some() => {
                Some(Write { at: entry.at, request, reply: replies.get(&request.id).copied() })
            }
            _ => None,
        });
        writes.collect()
    }

    /// How many faults of the case took place.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.what, What::Fault(_))).count()
    }

    /// When the last fault took place.
    #[must_use]
    pub fn last_fault(&self) -> Option<Duration> {
        self.entries.iter().rfind(|entry| matches!(entry.what, What::Fault(_))).map(|entry| entry.at)
    }

    /// One JSON object a line.
    #[must_use]
    pub fn to_lines(&self) -> String {
        let line = |entry: &Entry| serde_json::to_string(entry).unwrap_or_default() + "\n";
        self.entries.iter().map(line).collect()
    }
}

/// How things stand now.
#[derive(Debug, Default)]
pub struct World {
    objects: BTreeMap<(Kind, String), Value>,
    running: BTreeSet<String>,
    /// Pods of ours, and of short tasks, in the order in which they were created.
    pods: Vec<String>,
    /// Processes of the operator that have written something other than Events.
    writers: BTreeSet<u32>,
    /// Runs and jobs that are gone.
    deleted: BTreeSet<String>,
    trouble: Option<String>,
}

impl World {
    /// All objects of a kind.
    pub fn objects(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |((other, _), _)| *other == kind).map(|(_, object)| object)
    }

    /// An object by its name.
    #[must_use]
    pub fn object(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// How many runners are running.
    #[must_use]
    pub fn runners(&self) -> usize {
        self.running.len()
    }

    /// The name of a Pod of ours, counted from 1 as they were created.
    #[must_use]
    pub fn pod(&self, number: u32) -> Option<&str> {
        self.pods.get(usize::try_from(number).ok()?.checked_sub(1)?).map(String::as_str)
    }

    /// Whether a run or job of this name was there and is gone.
    #[must_use]
    pub fn is_deleted(&self, run: &str) -> bool {
        self.deleted.contains(run)
    }

    /// How many runs and jobs were there and are gone.
    #[must_use]
    pub fn deleted(&self) -> usize {
        self.deleted.len()
    }

    /// Whether a process of another operator than this process's has written.
    #[must_use]
    pub fn has_written_since(&self, process: u32) -> bool {
        self.writers.iter().any(|other| other / OPERATOR != process / OPERATOR)
    }

    fn apply(&mut self, what: &What) {
        match what {
            What::Request(request) if request.write.is_some() && !request.path.ends_with("/events") => {
                self.writers.insert(request.process);
            }
            What::Version(version) => {
                if version.kind == Kind::Pod
                    && version.change == Change::Added
                    && (is_ours(&version.object) || is_task(&version.object))
                    && !self.pods.iter().any(|pod| pod == version.name())
                {
                    self.pods.push(version.name().to_owned());
                }
                if matches!(version.kind, Kind::Run | Kind::Job) && version.change == Change::Deleted {
                    self.deleted.insert(version.name().to_owned());
                }
                let key = (version.kind, version.name().to_owned());
                match version.change {
                    Change::Deleted => self.objects.remove(&key),
                    Change::Added | Change::Modified => self.objects.insert(key, version.object.clone()),
                };
            }
            What::RunnerStarted { uid, .. } => {
                self.running.insert(uid.clone());
            }
            What::RunnerEnded { uid, .. } => {
                self.running.remove(uid);
            }
            What::Trouble(text) => self.trouble = Some(text.clone()),
            _ => {}
        }
    }
}

struct Inner {
    began: Instant,
    began_wall: SystemTime,
    state: Mutex<(History, World)>,
    length: watch::Sender<usize>,
}

/// Writes a history. Clones write the same one.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

impl Default for Recorder {
    fn default() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            began_wall: SystemTime::now(),
            state: Mutex::default(),
            length: watch::Sender::new(0),
        }))
    }
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, (History, World)> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what happens now.
    pub fn push(&self, what: What) {
        let length = {
            let mut state = self.state();
            state.1.apply(&what);
            state.0.entries.push(Entry { at: self.0.began.elapsed(), what });
            state.0.entries.len()
        };
        self.0.length.send_replace(length);
    }

    /// A moment of the wall clock, such as a file's, as a moment of this history.
    #[must_use]
    pub fn moment(&self, time: SystemTime) -> Duration {
        time.duration_since(self.0.began_wall).unwrap_or_default()
    }

    /// Since the beginning of the case.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// All that happened until now.
    #[must_use]
    pub fn history(&self) -> History {
        self.state().0.clone()
    }

    /// Waits until `asked` answers something, looking again whenever something happens.
    ///
    /// # Errors
    /// After `limit`, naming `what` was waited for; and at once when the harness itself is in trouble.
    pub async fn wait<T>(&self, limit: Duration, what: &str, mut asked: impl FnMut(&World) -> Option<T>) -> Result<T> {
        let mut length = self.0.length.subscribe();
        let waited = async {
            loop {
                length.borrow_and_update();
                {
                    let state = self.state();
                    if let Some(trouble) = &state.1.trouble {
                        bail!("the harness is in trouble: {trouble}");
                    }
                    if let Some(answer) = asked(&state.1) {
                        return Ok(answer);
                    }
                }
                length.changed().await?;
            }
        };
        match tokio::time::timeout(limit, waited).await {
            Ok(answer) => answer,
            Err(_) => bail!("waited {:.0} s in vain for {what}", limit.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests;
