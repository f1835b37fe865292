//! Leaves nothing behind, from whatever state: found by the cluster's own names, never by kind.

use super::components::{CONTAINERD, ETCD, STOP_ORDER};
use super::plan::Plan;
use super::process::{Processes, gone_within, pids_where, send};
use super::{Error, cgroups, network};
use crate::progress;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(5);

/// Ends all processes of the cluster and removes everything that it made outside of its folder, and its `run` folder.
pub(super) fn clean(plan: &Plan, processes: &Processes<'_>) -> Result<(), Error> {
    for name in STOP_ORDER {
        // The runtime and the store end by themselves; the others would wait for work that is of no use any more.
        let signal = if matches!(name, CONTAINERD | ETCD) { Signal::TERM } else { Signal::KILL };
        processes.stop(name, signal, GRACE);
    }
    cgroups::kill_all(plan, GRACE);
    let sockets = shim_sockets(plan);
    end_shims(plan);
    for target in mounts_below(&plan.run(""), &fs::read_to_string("/proc/self/mounts").unwrap_or_default()) {
        if let Err(error) = unmount(&target, UnmountFlags::DETACH) {
            progress::line(&format!("left mounted: {}: {error}", target.display()));
        }
    }
    network::remove(plan);
    cgroups::remove(plan);
    for socket in sockets {
        let _ = fs::remove_file(socket);
    }
    // What CNI did for each sandbox, and links to container logs: both in places that their programs do not let us choose.
    remove_entries(Path::new("/var/lib/cni/results"), |path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(&format!("{}-", plan.pod_network())))
    });
    let logs = plan.run("pod-logs");
    remove_entries(Path::new("/var/log/containers"), |path| {
        fs::read_link(path).is_ok_and(|target| target.starts_with(&logs))
    });
    let run = plan.run("");
    match fs::remove_dir_all(&run) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(run)(error)),
        _ => Ok(()),
    }
}

/// Shims outlive the runtime on purpose. Ours name our runtime's socket.
fn end_shims(plan: &Plan) {
    let socket = plan.runtime_socket().display().to_string();
    let shims = || {
        pids_where(|words| {
            words.first().is_some_and(|program| program.ends_with("containerd-shim-runc-v2"))
                && words.windows(2).any(|pair| pair[0] == "-address" && pair[1] == socket)
        })
    };
    gone_within(GRACE, || {
        let found = shims();
        found.iter().for_each(|pid| send(*pid, Signal::KILL));
        found.is_empty()
    });
}

/// The sockets of the shims are in a folder that all runtimes of a machine share; each task says which is its own.
fn shim_sockets(plan: &Plan) -> Vec<PathBuf> {
    let tasks = plan.run("containerd-state/io.containerd.runtime.v2.task/k8s.io");
    let Ok(entries) = fs::read_dir(tasks) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|task| socket_of(&fs::read_to_string(task.path().join("bootstrap.json")).ok()?))
        .collect()
}

fn socket_of(bootstrap: &str) -> Option<PathBuf> {
    let value: serde_json::Value = serde_json::from_str(bootstrap).ok()?;
    value.get("address")?.as_str()?.strip_prefix("unix://").map(PathBuf::from)
}

/// The mount points below `folder`, the innermost first.
fn mounts_below(folder: &Path, table: &str) -> Vec<PathBuf> {
    let target = |line: &str| line.split(' ').nth(1).map(|word| PathBuf::from(word.replace("\\040", " ")));
    let mut found: Vec<PathBuf> = table.lines().filter_map(target).filter(|t| t.starts_with(folder)).collect();
    found.reverse();
    found
}

fn remove_entries(folder: &Path, ours: impl Fn(&Path) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| ours(path)) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folder_are_ours() {
        let table = "tmpfs /s/run/a tmpfs rw 0 0\noverlay /s/run/a/b overlay rw 0 0\ntmpfs /s/running tmpfs rw 0 0\n\
                     tmpfs /s/run/with\\040space tmpfs rw 0 0\n";
        let found = mounts_below(Path::new("/s/run"), table);
        assert_eq!(found, ["/s/run/with space", "/s/run/a/b", "/s/run/a"].map(PathBuf::from));
    }

    #[test]
    fn a_shims_socket_is_read_from_its_task() {
        let text = r#"{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}"#;
        assert_eq!(socket_of(text), Some(PathBuf::from("/run/containerd/s/abc")));
        assert_eq!(socket_of("{}"), None);
    }
}
