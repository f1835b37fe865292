//! What stories of trainings have in common.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use e2e::image::{self, Image};
use e2e::paths;
use serde_json::Value;

use crate::world::{LIMIT, Story, cluster};

/// Waits for a job's end as users do, and returns it.
pub(crate) fn finished(story: &Story, name: &str) -> Value {
    let timeout = format!("--timeout={}s", LIMIT.as_secs());
    story.kubectl(&["wait", "--for=condition=Finished", &timeout, &format!("tj/{name}")]);
    story.get(&format!("tj/{name}")).unwrap()
}

pub(crate) fn running(story: &Story, name: &str, attempt: u64) -> Value {
    story.until(&format!("tj/{name}"), &format!("attempt {attempt} Running"), |job| {
        job["status"]["phase"] == "Running" && job["status"]["attempt"] == attempt
    })
}

/// The Pods of an attempt, by rank.
pub(crate) fn pods(story: &Story, name: &str, attempt: u64) -> Vec<String> {
    let selector = format!("trainyard.dev/job={name},trainyard.dev/attempt={attempt}");
    let text = story.kubectl(&["get", "pods", "--selector", &selector, "--output", "json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    let mut pods: Vec<(u32, String)> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| {
            let rank = pod["metadata"]["labels"]["trainyard.dev/rank"].as_str().unwrap().parse().unwrap();
            (rank, pod["metadata"]["name"].as_str().unwrap().to_owned())
        })
        .collect();
    pods.sort();
    pods.into_iter().map(|(_, name)| name).collect()
}

/// A story that has the machine's processors for itself among those here: each has as many processes as they take.
pub(crate) struct Training {
    pub(crate) story: Story,
    image: String,
    _turn: MutexGuard<'static, ()>,
}

impl Training {
    pub(crate) fn new(name: &str, image: &Image) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let image = image::load(cluster(), image).unwrap();
        Self { story: Story::new(name), image, _turn: turn }
    }

    /// A job of ranks that run a program of the repository, which has all of what is said to it.
    pub(crate) fn job(&self, name: &str, program: &str, spec: &str) {
        let file = paths::repository().join(program);
        let from = format!("--from-file={}", file.display());
        self.story.kubectl(&["create", "configmap", name, &from]);
        self.story.apply(&format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: {name}}}\nspec:\n  code: {{configMapName: {name}}}\n{}",
            spec.replace("IMAGE", &self.image),
        ));
    }

    /// The job of an example, with some of its lines changed.
    pub(crate) fn example(&self, folder: &str, changes: &[(&str, &str)]) {
        let read = |file: &str| std::fs::read_to_string(paths::repository().join(folder).join(file)).unwrap();
        let mut job = read("job.yaml").replace("localhost/trainyard/example-training:1", &self.image);
        for (from, to) in changes {
            assert!(job.contains(from), "{folder} has no {from}");
            job = job.replace(from, to);
        }
        self.story.apply(&read("code.yaml"));
        self.story.apply(&job);
    }

    /// The Pod of a rank.
    pub(crate) fn pod(&self, job: &str, attempt: u64, rank: usize) -> String {
        pods(&self.story, job, attempt)[rank].clone()
    }

    /// Sends a signal to a rank's program.
    pub(crate) fn signal(&self, pod: &str, signal: &str) {
        self.story.kubectl(&["exec", pod, "--", "sh", "-c", &format!("kill -{signal} $(pidof python3)")]);
    }

    pub(crate) fn log_lines(&self, pod: &str, words: &str) -> Vec<String> {
        let log = self.story.kubectl(&["logs", pod]);
        log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    /// What all ranks of an attempt say with these words, which must be the same.
    pub(crate) fn all_say(&self, job: &str, attempt: u64, words: &str) -> Vec<String> {
        let pods = pods(&self.story, job, attempt);
        let said: BTreeSet<_> = pods.iter().map(|pod| self.log_lines(pod, words)).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        said.into_iter().next().unwrap()
    }
}

/// A job that has succeeded: how often it was started again, and its status.
pub(crate) fn succeeded(job: &Value) -> (u64, &Value) {
    let status = &job["status"];
    assert_eq!(status["phase"], "Succeeded", "{job:#}");
    (status["restarts"].as_u64().unwrap_or(0), status)
}
