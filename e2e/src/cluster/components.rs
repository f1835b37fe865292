//! The components of a cluster and their command lines. Pure.

use super::plan::{Plan, Port};
use super::{Mode, Programs};
use std::path::{Path, PathBuf};

/// A program that runs as long as the cluster does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Component {
    /// Names the pid file and the log.
    pub name: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Whether it runs in the network namespace of the node.
    pub on_node: bool,
    /// Variables that it has beside `PATH`.
    pub environment: Vec<(&'static str, &'static str)>,
}

pub(super) const ETCD: &str = "etcd";
pub(super) const API_SERVER: &str = "kube-apiserver";
pub(super) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(super) const SCHEDULER: &str = "kube-scheduler";
pub(super) const CONTAINERD: &str = "containerd";
pub(super) const KUBELET: &str = "kubelet";
pub(super) const PROXY: &str = "kube-proxy";
pub(super) const COREDNS: &str = "coredns";
pub(super) const KWOK: &str = "kwok";

/// All of them, in the order in which they are stopped: whoever acts first, whoever keeps the truth last.
pub(super) const STOP_ORDER: [&str; 9] =
    [KWOK, KUBELET, COREDNS, PROXY, SCHEDULER, CONTROLLER_MANAGER, CONTAINERD, API_SERVER, ETCD];

fn component(name: &'static str, folder: &Path, on_node: bool, arguments: &[String]) -> Component {
    Component { name, program: folder.join(name), arguments: arguments.to_vec(), on_node, environment: Vec::new() }
}

fn shown(path: PathBuf) -> String {
    path.display().to_string()
}

/// `--unsafe-no-fsync`: what is lost with the machine is a test's.
pub(super) fn etcd(plan: &Plan, programs: &Programs) -> Component {
    let client = format!("http://127.0.0.1:{}", plan.port(Port::Etcd));
    let peer = format!("http://127.0.0.1:{}", plan.port(Port::EtcdPeer));
    component(
        ETCD,
        &programs.etcd,
        false,
        &[
            format!("--name={}", plan.node()),
            format!("--data-dir={}", shown(plan.run("etcd"))),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}={peer}", plan.node()),
            "--quota-backend-bytes=8589934592".to_owned(),
            "--unsafe-no-fsync".to_owned(),
        ],
    )
}

pub(super) fn api_server(plan: &Plan, programs: &Programs, mode: Mode) -> Component {
    let pki = |name: &str| shown(plan.config("pki").join(name));
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", plan.port(Port::Etcd)),
        format!("--secure-port={}", plan.port(Port::ApiServer)),
        format!("--advertise-address={}", plan.host_address()),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--service-account-key-file={}", pki("accounts.pub")),
        format!("--service-account-signing-key-file={}", pki("accounts.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-cluster-ip-range={}", plan.service_range()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", shown(plan.config("audit.yaml"))),
        format!("--audit-log-path={}", shown(plan.audit_log())),
        // In MiB: a log that is rotated away in the middle of a test would be read as an absence.
        "--audit-log-maxsize=20000".to_owned(),
    ];
    arguments.extend(match mode {
        Mode::Full => vec![
            "--bind-address=0.0.0.0".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
            format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ],
        // The address that it would publish as Service `kubernetes` does not exist: there is no Pod that could ask.
        Mode::ControlPlane { .. } => {
            vec!["--bind-address=127.0.0.1".to_owned(), "--endpoint-reconciler-type=none".to_owned()]
        }
    });
    if !mode.has_controller_manager() {
        // Nobody makes the default ServiceAccount, which this plugin demands of every Pod.
        arguments.push("--disable-admission-plugins=ServiceAccount".to_owned());
    }
    let mut api_server = component(API_SERVER, &programs.kubernetes, false, &arguments);
    if !mode.has_controller_manager() {
        // It serves thousands of short tests, and a quarter of its time would go into collecting their garbage.
        api_server.environment.push(("GOGC", "400"));
    }
    api_server
}

pub(super) fn controller_manager(plan: &Plan, programs: &Programs) -> Component {
    let pki = |name: &str| shown(plan.config("pki").join(name));
    let kubeconfig = shown(plan.config("controller-manager.conf"));
    component(
        CONTROLLER_MANAGER,
        &programs.kubernetes,
        false,
        &[
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", plan.port(Port::ControllerManager)),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={}", pki("accounts.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            "--allocate-node-cidrs=false".to_owned(),
            "--controllers=*,-node-ipam-controller,-cloud-node-lifecycle-controller".to_owned(),
            "--kube-api-qps=5000".to_owned(),
            "--kube-api-burst=10000".to_owned(),
        ],
    )
}

pub(super) fn scheduler(plan: &Plan, programs: &Programs) -> Component {
    let kubeconfig = shown(plan.config("scheduler.conf"));
    component(
        SCHEDULER,
        &programs.kubernetes,
        false,
        &[
            format!("--config={}", shown(plan.config("scheduler.yaml"))),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", plan.port(Port::Scheduler)),
        ],
    )
}

pub(super) fn containerd(plan: &Plan, programs: &Programs) -> Component {
    component(CONTAINERD, &programs.containerd, true, &["--config".to_owned(), shown(plan.config("containerd.toml"))])
}

pub(super) fn kubelet(plan: &Plan, programs: &Programs) -> Component {
    component(
        KUBELET,
        &programs.kubernetes,
        true,
        &[
            format!("--config={}", shown(plan.config("kubelet.yaml"))),
            format!("--kubeconfig={}", shown(plan.config("kubelet.conf"))),
            format!("--hostname-override={}", plan.node()),
            format!("--node-ip={}", plan.node_address()),
            format!("--root-dir={}", shown(plan.run("kubelet"))),
            format!("--cert-dir={}", shown(plan.run("kubelet-certificates"))),
        ],
    )
}

pub(super) fn proxy(plan: &Plan, programs: &Programs) -> Component {
    component(PROXY, &programs.kubernetes, true, &[format!("--config={}", shown(plan.config("proxy.yaml")))])
}

pub(super) fn coredns(plan: &Plan, programs: &Programs) -> Component {
    component(COREDNS, &programs.coredns, true, &["-conf".to_owned(), shown(plan.config("Corefile"))])
}

/// KWOK with the stages of the files in `stages`.
pub(super) fn kwok(plan: &Plan, folder: &Path, stages: &[PathBuf]) -> Component {
    let mut arguments = vec![
        format!("--kubeconfig={}", shown(plan.config("kwok.conf"))),
        format!("--manage-nodes-with-label-selector={}", super::kwok::NODE_LABEL),
        format!("--server-address=127.0.0.1:{}", plan.port(Port::Kwok)),
        "--node-ip=127.0.0.1".to_owned(),
        "--cidr=10.243.0.0/16".to_owned(),
        "--node-lease-duration-seconds=40".to_owned(),
    ];
    arguments.extend(stages.iter().map(|stage| format!("--config={}", stage.display())));
    component(KWOK, folder, false, &arguments)
}
