//! How far a training is, told to the operator while it runs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::net::TcpListener;

use common::World;
use common::endpoint::{KEY, endpoint, signature};
use common::gang::{Gang, Running};
use serde_json::json;
use step_protocol::{CheckpointName, Framework, Outcome, ProgressReport, ReportSpec};

/// Writes what there is to tell, and ends when a line comes from the FIFO.
const SCRIPT: &str = r#"cd $TRAINYARD_ROOT
echo '{"name": "loss", "value": 0.5, "step": 1}' > metrics.jsonl; echo '{"name": "other", "value": 1}' >> metrics.jsonl
echo w > checkpoint/w; echo '{"progress": 0.25, "eta": "3 min"}' > p; mv p progress.json; echo written; cat < $GATE; echo '{"progress": 1}' > progress.json"#;

fn gate(world: &World) -> String {
    let path = world.dir.path().join("gate");
    std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn progress_metrics_and_checkpoints_are_posted_while_the_program_runs() {
    let world = World::new();
    let (url, requests) = endpoint(&[503, 200, 200]);
    let mut gang = Gang::new(Framework::None, 1);
    gang.checkpoint = Some(1);
    gang.again();
    let gate = gate(&world);
    let mut step = gang.shell(&world, 0, SCRIPT).variable("TRAINYARD_REPORT_KEY", KEY).variable("GATE", gate.clone());
    step.spec.report = Some(ReportSpec { url });
    step.spec.metrics = vec!["loss".into(), "accuracy".into()];
    let mut running = Running::start(step);
    assert_eq!(running.line(), "written");
    // The first is refused; what was not taken is told again, with what has changed meanwhile.
    let refused = requests.recv().unwrap();
    assert_eq!(refused.line, "POST /v1/progress/team/iris-1/uid-1/2 HTTP/1.1");
    assert_eq!(refused.signature, signature(&refused.body));
    let taken = requests.recv().unwrap();
    let report: ProgressReport = serde_json::from_str(&taken.body).unwrap();
    let expected = ProgressReport {
        version: 1,
        progress: Some(0.25),
        eta: Some("3 min".into()),
        metrics: [("loss".to_owned(), json!(0.5))].into(),
        checkpoint: Some(CheckpointName { execution: 2, sequence: 1 }),
        checkpoint_error: None,
    };
    assert_eq!(report, expected);
    drop(std::fs::File::options().write(true).open(gate).unwrap());
    running.end().ended(Outcome::Succeeded);
    let last = requests.recv().unwrap();
    assert!(last.line.starts_with("POST /v1/report/team/iris-1/uid-1/train/2 "), "{}", last.line);
}

#[test]
fn nobody_listening_changes_nothing() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let gate = gate(&world);
    let gang = Gang::new(Framework::None, 1);
    let script = "echo '{\"progress\": 0.5}' > $TRAINYARD_ROOT/progress.json; echo written; cat < $GATE";
    let mut step = gang.shell(&world, 0, script).variable("TRAINYARD_REPORT_KEY", KEY).variable("GATE", gate.clone());
    step.spec.report = Some(ReportSpec { url });
    let mut running = Running::start(step);
    assert_eq!(running.line(), "written");
    drop(std::fs::File::options().write(true).open(gate).unwrap());
    let done = running.end().ended(Outcome::Succeeded);
    assert_eq!(done.stderr, "");
}

#[test]
fn other_ranks_tell_nothing() {
    let world = World::new();
    let (url, requests) = endpoint(&[200]);
    let mut gang = Gang::new(Framework::None, 2);
    gang.scatter = true;
    let script = "echo '{\"progress\": 0.5}' > $TRAINYARD_ROOT/progress.json; sleep 3; exit 1";
    let mut step = gang.shell(&world, 1, script).variable("TRAINYARD_REPORT_KEY", KEY);
    step.spec.report = Some(ReportSpec { url });
    step.run().ended(Outcome::UserError);
    assert!(requests.try_recv().is_err());
}
