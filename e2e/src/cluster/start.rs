//! Up and down, as a list of steps.

use super::components::{
    self, API_SERVER, CONTAINERD, CONTROLLER_MANAGER, COREDNS, ETCD, KUBELET, KWOK, SCHEDULER, STOP_ORDER,
};
use super::config::{COREDNS_READY_PORT, ConfigFile};
use super::plan::{Plan, Port};
use super::process::Processes;
use super::{Error, Mode, Options, Programs, cgroups, clean, config, kwok, network, pki, registry};
use crate::build::{Product, debian};
use crate::paths::Directories;
use crate::{command, image, progress};
use std::ffi::OsString;
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);

pub(super) fn up(directories: &Directories, options: &Options) -> Result<(Plan, OsString), Error> {
    let mode = options.mode;
    if mode == Mode::Full {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        debian::ensure(&debian::NODE)?;
    }
    let programs = Programs::ensure(directories, mode)?;
    let _guard = registry::lock(&directories.clusters(), &options.name)?;
    let plan = match registry::find(&directories.clusters(), &options.name)? {
        Some((plan, running)) if running == mode => plan,
        Some((plan, running)) if is_running(&plan) => {
            return Err(Error::OtherMode { name: plan.name().to_owned(), running, wanted: mode });
        }
        Some((plan, _)) => {
            begin_anew(&plan)?;
            registry::remove(&plan);
            registry::add(&directories.clusters(), &options.name, mode)?
        }
        None => registry::add(&directories.clusters(), &options.name, mode)?,
    };
    let path = programs.path();
    let up = Up { plan: &plan, programs: &programs, processes: Processes::new(&plan, path.clone()), mode };
    let began = Instant::now();
    let was_running = is_running(&plan);
    if !was_running {
        begin_anew(&plan)?;
    }
    match up.all(directories, options.kwok_nodes) {
        // It was dying when it was looked at.
        Err(Error::Died { .. }) if was_running => up.all(directories, options.kwok_nodes)?,
        done => done?,
    }
    if began.elapsed() > Duration::from_secs(2) {
        progress::line(&format!("cluster {} is ready ({:.1} s)", plan.name(), began.elapsed().as_secs_f64()));
    }
    Ok((plan, path))
}

pub(super) fn down(directories: &Directories, name: &str, wipe: bool) -> Result<(), Error> {
    let _guard = registry::lock(&directories.clusters(), name)?;
    let folder = directories.clusters().join(name);
    if let Some((plan, _)) = registry::find(&directories.clusters(), name)? {
        clean::clean(&plan, &Processes::new(&plan, OsString::new()))?;
        remove(&plan.config(""))?;
        registry::remove(&plan);
    }
    if wipe { remove(&folder) } else { Ok(()) }
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(folder)(error)),
        _ => Ok(()),
    }
}

/// With one component alive, the cluster is mended; with none, the machine or somebody ended it, and it begins anew.
fn is_running(plan: &Plan) -> bool {
    let processes = Processes::new(plan, OsString::new());
    STOP_ORDER.iter().any(|name| processes.pid(name).is_some())
}

fn begin_anew(plan: &Plan) -> Result<(), Error> {
    clean::clean(plan, &Processes::new(plan, OsString::new()))?;
    remove(&plan.logs())?;
    remove(&plan.config(""))
}

struct Up<'a> {
    plan: &'a Plan,
    programs: &'a Programs,
    processes: Processes<'a>,
    mode: Mode,
}

