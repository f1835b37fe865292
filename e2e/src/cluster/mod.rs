//! A Kubernetes for demo, tests and benchmarks: a whole node, only a control plane, or the one of `KUBECONFIG`.
//!
//! [`Cluster::up`] starts from any state and comes back at once when all runs. Several clusters, told by their names,
//! live on one machine: see [`plan`]. Nothing ends with the process that called it; [`Cluster::down`] does that.

mod cgroups;
mod clean;
mod components;
mod config;
mod kwok;
mod network;
mod pki;
pub mod plan;
mod process;
mod registry;
mod start;

use crate::build::{self, Product};
use crate::paths::{self, Directories};
use crate::{command, image};
use plan::Plan;
use serde::{Deserialize, Serialize};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The variable with the name of the cluster that is meant when none is named.
pub const ENV_NAME: &str = "TRAINYARD_CLUSTER";

/// The cluster that is meant when none is named: what [`ENV_NAME`] says, else `main`.
#[must_use]
pub fn default_name() -> String {
    env::var(ENV_NAME).ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "main".to_owned())
}

/// A cluster could not be started, used or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be part of file and node names.
    #[error("`{0}` cannot name a cluster\nhint: up to 30 of a-z, 0-9 and -, not at either end")]
    Name(String),
    /// A node needs mounts, namespaces and cgroups.
    #[error("a cluster with a node needs root\nhint: use sudo, or `--control-plane` for an API server without a node")]
    NotRoot,
    /// All numbers of this machine are taken.
    #[error("{0} clusters exist on this machine, and no more fit\nhint: `trainyard-e2e cluster down --name NAME`")]
    TooMany(u8),
    /// The cluster exists in another form.
    #[error(
        "cluster {name} runs as {running}, not as {wanted}\nhint: `cluster down --name {name}` first, or another name"
    )]
    OtherMode {
        /// The cluster.
        name: String,
        /// What is there.
        running: Mode,
        /// What was asked for.
        wanted: Mode,
    },
    /// A component could not be started.
    #[error("failed to start {component}: {source}")]
    Start {
        /// Which.
        component: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A component ended while it was waited for.
    #[error("{component} ended; see {log}, which ends with:\n{last}", log = log.display())]
    Died {
        /// Which.
        component: &'static str,
        /// Its log.
        log: PathBuf,
        /// The last lines of that.
        last: String,
    },
    /// A component runs but does not do its work.
    #[error(
        "{component}: no {what} within {limit:?}; see {log}, which ends with:\n{last}\n\
         hint: `cluster down` and `cluster up` begin anew",
        log = log.display()
    )]
    NotReady {
        /// Which.
        component: &'static str,
        /// What it should have come to.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
        /// Its log.
        log: PathBuf,
        /// The last lines of that.
        last: String,
    },
    /// A file could not be read, written or removed.
    #[error("failed to use {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program that prepares something failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// A program could not be built.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// Keys and certificates could not be made.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// An image of the node could not be made or imported.
    #[error(transparent)]
    Image(#[from] Box<image::Error>),
    /// The cluster is none of this tool's.
    #[error("no cluster {0} is known\nhint: `trainyard-e2e cluster up --name {0}`")]
    Unknown(String),
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// What a cluster consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// API server, controllers, scheduler and one real node.
    Full,
    /// API server and store, on loopback only. Needs no root.
    ControlPlane {
        /// Whether controllers run: garbage collection, Jobs, ServiceAccounts.
        controller_manager: bool,
        /// Whether Pods are bound to nodes.
        scheduler: bool,
    },
}

impl Mode {
    fn has_controller_manager(self) -> bool {
        matches!(self, Self::Full | Self::ControlPlane { controller_manager: true, .. })
    }

    fn has_scheduler(self) -> bool {
        matches!(self, Self::Full | Self::ControlPlane { scheduler: true, .. })
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "a full cluster",
            Self::ControlPlane { scheduler: true, .. } => "a control plane with controllers and scheduler",
            Self::ControlPlane { controller_manager: true, .. } => "a control plane with controllers",
            Self::ControlPlane { .. } => "a bare control plane",
        })
    }
}

