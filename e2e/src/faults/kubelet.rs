//! A kubelet of one namespace: binds every Pod, runs the real step-runner of its stage as a local process, and tells the API
//! server what became of it, as a kubelet does.
//!
//! What differs from a node: no image and no container, so the stage's program must exist here; `/trainyard` is a folder of the
//! Pod's own, a store on a volume is a folder of the case, and a rank of a training has an address instead of a name. How long after its end a container is seen to have ended is a
//! setting, as on real nodes that takes a second or two, in which the early report is all that the operator has.

mod addresses;
mod task;

use super::api::{Api, ApiError};
use super::fault::{Place, PodPhase, Strike};
use super::history::{Change, Recorder, Version, What, is_ours, is_task};
use super::observer::collection;
use super::store_proxy::StoreProxy;
use crate::faults::history::Kind;
use crate::store::Access;
use addresses::Addresses;
use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use step_protocol::{StepSpec, StoreSpec};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The node that Pods are bound to. Nobody asks whether it exists.
pub const NODE: &str = "test-node";
/// The container whose command is the runner.
const STAGE: &str = "stage";

/// What the kubelet needs to know.
#[derive(Clone)]
pub struct Options {
    /// The namespace whose Pods it runs.
    pub namespace: String,
    /// The step-runner.
    pub runner: PathBuf,
    /// The folder that stands for a `volume` store.
    pub store: PathBuf,
    /// Roots of Pods, termination messages and logs go here.
    pub folder: PathBuf,
    /// How long after the end of a runner the API server is told.
    pub shown_after: Duration,
    /// The way to the S3 server, for stores that are buckets, and how it is entered.
    pub bucket: Option<(Arc<StoreProxy>, Access)>,
    /// The Pods, counted as they come, whose runner is killed in the middle of a file.
    pub cut_files: Vec<Strike>,
    /// The mistake that is planted in the runners.
    pub mutant: Option<&'static str>,
}

/// Runners as others see them: to be killed, or cut off with their node.
#[derive(Default)]
pub struct Runners {
    state: Mutex<RunnersState>,
}

#[derive(Default)]
struct RunnersState {
    pids: HashMap<String, Pid>,
    cut: HashSet<String>,
    killed: HashSet<String>,
    started: u32,
}

impl Runners {
    fn state(&self) -> MutexGuard<'_, RunnersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SIGKILL for the runner of this Pod, now or as soon as it runs.
    pub fn kill(&self, uid: &str) {
        let mut state = self.state();
        state.killed.insert(uid.to_owned());
        if let Some(pid) = state.pids.get(uid) {
            // It may have ended in this moment.
            let _ = kill_process(*pid, Signal::KILL);
        }
    }

    /// From now on the API server hears nothing of this Pod, and its runner nothing of the API server.
    pub fn cut(&self, uid: &str) {
        self.state().cut.insert(uid.to_owned());
    }

    fn is_cut(&self, uid: &str) -> bool {
        self.state().cut.contains(uid)
    }

    /// The number of the runner that starts now, from 1.
    fn next(&self) -> u32 {
        let mut state = self.state();
        state.started += 1;
        state.started
    }

