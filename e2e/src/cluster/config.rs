//! The configuration files of a cluster's components. Pure: a plan in, texts out.

use super::plan::Plan;
use std::path::PathBuf;

/// The user that CoreDNS's certificate bears.
pub(super) const COREDNS_USER: &str = "trainyard:coredns";
/// Where Debian installs the CNI plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";
const RUNC: &str = "/usr/sbin/runc";

/// CoreDNS on the node: its health and readiness.
pub(super) const COREDNS_READY_PORT: u16 = 8181;

/// A file and what is in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfigFile {
    pub path: PathBuf,
    pub text: String,
}

/// The files of the API server and its companions.
pub(super) fn control_plane(plan: &Plan) -> Vec<ConfigFile> {
    vec![file(plan, "audit.yaml", AUDIT.to_owned()), file(plan, "scheduler.yaml", scheduler(plan))]
}

/// The files of the node.
pub(super) fn node(plan: &Plan, pause_image: &str) -> Vec<ConfigFile> {
    vec![
        file(plan, "containerd.toml", containerd(plan, pause_image)),
        file(plan, "cni/10-pods.conflist", pod_network(plan)),
        // Names outside of the cluster are not resolved: nothing leaves the machine.
        file(plan, "resolv.conf", format!("nameserver {}\n", plan.node_address())),
        file(plan, "kubelet.yaml", kubelet(plan)),
        file(plan, "proxy.yaml", proxy(plan)),
        file(plan, "Corefile", corefile(plan)),
        file(plan, "coredns-access.yaml", coredns_access()),
    ]
}

fn file(plan: &Plan, name: &str, text: String) -> ConfigFile {
    ConfigFile { path: plan.config(name), text }
}

const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// The scheduler's limit of 50 requests a second would be what a benchmark measures.
fn scheduler(plan: &Plan) -> String {
    format!(
        "\
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: {kubeconfig}
  qps: 5000
  burst: 10000
leaderElection:
  leaderElect: false
",
        kubeconfig = plan.config("scheduler.conf").display(),
    )
}

/// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE, sandboxes cannot lower theirs and die.
/// `netns_mounts_under_state_dir`: the namespaces of Pods are then ours by their path.
fn containerd(plan: &Plan, pause_image: &str) -> String {
    let run = |name: &str| plan.run(name).display().to_string();
    format!(
        r#"version = 3
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
  "io.containerd.internal.v1.opt",
]

[grpc]
  address = "{socket}"

[ttrpc]
  address = "{socket}.ttrpc"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause_image}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{RUNC}"
        Root = "{runc_root}"
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    use_internal_loopback = true
    bin_dirs = ["{CNI_PLUGINS}"]
    conf_dir = "{cni}"
"#,
        root = run("containerd-root"),
        state = run("containerd-state"),
        runc_root = run("runc"),
        socket = plan.runtime_socket().display(),
        cni = plan.config("cni").display(),
    )
}

fn pod_network(plan: &Plan) -> String {
    let network = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": plan.pod_network(),
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": plan.run("leases"),
                    "ranges": [[{"subnet": plan.pod_range()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    format!("{network:#}\n")
}

/// `failCgroupV1: false`: this may be a machine with the old cgroups, which the kubelet refuses since 1.35.
/// `oomScoreAdj: 0`: lowering it needs a capability that is not given everywhere.
fn kubelet(plan: &Plan) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {ca}}}
authorization: {{mode: Webhook}}
tlsCertFile: {certificate}
tlsPrivateKeyFile: {key}
containerRuntimeEndpoint: unix://{socket}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failCgroupV1: false
oomScoreAdj: 0
failSwapOn: false
clusterDNS: ["{dns}"]
clusterDomain: cluster.local
resolvConf: {resolv}
podLogsDir: {pod_logs}
volumePluginDir: {volume_plugins}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard:
  memory.available: "0%"
  nodefs.available: "0%"
  imagefs.available: "0%"
  nodefs.inodesFree: "0%"
  imagefs.inodesFree: "0%"
nodeStatusUpdateFrequency: 2s
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
"#,
        ca = plan.config("pki/ca.crt").display(),
        certificate = plan.config("pki/kubelet-server.crt").display(),
        key = plan.config("pki/kubelet-server.key").display(),
        socket = plan.runtime_socket().display(),
        cgroup = plan.cgroup(),
        dns = plan.node_address(),
        resolv = plan.config("resolv.conf").display(),
        pod_logs = plan.run("pod-logs").display(),
        volume_plugins = plan.run("volume-plugins").display(),
    )
}

/// `conntrack` at 0: the limits of the machine are not the proxy's to change.
fn proxy(plan: &Plan) -> String {
    format!(
        "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {{kubeconfig: {kubeconfig}}}
clusterCIDR: {pods}
hostnameOverride: {node}
conntrack: {{maxPerCore: 0, min: 0}}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
",
        kubeconfig = plan.config("proxy.conf").display(),
        pods = plan.pod_range(),
        node = plan.node(),
    )
}

/// `ttl 0` and `cache 1`: a peer that has just become ready is found at once.
fn corefile(plan: &Plan) -> String {
    format!(
        "\
.:53 {{
  bind {address}
  errors
  ready {address}:{COREDNS_READY_PORT}
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {kubeconfig}
    pods verified
    ttl 0
  }}
  cache 1
}}
",
        address = plan.node_address(),
        kubeconfig = plan.config("coredns.conf").display(),
    )
}

fn coredns_access() -> String {
    format!(
        "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {COREDNS_USER}}}
rules:
- {{apiGroups: [\"\"], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {COREDNS_USER}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {COREDNS_USER}}}
subjects:
- {{apiGroup: rbac.authorization.k8s.io, kind: User, name: {COREDNS_USER}}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(files: &[ConfigFile], name: &str) -> String {
        files.iter().find(|f| f.path.ends_with(name)).map(|f| f.text.clone()).unwrap()
    }

    #[test]
    fn the_runtime_keeps_everything_in_the_clusters_folder() {
        let plan = Plan::new("main", 0, PathBuf::from("/s"));
        let files = node(&plan, "localhost/pause:1");
        let parsed: toml::Table = toml::from_str(&text(&files, "containerd.toml")).unwrap();
        assert_eq!(parsed["root"].as_str(), Some("/s/run/containerd-root"));
        assert_eq!(parsed["grpc"]["address"].as_str(), Some("/s/run/containerd.sock"));
        let images = &parsed["plugins"]["io.containerd.cri.v1.images"];
        assert_eq!(images["pinned_images"]["sandbox"].as_str(), Some("localhost/pause:1"));
    }

    #[test]
    fn two_clusters_have_different_pod_ranges_and_cgroups() {
        let files = |name, index| node(&Plan::new(name, index, PathBuf::from("/s").join(name)), "p");
        let (one, two) = (files("one", 1), files("two", 2));
        assert!(text(&one, "10-pods.conflist").contains("10.244.1.0/24"));
        assert!(text(&two, "10-pods.conflist").contains("10.244.2.0/24"));
        assert!(text(&two, "kubelet.yaml").contains("cgroupRoot: /trainyard-two\n"));
    }
}