/// Which cluster is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    name: String,
    mode: Mode,
    kwok_nodes: u32,
}

impl Options {
    /// A whole cluster with one real node.
    #[must_use]
    pub fn full(name: &str) -> Self {
        Self { name: name.to_owned(), mode: Mode::Full, kwok_nodes: 0 }
    }

    /// An API server and its store: what API tests and the crash sweep need. Pods can be created without a ServiceAccount.
    #[must_use]
    pub fn control_plane(name: &str) -> Self {
        let mode = Mode::ControlPlane { controller_manager: false, scheduler: false };
        Self { name: name.to_owned(), mode, kwok_nodes: 0 }
    }

    /// With the controllers.
    #[must_use]
    pub fn with_controller_manager(mut self) -> Self {
        if let Mode::ControlPlane { controller_manager, .. } = &mut self.mode {
            *controller_manager = true;
        }
        self
    }

    /// With `nodes` nodes of KWOK, whose Pods run and succeed at once; with controllers and scheduler, which those need.
    ///
    /// Beside a real node, they bear the taint `kwok.x-k8s.io/node=fake:NoSchedule`. On Pods, these annotations steer them:
    /// `kwok-stage/message` is the termination message, `kwok-stage/exit-code` the exit code, and
    /// `kwok-stage/duration` (as `1.5s`) how long they run.
    #[must_use]
    pub fn with_kwok(mut self, nodes: u32) -> Self {
        self.kwok_nodes = nodes;
        if let Mode::ControlPlane { controller_manager, scheduler } = &mut self.mode
            && nodes > 0
        {
            (*controller_manager, *scheduler) = (true, true);
        }
        self
    }
}

/// The folders of the programs of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub kubernetes: PathBuf,
    pub etcd: PathBuf,
    pub helm: PathBuf,
    pub containerd: PathBuf,
    pub coredns: PathBuf,
}

impl Programs {
    fn ensure(directories: &Directories, mode: Mode) -> Result<Self, build::Error> {
        let node = |product: Product| match mode {
            Mode::Full => product.ensure(directories),
            Mode::ControlPlane { .. } => Ok(PathBuf::new()),
        };
        Ok(Self {
            etcd: Product::Etcd.ensure(directories)?,
            kubernetes: Product::Kubernetes.ensure(directories)?,
            containerd: node(Product::Containerd)?,
            coredns: node(Product::CoreDns)?,
            helm: Product::Helm.ensure(directories)?,
        })
    }

    /// The `PATH` for whatever runs in or against the cluster: our programs first. containerd finds its shim there, and
    /// another one's would not do.
    fn path(&self) -> OsString {
        let own = [&self.kubernetes, &self.containerd, &self.helm];
        let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
        let inherited = env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = own.into_iter().filter(|f| !f.as_os_str().is_empty()).cloned().collect();
        for folder in env::split_paths(&inherited).chain(system) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        env::join_paths(folders).unwrap_or(inherited)
    }
}

/// A cluster that runs.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    path: OsString,
    own: Option<Plan>,
}

impl Cluster {
    /// Brings the cluster up, from whatever state, and waits until it can be used.
    ///
    /// With `KUBECONFIG` set to a file that is none of ours and without `TRAINYARD_OWN_CLUSTER`, a full cluster is that one:
    /// nothing is built or started.
    pub fn up(options: Options) -> Result<Self, Error> {
        let directories = Directories::from_env();
        if options.mode == Mode::Full
            && let Some(cluster) = Self::foreign()
        {
            return Ok(cluster);
        }
        if !plan::is_cluster_name(&options.name) {
            return Err(Error::Name(options.name));
        }
        let (plan, path) = start::up(&directories, &options)?;
        Ok(Self { kubeconfig: plan.kubeconfig(), path, own: Some(plan) })
    }

