//! The pipelines that are measured, and what their Pods look like. Pure.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use step_protocol::{Outcome, StepReport};

use super::Error;

/// How a pipeline's stages need each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// No stage needs another.
    Wide,
    /// Each stage needs the one before it.
    Chain,
    /// All stages need the first.
    Fan,
    /// All between the first and the last need the first, and the last needs all of those.
    Diamond,
}

/// Which nodes each node needs.
pub type Needs = Vec<Vec<usize>>;

impl Shape {
    /// What each of `count` nodes needs.
    #[must_use]
    pub fn needs(self, count: usize) -> Needs {
        let of = |node: usize| match (self, node) {
            (Self::Wide, _) | (_, 0) => Vec::new(),
            (Self::Chain, _) => vec![node - 1],
            (Self::Diamond, _) if node + 1 == count => (1..node).collect(),
            (Self::Fan | Self::Diamond, _) => vec![0],
        };
        (0..count).map(of).collect()
    }
}

/// Most stages that `dependsOn` may name; `after` takes the others.
const DEPENDS_ON: usize = 16;

/// The name of a stage.
#[must_use]
pub fn stage(index: usize) -> String {
    format!("s{index:03}")
}

/// A pipeline of `count` stages that are all like `template` but for their name and what they need.
#[must_use]
pub fn pipeline(shape: Shape, count: usize, template: &Value) -> Value {
    let stages = shape.needs(count).into_iter().enumerate().map(|(index, needs)| {
        let mut one = template.clone();
        one["name"] = stage(index).into();
        let names: Vec<String> = needs.into_iter().map(stage).collect();
        let (first, rest) = names.split_at(names.len().min(DEPENDS_ON));
        if !first.is_empty() {
            one["dependsOn"] = json!(first);
        }
        if !rest.is_empty() {
            let after = |name: &String| json!({"stage": name, "phases": ["Succeeded"]});
            one["after"] = rest.iter().map(after).collect();
        }
        one
    });
    json!({"stages": stages.collect::<Vec<_>>()})
}

/// What the runner of a stage without outputs says at its end.
fn success() -> Result<String, Error> {
    let mut report = StepReport::new(Outcome::Succeeded, "");
    report.exit_code = Some(0);
    report.commit = Some(format!("sha256:{}", "c0".repeat(32)));
    report.winner = Some(1);
    Ok(serde_json::to_string(&report)?)
}

/// Annotations, selector and tolerations that bring a Pod to a node of KWOK and let it succeed there.
fn on_kwok() -> Result<Value, Error> {
    Ok(json!({
        "annotations": {"kwok-stage/message": success()?},
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
    }))
}

/// A stage whose Pod only exists in the API.
pub fn kwok_stage() -> Result<Value, Error> {
    Ok(json!({"container": {"image": "none", "command": ["none"]}, "pod": on_kwok()?}))
}

/// What the restricted profile wants of a Pod, as stages have it.
fn pod_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// What it wants of a container.
fn container_security() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

/// A stage whose Pod only exists in the API and runs until somebody ends it.
pub fn endless_stage() -> Result<Value, Error> {
    let mut stage = kwok_stage()?;
    stage["pod"]["annotations"]["kwok-stage/duration"] = "720h".into();
    Ok(stage)
}

/// The status of such a Pod when its program has ended well, as a merge patch.
pub fn ended_well() -> Result<Value, Error> {
    let terminated = json!({"exitCode": 0, "reason": "Completed", "message": success()?});
    Ok(json!({"status": {
        "phase": "Succeeded",
        "containerStatuses": [{
            "name": "stage", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated},
        }],
    }}))
}

/// The null engine's Pod that only exists in the API.
pub fn kwok_pod(node: usize) -> Result<Pod, Error> {
    let place = on_kwok()?;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("null-{}", stage(node)), "annotations": place["annotations"]},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "nodeSelector": place["nodeSelector"],
            "tolerations": place["tolerations"],
            "securityContext": pod_security(),
            "containers": [{"name": "stage", "image": "none", "command": ["none"], "securityContext": container_security()}],
        },
    }))?)
}

/// How the runner, or whatever stands for it, comes into a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    /// As an image volume.
    Image,
    /// By an init container.
    Init,
}

