//! A stage that succeeds: outputs, commit record, report, and what the next stage gets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use common::{World, stage};
use serde_json::json;
use step_protocol::{Outcome, ValueType, paths};

#[test]
fn a_stage_commits_and_the_next_one_reads_it() {
    let world = World::new();
    let done = world
        .shell("prepare", 1, r#"mkdir "$TRAINYARD_OUT_TABLE" && printf 'a,b\n' > "$TRAINYARD_OUT_TABLE/t.csv"; printf 7 > "$TRAINYARD_ROOT/results/rows"; printf model > "$TRAINYARD_OUT_MODEL"; chmod +x "$TRAINYARD_OUT_MODEL"; echo hello; echo oops >&2"#)
        .outputs(&["table", "model"])
        .result("rows", ValueType::Integer)
        .run()
        .ended(Outcome::Succeeded);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("hello\n", "oops\n"));
    let record = world.record("prepare").unwrap();
    assert_eq!(record.results["rows"], json!(7));
    assert_eq!(record.outputs.len(), 2);
    assert_eq!(done.report.winner, Some(1));
    assert_eq!(done.report.outputs[0].digest, record.outputs[0].digest);
    let objects = world.objects("prepare");
    let mut log = String::from_utf8(objects["1/log.txt"].clone()).unwrap();
    assert!(log == "hello\noops\n" || log == "oops\nhello\n", "{log}");
    log.clear();
    assert_eq!(
        objects.keys().collect::<Vec<_>>(),
        ["1/log.txt", "1/model/manifest.json", "1/model/model", "1/table/manifest.json", "1/table/t.csv", "COMMIT"]
    );

    let next = world
        .shell("train", 1, r#"cat "$TRAINYARD_IN_TABLE/t.csv"; "$TRAINYARD_ROOT/in/model" || test -x "$TRAINYARD_IN_MODEL" && cat "$TRAINYARD_IN_MODEL""#)
        .input("table", stage("prepare", "table"))
        .input("model", stage("prepare", "model"))
        .run()
        .ended(Outcome::Succeeded);
    assert!(next.stdout.starts_with("a,b\n") && next.stdout.ends_with("model"), "{next:?}");
}

#[test]
fn a_committed_stage_is_adopted_and_nothing_runs() {
    let world = World::new();
    world.shell("s", 1, "printf 1 > $TRAINYARD_OUT_O").outputs(&["o"]).run().ended(Outcome::Succeeded);
    let before = world.objects("s");
    let done = world.shell("s", 2, "echo ran; exit 1").outputs(&["o"]).run().ended(Outcome::Succeeded);
    assert_eq!((done.report.winner, done.stdout.as_str()), (Some(1), ""));
    assert_eq!(world.objects("s"), before, "the second attempt leaves nothing behind");
    let bytes = std::fs::read(world.path(&paths::commit_key(&common::prefix("s")))).unwrap();
    assert!(done.report.commit.unwrap().starts_with("sha256:"));
    assert!(!bytes.is_empty());
}