    /// The cluster of `KUBECONFIG`, if that is set to a file that is none of ours and `TRAINYARD_OWN_CLUSTER` is not set.
    #[must_use]
    pub fn foreign() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        foreign_kubeconfig(&Directories::from_env()).map(|kubeconfig| Self { kubeconfig, path, own: None })
    }

    /// The cluster that is meant: the named one; else that of `KUBECONFIG`, ours or not; else [`default_name`].
    pub fn current(name: Option<&str>) -> Result<Self, Error> {
        match (name, Self::foreign()) {
            (Some(name), _) => Self::existing(name),
            (None, Some(foreign)) => Ok(foreign),
            (None, None) => {
                let kubeconfig = env::var_os("KUBECONFIG").map(PathBuf::from).unwrap_or_default();
                let below = kubeconfig.strip_prefix(Directories::from_env().clusters()).ok();
                let name = below.and_then(|path| path.iter().next()).and_then(|name| name.to_str());
                Self::existing(&name.map_or_else(default_name, str::to_owned))
            }
        }
    }

    /// The cluster of that name, as it was started before; whether it still runs is not asked.
    pub fn existing(name: &str) -> Result<Self, Error> {
        let directories = Directories::from_env();
        let (plan, mode) =
            registry::find(&directories.clusters(), name)?.ok_or_else(|| Error::Unknown(name.to_owned()))?;
        let path = Programs::ensure(&directories, mode)?.path();
        Ok(Self { kubeconfig: plan.kubeconfig(), path, own: Some(plan) })
    }

    /// The file that tells clients how to reach the cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The `PATH` with `kubectl` and `helm`.
    #[must_use]
    pub fn path(&self) -> &OsString {
        &self.path
    }

    /// The API server's audit log, where we own the API server: JSON lines, level Metadata.
    #[must_use]
    pub fn audit_log(&self) -> Option<PathBuf> {
        self.own.as_ref().map(Plan::audit_log)
    }

    /// The addresses, ports and files of the cluster, where it is our own.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.own.as_ref()
    }

    /// The file of a program on [`Cluster::path`]; a [`Command`] would look in the `PATH` of this process instead.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        let mut files = env::split_paths(&self.path).map(|folder| folder.join(name));
        files.find(|file| file.is_file()).unwrap_or_else(|| name.into())
    }

    /// A command that works against the cluster.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.path);
        command
    }

    /// `kubectl` for the cluster.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        self.command("kubectl")
    }

    /// `helm` for the cluster.
    #[must_use]
    pub fn helm(&self) -> Command {
        self.command("helm")
    }

    /// Stops the cluster, if it is our own, and removes what it made. The logs stay unless `wipe` is set.
    pub fn down(self, wipe: bool) -> Result<(), Error> {
        match self.own {
            Some(plan) => down(plan.name(), wipe),
            None => Ok(()),
        }
    }
}

/// Stops the cluster of that name. One that does not exist is down.
pub fn down(name: &str, wipe: bool) -> Result<(), Error> {
    if !plan::is_cluster_name(name) {
        return Err(Error::Name(name.to_owned()));
    }
    start::down(&Directories::from_env(), name, wipe)
}

/// A component and its process id, if it runs.
pub type ComponentStatus = (&'static str, Option<i32>);

/// The components of the cluster of that name that were started.
pub fn status(name: &str) -> Result<(Plan, Vec<ComponentStatus>), Error> {
    let found = registry::find(&Directories::from_env().clusters(), name)?;
    let (plan, _) = found.ok_or_else(|| Error::Unknown(name.to_owned()))?;
    let processes = process::Processes::new(&plan, OsString::new());
    let started = components::STOP_ORDER.iter().rev().filter(|component| processes.was_started(component));
    let list = started.map(|component| (*component, processes.pid(component))).collect();
    Ok((plan, list))
}

/// The file of `KUBECONFIG`, if that is not one of our clusters.
fn foreign_kubeconfig(directories: &Directories) -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os("KUBECONFIG").filter(|value| !value.is_empty())?);
    let own = env::var_os("TRAINYARD_OWN_CLUSTER").is_some_and(|value| !value.is_empty());
    (!own && !path.starts_with(directories.clusters())).then_some(path)
}

/// The folder of the stages that our KWOK nodes follow.
fn stages() -> PathBuf {
    paths::repository().join("e2e/cluster/kwok/stages")
}
