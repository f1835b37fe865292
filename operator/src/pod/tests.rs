//! Whole Pods as YAML, and what every one of them keeps to.

use proptest::prelude::*;
use serde_json::json;
use step_protocol::{EnvVar, Identity, StepSpec, StoreSpec, Text, VERSION, paths};
use trainyard_crds::v1alpha1::{Container, Stage, StageKind};
use trainyard_crds::{labels, names};

use super::pod_security::violations;
use super::*;

const RUN_UID: &str = "0b6f7f9e-6a1c-4b53-9d1e-0e7cfb8a1b11";

/// One attempt, as the operator would have it before it makes a Pod.
struct World {
    run: String,
    pipeline: String,
    attempt: u32,
    stage: Stage,
    spec: StepSpec,
    store: Store,
    code: Option<String>,
    service_account_name: Option<String>,
    settings: PodSettings,
    mount: RunnerMount,
    report_key: Option<String>,
    gang: Option<GangPod<'static>>,
}

fn stage(value: serde_json::Value) -> Stage {
    serde_json::from_value(value).unwrap()
}

fn store(value: serde_json::Value) -> Store {
    serde_json::from_value(value).unwrap()
}

/// The plainest stage.
fn plain() -> World {
    World {
        run: "iris-7".into(),
        pipeline: "iris".into(),
        attempt: 1,
        stage: stage(json!({
            "name": "train",
            "container": {"image": "python:3.13-slim", "command": ["python3", "train.py"]},
        })),
        spec: StepSpec {
            version: VERSION,
            identity: Identity {
                namespace: "team".into(),
                pipeline: "iris".into(),
                run: "iris-7".into(),
                run_uid: RUN_UID.into(),
                stage: "train".into(),
                attempt: 1,
            },
            root: paths::ROOT.into(),
            command: vec!["python3".into(), "train.py".into()],
            script: None,
            working_dir: None,
            env: Vec::new(),
            params: serde_json::Map::new(),
            store: StoreSpec { uri: "s3://iris/trainyard".into(), s3: None },
            prefix: paths::stage_prefix("team", "iris", "iris-7", RUN_UID, "train"),
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
        },
        store: store(json!({"uri": "s3://iris/trainyard"})),
        code: None,
        service_account_name: None,
        settings: PodSettings {
            runner_image: "registry/step-runner:0.1.0".into(),
            runner_pull_policy: None,
            run_as_user: Some(65532),
            default_resources: None,
        },
        mount: RunnerMount::Image,
        report_key: None,
        gang: None,
    }
}

impl World {
    fn program(&self) -> &Container {
        let StageKind::Container(program) = &self.stage.kind else { unreachable!() };
        program
    }

    fn pod(&self) -> Result<Pod, PodError> {
        stage_pod(&StagePod {
            name: &names::pod(&self.run, RUN_UID, &self.stage.name, self.attempt),
            namespace: "team",
            owner: OwnerReference {
                api_version: "trainyard.dev/v1alpha1".into(),
                kind: "PipelineRun".into(),
                name: self.run.clone(),
                uid: RUN_UID.into(),
                controller: Some(true),
                block_owner_deletion: Some(false),
            },
            run: &self.run,
            run_uid: RUN_UID,
            pipeline: &self.pipeline,
            attempt: self.attempt,
            stage: &self.stage.name,
            program: self.program(),
            overrides: self.stage.pod.as_ref(),
            spec: &self.spec,
            spec_hash: "sha256-of-the-step",
            store: &self.store,
            code: self.code.as_deref(),
            service_account_name: self.service_account_name.as_deref(),
            settings: &self.settings,
            mount: self.mount,
            report_key: self.report_key.as_deref(),
            gang: self.gang,
        })
    }

    fn restricted(&self) -> Pod {
        let pod = self.pod().unwrap();
        assert_eq!(violations(&pod), Vec::<String>::new());
        pod
    }
}

