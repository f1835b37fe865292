//! What the operator is told: early by HTTP, at the end by the termination message; and who wins when two attempts race.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;

use common::endpoint::{KEY, endpoint, signature};
use common::{Step, World};
use serde_json::json;
use step_protocol::{Outcome, ReportSpec, StepReport, ValueType};

fn reporting(world: &World, script: &str, url: &str) -> Step {
    let mut step = world.shell("s", 1, script).variable("TRAINYARD_REPORT_KEY", KEY);
    step.spec.report = Some(ReportSpec { url: format!("{url}/") });
    step
}

#[test]
fn success_is_reported_early_and_signed() {
    let world = World::new();
    let (url, requests) = endpoint(&[200]);
    let step = reporting(&world, "printf 1 > $TRAINYARD_OUT_O", &url).outputs(&["o"]);
    let termination = step.termination.clone();
    step.run().ended(Outcome::Succeeded);
    let request = requests.recv().unwrap();
    assert_eq!(request.line, "POST /v1/report/team/iris-1/uid-1/s/1 HTTP/1.1");
    assert_eq!(
        request.body,
        std::fs::read_to_string(termination).unwrap(),
        "the same words as the termination message"
    );
    assert_eq!(request.signature, signature(&request.body));
    let report: StepReport = serde_json::from_str(&request.body).unwrap();
    assert_eq!(report.outcome, Outcome::Succeeded);
}

#[test]
fn a_refused_report_is_tried_once_more_and_changes_nothing() {
    let world = World::new();
    let (url, requests) = endpoint(&[503, 503]);
    reporting(&world, "true", &url).run().ended(Outcome::Succeeded);
    assert_eq!(requests.iter().count(), 2);
}

#[test]
fn nobody_listening_changes_nothing() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let done = reporting(&world, "true", &url).run().ended(Outcome::Succeeded);
    assert_eq!(done.stderr, "");
}

#[test]
fn failure_is_not_reported_early() {
    let world = World::new();
    let (url, requests) = endpoint(&[200]);
    reporting(&world, "exit 1", &url).run().ended(Outcome::UserError);
    assert!(requests.try_recv().is_err());
}

#[test]
fn user_code_cannot_write_the_termination_message() {
    let world = World::new();
    for (stage, script) in [
        "head -c 100000 /dev/zero > $T",
        "echo '{\"version\":1,\"outcome\":\"Succeeded\"}' > $T; exit 1",
        "(while :; do echo garbage >> $T; done) & true",
    ]
    .into_iter()
    .enumerate()
    {
        let step = world.shell(&format!("s{stage}"), 1, "true");
        let termination = step.termination.to_str().unwrap().to_owned();
        let mut step = step.variable("T", termination);
        step.spec.command[2] = script.into();
        let fails = script.ends_with("exit 1");
        step.run().ended(if fails { Outcome::UserError } else { Outcome::Succeeded });
    }
}

#[test]
fn results_and_metrics_reach_the_record_and_the_report() {
    let world = World::new();
    let script = r#"R=$TRAINYARD_ROOT/results; M=$TRAINYARD_ROOT/metrics.jsonl
echo text > $R/s; echo 4 > $R/i; echo 0.5 > $R/n; echo true > $R/b; echo '[1]' > $R/l; echo '{"a":1}' > $R/o
echo '{"name":"loss","value":NaN}' >> $M
echo 'not a metric' >> $M
echo '{"name":"auc","value":0.5,"fold":0}' >> $M
echo '{"name":"auc","value":1.0,"fold":1}' >> $M
echo '{"checks":[]}' > $TRAINYARD_ROOT/checks.json"#;
    let mut step = world.shell("s", 1, script);
    for (name, kind) in [
        ("s", ValueType::String),
        ("i", ValueType::Integer),
        ("n", ValueType::Number),
        ("b", ValueType::Boolean),
        ("l", ValueType::List),
        ("o", ValueType::Object),
    ] {
        step = step.result(name, kind);
    }
    step.spec.metrics = vec!["auc".into(), "never written".into()];
    let done = step.run().ended(Outcome::Succeeded);
    let expected = json!({"s": "text", "i": 4, "n": 0.5, "b": true, "l": [1], "o": {"a": 1}});
    let record = world.record("s").unwrap();
    assert_eq!(serde_json::to_value(&record.results).unwrap(), expected);
    assert_eq!(record.results, done.report.results);
    assert_eq!(record.metrics, BTreeMap::from([("loss".into(), json!("NaN")), ("auc".into(), json!(0.75))]));
    assert_eq!(
        done.stderr,
        "trainyard: metrics.jsonl: 1 lines are not metrics, the first is line 2: expected ident at line 1 column 2\n"
    );
    let objects = world.objects("s");
    assert_eq!(objects["1/checks.json"], b"{\"checks\":[]}\n");
    assert!(objects["1/metrics.jsonl"].starts_with(b"{\"name\":\"loss\""));
    assert!(record.started.unwrap() <= record.finished.unwrap());
}

#[test]
fn a_large_result_is_in_the_record_and_not_in_the_report() {
    let world = World::new();
    let script = "head -c 65536 /dev/zero | tr '\\0' a > $TRAINYARD_ROOT/results/r";
    let done = world.shell("s", 1, script).result("r", ValueType::String).run().ended(Outcome::Succeeded);
    assert!(done.report.truncated && done.report.results.is_empty());
    assert_eq!(world.record("s").unwrap().results["r"].as_str().unwrap().len(), 65536);
}

#[test]
fn of_racing_attempts_exactly_one_commits() {
    let world = World::new();
    // Each says that it runs and waits for its input to end, so all have looked for a commit before the first one ends.
    let mut started: Vec<_> = (1..=4)
        .map(|attempt| {
            let script = "printf $TRAINYARD_ATTEMPT > $TRAINYARD_OUT_O; echo ready; cat < $GATE";
            let mut step = world.shell("s", attempt, script).outputs(&["o"]);
            let gate = step.root().with_extension("gate");
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &gate,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap();
            step.env.push(("GATE".into(), gate.to_str().unwrap().into()));
            let child = step.start();
            (step, child, gate)
        })
        .collect();
    for (_, child, _) in &mut started {
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
    }
    for (_, _, gate) in &started {
        drop(std::fs::OpenOptions::new().write(true).open(gate).unwrap());
    }
    let done: Vec<_> = started.into_iter().map(|(step, child, _)| step.wait(child).ended(Outcome::Succeeded)).collect();
    let record = world.record("s").unwrap();
    let winner = record.attempt;
    let commit = done[0].report.commit.clone();
    for done in &done {
        assert_eq!(done.report.winner, Some(winner));
        assert_eq!(done.report.commit, commit);
        assert_eq!(done.report.outputs[0].digest, record.outputs[0].digest);
    }
    let objects = world.objects("s");
    assert_eq!(objects[&format!("{winner}/o/o")], winner.to_string().as_bytes());
    let outputs = objects.keys().filter(|key| key.contains("/o/")).count();
    assert_eq!(outputs, 2, "the losers' data is gone: {:?}", objects.keys());
}
