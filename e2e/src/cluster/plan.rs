//! The addresses, ports, names and files of one cluster, all derived from its name and its index on this machine. Pure.
//!
//! The control plane of every cluster runs in the machine's own network, on ports of the cluster. Runtime, kubelet, proxy
//! and DNS run in a network namespace of the cluster, joined to the machine by one veth pair: bridges, firewall tables and
//! forwarding live and die with the namespace, two clusters never see each other's, and as the namespace has no default
//! route, nothing leaves the machine.

use std::path::{Path, PathBuf};

/// Clusters on one machine: the services of all of them share `10.96.0.0/16`, 2,048 addresses each.
pub const MAX_CLUSTERS: u8 = 32;

const FIRST_PORT: u16 = 17_000;
const PORTS_EACH: u16 = 20;

/// Everything that tells one cluster from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    name: String,
    index: u8,
    folder: PathBuf,
}

/// A listening port of a cluster's control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// kube-apiserver, on every address of the machine (control plane only: on loopback).
    ApiServer,
    /// etcd, for the API server.
    Etcd,
    /// etcd, for its peers, of which there are none.
    EtcdPeer,
    /// kube-controller-manager's health.
    ControllerManager,
    /// kube-scheduler's health.
    Scheduler,
    /// KWOK's health.
    Kwok,
}

impl Plan {
    /// The plan of the cluster `name`, number `index`, with its files in `folder`.
    #[must_use]
    pub fn new(name: &str, index: u8, folder: PathBuf) -> Self {
        Self { name: name.to_owned(), index: index.min(MAX_CLUSTERS - 1), folder }
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's number on this machine.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The folder of everything that the cluster keeps.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file or folder of the cluster's configuration.
    #[must_use]
    pub fn config(&self, name: &str) -> PathBuf {
        self.folder.join("etc").join(name)
    }

    /// A file or folder that exists only while the cluster runs.
    #[must_use]
    pub fn run(&self, name: &str) -> PathBuf {
        self.folder.join("run").join(name)
    }

    /// The folder of the logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.config("admin.conf")
    }

    /// The API server's audit log: one JSON object a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.logs().join("audit.log")
    }

    /// containerd's socket.
    #[must_use]
    pub fn runtime_socket(&self) -> PathBuf {
        self.run("containerd.sock")
    }

    /// A port of the control plane.
    #[must_use]
    pub fn port(&self, port: Port) -> u16 {
        FIRST_PORT + u16::from(self.index) * PORTS_EACH + port as u16
    }

    /// The API server as this machine's programs reach it.
    #[must_use]
    pub fn local_server(&self) -> String {
        format!("https://127.0.0.1:{}", self.port(Port::ApiServer))
    }

    /// The API server as the node and its Pods reach it.
    #[must_use]
    pub fn node_server(&self) -> String {
        format!("https://{}:{}", self.host_address(), self.port(Port::ApiServer))
    }

    /// The name of the node, and of nothing else in the cluster.
    #[must_use]
    pub fn node(&self) -> String {
        format!("trainyard-{}", self.name)
    }

    /// The network namespace of the node.
    #[must_use]
    pub fn namespace(&self) -> String {
        self.node()
    }

    /// The machine's end of the veth pair. Interface names have at most 15 characters, so it bears the index.
    #[must_use]
    pub fn link(&self) -> String {
        format!("ty{}", self.index)
    }

    /// The machine's address on that pair.
    #[must_use]
    pub fn host_address(&self) -> String {
        format!("10.245.{}.1", self.index)
    }

    /// The node's address.
    #[must_use]
    pub fn node_address(&self) -> String {
        format!("10.245.{}.2", self.index)
    }

    /// The addresses of Pods.
    #[must_use]
    pub fn pod_range(&self) -> String {
        format!("10.244.{}.0/24", self.index)
    }

    /// The addresses of Services.
    #[must_use]
    pub fn service_range(&self) -> String {
        format!("10.96.{}.0/21", self.first_service_octet())
    }

    /// The Service of the API server: the first address of the range.
    #[must_use]
    pub fn api_service(&self) -> String {
        format!("10.96.{}.1", self.first_service_octet())
    }

    fn first_service_octet(&self) -> u8 {
        self.index * 8
    }

    /// The folder below each cgroup hierarchy that holds all Pods of this cluster. A kubelet removes Pods it does not know
    /// from its own root, so two must not share one.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.node()
    }

    /// The name of the Pod network, under which CNI caches what it did.
    #[must_use]
    pub fn pod_network(&self) -> String {
        self.node()
    }
}

/// Whether `name` can name a cluster: it becomes part of file, node and namespace names.
#[must_use]
pub fn is_cluster_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=30).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn plan(index: u8) -> Plan {
        Plan::new("main", index, PathBuf::from("/s"))
    }

    #[test]
    fn no_two_clusters_share_anything() {
        let ports = [Port::ApiServer, Port::Etcd, Port::EtcdPeer, Port::ControllerManager, Port::Scheduler, Port::Kwok];
        let mut seen = HashSet::new();
        for index in 0..MAX_CLUSTERS {
            let plan = plan(index);
            for port in ports {
                // Below the range that the kernel hands out to clients.
                assert!(plan.port(port) < 32_768);
                assert!(seen.insert(plan.port(port).to_string()));
            }
            for value in [plan.node_address(), plan.pod_range(), plan.service_range(), plan.link()] {
                assert!(seen.insert(value));
            }
        }
    }

    #[test]
    fn the_last_cluster_still_has_valid_addresses() {
        let plan = plan(MAX_CLUSTERS - 1);
        assert_eq!(plan.service_range(), "10.96.248.0/21");
        assert_eq!(plan.api_service(), "10.96.248.1");
        assert!(plan.link().len() <= 15);
    }

    #[test]
    fn names_are_checked() {
        for good in ["main", "test-1", "a"] {
            assert!(is_cluster_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", &"x".repeat(31)] {
            assert!(!is_cluster_name(bad), "{bad}");
        }
    }
}