    fn started(&self, uid: &str, child: &Child) {
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let mut state = self.state();
            state.pids.insert(uid.to_owned(), pid);
            if state.killed.contains(uid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    fn ended(&self, uid: &str) {
        self.state().pids.remove(uid);
    }
}

/// A kubelet that works as long as this value lives. Runners that are left then are killed.
pub struct Kubelet {
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Takes over the Pods that are seen on `pods`.
    #[must_use]
    pub fn start(
        api: Api,
        options: Options,
        recorder: Recorder,
        runners: Arc<Runners>,
        mut pods: UnboundedReceiver<Version>,
    ) -> Self {
        let shared = Arc::new(Shared { api, options, recorder, runners, addresses: Addresses::default() });
        let task = tokio::spawn(async move {
            let mut known: HashMap<String, watch::Sender<Asked>> = HashMap::new();
            let mut workers = JoinSet::new();
            while let Some(version) = pods.recv().await {
                let asked = Asked::of(&version);
                match known.get(version.uid()) {
                    Some(worker) => {
                        worker.send_if_modified(|before| std::mem::replace(before, asked) != asked);
                    }
                    None if version.change != Change::Deleted
                        && (is_ours(&version.object) || is_task(&version.object))
                        && !ended(&version.object) =>
                    {
                        let (sender, receiver) = watch::channel(asked);
                        known.insert(version.uid().to_owned(), sender);
                        workers.spawn(Arc::clone(&shared).pod(version, receiver));
                    }
                    None => {}
                }
            }
            workers.join_all().await;
        });
        Self { task }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the API server asks of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Run,
    /// It is being deleted, with so much time for its program.
    Stop(Duration),
    /// It is gone.
    Gone,
}

impl Asked {
    fn of(version: &Version) -> Self {
        let metadata = &version.object["metadata"];
        if version.change == Change::Deleted {
            return Self::Gone;
        }
        if metadata["deletionTimestamp"].is_null() {
            return Self::Run;
        }
        Self::Stop(Duration::from_secs(metadata["deletionGracePeriodSeconds"].as_u64().unwrap_or(30)))
    }
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

struct Shared {
    api: Api,
    options: Options,
    recorder: Recorder,
    runners: Arc<Runners>,
    addresses: Addresses,
}

/// A Pod on its way through the kubelet.
struct Pod {
    name: String,
    uid: String,
    /// Path of the object.
    path: String,
    object: Value,
}

/// How a runner ended.
struct Ending {
    code: i32,
    message: String,
    started: SystemTime,
    finished: SystemTime,
}

impl Shared {
    async fn pod(self: Arc<Self>, version: Version, mut asked: watch::Receiver<Asked>) {
        let path = format!("{}/{}", collection(Kind::Pod, &self.options.namespace), version.name());
        let pod = Pod { name: version.name().to_owned(), uid: version.uid().to_owned(), path, object: version.object };
        if let Err(error) = self.life(&pod, &mut asked).await {
            self.recorder.push(What::Trouble(format!("the kubelet, Pod {}: {error:#}", pod.name)));
        }
    }

    async fn life(&self, pod: &Pod, asked: &mut watch::Receiver<Asked>) -> Result<()> {
        if *asked.borrow() == Asked::Run && gone(self.bind(pod).await)? {
            return Ok(());
        }
        if *asked.borrow_and_update() != Asked::Run {
            return self.remove(pod).await;
        }
        let folder = self.options.folder.join(&pod.uid);
        let mut child = self.start(pod, &folder).await?;
        self.runners.started(&pod.uid, &child);
        let started = SystemTime::now();
        self.recorder.push(What::RunnerStarted { pod: pod.name.clone(), uid: pod.uid.clone() });
        // A runner whose Pod is gone is waited for all the same: it hears of it by `asked`.
        if !self.runners.is_cut(&pod.uid) {
            gone(self.tell(pod, "Running", &json!({"running": {"startedAt": time(started)}})).await)?;
        }
        let status = self.wait(pod, &mut child, asked).await?;
        self.runners.ended(&pod.uid);
        let message = std::fs::read_to_string(termination_log(&folder)).unwrap_or_default();
        let ending = Ending { code: code(status), message, started, finished: SystemTime::now() };
        self.recorder.push(What::RunnerEnded {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            code: ending.code,
            message: ending.message.clone(),
        });
        if self.runners.is_cut(&pod.uid) {
            return Ok(());
        }
        tokio::time::sleep(self.options.shown_after).await;
        if gone(self.tell_end(pod, &ending).await)? {
            return Ok(());
        }
        loop {
            let now = *asked.borrow_and_update();
            match now {
                Asked::Run => {}
                Asked::Stop(_) => return self.remove(pod).await,
                Asked::Gone => return Ok(()),
            }
            if asked.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn bind(&self, pod: &Pod) -> Result<Value, ApiError> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name, "uid": pod.uid},
            "target": {"kind": "Node", "name": NODE},
        });
        self.api.create(&format!("{}/binding", pod.path), &binding).await
    }

    async fn start(&self, pod: &Pod, folder: &Path) -> Result<Child> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let variables = self.variables(pod, &folder.join("root")).await?;
        let log = File::create(folder.join("log")).context("the log")?;
        let number = self.runners.next();
        let strike = self.options.cut_files.iter().find(|strike| strike.place == Place::Pod(number, PodPhase::Created));
        let mut command = match strike {
            None => Command::new(&self.options.runner),
            Some(strike) => {
                self.recorder.push(What::Fault(strike.to_string()));
                let mut limited = Command::new("prlimit");
                // Whoever writes more bytes to a file is killed by SIGXFSZ in the middle: a commit record has more, a manifest less.
                limited.args(["--core=0", "--fsize=256"]).arg(&self.options.runner);
                limited
            }
        };
        command
            .arg(if is_task(&pod.object) { "task" } else { "run" })
            .env_clear()
            .envs(variables)
            .env("TRAINYARD_TERMINATION_LOG", termination_log(folder));
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().with_context(|| format!("starting {}", self.options.runner.display()))
    }

    /// The variables of the stage's container, with the folders and addresses of this machine in its step.
    async fn variables(&self, pod: &Pod, root: &Path) -> Result<BTreeMap<String, String>> {
        let mut variables = environment(&pod.object)?;
        if let Some(mutant) = self.options.mutant {
            variables.insert("TRAINYARD_MUTANT".to_owned(), mutant.to_owned());
        }
        if is_task(&pod.object) {
            let mut task = task::read(&variables)?;
            self.reach(pod, &mut task.store, &mut variables).await?;
            task::write(&task, &mut variables)?;
            return Ok(variables);
        }
        let mut step = StepSpec::from_env(&variables)?;
        step.root = root.display().to_string();
        if let Some(rank) = &mut step.rank {
            rank.hosts = self.addresses.of(rank)?;
        }
        self.reach(pod, &mut step.store, &mut variables).await?;
        variables.retain(|name, _| !name.starts_with(step_protocol::paths::ENV_SPEC));
        variables.extend(step.to_env()?);
        Ok(variables)
    }

    /// Has a Pod reach its store: the folder of the case, or the S3 server behind its proxy.
    async fn reach(&self, pod: &Pod, store: &mut StoreSpec, variables: &mut BTreeMap<String, String>) -> Result<()> {
        if store.uri.starts_with("file://") {
            store.uri = format!("file://{}", self.options.store.display());
        }
        if let (Some((proxy, access)), Some(s3)) = (&self.options.bucket, store.s3.as_mut()) {
            s3.endpoint = Some(proxy.endpoint(&pod.uid).await?);
            // What a kubelet would read from the Secret.
            variables.insert("TRAINYARD_STORE_AWS_ACCESS_KEY_ID".to_owned(), access.access_key.clone());
            variables.insert("TRAINYARD_STORE_AWS_SECRET_ACCESS_KEY".to_owned(), access.secret_key.clone());
        }
        Ok(())
    }

    async fn tell_end(&self, pod: &Pod, ending: &Ending) -> Result<Value, ApiError> {
        let terminated = json!({
            "exitCode": ending.code,
            "reason": if ending.code == 0 { "Completed" } else { "Error" },
            "message": ending.message,
            "startedAt": time(ending.started),
            "finishedAt": time(ending.finished),
        });
        let phase = if ending.code == 0 { "Succeeded" } else { "Failed" };
        self.tell(pod, phase, &json!({"terminated": terminated})).await
    }

    async fn tell(&self, pod: &Pod, phase: &str, state: &Value) -> Result<Value, ApiError> {
        let container = container(&pod.object).unwrap_or(&Value::Null);
        let status = json!({
            "name": container["name"], "image": container["image"], "imageID": "test", "ready": phase == "Running", "restartCount": 0, "state": state,
        });
        // A Pod whose status others have ended meanwhile neither runs nor ends again, as there is one kubelet to a node.
        let before = if phase == "Running" { "Pending" } else { "Running" };
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": pod.uid},
            {"op": "test", "path": "/status/phase", "value": before},
            {"op": "replace", "path": "/status/phase", "value": phase},
            {"op": "add", "path": "/status/containerStatuses", "value": [status]},
        ]);
        self.api.patch(&format!("{}/status", pod.path), &patch).await
    }

    /// Waits for the runner; TERM when its Pod is deleted, KILL when its time is over or the Pod has vanished.
    async fn wait(&self, pod: &Pod, child: &mut Child, asked: &mut watch::Receiver<Asked>) -> Result<ExitStatus> {
        let stop = loop {
            tokio::select! {
                status = child.wait() => return Ok(status?),
                changed = asked.changed() => {
                    if self.runners.is_cut(&pod.uid) {
                        // Nobody reaches it: it goes on until its program ends.
                        return Ok(child.wait().await?);
                    }
                    match *asked.borrow_and_update() {
                        Asked::Run if changed.is_ok() => {}
                        Asked::Stop(grace) if changed.is_ok() => break grace,
                        _ => break Duration::ZERO,
                    }
                }
            }
        };
        if !stop.is_zero() {
            let pid =
                child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("the runner has no id")?;
            kill_process(pid, Signal::TERM)?;
            tokio::select! {
                status = child.wait() => return Ok(status?),
                () = tokio::time::sleep(stop) => {}
                // Removed by force meanwhile.
                () = gone_for_good(asked) => {}
            }
        }
        child.start_kill()?;
        Ok(child.wait().await?)
    }

    /// The last thing that a kubelet does for a deleted Pod.
    async fn remove(&self, pod: &Pod) -> Result<()> {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid},
        });
        gone(self.api.delete(&pod.path, &options).await).map(|_| ())
    }
}

