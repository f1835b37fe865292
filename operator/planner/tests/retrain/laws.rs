//! Whatever happens in whatever order, and wherever the operator stops: one cause, one training.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use trainyard_crds::v1alpha1::{Cause, Revision, RunPhase};
use trainyard_planner::retrain::{FoundOutput, SeenUpstream};

use crate::world::{World, rate};

#[derive(Clone, Copy, Debug)]
enum Step {
    Edit(u8),
    Request(u8),
    Pass(u16),
    Write,
    Create,
    /// A second process creates what the status said some time ago.
    Zombie,
    Accept,
    End(bool),
    Suspend(bool),
    /// Another pipeline has written this.
    Output(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u8..3).prop_map(Step::Edit),
        1 => (0u8..2).prop_map(Step::Request),
        2 => (1u16..4000).prop_map(Step::Pass),
        6 => Just(Step::Write),
        4 => Just(Step::Create),
        1 => Just(Step::Zombie),
        3 => Just(Step::Accept),
        2 => any::<bool>().prop_map(Step::End),
        1 => any::<bool>().prop_map(Step::Suspend),
        2 => (0u8..3).prop_map(Step::Output),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn one_cause_is_one_training_wherever_the_operator_stops(
        steps in prop::collection::vec(step(), 1..80),
        policy in prop::sample::select(vec!["Allow", "Forbid", "Replace", "QueueLatest"]),
    ) {
        let mut world = World::new(json!({"concurrency": policy, "triggers": [
            {"name": "git", "specChange": {}},
            {"name": "hourly", "schedule": {"cron": "0 * * * *", "missedRuns": "CatchUp", "catchUpLimit": 2}},
            {"name": "clean", "upstream": {"pipeline": "clean", "output": "clean.table"}},
            {"name": "history", "params": {"rate": 1}, "backfill": {
                "cron": "0 0 * * *", "from": "2026-02-20T00:00:00Z", "until": "2026-02-25T00:00:00Z", "maxActive": 2}},
        ]}));
        let mut old = Vec::new();
        for step in steps {
            match step {
                Step::Edit(value) => rate(&mut world.spec, f64::from(value)),
                Step::Request(value) => world.request = Some(value.to_string()),
                Step::Pass(seconds) => world.pass(i64::from(seconds)),
                Step::Write => {
                    world.write();
                    old.extend(world.to_create());
                }
                Step::Create => {
                    for new in world.to_create() {
                        world.create(new);
                    }
                }
                Step::Zombie => {
                    for new in old.drain(..) {
                        world.create(new);
                    }
                }
                Step::Accept => world.accept(),
                Step::End(well) => world.end(if well { RunPhase::Succeeded } else { RunPhase::Failed }),
                Step::Suspend(value) => world.spec.suspend = Some(value),
                Step::Output(value) => {
                    // The watch shows it for as long as it is so.
                    let output = FoundOutput { digest: value.to_string(), uri: "s3://bucket/table/".into() };
                    let seen = SeenUpstream { run: format!("clean-{value}"), created: None, found: Ok(Some(output)) };
                    world.upstream.insert("clean".into(), seen);
                }
            }
        }
        // In the end all that is left to do is done.
        world.spec.suspend = None;
        for _ in 0..8 {
            world.settle();
            world.end(RunPhase::Succeeded);
        }
        world.settle();

        let mut by_cause: BTreeMap<String, usize> = BTreeMap::new();
        for (name, cause) in &world.trained {
            // A spec is a cause of its own, and so its key. What another pipeline has made is one for each spec.
            let cause = match cause {
                Cause::SpecChange {} | Cause::Upstream { .. } => name.clone(),
                cause => serde_json::to_string(cause).unwrap(),
            };
            *by_cause.entry(cause).or_default() += 1;
        }
        prop_assert!(by_cause.values().all(|count| *count == 1), "{by_cause:?}");
        // Each day has had its run, however that ended.
        let progress = world.trigger("history").backfill.clone().unwrap();
        prop_assert_eq!((progress.instants, progress.succeeded + progress.failed), (5, 5));
        // The spec as it is has been run, or its run did not end well.
        let current = world.trigger("git").key.clone();
        let entry = world.status.revisions.iter().find(|entry| entry.key == current);
        // A newer run of the same spec may have taken its place; that its run found another spec is no end.
        let run = |entry: &Revision| entry.phase.is_terminal() && entry.reason != "Superseded";
        prop_assert!(entry.is_none_or(run), "{entry:?}");
        prop_assert_eq!(&current, &trainyard_planner::retrain::run_key(&world.spec, "git", &Cause::SpecChange {}));
        prop_assert!(world.status.revisions.len() <= 20);
        prop_assert!(world.status.revisions.iter().all(|entry| entry.phase.is_terminal()));
    }
}