/// Everything that a stage and an installation can say, but for what excludes each other.
fn everything() -> World {
    let mut world = plain();
    world.stage = stage(json!({
        "name": "train",
        "container": {
            "image": "registry/team/train:1",
            "command": ["python3", "train.py"],
            "workingDir": "/src",
            "env": [
                {"name": "PLAIN", "value": "$(params.rate)"},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
                {"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "site", "key": "region", "optional": true}}},
            ],
            "resources": {
                "requests": {"cpu": "2", "memory": "4Gi"},
                "limits": {"memory": "4Gi", "nvidia.com/gpu": 1},
            },
        },
        "pod": {
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists"},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600},
            ],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "noisy"}}},
            ]}},
            "priorityClassName": "batch",
            "runtimeClassName": "nvidia",
            "imagePullSecrets": [{"name": "registry"}],
            "serviceAccountName": "trainer",
            "runAsUser": 1000,
            "fsGroup": 2000,
            "shmSize": "1Gi",
            "scratch": {"size": "20Gi"},
            "labels": {"cost-center": "42", "trainyard.dev/stage": "another"},
            "annotations": {"team": "iris", "trainyard.dev/spec-hash": "another"},
            "volumes": [
                {"name": "cache", "mountPath": "/cache", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "runner", "mountPath": "/data", "subPath": "v2", "readOnly": true, "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "config", "mountPath": "/config", "configMap": {"name": "site"}},
                {"name": "key", "mountPath": "/key", "secret": {"secretName": "key"}},
                {"name": "made", "mountPath": "/made", "ephemeral": {"size": "5Gi", "storageClassName": "fast"}},
                {"name": "driver", "mountPath": "/driver", "readOnly": true, "csi": {"driver": "csi.example", "volumeAttributes": {"bucket": "b"}}},
                {"name": "weights", "mountPath": "/weights", "image": {"reference": "registry/weights:3"}},
            ],
        },
    }));
    world.spec.env = vec![EnvVar { name: "PLAIN".into(), value: Text::from("$(HOME) $$") }];
    world.spec.timeout_seconds = Some(7200);
    world.spec.grace_seconds = 60;
    world.store = store(json!({"uri": "s3://iris/trainyard", "credentials": {"secretName": "store"}}));
    world.code = Some("iris-code-5f6k2".into());
    world.service_account_name = Some("runs".into());
    world.settings.runner_pull_policy = Some(PullPolicy::IfNotPresent);
    world.report_key = Some("00ff".into());
    world
}

#[test]
fn a_plain_stage() {
    insta::assert_yaml_snapshot!(plain().restricted());
}

#[test]
fn a_rank_has_a_host_name_and_the_labels_of_its_job() {
    let mut world = plain();
    world.gang = Some(GangPod {
        service: "iris-7",
        role: "worker",
        index: 3,
        rank: 4,
        ranks: 5,
        key: "00ff",
        queue: Some("team-queue"),
        group: "iris-7-a1-abcdefgh",
        placement: None,
    });
    insta::assert_yaml_snapshot!(world.restricted());
}

#[test]
fn a_rank_that_is_placed_with_the_others_names_its_group_and_the_scheduler() {
    let (label, annotation) = (Member::Label("example.com/label"), Member::Annotation("example.com/annotation"));
    let shown = [label, annotation].map(|member| {
        let mut world = plain();
        world.gang = Some(GangPod {
            service: "iris-7",
            role: "worker",
            index: 0,
            rank: 0,
            ranks: 2,
            key: "00ff",
            queue: None,
            group: "iris-7-a1-abcdefgh",
            placement: Some(Placement { scheduler_name: "together", member }),
        });
        let pod = world.restricted();
        let (labels, annotations) = (pod.metadata.labels.unwrap(), pod.metadata.annotations.unwrap());
        let named = (labels.get("example.com/label").cloned(), annotations.get("example.com/annotation").cloned());
        (pod.spec.unwrap().scheduler_name, named)
    });
    let (scheduler, group) = (Some("together".to_owned()), Some("iris-7-a1-abcdefgh".to_owned()));
    assert_eq!(shown, [(scheduler.clone(), (group.clone(), None)), (scheduler, (None, group))]);
}

#[test]
fn everything_that_can_be_said() {
    insta::assert_yaml_snapshot!(everything().restricted());
}

#[test]
fn the_runner_by_an_init_container_costs_the_stage_nothing() {
    let mut world = everything();
    world.mount = RunnerMount::Init;
    let everything = world.restricted();
    insta::assert_yaml_snapshot!(everything.spec.unwrap().init_containers);
    let mut world = plain();
    world.mount = RunnerMount::Init;
    insta::assert_yaml_snapshot!(world.restricted());
}

#[test]
fn an_image_that_runs_as_root_under_baseline() {
    let mut world = plain();
    world.mount = RunnerMount::Init;
    world.stage.pod = Some(PodOverrides {
        security_profile: Some(trainyard_crds::v1alpha1::SecurityProfile::Baseline),
        ..PodOverrides::default()
    });
    let pod = world.pod().unwrap();
    assert_eq!(violations(&pod), ["runAsNonRoot of stage"]);
    let spec = pod.spec.unwrap();
    insta::assert_yaml_snapshot!((spec.security_context, spec.containers[0].security_context.clone()));
}

#[test]
fn a_volume_as_store() {
    let mut world = plain();
    world.store = store(json!({"volume": {"claimName": "artifacts", "subPath": "team-a"}}));
    let spec = world.restricted().spec.unwrap();
    assert_eq!(spec.containers[0].env_from, None);
    insta::assert_yaml_snapshot!((spec.volumes, spec.containers[0].volume_mounts.clone()));
}

