//! Parameters that triggers give to their runs.

use serde_json::{Value, json};
use trainyard_crds::v1alpha1::RunPhase;
use trainyard_planner::retrain::check;

use crate::world::{World, spec, time};

fn problem(more: Value) -> String {
    let problem = check("iris", &spec(more), &[]).unwrap_err();
    format!("{} {problem}", problem.reason)
}

/// A spec with a text, an integer and a list as parameters, and one trigger.
fn declared(trigger: Value) -> Value {
    let params = json!([
        {"name": "rate", "type": "number", "default": 0.5, "maximum": 1},
        {"name": "day", "default": ""},
        {"name": "days", "type": "list", "default": []},
    ]);
    json!({"params": params, "triggers": [trigger]})
}

fn nightly(params: Value) -> Value {
    declared(
        json!({"name": "nightly", "schedule": {"cron": "0 3 * * *", "timeZone": "Europe/Berlin"}, "params": params}),
    )
}

#[test]
fn what_a_trigger_gives_must_be_declared_of_its_type_and_known_then() {
    for params in [json!({}), json!({"rate": 1, "day": "$$(x) $(trigger.date)", "days": ["$(trigger.instant)", 3]})] {
        check("iris", &spec(nightly(params)), &[]).unwrap();
    }
    for (params, expected) in [
        (
            json!({"other": 1}),
            "ParameterUnknown spec.triggers[0].params.other: the pipeline has no parameter of this name; it has: rate, day, days",
        ),
        (json!({"rate": 2}), "ParameterInvalid spec.triggers[0].params.rate: must be at most 1, is 2"),
        (
            json!({"rate": "$(trigger.date)"}),
            "ParameterInvalid spec.triggers[0].params.rate: must be of type number, and a value with $(...) is a text",
        ),
        (
            json!({"day": "$(trigger.uri)"}),
            "UnknownReference spec.triggers[0].params.day: $(trigger.uri) is not known when this trigger starts a run; there are \
             $(trigger.name), $(trigger.instant), $(trigger.date); write $$( for a literal $(",
        ),
        (
            json!({"day": "$(params.rate)"}),
            "UnknownReference spec.triggers[0].params.day: $(params.rate) is not known when this trigger starts a run; there are \
             $(trigger.name), $(trigger.instant), $(trigger.date); write $$( for a literal $(",
        ),
        (
            json!({"days": ["$(trigger.date"]}),
            "UnknownReference spec.triggers[0].params.days: a $( has no closing parenthesis; write $$( for a literal $(",
        ),
    ] {
        assert_eq!(problem(nightly(params)), expected);
    }
}

#[test]
fn a_parameter_without_a_default_must_be_given() {
    let spec = |params: Value| -> Value {
        json!({"params": [{"name": "rate", "type": "number"}], "triggers": [{"name": "git", "specChange": {}, "params": params}]})
    };
    assert_eq!(
        problem(spec(json!({}))),
        "ParameterMissing spec.triggers[0].params: parameter rate has no default: give it a value here, or a default"
    );
    check("iris", &crate::world::spec(spec(json!({"rate": 1}))), &[]).unwrap();
}

#[test]
fn a_run_has_what_its_trigger_gives_where_its_clock_is() {
    let mut world =
        World::new(nightly(json!({"rate": 0.1, "day": "$(trigger.name)/$(trigger.date)/$(trigger.instant)"})));
    world.settle();
    world.now = time("2026-03-01T02:00:30Z");
    world.settle();
    let run = &world.runs[&world.created[0]];
    assert_eq!(json!(run.params), json!({"rate": 0.1, "day": "nightly/2026-03-01/2026-03-01T02:00:00Z"}));
    // Midnight in Berlin is the evening before in UTC.
    let mut world = World::new(declared(json!({
        "name": "night", "schedule": {"cron": "0 0 * * *", "timeZone": "Europe/Berlin"}, "params": {"days": ["$(trigger.date)"]},
    })));
    world.now = time("2026-03-01T22:00:00Z");
    world.settle();
    world.now = time("2026-03-01T23:00:00Z");
    world.settle();
    assert_eq!(json!(world.runs[&world.created[0]].params), json!({"days": ["2026-03-02"]}));
}

#[test]
fn what_waits_when_the_params_change_runs_with_the_new_ones_and_once() {
    let mut world = World::new(nightly(json!({"rate": 0.1})));
    world.settle();
    world.now = time("2026-03-01T02:00:30Z");
    world.write();
    // It is on record, and not created yet.
    world.spec.triggers[0].params.insert("rate".into(), json!(0.2));
    world.settle();
    world.end(RunPhase::Succeeded);
    world.settle();
    let trained: Vec<&Value> = world.trained.iter().map(|(name, _)| &world.runs[name].params["rate"]).collect();
    assert_eq!(trained, [&json!(0.2)]);
}

#[test]
fn two_triggers_of_the_same_instants_that_give_something_else_each_start_their_run() {
    let schedule = |name: &str, region: &str| json!({"name": name, "schedule": {"cron": "0 3 * * *"}, "params": {"region": region}});
    let fields = json!({
        "params": [{"name": "region", "default": ""}], "concurrency": "Allow",
        "triggers": [schedule("eu", "eu"), schedule("us", "us"), schedule("also-us", "us")],
    });
    let mut world = World::new(fields);
    world.settle();
    world.now = time("2026-03-01T03:00:30Z");
    world.settle();
    let regions: Vec<&Value> = world.created.iter().map(|name| &world.runs[name].params["region"]).collect();
    assert_eq!(regions, [&json!("eu"), &json!("us")], "what is the same is run once");
}

#[test]
fn a_trigger_that_gives_what_cannot_be_known_starts_nothing_until_it_is_corrected() {
    let backfill = |day: &str| {
        json!({"name": "history", "params": {"day": day}, "backfill": {
            "cron": "0 0 * * *", "from": "2026-01-01T00:00:00Z", "until": "2026-01-03T00:00:00Z"}})
    };
    let mut world = World::new(declared(backfill("$(trigger.uri)")));
    world.settle();
    let history = world.trigger("history");
    assert_eq!((world.created.len(), history.reason.as_str()), (0, "UnknownReference"));
    assert!(
        history.message.starts_with("spec.triggers[0].params.day: $(trigger.uri) is not known"),
        "{}",
        history.message
    );
    world.spec.triggers[0] = serde_json::from_value(backfill("$(trigger.date)")).unwrap();
    for _ in 0..3 {
        world.settle();
        world.end(RunPhase::Succeeded);
    }
    let days: Vec<&Value> = world.created.iter().map(|name| &world.runs[name].params["day"]).collect();
    assert_eq!(
        (days, world.trigger("history").reason.as_str()),
        (vec![&json!("2026-01-01"), &json!("2026-01-02")], "")
    );
}

#[test]
fn a_run_that_was_told_by_another_spec_is_replaced_also_when_that_has_gone_again() {
    let mut world = World::new(nightly(json!({"rate": 0.1})));
    world.settle();
    world.now = time("2026-03-01T02:00:30Z");
    world.write();
    let give = |world: &mut World, rate: f64| world.spec.triggers[0].params.insert("rate".into(), json!(rate));
    give(&mut world, 0.2);
    let told = world.to_create();
    told.into_iter().for_each(|new| world.create(new));
    give(&mut world, 0.1);
    world.settle();
    let trained: Vec<&Value> = world.trained.iter().map(|(name, _)| &world.runs[name].params["rate"]).collect();
    assert_eq!(trained, [&json!(0.1)]);
}
