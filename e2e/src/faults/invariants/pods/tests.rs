use super::super::world::{World, one};
use super::*;
use crate::faults::fault::{Fault, Place, PodPhase, Strike};
use crate::faults::history::Request;
use serde_json::json;
use std::time::Duration;

#[test]
fn two_pods_of_one_attempt_are_seen_even_if_one_is_gone() {
    let mut world = World::chain();
    world.pod("first", 1, "uid-again", Change::Added, "Pending", Value::Null);
    world.pod("first", 1, "uid-again", Change::Deleted, "Pending", Value::Null);
    assert!(one(&world.check(), "I1").contains("had 2 Pods"));
}

#[test]
fn a_pod_that_nobody_knew_and_others_took_may_be_created_again() {
    let count = |named: bool, strikes: &[Strike], restarted: bool| {
        let mut world = World::new();
        world.strikes = strikes.to_vec();
        let row = if named { ("first", "Pending", 1) } else { ("first", "Waiting", 0) };
        world.pod("first", 1, "uid-first-1", Change::Added, "Pending", Value::Null);
        world.run(World::status("Running", &[row, ("second", "Waiting", 0)]));
        world.pod("first", 1, "uid-first-1", Change::Deleted, "Pending", Value::Null);
        if restarted {
            world.push(What::Started(2));
        }
        world.pod("first", 1, "uid-again", Change::Added, "Pending", Value::Null);
        world.check().iter().filter(|violation| violation.invariant == "I1").count()
    };
    let strikes = [Strike { place: Place::Pod(1, PodPhase::Created), fault: Fault::Delete }];
    assert_eq!(count(false, &strikes, true), 0);
    assert_eq!([count(true, &strikes, true), count(false, &[], true), count(false, &strikes, false)], [1, 1, 1]);
}

#[test]
fn two_live_pods_of_one_stage_are_seen() {
    let mut world = World::before_the_end();
    world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null);
    let found = world.check();
    assert!(one(&found, "I2").starts_with("stage second had live Pods"));
    assert!(one(&found, "I3").ends_with("attempt 1 was Running"));
}

#[test]
fn a_pod_that_is_being_deleted_still_lives() {
    let mut world = World::before_the_end();
    let deleting = world.pod("second", 1, "uid-second-1", Change::Modified, "Running", Value::Null);
    deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null);
    one(&world.check(), "I2");
}

#[test]
fn what_has_succeeded_or_may_not_be_repeated_is_not_repeated() {
    let attempt_two_after = |phase: &str, code: i64, message: &str| {
        let mut world = World::before_the_end();
        let state = json!({"exitCode": code, "message": message});
        world.pod("second", 1, "uid-second-1", Change::Modified, phase, state);
        world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null);
        world.check()
    };
    assert!(one(&attempt_two_after("Succeeded", 0, "{\"commit\":\"x\"}"), "I3").ends_with("had succeeded"));
    assert!(one(&attempt_two_after("Failed", 73, ""), "I3").ends_with("never repeated"));
    assert!(one(&attempt_two_after("Failed", 64, ""), "I3").contains("of which 0 are repeated"));
    for (phase, code) in [("Failed", 71), ("Failed", 137), ("Succeeded", 0)] {
        let found = attempt_two_after(phase, code, "");
        assert!(found.iter().all(|violation| violation.invariant == "I8"), "{code}: {found:?}");
    }
}

#[test]
fn what_succeeded_and_was_gone_before_the_operator_saw_it_is_repeated() {
    let repeated = |early_reports: bool, shown: bool, read: bool| {
        let mut world = World::before_the_end();
        world.workload.early_reports = early_reports;
        let ended = json!({"exitCode": 0, "message": "{\"commit\":\"x\"}"});
        let success = world.pod("second", 1, "uid-second-1", Change::Modified, "Succeeded", ended.clone());
        let (name, version) = (success["metadata"]["name"].clone(), success["metadata"]["resourceVersion"].clone());
        let object = format!("Pod {}@{}", name.as_str().unwrap(), version.as_str().unwrap());
        if read {
            let (method, path) = ("GET".into(), "/api/v1/namespaces/n/pods".into());
            world.push(What::Request(Request { method, path, ..Request::default() }));
        }
        world.pod("second", 1, "uid-second-1", Change::Deleted, "Succeeded", ended);
        if shown {
            world.push(What::Watched { process: 1, event: "MODIFIED".into(), object });
        }
        world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null);
        world.check().iter().filter(|violation| violation.invariant == "I3").count()
    };
    assert_eq!(repeated(false, false, false), 0);
    assert_eq!(repeated(true, false, false), 1);
    assert_eq!(repeated(false, true, false), 1);
    assert_eq!(repeated(false, false, true), 1);
}

