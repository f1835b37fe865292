//! Runs that train and publish a model, and what lies in its registry then.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use step_protocol::{Alias, InputSource, ModelRecord, Outcome, Promotion, PublishSource, PublishSpec, paths};

use super::{Step, World};

static READS: AtomicU32 = AtomicU32::new(0);

/// The prefix of the model.
pub const MODEL: &str = "team/iris/models/flower";

/// The UID of a run by its number, of the form that Kubernetes gives.
pub fn uid(run: u32) -> String {
    format!("6f1c0b1e-0000-4000-8000-{run:012}")
}

/// The directory of a run.
pub fn directory(run: u32) -> String {
    format!("iris-{run}.{}", uid(run))
}

pub fn stage_prefix(run: u32, stage: &str) -> String {
    paths::stage_prefix("team", "iris", &format!("iris-{run}"), &uid(run), stage)
}

/// The step as one of that run.
pub fn of_run(mut step: Step, run: u32) -> Step {
    let stage = step.spec.identity.stage.clone();
    step.spec.identity.run = format!("iris-{run}");
    step.spec.identity.run_uid = uid(run);
    step.spec.prefix = stage_prefix(run, &stage);
    step
}

/// Runs the stage `train` of a run: its output `m` is a directory whose file says which run made it.
pub fn train(world: &World, run: u32) {
    let script = format!("mkdir $TRAINYARD_OUT_M; echo {run} > $TRAINYARD_OUT_M/weights");
    of_run(world.shell("train", 1, &script).outputs(&["m"]), run).run().ended(Outcome::Succeeded);
}

/// When a run was accepted that has just been.
pub fn just_now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() - Duration::from_secs(60)).to_string()
}

fn publishing(world: &World, run: u32, attempt: u32, source: PublishSource) -> Step {
    let mut step = of_run(world.command("publish", attempt, &[]), run);
    let (model, prefix) = ("flower".into(), MODEL.into());
    step.spec.publish = Some(PublishSpec { model, prefix, source, run_started: just_now() });
    step
}

/// The stage `publish` of a run, for what its stage `train` made.
pub fn publish(world: &World, run: u32, attempt: u32) -> Step {
    let source = PublishSource::Output {
        commit: paths::commit_key(&stage_prefix(run, "train")),
        output: "m".into(),
        digest: None,
        metrics: [("train.accuracy".to_owned(), 0.9.into())].into(),
        lineage: [("cause".to_owned(), "by hand".into()), ("key".to_owned(), "of-it".into())].into_iter().collect(),
    };
    publishing(world, run, attempt, source)
}

/// The stage `publish` of a run that makes a version champion.
pub fn promote(world: &World, run: u32, attempt: u32, version: u64) -> Step {
    publishing(world, run, attempt, PublishSource::Version { version })
}

/// Trains and publishes; all must go well.
pub fn make(world: &World, run: u32) {
    train(world, run);
    publish(world, run, 1).run().ended(Outcome::Succeeded);
}

/// Runs a script in a stage of nobody's, with all that lies below a prefix as its input: what it prints.
fn look(world: &World, uri: String, script: &str) -> String {
    let stage = format!("look-{}", READS.fetch_add(1, Ordering::Relaxed));
    let step = world.shell(&stage, 1, script).input("i", InputSource::Uri(uri)).optional();
    step.run().ended(Outcome::Succeeded).stdout
}

/// Every key below a prefix, relative to it and sorted.
pub fn keys(world: &World, prefix: &str) -> Vec<String> {
    let uri = format!("{}/{prefix}/", world.store.uri);
    let script = "if [ -n \"$TRAINYARD_IN_I\" ]; then cd $TRAINYARD_IN_I; find . -type f | LC_ALL=C sort; fi";
    let listed = look(world, uri, script);
    listed.lines().map(|line| line.trim_start_matches("./").to_owned()).collect()
}

/// An object; `None` if there is none.
pub fn read<T: DeserializeOwned>(world: &World, key: &str) -> Option<T> {
    let text = look(world, format!("{}/{key}", world.store.uri), "test -z \"$TRAINYARD_IN_I\" || cat $TRAINYARD_IN_I");
    (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
}

pub fn version(world: &World, number: u64) -> Option<ModelRecord> {
    read(world, &paths::version_key(MODEL, number))
}

pub fn promotion(world: &World, number: u64) -> Option<Promotion> {
    read(world, &paths::promotion_key(MODEL, number))
}

pub fn alias(world: &World, name: &str) -> Option<Alias> {
    read(world, &format!("{MODEL}/{name}"))
}

/// The versions that champion and previous stand for.
pub fn aliases(world: &World) -> (Option<u64>, Option<u64>) {
    let of = |name| alias(world, name).map(|alias| alias.version);
    (of(paths::CHAMPION), of(paths::PREVIOUS))
}

/// How many versions and promotions there are.
pub fn records(world: &World) -> (usize, usize) {
    let keys = keys(world, MODEL);
    let promotions = keys.iter().filter(|key| key.starts_with("promotions/")).count();
    (keys.iter().filter(|key| key.ends_with("/model.json")).count(), promotions)
}
