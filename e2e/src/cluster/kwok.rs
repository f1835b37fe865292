//! Nodes that exist only in the API, for the scale of thousands of Pods.

use super::{Error, Mode};
use crate::command;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// What marks a node as KWOK's.
pub(super) const NODE_LABEL: &str = "type=kwok";

/// The stage files, in the order of their names.
pub(super) fn stages() -> Result<Vec<PathBuf>, Error> {
    let folder = super::stages();
    let entries = fs::read_dir(&folder).map_err(Error::file(&folder))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

/// Makes the nodes `kwok-0` to `kwok-<count - 1>`.
pub(super) fn ensure_nodes(kubectl: impl Fn() -> Command, count: u32, mode: Mode) -> Result<(), Error> {
    let mut file = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
    file.write_all(nodes(count, mode).to_string().as_bytes()).map_err(Error::file(file.path()))?;
    let mut apply = kubectl();
    apply.args(["apply", "--server-side", "--force-conflicts", "--field-manager=trainyard-e2e", "-f"]).arg(file.path());
    command::run(&mut apply)?;
    Ok(())
}

pub(super) fn nodes_are_ready(mut kubectl: Command, count: u32) -> bool {
    let path = "-o=jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    command::run(kubectl.args(["get", "nodes", "--selector", NODE_LABEL, path]))
        .is_ok_and(|text| text.lines().filter(|line| *line == "True").count() >= count as usize)
}

/// The nodes as a list. Only beside a real node they are tainted: Pods that nobody meant for them must not end there.
fn nodes(count: u32, mode: Mode) -> serde_json::Value {
    let taints = match mode {
        Mode::Full => serde_json::json!([{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]),
        Mode::ControlPlane { .. } => serde_json::json!([]),
    };
    let node = |number: u32| {
        let name = format!("kwok-{number}");
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
                "annotations": {"node.alpha.kubernetes.io/ttl": "0", "kwok.x-k8s.io/node": "fake"},
            },
            "spec": {"taints": taints},
        })
    };
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": (0..count).map(node).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_tainted_only_beside_a_real_one() {
        let taints = |mode| nodes(2, mode)["items"][1]["spec"]["taints"].as_array().unwrap().len();
        assert_eq!(taints(Mode::Full), 1);
        assert_eq!(taints(Mode::ControlPlane { controller_manager: true, scheduler: true }), 0);
    }

    #[test]
    fn our_stages_are_found() {
        let names: Vec<_> = stages().unwrap().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert!(names.contains(&"pod-complete.yaml".into()), "{names:?}");
    }
}