impl Mount {
    /// As in the name of an arm.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Image => "image volume",
            Self::Init => "init container",
        }
    }

    /// As the operator's setting.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Image => "Image",
            Self::Init => "Init",
        }
    }
}

/// A stage whose program says when it was started, in the image `stamp`.
#[must_use]
pub fn stamp_stage(image: &str) -> Value {
    json!({
        "container": {"image": image, "command": ["/trainyard-stamp", "/trainyard/results/at"]},
        "results": [{"name": "at", "type": "string"}],
    })
}

/// The null engine's Pod with the volumes of a stage's Pod, whose program says when it was started and, with an address, that it
/// ends.
pub fn stamp_pod(node: usize, mount: Mount, stamp: &str, runner: &str, address: Option<&str>) -> Result<Pod, Error> {
    let mut command = vec!["/trainyard-stamp".to_owned(), "/dev/termination-log".to_owned()];
    command.extend(address.iter().flat_map(|address| [(*address).to_owned(), node.to_string()]));
    let volume = match mount {
        Mount::Image => json!({"name": "runner", "image": {"reference": runner, "pullPolicy": "IfNotPresent"}}),
        Mount::Init => json!({"name": "runner", "emptyDir": {}}),
    };
    let runner_mount = json!({"name": "runner", "mountPath": "/trainyard-runner"});
    let init = match mount {
        Mount::Image => json!([]),
        Mount::Init => json!([{
            "name": "runner", "image": runner, "command": ["/step-runner", "install", "/trainyard-runner"],
            "volumeMounts": [runner_mount], "securityContext": container_security(),
        }]),
    };
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("null-{}", stage(node))},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": pod_security(),
            "initContainers": init,
            "containers": [{
                "name": "stage", "image": stamp, "command": command,
                "volumeMounts": [{"name": "trainyard", "mountPath": "/trainyard"}, runner_mount],
                "securityContext": container_security(),
            }],
            "volumes": [{"name": "trainyard", "emptyDir": {}}, volume],
        },
    }))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_crds::v1alpha1::PipelineSpec;

    #[test]
    fn shapes_need_what_they_should() {
        let of = |shape| {
            let spec: PipelineSpec = serde_json::from_value(pipeline(shape, 4, &kwok_stage().unwrap())).unwrap();
            spec.stages.into_iter().map(|stage| stage.depends_on).collect::<Vec<_>>()
        };
        assert_eq!(of(Shape::Wide), vec![Vec::<String>::new(); 4]);
        assert_eq!(of(Shape::Chain), [vec![], vec!["s000"], vec!["s001"], vec!["s002"]]);
        assert_eq!(of(Shape::Fan), [vec![], vec!["s000"], vec!["s000"], vec!["s000"]]);
        assert_eq!(of(Shape::Diamond), [vec![], vec!["s000"], vec!["s000"], vec!["s001", "s002"]]);
    }

    #[test]
    fn more_than_depends_on_takes_are_in_after() {
        let spec: PipelineSpec = serde_json::from_value(pipeline(Shape::Diamond, 22, &kwok_stage().unwrap())).unwrap();
        let join = &spec.stages[21];
        let after: Vec<_> = join.after.iter().map(|after| after.stage.as_str()).collect();
        assert_eq!((join.depends_on.len(), after), (16, vec!["s017", "s018", "s019", "s020"]));
    }

    #[test]
    fn a_pod_of_kwok_says_what_a_runner_would() {
        let pod = kwok_pod(7).unwrap();
        let message = &pod.metadata.annotations.unwrap()["kwok-stage/message"];
        let report: StepReport = serde_json::from_str(message).unwrap();
        assert!(report.commit.is_some() && report.outcome == Outcome::Succeeded);
    }

    #[test]
    fn the_null_engines_pod_has_what_a_stages_pod_has() {
        let image = stamp_pod(3, Mount::Image, "s", "r", Some("10.0.0.1:9")).unwrap().spec.unwrap();
        assert_eq!(image.containers[0].command.as_ref().unwrap()[2..], ["10.0.0.1:9", "3"]);
        assert!(image.volumes.unwrap()[1].image.is_some());
        let init = stamp_pod(3, Mount::Init, "s", "r", None).unwrap().spec.unwrap();
        assert_eq!(init.init_containers.unwrap()[0].image.as_deref(), Some("r"));
        assert_eq!(init.containers[0].command.as_ref().unwrap().len(), 2);
    }
}
