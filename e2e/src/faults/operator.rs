//! The operator as a child process, and the supervisor that starts it again whenever it ends.

use super::history::{OPERATOR, Recorder, What};
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU16, AtomicU32, Ordering};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// An operator that ends by itself more often than this is not started again.
const PATIENCE: u32 = 5;

/// Kills the operator from elsewhere.
#[derive(Clone)]
pub struct Killer {
    requests: mpsc::Sender<oneshot::Sender<()>>,
    process: Arc<AtomicU32>,
    pid: Arc<AtomicI32>,
}

/// Where kills are asked for.
pub struct Kills {
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    process: Arc<AtomicU32>,
    pid: Arc<AtomicI32>,
}

impl Killer {
    /// A killer and the end that hears it.
    #[must_use]
    pub fn new() -> (Self, Kills) {
        Self::of(0)
    }

    /// The same, for one of several operators, counted from 0.
    #[must_use]
    pub fn of(operator: u32) -> (Self, Kills) {
        let (sender, receiver) = mpsc::channel(4);
        let (process, pid) = (Arc::new(AtomicU32::new(operator * OPERATOR)), Arc::new(AtomicI32::new(0)));
        let kills = Kills { requests: receiver, process: Arc::clone(&process), pid: Arc::clone(&pid) };
        (Self { requests: sender, process, pid }, kills)
    }

    /// SIGSTOP: the process does nothing until [`Killer::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid.load(Ordering::SeqCst)) {
            // It may have ended in this moment.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL. Comes back when the process is gone; another one is started then.
    pub async fn kill(&self) {
        let (done, gone) = oneshot::channel();
        if self.requests.send(done).await.is_ok() {
            let _ = gone.await;
        }
    }

    /// The number of the process that runs, from 1.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process.load(Ordering::SeqCst)
    }
}

impl Kills {
    /// The next kill that is asked for; `None` when nobody can ask any more. Whoever hears it says when it is done.
    pub async fn next(&mut self) -> Option<oneshot::Sender<()>> {
        self.requests.recv().await
    }
}

/// How the operator is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program.
    pub program: PathBuf,
    /// The only namespace that it looks after.
    pub namespace: String,
    /// How it reaches the API server.
    pub kubeconfig: PathBuf,
    /// Its logs go here, one file for each process.
    pub logs: PathBuf,
    /// Where runners are told to send early reports.
    pub reports: Reports,
    /// Who it is in the election of a leader; `None` without one.
    pub candidate: Option<String>,
    /// The mistake that is planted in it.
    pub mutant: Option<&'static str>,
    /// How long succeeded Pods stay after a run's end.
    pub pod_ttl: String,
}

/// Where runners are told to send early reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reports {
    /// Nowhere.
    None,
    /// To the operator.
    Direct,
    /// To this address, which passes them on to the operator's, at this port.
    By(String, u16),
}

/// An operator that is started again whenever it ends, until this value is stopped or dropped.
pub struct Operator {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    /// Port of its probes and metrics.
    health: u16,
}

impl Operator {
    /// Starts the first process.
    pub fn start(options: Options, recorder: Recorder, kills: Kills) -> Result<Self> {
        let report = match &options.reports {
            Reports::By(_, port) => *port,
            Reports::None | Reports::Direct => free_port()?,
        };
        let health = free_port()?;
        let ports = Ports { health, report };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let supervisor = Supervisor { options, ports, recorder: recorder.clone() };
            if let Err(error) = supervisor.run(kills, stopped).await {
                recorder.push(What::Trouble(format!("the operator: {error:#}")));
            }
        });
        Ok(Self { stop, task, health })
    }

    /// How often it has looked at a run or a Pipeline, as its metrics say.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn reconciles(&self) -> Result<u64> {
        // One for the process; the client leaves the choice to us, although there is nothing to encrypt.
        rustls::crypto::ring::default_provider().install_default().ok();
        let url = format!("http://127.0.0.1:{}/metrics", self.health);
        let metrics = reqwest::get(&url).await?.error_for_status()?.text().await?;
        let counts = metrics.lines().filter(|line| line.starts_with("trainyard_reconciles_total{"));
        let mut sum = None;
        for line in counts {
            let count: u64 = line.rsplit_once(' ').context("a metric has a value")?.1.parse()?;
            sum = Some(sum.unwrap_or(0) + count);
        }
        sum.with_context(|| format!("{url} counts no reconciles:\n{metrics}"))
    }

    /// Kills the process, and starts no other.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

struct Ports {
    health: u16,
    report: u16,
}

struct Supervisor {
    options: Options,
    ports: Ports,
    recorder: Recorder,
}