/// Comes back when the Pod has vanished.
async fn gone_for_good(asked: &mut watch::Receiver<Asked>) {
    loop {
        if *asked.borrow_and_update() == Asked::Gone || asked.changed().await.is_err() {
            return;
        }
    }
}

/// Whether the object was gone, another one of that name is there, or its status was ended by others; other failures are ours.
fn gone(answer: Result<Value, ApiError>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn container(pod: &Value) -> Option<&Value> {
    let is_its = |container: &&Value| container["name"] == STAGE || container["name"] == task::TASK;
    pod["spec"]["containers"].as_array()?.iter().find(is_its)
}

/// The plain variables of the stage's container.
fn environment(pod: &Value) -> Result<BTreeMap<String, String>> {
    let container = container(pod).ok_or_else(|| anyhow!("no container {STAGE}"))?;
    let variables = container["env"].as_array().into_iter().flatten();
    let pair = |variable: &Value| {
        let text = |field: &str| variable[field].as_str().map(str::to_owned);
        Some((text("name")?, text("value").unwrap_or_default()))
    };
    Ok(variables.filter_map(pair).collect())
}

/// What the operator tells the runner of this Pod to do.
pub fn step(pod: &Value) -> Result<StepSpec> {
    Ok(StepSpec::from_env(&environment(pod)?)?)
}

/// A plain variable of the container of this Pod.
pub fn variable(pod: &Value, name: &str) -> Option<String> {
    environment(pod).ok()?.remove(name)
}

fn termination_log(folder: &Path) -> PathBuf {
    folder.join("termination-log")
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests;
