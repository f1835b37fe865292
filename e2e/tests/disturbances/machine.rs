//! The machine that the cluster runs on: processes that are ended, and a way to a Pod that needs no kubelet.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use e2e::cluster::plan::Plan;
use e2e::cluster::{self, Cluster, Options};
use e2e::command;

use crate::world::{Story, cluster, wait_for};

/// One disturbance at a time, however the tests are started.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine of a cluster of ours. What was ended on it is started again when this value goes.
pub(crate) struct Machine {
    plan: &'static Plan,
}

/// A node of KWOK beside the real one, until this value goes. Where no node of a cluster answers, Kubernetes takes the fault for its
/// own and evicts nothing.
pub(crate) struct SecondNode(());

impl Drop for SecondNode {
    fn drop(&mut self) {
        if let Err(error) = command::run(cluster().kubectl().args(["delete", "node", "kwok-0"])) {
            eprintln!("the second node stays: {error}");
        }
    }
}

impl Machine {
    /// `None` on a cluster that is somebody else's, and says so.
    pub(crate) fn of_ours(story: &str) -> Option<Self> {
        let plan = cluster().plan();
        if plan.is_none() {
            eprintln!("{story}: not run, since the machine of this cluster is not ours to touch");
        }
        plan.map(|plan| Self { plan })
    }

    /// Ends a component with SIGKILL.
    pub(crate) fn kill(&self, component: &str) {
        let (_, components) = cluster::status(self.plan.name()).unwrap();
        let pid = components.iter().find(|(name, _)| *name == component).and_then(|(_, pid)| *pid);
        let pid = pid.unwrap_or_else(|| panic!("{component} does not run")).to_string();
        command::run(Command::new("kill").args(["-9", &pid])).unwrap();
        wait_for(&format!("the end of {component}"), || {
            let (_, components) = cluster::status(self.plan.name()).unwrap();
            components.iter().all(|(name, pid)| *name != component || pid.is_none())
        });
    }

    /// A second node that answers.
    pub(crate) fn second_node(&self) -> SecondNode {
        Cluster::up(Options::full(self.plan.name()).with_kwok(1)).unwrap();
        SecondNode(())
    }

    /// Starts what was ended, and waits until all of it works.
    pub(crate) fn mend(&self) {
        Cluster::up(Options::full(self.plan.name())).unwrap();
    }

    /// A file below `/trainyard` of a Pod.
    pub(crate) fn file(&self, pod_uid: &str, path: &str) -> PathBuf {
        self.plan.run("kubelet/pods").join(pod_uid).join("volumes/kubernetes.io~empty-dir/trainyard").join(path)
    }

    /// [`Story::release`] that needs neither kubelet nor API server.
    pub(crate) fn release(&self, pod_uid: &str) {
        std::fs::write(self.file(pod_uid, "tmp/go"), "").unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = Cluster::up(Options::full(self.plan.name())) {
            eprintln!("the cluster does not come up again: {error}");
        }
    }
}

/// The UID of the Pod of a stage's last attempt.
pub(crate) fn pod_uid(story: &Story, run: &str, stage: &str) -> String {
    let pod = story.get(&format!("pod/{}", story.pod(run, stage))).unwrap();
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}