impl Supervisor {
    async fn run(&self, mut kills: Kills, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        let mut ended = 0;
        loop {
            let number = kills.process.load(Ordering::SeqCst) + 1;
            let mut child = self.spawn(number)?;
            kills.pid.store(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0), Ordering::SeqCst);
            kills.process.store(number, Ordering::SeqCst);
            self.recorder.push(What::Started(number));
            tokio::select! {
                biased;
                _ = &mut stopped => {
                    child.kill().await?;
                    self.recorder.push(What::Killed(number));
                    return Ok(());
                }
                Some(done) = kills.next() => {
                    child.kill().await?;
                    self.recorder.push(What::Killed(number));
                    let _ = done.send(());
                }
                status = child.wait() => {
                    self.recorder.push(What::Ended(number, status?.to_string()));
                    ended += 1;
                    anyhow::ensure!(ended < PATIENCE, "it ended {ended} times by itself");
                }
            }
        }
    }

    fn spawn(&self, number: u32) -> Result<Child> {
        let Options { program, namespace, kubeconfig, logs, reports, candidate, mutant, pod_ttl } = &self.options;
        let Ports { health, report } = self.ports;
        let path = logs.join(format!("operator-{number}.log"));
        let log =
            OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        // It ends with us even when we are killed.
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command.env_clear().env("RUST_BACKTRACE", "1").env("KUBECONFIG", kubeconfig);
        command.env("TRAINYARD_NAMESPACES", namespace);
        command.env("TRAINYARD_RUNNER_IMAGE", "localhost/step-runner:1").env("TRAINYARD_RUNNER_MOUNT", "Image");
        command.env("TRAINYARD_HEALTH_LISTEN", format!("127.0.0.1:{health}"));
        command.env("TRAINYARD_REPORT_LISTEN", format!("127.0.0.1:{report}"));
        match reports {
            Reports::None => {}
            Reports::Direct => {
                command.env("TRAINYARD_REPORT_URL", format!("http://127.0.0.1:{report}"));
            }
            Reports::By(address, _) => {
                command.env("TRAINYARD_REPORT_URL", format!("http://{address}"));
            }
        }
        if let Some(name) = candidate {
            command.env("TRAINYARD_LEADER_ELECTION", "true").env("POD_NAMESPACE", namespace);
            command.env("POD_NAME", format!("{name}-{number}"));
        }
        if let Some(mutant) = mutant {
            command.env("TRAINYARD_MUTANT", mutant);
        }
        command.env("TRAINYARD_POD_TTL", pod_ttl);
        command.env("TRAINYARD_LOG_LEVEL", "info,trainyard_operator=debug");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().with_context(|| format!("starting {}", program.display()))
    }
}

/// A port below those that the kernel gives to clients, so that a killed operator finds it free again. No two calls of one
/// process get the same.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes beside this one begin elsewhere.
    let offset = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset) % COUNT;
        if TcpListener::bind(("127.0.0.1", FIRST + next)).is_ok() {
            return Ok(FIRST + next);
        }
    }
    anyhow::bail!("no port is free from {FIRST} on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The program is written by a process of its own: one that this process wrote would be open in whatever another test starts at
    /// that moment, and a file that somebody may write to cannot be executed (`ETXTBSY`).
    fn fake(script: &str, folder: &std::path::Path) -> Options {
        let program = folder.join("operator");
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 755 "$2""#, "sh", script])
            .arg(&program)
            .status();
        assert!(written.unwrap().success());
        let kubeconfig = folder.join("kubeconfig");
        let (namespace, logs, pod_ttl) = ("n".into(), folder.into(), "1s".into());
        Options {
            program,
            namespace,
            kubeconfig,
            logs,
            reports: Reports::Direct,
            candidate: None,
            mutant: None,
            pod_ttl,
        }
    }

    #[tokio::test]
    async fn a_killed_operator_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let (killer, kills) = Killer::new();
        let operator = Operator::start(fake("exec /bin/sleep 1000", folder.path()), recorder.clone(), kills).unwrap();
        killer.kill().await;
        killer.kill().await;
        operator.stop().await;
        let what: Vec<What> = recorder.history().entries.into_iter().map(|entry| entry.what).collect();
        let expected = [1, 2, 3].into_iter().flat_map(|n| [What::Started(n), What::Killed(n)]);
        assert_eq!(what, expected.collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn one_that_ends_by_itself_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let (_killer, kills) = Killer::new();
        let _operator = Operator::start(fake("exit 3", folder.path()), recorder.clone(), kills).unwrap();
        let error = recorder.wait(Duration::from_secs(20), "trouble", |_| None::<()>).await.unwrap_err();
        assert!(error.to_string().contains("it ended 5 times by itself"), "{error}");
        assert_eq!(recorder.history().entries[1].what, What::Ended(1, "exit status: 3".into()));
    }
}