#[test]
fn scratch_on_a_volume_of_its_own() {
    let mut world = plain();
    world.stage.pod =
        Some(serde_json::from_value(json!({"scratch": {"size": "200Gi", "storageClassName": "fast"}})).unwrap());
    insta::assert_yaml_snapshot!(world.restricted().spec.unwrap().volumes);
}

#[test]
fn a_cluster_that_gives_the_users_itself() {
    let mut world = plain();
    world.settings.run_as_user = None;
    world.mount = RunnerMount::Init;
    let spec = world.restricted().spec.unwrap();
    insta::assert_yaml_snapshot!((spec.security_context, spec.init_containers.unwrap()[0].security_context.clone()));
}

#[test]
fn a_stage_that_says_no_resources_gets_the_installations() {
    let mut world = plain();
    world.settings.default_resources = serde_json::from_value(json!({"requests": {"cpu": "250m"}})).unwrap();
    let resources = world.restricted().spec.unwrap().containers[0].resources.clone().unwrap();
    assert_eq!(resources.requests.unwrap()["cpu"].0, "250m");
    assert_eq!(resources.limits, None);
}

#[test]
fn the_step_arrives_as_it_was_although_the_kubelet_expands_variables() {
    let world = everything();
    let container = world.restricted().spec.unwrap().containers.remove(0);
    let env = container.env.unwrap();
    let plain: BTreeMap<_, _> = env.iter().filter_map(|one| Some((one.name.clone(), one.value.clone()?))).collect();
    assert!(plain.values().all(|value| !value.contains('$')));
    assert_eq!(StepSpec::from_env(&plain).unwrap(), world.spec);
}

#[test]
fn nobody_waits_longer_than_the_api_can_say() {
    let mut world = plain();
    world.spec.timeout_seconds = Some(u64::MAX);
    world.spec.grace_seconds = u64::MAX;
    let spec = world.restricted().spec.unwrap();
    assert_eq!(spec.active_deadline_seconds, None);
    assert_eq!(spec.termination_grace_period_seconds, Some(i64::from(i32::MAX)));
}

#[test]
fn what_no_pod_can_run_says_what_to_do() {
    let mut no_image = plain();
    no_image.stage = stage(json!({"name": "train", "container": {"command": ["true"]}}));
    let mut root = plain();
    root.stage.pod = Some(PodOverrides { run_as_user: Some(0), ..PodOverrides::default() });
    let mut no_store = plain();
    no_store.store = store(json!({}));
    let mut no_kind = plain();
    no_kind.stage.pod = serde_json::from_value(json!({"volumes": [{"name": "data", "mountPath": "/data"}]})).unwrap();
    let mut large = plain();
    large.spec.script = Some("x".repeat(2 << 20));
    let said: Vec<_> = [no_image, root, no_store, no_kind, large]
        .iter()
        .map(|world| world.pod().map_err(|error| (error.reason(), error.to_string())).unwrap_err())
        .collect();
    insta::assert_yaml_snapshot!(said);
}

/// As the API server checks names and label values.
fn is_host_name(name: &str) -> bool {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(part) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_label_value(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63 && value.chars().all(inner) && outer(value.chars().next()) && outer(value.chars().last())
}

proptest! {
    #[test]
    fn whatever_things_are_called_the_pod_is_valid(
        run in "[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?",
        pipeline in "[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?",
        stage_name in "[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
        volume in "[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
        attempt in 1u32..1000,
        init in any::<bool>(),
        user in proptest::option::of(1i64..100_000),
    ) {
        let mut world = plain();
        world.run = run;
        world.pipeline = pipeline;
        world.attempt = attempt;
        world.mount = if init { RunnerMount::Init } else { RunnerMount::Image };
        world.stage.name = stage_name;
        world.stage.pod = Some(serde_json::from_value(json!({
            "runAsUser": user,
            "volumes": [{"name": volume, "mountPath": "/data", "emptyDir": {}}],
        })).unwrap());
        world.code = Some("code".into());
        let pod = world.restricted();
        prop_assert!(is_host_name(pod.metadata.name.as_deref().unwrap()));
        for (key, value) in pod.metadata.labels.as_ref().unwrap() {
            prop_assert!(is_label_value(value), "{}={}", key, value);
        }
        prop_assert_eq!(&pod.metadata.labels.as_ref().unwrap()[labels::ATTEMPT], &attempt.to_string());
        let spec = pod.spec.unwrap();
        let volumes: Vec<_> = spec.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
        prop_assert!(volumes.iter().all(|name| is_host_name(name)));
        let distinct: std::collections::BTreeSet<_> = volumes.iter().collect();
        prop_assert_eq!(distinct.len(), volumes.len());
        let mounted: Vec<_> = spec.containers[0].volume_mounts.iter().flatten().map(|mount| mount.name.clone()).collect();
        prop_assert_eq!(mounted, volumes);
    }
}
