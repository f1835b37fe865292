//! The cluster that is measured on: one real node, nodes of KWOK, an S3 store, and Trainyard by its chart.
//!
//! The operator is measured in two ways. In the cluster, as users have it ([`World::in_cluster`]), where the kubelet's time is
//! what counts; and as a process of this machine ([`super::operator`]), the very same static binary with the rights of the
//! chart's ServiceAccount, where its own time and its requests are what counts.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::Runtime;
use trainyard_crds::labels;

use super::audit::AuditLog;
use super::graphs::Mount;
use super::process::Process;
use super::{Error, row};
use crate::cluster::{Cluster, Options};
use crate::image::{self, Recipe};
use crate::paths::Directories;
use crate::{build, command, demo, install, store};

/// More than one, as the scheduler's work grows with them; few, as that is not what is measured.
const KWOK_NODES: u32 = 5;
/// Marks the namespaces of benchmarks.
const LABEL: &str = "trainyard-bench=true";
/// What takes longer has got stuck.
const LIMIT: Duration = Duration::from_secs(300);

/// The image of the program that says when it was started.
const STAMP: &str = "\
name = \"trainyard-stamp\"
user = \"65532:65532\"
entrypoint = [\"/trainyard-stamp\"]

[[binaries]]
cargo = \"trainyard-stamp\"
to = \"/trainyard-stamp\"
";

/// A cluster that is ready to be measured on.
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// Its API.
    pub client: Client,
    /// What was asked of its API server.
    pub audit: AuditLog,
    /// The image with the stamp.
    pub stamp: String,
    /// The image with the runner.
    pub runner: String,
    /// The operator of the image, as a file of ours: the tree may be built again while we measure.
    pub operator: PathBuf,
    runtime: Runtime,
}

impl World {
    /// Brings all of it up in the cluster of that name.
    pub fn up(name: &str) -> Result<Self, Error> {
        let cluster = Cluster::up(Options::full(name).with_kwok(KWOK_NODES))?;
        let audit = AuditLog::new(cluster.audit_log().ok_or(Error::ForeignCluster)?);
        store::up(&cluster, store::NAMESPACE)?;
        install::up(&cluster, &[&demo::default_store()])?;
        let load = |image: image::Image| image::load(&cluster, &image);
        let recipe = Recipe::parse(STAMP).map_err(Error::Recipe)?;
        let stamp = load(image::build_recipe(&Directories::from_env(), &recipe)?)?;
        let runner = load(image::build("step-runner")?)?;
        let operator = row::folder().join("trainyard-operator");
        let built = build::static_binary("trainyard-operator")?;
        let copy = || {
            fs::create_dir_all(row::folder())?;
            // Not written over: it may be running.
            match fs::remove_file(&operator) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => fs::copy(&built, &operator),
            }
        };
        copy().map_err(Error::file(&operator))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
        let client = runtime.block_on(client(&cluster))?;
        let world = Self { cluster, client, audit, stamp, runner, operator, runtime };
        // What a benchmark that was interrupted has left would be garbage that is collected while we measure.
        command::run(world.cluster.kubectl().args(["delete", "namespace", "--selector", LABEL]))?;
        Ok(world)
    }

    /// Waits for what is asynchronous.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The machine as Pods reach it.
    pub fn host_address(&self) -> Result<String, Error> {
        Ok(self.cluster.plan().ok_or(Error::ForeignCluster)?.host_address())
    }

    /// A new namespace with the credentials of the store; it goes with the value.
    pub fn namespace(&self, name: &str) -> Result<Namespace<'_>, Error> {
        demo::namespace(&self.cluster, name, &store::access(store::NAMESPACE))?;
        self.kubectl(&["label", "namespace", name, LABEL])?;
        let account = ["--namespace", name, "get", "serviceaccount", "default"];
        self.until("the default ServiceAccount of a new namespace", || {
            command::succeeds(self.cluster.kubectl().args(account))
        })?;
        Ok(Namespace { world: self, name: name.to_owned() })
    }

    /// The operator in the cluster, with this way for the runner; `None` = no operator there.
    pub fn in_cluster(&self, mount: Option<Mount>) -> Result<(), Error> {
        let deployment = format!("deployment/{}", install::RELEASE);
        let of = |arguments: &[&str]| {
            let mut kubectl = self.cluster.kubectl();
            kubectl.args(["--namespace", install::NAMESPACE]).args(arguments);
            kubectl
        };
        let run = |arguments: &[&str]| command::run(&mut of(arguments)).map(|_| ());
        match mount {
            None => {
                run(&["scale", &deployment, "--replicas=0"])?;
                run(&["wait", "pods", "--all", "--for=delete", "--timeout=60s"])?;
            }
            Some(mount) => {
                run(&["set", "env", &deployment, &format!("TRAINYARD_RUNNER_MOUNT={}", mount.setting())])?;
                run(&["scale", &deployment, "--replicas=1"])?;
                run(&["rollout", "status", &deployment, "--timeout=120s"])?;
            }
        }
        Ok(())
    }

    /// The operator's process in the cluster, as this machine sees it.
    pub fn operator_in_cluster(&self) -> Result<Process, Error> {
        let plan = self.cluster.plan().ok_or(Error::ForeignCluster)?;
        let cgroup = plan.cgroup();
        let processes = fs::read_dir("/proc").map_err(Error::file("/proc"))?;
        let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_ours = |number: &u32| {
            let read = |name: &str| fs::read_to_string(format!("/proc/{number}/{name}")).unwrap_or_default();
            // The kernel keeps 15 characters of a name.
            read("comm").trim() == "trainyard-opera" && read("cgroup").contains(&cgroup)
        };
        numbers.filter(is_ours).max().map(Process).ok_or(Error::OperatorGone)
    }

    /// The Pods of a namespace as stage and name.
    pub fn pods_by_stage(&self, namespace: &Namespace<'_>) -> Result<Vec<(String, String)>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace.name);
        let pods = self.wait(api.list(&ListParams::default().labels(labels::STAGE)))?;
        let named = |pod: Pod| {
            let stage = pod.metadata.labels?.remove(labels::STAGE)?;
            Some((stage, pod.metadata.name?))
        };
        Ok(pods.items.into_iter().filter_map(named).collect())
    }

    /// `kubectl` with these arguments, to its end.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut kubectl: Command = self.cluster.kubectl();
        Ok(command::run(kubectl.args(arguments))?)
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) -> Result<(), Error> {
        let began = Instant::now();
        while !done() {
            if began.elapsed() > LIMIT {
                return Err(Error::Slow { what: what.to_owned(), limit: LIMIT });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// A namespace that lives as long as this value.
pub struct Namespace<'a> {
    world: &'a World,
    /// Its name.
    pub name: String,
}

impl Namespace<'_> {
    /// A client of the cluster's API.
    #[must_use]
    pub fn client(&self) -> Client {
        self.world.client.clone()
    }

    /// The Pods of this namespace.
    #[must_use]
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.world.client.clone(), &self.name)
    }
}

impl Drop for Namespace<'_> {
    /// Waits for its end: what is still being deleted would take from what is measured next.
    fn drop(&mut self) {
        let now = DeleteParams::default().grace_period(0);
        let _ = self.world.wait(self.pods().delete_collection(&now, &ListParams::default()));
        let _ = self.world.kubectl(&["delete", "namespace", &self.name, "--timeout=600s"]);
    }
}

/// A client with the administrator's certificate. It keeps nothing and repeats nothing that is measured.
async fn client(cluster: &Cluster) -> Result<Client, Error> {
    let file = Kubeconfig::read_from(cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
