//! A revision is trained by one run: the ledger in the store says by which.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use common::worlds::worlds;
use common::{Done, Step, World};
use step_protocol::{LedgerEntry, LedgerSpec, Outcome, paths};

fn key() -> String {
    paths::ledger_key("team", "iris", "key-1", 0)
}

fn asking(step: Step) -> Step {
    let mut step = step;
    step.spec.ledger = Some(LedgerSpec { key: key() });
    step
}

/// The same stage of another run.
fn of(run: &str, mut step: Step) -> Step {
    step.spec.identity.run = run.into();
    step.spec.identity.run_uid = format!("uid-of-{run}");
    step.spec.prefix = paths::stage_prefix("team", "iris", run, &step.spec.identity.run_uid, "s");
    step
}

fn write(world: &World, text: &str) {
    let path = world.path(&key());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn did_not_run(done: &Done) {
    assert_eq!(done.stdout, "", "{done:?}");
}

#[test]
fn a_revision_is_taken_by_one_run_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let first = || asking(world.shell("s", 1, "echo ran; exit 3"));
        assert_eq!(first().run().ended(Outcome::UserError).stdout, "ran\n");
        let other = of("iris-2", asking(world.shell("s", 1, "echo ran")));
        let done = other.run().ended(Outcome::AlreadyRun);
        did_not_run(&done);
        let done = done.says("run iris-1 (UID uid-1) has taken this revision on 20").says("ledger/key-1-0.json");
        done.says("set another rerunToken to train it again, or delete that object");
        // The next attempt, and another first stage.
        assert_eq!(asking(world.shell("s", 2, "echo ran")).run().ended(Outcome::Succeeded).stdout, "ran\n");
        assert_eq!(asking(world.shell("t", 1, "echo ran")).run().ended(Outcome::Succeeded).stdout, "ran\n");
    }
}

#[test]
fn the_entry_says_who_and_when() {
    let world = World::new();
    asking(world.shell("s", 1, "true")).run().ended(Outcome::Succeeded);
    let entry: LedgerEntry = serde_json::from_slice(&std::fs::read(world.path(&key())).unwrap()).unwrap();
    assert_eq!((entry.protocol, entry.run.as_str(), entry.run_uid.as_str()), (1, "iris-1", "uid-1"));
    assert!(entry.created.starts_with("20") && entry.created.ends_with('Z'), "{}", entry.created);
}

#[test]
fn of_many_runs_at_once_one_takes_it_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let runs = ["a", "b", "c", "d", "e", "f"];
        let mut steps: Vec<Step> = runs.iter().map(|run| of(run, asking(world.shell("s", 1, "echo ran")))).collect();
        let children: Vec<_> = steps.iter_mut().map(Step::start).collect();
        let done: Vec<Done> = steps.iter().zip(children).map(|(step, child)| step.wait(child)).collect();
        let (ran, others): (Vec<&Done>, Vec<&Done>) =
            done.iter().partition(|done| done.report.outcome == Outcome::Succeeded);
        assert_eq!(ran.len(), 1, "{done:#?}");
        for other in others {
            assert_eq!(other.report.outcome, Outcome::AlreadyRun, "{other:#?}");
            did_not_run(other);
        }
    }
}

#[test]
fn what_is_committed_is_adopted_without_the_ledger() {
    let world = World::new();
    world.shell("s", 1, "echo x > $TRAINYARD_OUT_O").outputs(&["o"]).run().ended(Outcome::Succeeded);
    write(&world, r#"{"protocol":1,"run":"other","runUid":"other","created":"2026-01-02T03:04:05Z"}"#);
    let done = asking(world.shell("s", 2, "echo ran")).outputs(&["o"]).run().ended(Outcome::Succeeded);
    assert_eq!(done.report.winner, Some(1));
    // Also when nobody has taken the revision, it is not taken now.
    std::fs::remove_file(world.path(&key())).unwrap();
    asking(world.shell("s", 3, "echo ran")).outputs(&["o"]).run().ended(Outcome::Succeeded);
    assert!(!world.path(&key()).exists());
}

#[test]
fn an_entry_that_cannot_be_read_is_named() {
    let world = World::new();
    for text in ["", "{", "[]", r#"{"protocol":1,"run":"a","runUid":"b"}"#] {
        write(&world, text);
        let done = asking(world.shell("s", 1, "echo ran")).run().ended(Outcome::ArtifactCorrupt);
        did_not_run(&done);
        done.says("ledger/key-1-0.json").says("cannot be read").says("delete that object");
    }
    let file = std::fs::File::create(world.path(&key())).unwrap();
    file.set_len(1 << 40).unwrap();
    let done = asking(world.shell("s", 1, "echo ran")).run().ended(Outcome::ArtifactCorrupt);
    did_not_run(&done);
    done.says("ledger/key-1-0.json").says("1099511627776 bytes");
}
