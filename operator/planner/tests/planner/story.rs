//! A run told in frames: each what happened, the run's own line, a line a stage, and what was done. Snapshots are made of these.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use trainyard_crds::v1alpha1::{PipelineSpec, StageStatus};

use crate::world::{Key, Outcome, World};

/// A pipeline of these stages (and whatever else stands beside them), on a bucket, with one image for all.
pub fn spec(yaml: &str) -> PipelineSpec {
    let yaml =
        format!("store: {{uri: s3://bucket/trainyard}}\ndefaults: {{container: {{image: python:3.13}}}}\n{yaml}");
    serde_saphyr::from_str(&yaml).unwrap()
}

pub struct Story {
    pub world: World,
    text: String,
}

impl Story {
    pub fn new(yaml: &str) -> Self {
        Self::of(World::new(spec(yaml)))
    }

    pub fn of(world: World) -> Self {
        Self { world, text: String::new() }
    }

    /// Says how an attempt will end.
    pub fn ends(mut self, stage: &str, attempt: u32, outcome: Outcome) -> Self {
        self.world.script.insert((stage.to_owned(), attempt), outcome);
        self
    }

    /// The operator does what there is to do, and the frame is drawn.
    pub fn frame(&mut self, what: &str) {
        self.world.settle();
        let time = clock(self.world.now);
        let text = &mut self.text;
        writeln!(text, "{time} {what}").unwrap();
        let status = &self.world.status;
        let words = [
            status.phase.unwrap_or_default().as_str(),
            &status.progress,
            &status.stage,
            &status.reason,
            &status.duration,
            &status.message,
        ];
        writeln!(text, "    run: {}", joined(&words)).unwrap();
        for row in &status.stages {
            writeln!(text, "    {}", line(row)).unwrap();
        }
        for done in self.world.done.drain(..) {
            writeln!(text, "    > {done}").unwrap();
        }
    }

    /// One Pod moves, and the operator hears of it.
    pub fn pod(&mut self, stage: &str, attempt: u32) {
        let key = (stage.to_owned(), attempt);
        self.world.progress(&key);
        self.world.deliver(&key);
        let what = self.seen(&key);
        self.frame(&what);
    }

    fn seen(&self, key: &Key) -> String {
        let what = self.world.pods.get(key).map_or("is gone", |pod| pod.word());
        format!("{} a{} {what}", key.0, key.1)
    }

    /// Time passes.
    pub fn wait(&mut self, seconds: i64) {
        self.world.now = self.world.now.saturating_add(SignedDuration::from_secs(seconds)).unwrap();
        self.frame(&format!("{seconds} s later"));
    }

    /// Everything that can move does, a frame a step, until nothing does.
    pub fn play(&mut self) {
        self.frame("");
        loop {
            let keys: Vec<Key> = self.world.pods.keys().filter(|key| self.world.can_move(key)).cloned().collect();
            if !keys.is_empty() {
                self.world.now = self.world.now.saturating_add(SignedDuration::from_secs(1)).unwrap();
                keys.iter().for_each(|key| self.world.progress(key));
                self.world.late().iter().for_each(|key| self.world.deliver(key));
                let what: Vec<String> = keys.iter().map(|key| self.seen(key)).collect();
                self.frame(&what.join(", "));
            } else if let Some(at) = self.world.requeue_at() {
                self.world.now = at;
                self.frame("time has come");
            } else {
                break;
            }
        }
    }

    pub fn text(self) -> String {
        self.text
    }

    /// Plays to the end, which must be one.
    pub fn whole(mut self) -> String {
        self.play();
        assert!(self.world.ended(), "{}", self.text);
        self.text
    }
}

fn clock(at: Timestamp) -> String {
    at.to_string()[11..19].to_owned()
}

fn joined(words: &[&str]) -> String {
    words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" | ")
}

fn line(row: &StageStatus) -> String {
    let attempt = row.attempt.map(|number| format!("a{number}")).unwrap_or_default();
    let retry = row.retry_at.as_ref().map(|at| format!("again at {}", clock(at.0))).unwrap_or_default();
    let code = row.exit_code.map(|code| format!("exit {code}")).unwrap_or_default();
    let failures = row.failures.map(|it| format!("failures {}+{}", it.user, it.infra)).unwrap_or_default();
    let from = row.cached_from.as_ref().map(|from| format!("from {}", from.run)).unwrap_or_default();
    let words = [row.phase.as_str(), &attempt, &row.reason, &code, &failures, &retry, &from, &row.message];
    format!("{}: {}", row.name, joined(&words))
}