impl Up<'_> {
    fn all(&self, directories: &Directories, kwok_nodes: u32) -> Result<(), Error> {
        self.prepare()?;
        self.start_control_plane()?;
        if self.mode == Mode::Full {
            self.start_node()?;
        }
        if kwok_nodes > 0 {
            self.start_kwok(&Product::Kwok.ensure(directories)?, kwok_nodes)?;
        }
        Ok(())
    }

    /// Keys and configuration files.
    fn prepare(&self) -> Result<(), Error> {
        let complete = self.plan.config("pki/complete");
        if !complete.exists() {
            pki::write(self.plan)?;
            fs::write(&complete, "").map_err(Error::file(&complete))?;
        }
        config::control_plane(self.plan).iter().try_for_each(write)
    }

    fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(self.programs.kubernetes.join("kubectl"));
        kubectl.env("KUBECONFIG", self.plan.kubeconfig());
        kubectl
    }

    fn start_control_plane(&self) -> Result<(), Error> {
        let (plan, programs, processes) = (self.plan, self.programs, &self.processes);
        processes.start(&components::etcd(plan, programs))?;
        let etcd = ("127.0.0.1", plan.port(Port::Etcd));
        processes.wait(ETCD, "listening port", LIMIT, || answers(etcd))?;
        processes.start(&components::api_server(plan, programs, self.mode))?;
        if self.mode == Mode::Full {
            // Beside the API server's start, which takes longer.
            self.start_runtime()?;
        }
        processes.wait(API_SERVER, "ready API server", LIMIT, || {
            command::succeeds(self.kubectl().args(["get", "--raw", "/readyz"]))
        })?;
        if self.mode.has_controller_manager() {
            processes.start(&components::controller_manager(plan, programs))?;
        }
        if self.mode.has_scheduler() {
            processes.start(&components::scheduler(plan, programs))?;
        }
        if self.mode == Mode::Full {
            return Ok(());
        }
        if self.mode.has_scheduler() {
            let scheduler = ("127.0.0.1", plan.port(Port::Scheduler));
            processes.wait(SCHEDULER, "listening port", LIMIT, || answers(scheduler))?;
        }
        self.wait_for_service_account()
    }

    fn wait_for_service_account(&self) -> Result<(), Error> {
        if !self.mode.has_controller_manager() {
            return Ok(());
        }
        self.processes.wait(CONTROLLER_MANAGER, "default ServiceAccount", LIMIT, || {
            command::succeeds(self.kubectl().args(["--namespace=default", "get", "serviceaccount", "default"]))
        })
    }

    fn start_runtime(&self) -> Result<(), Error> {
        let pause = image::build("pause").map_err(Box::new)?;
        config::node(self.plan, &pause.reference).iter().try_for_each(write)?;
        network::ensure(self.plan)?;
        cgroups::ensure(self.plan)?;
        self.processes.start(&components::containerd(self.plan, self.programs))?;
        let socket = self.plan.runtime_socket();
        let ctr = self.programs.containerd.join("ctr");
        self.processes.wait(CONTAINERD, "answer on its socket", LIMIT, || {
            command::succeeds(Command::new(&ctr).arg("--address").arg(&socket).arg("version"))
        })?;
        image::import(&ctr, &socket, &pause).map_err(Box::new)?;
        Ok(())
    }

    fn start_node(&self) -> Result<(), Error> {
        let (plan, programs, processes) = (self.plan, self.programs, &self.processes);
        processes.start(&components::kubelet(plan, programs))?;
        processes.start(&components::proxy(plan, programs))?;
        if processes.pid(COREDNS).is_none() {
            command::run(self.kubectl().args(["apply", "-f"]).arg(plan.config("coredns-access.yaml")))?;
        }
        processes.start(&components::coredns(plan, programs))?;
        processes.wait(KUBELET, "Ready node", LIMIT, || {
            let path = "-o=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            command::run(self.kubectl().args(["get", "node", &plan.node(), path])).is_ok_and(|text| text == "True")
        })?;
        self.wait_for_service_account()?;
        let coredns = (plan.node_address(), COREDNS_READY_PORT);
        processes.wait(COREDNS, "answer to names", LIMIT, || says_ok(&coredns.0, coredns.1))
    }

    fn start_kwok(&self, folder: &Path, nodes: u32) -> Result<(), Error> {
        self.processes.start(&components::kwok(self.plan, folder, &kwok::stages()?))?;
        kwok::ensure_nodes(|| self.kubectl(), nodes, self.mode)?;
        self.processes.wait(KWOK, "ready KWOK nodes", LIMIT, || kwok::nodes_are_ready(self.kubectl(), nodes))
    }
}

/// Rewrites only on a change: the proxy ends when its file is touched.
fn write(file: &ConfigFile) -> Result<(), Error> {
    if fs::read_to_string(&file.path).is_ok_and(|text| text == file.text) {
        return Ok(());
    }
    if let Some(folder) = file.path.parent() {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
    }
    fs::write(&file.path, &file.text).map_err(Error::file(&file.path))
}

fn connect(address: impl ToSocketAddrs) -> Option<TcpStream> {
    let address = address.to_socket_addrs().ok()?.next()?;
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
}

fn answers(address: impl ToSocketAddrs) -> bool {
    connect(address).is_some()
}

/// Whether `GET /ready` is answered with 200.
fn says_ok(host: &str, port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || {
        let mut stream = connect((host, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(format!("GET /ready HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).ok()?;
        start.ends_with(b"200").then_some(())
    };
    ask().is_some()
}