#[test]
fn what_succeeded_and_is_gone_is_repeated_by_a_process_that_cannot_have_heard_of_it() {
    let repeated = |late: bool, shown: bool, gone: bool| {
        let mut world = World::before_the_end();
        let ended = json!({"exitCode": 0, "message": "{\"commit\":\"x\"}"});
        let runner =
            What::RunnerEnded { pod: String::new(), uid: "uid-second-1".into(), code: 0, message: String::new() };
        let began = What::Started(2);
        let order = if late { [runner, began] } else { [began, runner] };
        order.into_iter().for_each(|what| world.push(what));
        let success = world.pod("second", 1, "uid-second-1", Change::Modified, "Succeeded", ended.clone());
        let (name, version) = (success["metadata"]["name"].clone(), success["metadata"]["resourceVersion"].clone());
        if shown {
            let object = format!("Pod {}@{}", name.as_str().unwrap(), version.as_str().unwrap());
            world.push(What::Watched { process: 2, event: "MODIFIED".into(), object });
        }
        if gone {
            world.pod("second", 1, "uid-second-1", Change::Deleted, "Succeeded", ended);
        }
        let again = world.pod("second", 2, "uid-s2", Change::Added, "Pending", Value::Null).clone();
        let (method, path) = ("POST".into(), "/api/v1/namespaces/n/pods".into());
        world.push(What::Request(Request { process: 2, method, path, body: again, ..Request::default() }));
        world.check().iter().filter(|violation| violation.invariant == "I3").count()
    };
    assert_eq!(repeated(true, false, true), 0);
    assert_eq!(repeated(false, false, true), 1);
    assert_eq!(repeated(true, true, true), 1);
    assert_eq!(repeated(true, false, false), 1);
}

#[test]
fn attempts_are_not_skipped_and_the_budget_ends() {
    let mut world = World::before_the_end();
    world.pod("second", 1, "uid-second-1", Change::Deleted, "Running", Value::Null);
    world.pod("second", 3, "uid-s3", Change::Added, "Pending", Value::Null);
    assert!(one(&world.check(), "I3").ends_with("attempt 2 never was"));

    let mut world = World::before_the_end();
    world.pod("second", 1, "uid-second-1", Change::Deleted, "Running", Value::Null);
    for number in 2..=7 {
        let uid = format!("uid-{number}");
        world.pod("second", number, &uid, Change::Added, "Pending", Value::Null);
        world.pod("second", number, &uid, Change::Deleted, "Pending", Value::Null);
    }
    assert!(one(&world.check(), "I3").starts_with("attempt 7 of stage second began although 6 attempts"));
}

#[test]
fn a_pod_before_its_inputs_is_seen() {
    let mut world = World::chain();
    world.commits[0].at = Duration::from_secs(3600);
    let found: Vec<_> = world.check().into_iter().filter(|violation| violation.invariant == "I4").collect();
    assert_eq!(found, [Violation::new("I4", "the Pod of stage second was created before first had committed")]);
}

#[test]
fn a_pod_before_a_decision_is_seen() {
    let count = |decision: &str, from: usize| {
        let mut world = World::chain();
        world.workload.pipeline = json!({"stages": [{"name": "approve", "approval": {}}]});
        world.workload.stages[1].needs.push("approve".to_owned());
        let decided = json!({"approvals": {"approve": {"decision": decision, "by": "somebody"}}});
        world.runs().skip(from).for_each(|run| run["spec"] = decided.clone());
        world.check().iter().filter(|violation| violation.invariant == "I4").count()
    };
    assert_eq!([count("Approved", 1), count("Approved", 2), count("Denied", 0)], [0, 1, 1]);
}

#[test]
fn a_pod_after_the_end_is_seen() {
    let mut world = World::chain();
    world.pod("second", 2, "uid-late", Change::Added, "Pending", Value::Null);
    assert!(one(&world.check(), "I4").contains("after the run had ended"));
}
