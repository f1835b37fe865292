//! What released versions have written stays readable: a run that was begun by one version is ended by another, and artifacts outlive
//! both.
//!
//! `samples/vX.Y.Z` has one document of each kind, as that version writes it. Those of the current version are checked against what
//! is written now; a release adds a folder and never changes one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use step_protocol::{
    CheckpointName, CheckpointSpec, CommitRecord, CommittedOutput, ElasticSpec, EnvVar, Framework, Identity,
    InputSource, InputSpec, Manifest, ManifestFile, Outcome, OutputReport, OutputSpec, Pack, Packed, ProgressReport,
    RankSpec, ReportSpec, ResultSpec, RoleSpec, S3Spec, Segment, StepReport, StepSpec, StoreSpec, Text, VERSION,
    ValueType,
};

/// Writes the samples of this version again when set. To be used once, before a release.
const ENV_WRITE: &str = "TRAINYARD_WRITE_SAMPLES";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")
}

fn digest(of: char) -> String {
    format!("sha256:{}", String::from(of).repeat(64))
}

fn step() -> StepSpec {
    let stage = InputSource::Stage {
        commit: "ml/iris/iris-1.u/split/COMMIT".into(),
        output: "train".into(),
        digest: Some(digest('a')),
    };
    let input = |name: &str, source, optional| InputSpec { name: name.into(), source, optional };
    StepSpec {
        version: VERSION,
        identity: Identity {
            namespace: "ml".into(),
            pipeline: "iris".into(),
            run: "iris-1".into(),
            run_uid: "0b6f7f9e-6a1c-4b53-9d1e-0e7cfb8a1b11".into(),
            stage: "train".into(),
            attempt: 2,
        },
        root: "/trainyard".into(),
        command: vec![
            Text::from("python3"),
            Text::Segments(vec![
                Segment::Literal("--rows=".into()),
                Segment::Result {
                    commit: "ml/iris/iris-1.u/clean/COMMIT".into(),
                    stage: "clean".into(),
                    name: "rows".into(),
                },
            ]),
        ],
        script: Some("#!/bin/sh\necho $1\n".into()),
        working_dir: Some("/trainyard/code".into()),
        env: vec![EnvVar { name: "SHARE".into(), value: Text::from("0.25") }],
        params: json!({"share": 0.25, "names": ["a", "b"]}).as_object().unwrap().clone(),
        store: StoreSpec {
            uri: "s3://iris/trainyard".into(),
            s3: Some(S3Spec {
                endpoint: Some("http://store:9000".into()),
                region: Some("us-east-1".into()),
                virtual_hosted_style: false,
            }),
        },
        prefix: "ml/iris/iris-1.u/train".into(),
        inputs: vec![
            input("table", stage, false),
            input("raw", InputSource::Uri("s3://iris/raw/iris.csv".into()), true),
        ],
        outputs: vec![OutputSpec { name: "model".into(), kind: Some("Model".into()) }],
        results: vec![ResultSpec { name: "rows".into(), kind: ValueType::Integer }],
        metrics: vec!["accuracy".into()],
        timeout_seconds: Some(1800),
        grace_seconds: 30,
        report: Some(ReportSpec { url: "http://report:8090/v1/report/ml/iris-1/u/train/2".into() }),
        rank: None,
        checkpoint: None,
        publish: None,
        ledger: None,
    }
}

/// A rank of a training.
fn rank_step() -> StepSpec {
    StepSpec {
        rank: Some(RankSpec {
            framework: Framework::Torch,
            role: "worker".into(),
            index: 1,
            rank: 2,
            world_size: 3,
            roles: vec![
                RoleSpec { name: "chief".into(), replicas: 1, processes_per_replica: 1 },
                RoleSpec { name: "worker".into(), replicas: 2, processes_per_replica: 2 },
            ],
            hosts: vec!["fit-chief-0.fit".into(), "fit-worker-0.fit".into(), "fit-worker-1.fit".into()],
            port: 29500,
            gate_port: 29499,
            processes_per_replica: 2,
            execution: 2,
            start_timeout_seconds: 600,
            stall_timeout_seconds: Some(900),
            elastic: Some(ElasticSpec { min: 2, max: 8 }),
            rendezvous_id: "0b6f7f9e-6a1c-4b53-9d1e-0e7cfb8a1b11-2".into(),
            scatter: true,
        }),
        checkpoint: Some(CheckpointSpec {
            interval_seconds: 300,
            keep: 2,
            prefix: "ml/trainingjobs/fit.u/train/checkpoint".into(),
            upload: true,
        }),
        ..step()
    }
}

fn progress() -> ProgressReport {
    ProgressReport {
        version: VERSION,
        progress: Some(0.4),
        eta: Some("12 min".into()),
        metrics: BTreeMap::from([("loss".to_owned(), json!(0.25))]),
        checkpoint: Some(CheckpointName { execution: 2, sequence: 3 }),
        checkpoint_error: Some("the disk is full".into()),
    }
}

