//! The cgroups of a cluster's Pods: one folder below each hierarchy (or below the only one, on newer machines).

use super::Error;
use super::plan::Plan;
use super::process::{gone_within, send};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the folders below which the kubelet puts its Pods.
pub(super) fn ensure(plan: &Plan) -> Result<(), Error> {
    let unified = Path::new(ROOT).join("cgroup.controllers");
    if let Ok(controllers) = fs::read_to_string(&unified) {
        // What a folder's children may use is said in the folder above.
        let enabled: String = controllers.split_whitespace().map(|name| format!("+{name} ")).collect();
        let control = Path::new(ROOT).join("cgroup.subtree_control");
        fs::write(&control, enabled.trim()).map_err(Error::file(control))?;
    }
    for folder in folders(plan) {
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        // An old cpuset without processors takes no process.
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let (own, above) = (folder.join(name), folder.with_file_name(name));
            if let Ok(value) = fs::read_to_string(above)
                && own.exists()
            {
                fs::write(&own, value.trim()).map_err(Error::file(own))?;
            }
        }
    }
    Ok(())
}

/// Kills every process in the cluster's Pods.
pub(super) fn kill_all(plan: &Plan, limit: Duration) {
    gone_within(limit, || {
        let pids: Vec<i32> = folders(plan).iter().flat_map(|folder| pids_below(folder)).collect();
        pids.iter().for_each(|pid| send(*pid, Signal::KILL));
        pids.is_empty()
    });
}

/// Removes the folders, the innermost first.
pub(super) fn remove(plan: &Plan) {
    folders(plan).iter().for_each(|folder| remove_tree(folder));
}

fn folders(plan: &Plan) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(plan.cgroup())];
    }
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    // Links are second names of a hierarchy, such as `cpu,cpuacct`.
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path().join(plan.cgroup()))
        .collect()
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

fn pids_below(folder: &Path) -> Vec<i32> {
    let here = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = here.lines().filter_map(|line| line.parse().ok()).filter(|pid| !is_zombie(*pid)).collect();
    pids.extend(subfolders(folder).iter().flat_map(|inner| pids_below(inner)));
    pids
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

fn remove_tree(folder: &Path) {
    subfolders(folder).iter().for_each(|inner| remove_tree(inner));
    let _ = fs::remove_dir(folder);
}
