//! What can be said of the kubelet without an API server; the sweep's own run without a fault says the rest.

use super::*;
use step_protocol::{Framework, Identity, RankSpec, RoleSpec, StoreSpec, Text};

fn shared(folder: &Path) -> Shared {
    let options = Options {
        namespace: "n".into(),
        runner: "/bin/false".into(),
        store: folder.join("store"),
        folder: folder.into(),
        shown_after: Duration::ZERO,
        bucket: None,
        cut_files: Vec::new(),
        mutant: None,
    };
    Shared {
        api: Api::plain("http://127.0.0.1:1"),
        options,
        recorder: Recorder::default(),
        runners: Arc::new(Runners::default()),
        addresses: Addresses::default(),
    }
}

fn pod(store: &str) -> Pod {
    let step = StepSpec {
        version: step_protocol::VERSION,
        identity: Identity {
            namespace: "n".into(),
            pipeline: "p".into(),
            run: "r".into(),
            run_uid: "u".into(),
            stage: "a".into(),
            attempt: 1,
        },
        root: step_protocol::paths::ROOT.into(),
        command: vec![Text::from("$(kept)")],
        script: None,
        working_dir: None,
        env: Vec::new(),
        params: serde_json::Map::new(),
        store: StoreSpec { uri: store.into(), s3: None },
        prefix: "n/p/r.u/a".into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        results: Vec::new(),
        metrics: Vec::new(),
        timeout_seconds: None,
        grace_seconds: 30,
        report: None,
        rank: None,
        checkpoint: None,
        publish: None,
        ledger: None,
    };
    let mut env: Vec<Value> =
        step.to_env().unwrap().iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    env.push(json!({"name": "TRAINYARD_REPORT_KEY", "value": "00ff"}));
    let object = json!({"spec": {"containers": [{"name": "other"}, {"name": STAGE, "env": env}]}});
    Pod { name: "a".into(), uid: "1".into(), path: String::new(), object }
}

#[tokio::test]
async fn a_step_is_moved_to_this_machine_and_otherwise_left() {
    let folder = tempfile::tempdir().unwrap();
    let pod = pod("file:///trainyard-store");
    let variables = shared(folder.path()).variables(&pod, &folder.path().join("root")).await.unwrap();
    assert_eq!(variables["TRAINYARD_REPORT_KEY"], "00ff");
    let moved = StepSpec::from_env(&variables).unwrap();
    let mut expected = step(&pod.object).unwrap();
    expected.root = folder.path().join("root").display().to_string();
    expected.store.uri = format!("file://{}/store", folder.path().display());
    assert_eq!(moved, expected);
}

#[tokio::test]
async fn a_bucket_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let variables = shared(folder.path()).variables(&pod("s3://bucket"), folder.path()).await.unwrap();
    assert_eq!(StepSpec::from_env(&variables).unwrap().store.uri, "s3://bucket");
}

fn rank(attempt: u32, rank: u32) -> RankSpec {
    RankSpec {
        framework: Framework::None,
        role: "worker".into(),
        index: rank,
        rank,
        world_size: 4,
        roles: vec![RoleSpec { name: "worker".into(), replicas: 4, processes_per_replica: 1 }],
        hosts: (0..4).map(|rank| format!("worker-{rank}.fit")).collect(),
        port: 29_500,
        gate_port: 29_499,
        processes_per_replica: 1,
        execution: attempt,
        start_timeout_seconds: 600,
        stall_timeout_seconds: None,
        elastic: None,
        rendezvous_id: format!("uid-{attempt}"),
        scatter: false,
    }
}

#[test]
fn every_rank_of_every_attempt_has_an_address_of_its_own_which_all_know() {
    let addresses = Addresses::default();
    let first = addresses.of(&rank(1, 0)).unwrap();
    assert_eq!(addresses.of(&rank(1, 3)).unwrap(), first);
    let second = addresses.of(&rank(2, 0)).unwrap();
    let all: HashSet<&String> = first.iter().chain(&second).collect();
    assert_eq!(all.len(), 8);
    for address in all {
        assert!(address.parse::<std::net::Ipv4Addr>().unwrap().is_loopback());
    }
}

fn version(change: Change, metadata: Value) -> Version {
    Version { kind: Kind::Pod, change, object: json!({"metadata": metadata}) }
}

#[test]
fn what_is_asked_of_a_pod_stands_in_its_metadata() {
    let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 45});
    assert_eq!(Asked::of(&version(Change::Modified, json!({}))), Asked::Run);
    assert_eq!(Asked::of(&version(Change::Modified, deleting.clone())), Asked::Stop(Duration::from_secs(45)));
    assert_eq!(Asked::of(&version(Change::Deleted, deleting)), Asked::Gone);
}

fn program(script: &str) -> Child {
    Command::new("/bin/sh").args(["-c", script]).kill_on_drop(true).stdout(Stdio::piped()).spawn().unwrap()
}

/// A program has to say that its trap is set before it can be asked to stop.
async fn ready(child: &mut Child) {
    use tokio::io::AsyncReadExt as _;
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).await.unwrap();
}

#[tokio::test]
async fn a_program_may_end_by_itself_or_is_stopped_with_grace_or_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, pod) = (shared(folder.path()), pod("s3://bucket"));
    let (sender, mut asked) = watch::channel(Asked::Run);
    assert_eq!(code(shared.wait(&pod, &mut program("exit 64"), &mut asked).await.unwrap()), 64);

    let trap = "trap 'exit 71' TERM; echo; while :; do read x; done";
    let mut child = program(trap);
    ready(&mut child).await;
    sender.send(Asked::Stop(Duration::from_secs(20))).unwrap();
    assert_eq!(code(shared.wait(&pod, &mut child, &mut asked).await.unwrap()), 71);

    let mut child = program("trap '' TERM; echo; while :; do read x; done");
    ready(&mut child).await;
    sender.send(Asked::Gone).unwrap();
    assert_eq!(code(shared.wait(&pod, &mut child, &mut asked).await.unwrap()), 128 + 9);
}
