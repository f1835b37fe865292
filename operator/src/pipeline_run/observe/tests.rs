use jiff::SignedDuration;
use serde_json::{Value, json};
use trainyard_planner::{Verdict, Waiting};

use super::waiting::IMAGE_PATIENCE;
use super::waiting::REGISTRY_PATIENCE;
use super::*;
use crate::seen::SeenPod;

/// A Pod as a watch shows it, which says the same as all of it.
fn pod(status: Value) -> Pod {
    let value = json!({
        "metadata": {
            "namespace": "team", "name": "iris-1-train-a1-x", "uid": "p", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { labels::RUN_UID: "u", labels::STAGE: "train", labels::ATTEMPT: "1" },
            "ownerReferences": [{"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "name": "iris-1", "uid": "u", "controller": true}],
        },
        "spec": {
            "nodeName": "node-7",
            "containers": [{"name": STAGE_CONTAINER, "image": "team/train:1", "volumeMounts": [
                {"name": "trainyard", "mountPath": "/trainyard"}, {"name": "v-data", "mountPath": "/data"},
            ]}],
            "volumes": [
                {"name": "trainyard", "emptyDir": {}},
                {"name": "code", "configMap": {"name": "iris-code"}},
                {"name": "v-keys", "secret": {"secretName": "keys"}},
                {"name": "v-data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "v-more", "configMap": {"name": "more", "optional": true}},
            ],
        },
        "status": status,
    });
    let whole: Pod = serde_json::from_value(value.clone()).unwrap();
    let seen = Pod::from(serde_json::from_value::<SeenPod>(value).unwrap());
    assert_eq!(observe(&seen), observe(&whole));
    seen
}

fn terminated(code: i32, message: &str) -> Ended {
    let state = json!({"phase": "Failed", "containerStatuses": [{"name": STAGE_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "message": message, "startedAt": "2026-01-01T00:00:30Z", "finishedAt": "2026-01-01T00:01:00Z"}}}]});
    match observe(&pod(state)).unwrap().attempt.state {
        AttemptState::Ended(ended) => ended,
        other => panic!("{other:?}"),
    }
}

fn waits(reason: &str, message: &str) -> Waiting {
    let state = json!({"phase": "Pending", "containerStatuses": [{"name": STAGE_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}}}]});
    match observe(&pod(state)).unwrap().attempt.state {
        AttemptState::Pending(waiting) => waiting,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_a_controller_of_the_same_uid_makes_a_pod_ours() {
    let mut other = pod(json!({}));
    other.metadata.owner_references.as_mut().unwrap()[0].uid = "another".into();
    assert_eq!(observe(&other), None);
    let mut orphan = pod(json!({}));
    orphan.metadata.owner_references = None;
    assert_eq!(observe(&orphan), None);
}

#[test]
fn success_needs_the_runners_exit_code_and_a_commit() {
    let message = r#"{"version":1,"outcome":"Succeeded","commit":"sha256:aa","winner":2,"outputs":[{"name":"model","digest":"sha256:bb","bytes":7}]}"#;
    let ended = terminated(0, message);
    assert_eq!(ended.committed.unwrap().winner, 2);
    assert_eq!(terminated(0, "").reason, "NoCommit");
    assert_eq!(terminated(0, r#"{"version":1,"outcome":"Succeeded"}"#).reason, "NoCommit");
    // Written by user code before the kernel killed the runner.
    let forged = terminated(137, message);
    assert_eq!((forged.committed, forged.reason.as_str()), (None, "Disrupted"));
}

#[test]
fn the_exit_code_outlives_a_garbled_message() {
    let ended = terminated(65, "\u{0}garbage");
    assert_eq!((ended.reason.as_str(), ended.class), ("OOMKilled", Class::User));
    let ended = terminated(
        64,
        r#"{"version":1,"outcome":"UserError","exitCode":3,"message":"exit code 3","lastLines":"boom"}"#,
    );
    assert_eq!((ended.exit_code, ended.last_lines.as_str(), ended.class), (Some(3), "boom", Class::User));
    assert_eq!(ended.end.unwrap().to_string(), "2026-01-01T00:01:00Z");
    assert_eq!(terminated(73, "").class, Class::Fatal);
    assert_eq!(terminated(72, "").class, Class::Infra);
}

#[test]
fn pending_reasons_speak_of_the_object_and_the_way_out() {
    let missing = waits("ErrImagePull", "failed to resolve: team/train:1: not found");
    assert_eq!(missing.reason, "ImagePull");
    assert_eq!(missing.verdict.unwrap(), Verdict { after: IMAGE_PATIENCE, reason: Reason::ImagePullFailed });
    assert!(missing.message.contains("team/train:1") && missing.message.contains("imagePullSecrets"));
    assert_eq!(waits("InvalidImageName", "").verdict.unwrap().after, SignedDuration::ZERO);
    assert_eq!(waits("ImagePullBackOff", "503 Service Unavailable").verdict.unwrap().after, REGISTRY_PATIENCE);
    let root = waits("CreateContainerConfigError", "container has runAsNonRoot and image will run as root");
    assert_eq!(root.verdict.unwrap().reason, Reason::ImageRunsAsRoot);
    let secret = waits("CreateContainerConfigError", "secret \"store\" not found");
    assert_eq!(secret.verdict.unwrap().reason, Reason::ConfigMissing);
    assert_eq!(waits("ContainerCreating", "").reason, "Starting");
}

#[test]
fn an_unschedulable_pod_waits_for_ever_and_says_why() {
    let state = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu"}]});
    let AttemptState::Pending(waiting) = observe(&pod(state)).unwrap().attempt.state else { panic!("not pending") };
    assert_eq!((waiting.reason.as_str(), waiting.verdict), ("Unschedulable", None));
    assert!(waiting.message.contains("Insufficient cpu"));
}

#[test]
fn eviction_is_the_infrastructures_fault() {
    let AttemptState::Ended(ended) =
        observe(&pod(json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"})))
            .unwrap()
            .attempt
            .state
    else {
        panic!("not ended")
    };
    assert_eq!((ended.class, ended.reason.as_str()), (Class::Infra, "Disrupted"));
    assert!(ended.message.contains("low on memory"));
}

fn late(conditions: Value) -> String {
    let state = json!({"phase": "Pending", "conditions": conditions, "containerStatuses": [{"name": STAGE_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}}}]});
    match observe(&pod(state)).unwrap().attempt.state {
        AttemptState::Pending(waiting) => waiting.late.unwrap().message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_that_does_not_start_names_what_it_mounts_and_where_to_look() {
    let volumes = late(json!([{"type": "PodReadyToStartContainers", "status": "False"}]));
    for word in
        ["ConfigMap iris-code, Secret keys, PersistentVolumeClaim data,", "kubectl describe pod -n team iris-1-"]
    {
        assert!(volumes.contains(word), "{volumes}");
    }
    assert!(!volumes.contains("more,"), "an optional one holds up nothing: {volumes}");
    let image = late(json!([{"type": "PodReadyToStartContainers", "status": "True"}]));
    assert!(image.contains("pulling image team/train:1"), "{image}");
    let mut unseen = pod(json!({"phase": "Pending"}));
    unseen.spec.as_mut().unwrap().node_name = None;
    let AttemptState::Pending(waiting) = observe(&unseen).unwrap().attempt.state else { panic!("not pending") };
    assert!(waiting.late.unwrap().message.contains("no scheduler"));
}

fn evicted(message: &str, code: i32) -> Ended {
    let report = r#"{"version":1,"outcome":"Disrupted","message":"the Pod was asked to stop","lastLines":"writing"}"#;
    let state = json!({"phase": "Failed", "reason": "Evicted", "message": message, "containerStatuses": [{"name": STAGE_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "message": report}}}]});
    match observe(&pod(state)).unwrap().attempt.state {
        AttemptState::Ended(ended) => ended,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_writes_too_much_has_a_full_disk_and_is_not_disrupted() {
    for code in [71, 137] {
        let scratch = evicted("Usage of EmptyDir volume \"trainyard\" exceeds the limit \"16Mi\". ", code);
        assert_eq!((scratch.class, scratch.reason.as_str()), (Class::User, "DiskFull"));
        assert_eq!(
            scratch.message,
            "more than 16Mi were written below /trainyard: raise pod.scratch.size, or write less"
        );
        let own = evicted("Usage of EmptyDir volume \"v-data\" exceeds the limit \"1Gi\". ", code);
        assert_eq!(
            own.message,
            "more than 1Gi were written below /data: raise the sizeLimit of volume data, or write less"
        );
        let whole = evicted("Pod ephemeral local storage usage exceeds the total limit of containers 16Mi. ", code);
        assert_eq!((whole.class, whole.reason.as_str()), (Class::User, "DiskFull"));
        assert!(whole.message.contains("16Mi: raise resources.limits.ephemeral-storage"), "{}", whole.message);
    }
    assert_eq!(
        evicted("Usage of EmptyDir volume \"trainyard\" exceeds the limit \"16Mi\". ", 71).last_lines,
        "writing"
    );
    let low = evicted("The node was low on resource: memory. ", 71);
    assert_eq!((low.class, low.reason.as_str()), (Class::Infra, "Disrupted"));
}

#[test]
fn a_node_that_does_not_answer_is_known_by_what_the_kubelet_never_says() {
    let running = |ready: &str, containers: &str| {
        json!({"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": containers}],
            "containerStatuses": [{"name": STAGE_CONTAINER, "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}}]})
    };
    let lost = |status| observe(&pod(status)).unwrap().attempt.lost_node;
    assert_eq!(lost(running("False", "True")).as_deref(), Some("node-7"));
    assert_eq!((lost(running("True", "True")), lost(running("False", "False"))), (None, None));
    let mut gated = pod(running("False", "True"));
    gated.spec.as_mut().unwrap().readiness_gates = Some(vec![Default::default()]);
    assert_eq!(observe(&gated).unwrap().attempt.lost_node, None);
}

#[test]
fn start_and_end_are_of_one_clock() {
    let report =
        r#"{"version":1,"outcome":"UserError","started":"2026-01-01T00:10:00Z","finished":"2026-01-01T00:11:00Z"}"#;
    let of = |ended: Ended| (ended.start.unwrap().to_string(), ended.end.unwrap().to_string());
    assert_eq!(of(terminated(64, report)), ("2026-01-01T00:10:00Z".into(), "2026-01-01T00:11:00Z".into()));
    // No program ran: the container's times are all that is known.
    assert_eq!(of(terminated(76, "")), ("2026-01-01T00:00:30Z".into(), "2026-01-01T00:01:00Z".into()));
}