fn success() -> StepReport {
    StepReport {
        commit: Some(digest('c')),
        winner: Some(2),
        outputs: vec![OutputReport { name: "model".into(), digest: digest('d'), bytes: 4096 }],
        results: BTreeMap::from([("rows".to_owned(), json!(150))]),
        metrics: BTreeMap::from([("accuracy".to_owned(), json!(0.973))]),
        started: Some("2026-01-01T00:00:00Z".into()),
        finished: Some("2026-01-01T00:01:00Z".into()),
        ..StepReport::new(Outcome::Succeeded, "")
    }
}

fn failure() -> StepReport {
    StepReport {
        exit_code: Some(3),
        last_lines: "Traceback (most recent call last):\n".into(),
        truncated: true,
        started: Some("2026-01-01T00:00:00Z".into()),
        finished: Some("2026-01-01T00:01:00Z".into()),
        ..StepReport::new(Outcome::UserError, "the program ended with exit code 3")
    }
}

fn commit() -> CommitRecord {
    CommitRecord {
        version: VERSION,
        run_uid: "0b6f7f9e-6a1c-4b53-9d1e-0e7cfb8a1b11".into(),
        stage: "train".into(),
        attempt: 2,
        outputs: vec![CommittedOutput {
            name: "model".into(),
            kind: Some("Model".into()),
            prefix: "ml/iris/iris-1.u/train/2/model".into(),
            digest: digest('d'),
            bytes: 4096,
            files: 1,
        }],
        results: BTreeMap::from([("rows".to_owned(), json!(150))]),
        metrics: BTreeMap::from([("accuracy".to_owned(), json!(0.973))]),
        started: Some("2026-01-01T00:00:00Z".into()),
        finished: Some("2026-01-01T00:01:00Z".into()),
    }
}

fn file(path: &str, packed: Option<Packed>) -> ManifestFile {
    ManifestFile { path: path.into(), size: 10, digest: digest('e'), executable: path.ends_with(".sh"), packed }
}

fn manifest() -> Manifest {
    Manifest {
        version: VERSION,
        directory: true,
        files: vec![file("model.bin", None), file("run.sh", None)],
        packs: Vec::new(),
    }
}

fn packed() -> Manifest {
    let files = vec![file("a", Some(Packed { pack: 0, offset: 0 })), file("b", Some(Packed { pack: 0, offset: 10 }))];
    Manifest { files, packs: vec![Pack { name: "pack-0".into(), size: 20 }], ..manifest() }
}

/// Every sample of every version reads as the kind that it is, and nothing of it is lost; those of this version are what is written.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, current: &T) {
    let written = serde_json::to_string_pretty(current).unwrap() + "\n";
    let this = folder().join(format!("v{}", env!("CARGO_PKG_VERSION"))).join(name);
    if std::env::var_os(ENV_WRITE).is_some() {
        std::fs::create_dir_all(this.parent().unwrap()).unwrap();
        std::fs::write(&this, &written).unwrap();
    }
    let kept = std::fs::read_to_string(&this).unwrap_or_else(|error| panic!("{}: {error}", this.display()));
    assert_eq!(
        kept, written,
        "{name} of this version has changed: a field may be added with a default, with a new version"
    );
    let mut versions = 0;
    for version in std::fs::read_dir(folder()).unwrap() {
        let path = version.unwrap().path().join(name);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let again = serde_json::to_value(&read).unwrap();
        assert!(contains(&again, &serde_json::from_str(&text).unwrap()), "{}: something was lost", path.display());
        versions += 1;
    }
    assert!(versions > 0);
}

/// Whether everything of `old` is in `new`.
fn contains(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            old.iter().all(|(key, value)| new.get(key).is_some_and(|new| contains(new, value)))
        }
        (Value::Array(new), Value::Array(old)) => {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| contains(new, old))
        }
        (new, old) => new == old,
    }
}

#[test]
fn steps_stay_readable() {
    check("step.json", &step());
    check("step-rank.json", &rank_step());
}

#[test]
fn reports_stay_readable() {
    check("report-success.json", &success());
    check("report-failure.json", &failure());
    check("progress.json", &progress());
}

#[test]
fn commit_records_stay_readable() {
    check("commit.json", &commit());
}

#[test]
fn manifests_stay_readable() {
    check("manifest.json", &manifest());
    check("manifest-packed.json", &packed());
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    for (name, read) in [("commit.json", true), ("manifest.json", false)] {
        let text = std::fs::read_to_string(folder().join("v0.1.0").join(name)).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["added"] = json!({"later": true});
        let text = value.to_string();
        let known = if read {
            serde_json::from_str::<CommitRecord>(&text).is_ok()
        } else {
            serde_json::from_str::<Manifest>(&text).is_ok()
        };
        assert!(known, "{name}");
    }
}
