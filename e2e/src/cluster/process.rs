//! Components as processes: started detached with a log and a pid file, found again, stopped.

use super::Error;
use super::components::Component;
use super::plan::Plan;
use crate::command;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at something that changes by itself.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// A process, told from a later one that got the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    pid: i32,
    /// Clock ticks from the machine's start to the process's.
    started: u64,
    /// Which start of the machine.
    boot: String,
}

impl Identity {
    /// The process `pid` as it is now, and whether it runs. A zombie does not: who should reap it may take its time.
    fn look(pid: i32) -> Option<(Self, bool)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in parentheses, may itself hold spaces and parentheses.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let runs = !matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(18)?.parse().ok()?;
        Some((Self { pid, started, boot: boot() }, runs))
    }

    fn runs(&self) -> bool {
        Self::look(self.pid).is_some_and(|(now, runs)| runs && now == *self)
    }

    /// Whether nothing of the process is left. After the first of its threads has become a zombie, others may still hold
    /// its ports.
    fn is_gone(&self) -> bool {
        let threads = || fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        match Self::look(self.pid) {
            Some((now, runs)) if now == *self => !runs && threads() <= 1,
            _ => true,
        }
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The processes of one cluster.
pub(super) struct Processes<'a> {
    plan: &'a Plan,
    /// The `PATH` of what is started.
    path: OsString,
}

impl<'a> Processes<'a> {
    pub(super) fn new(plan: &'a Plan, path: OsString) -> Self {
        Self { plan, path }
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.plan.logs().join(format!("{name}.log"))
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.plan.run("pids").join(name)
    }

    fn recorded(&self, name: &str) -> Option<Identity> {
        serde_json::from_str(&fs::read_to_string(self.pid_file(name)).ok()?).ok()
    }

    /// The process id of the component, if it runs.
    pub(super) fn pid(&self, name: &str) -> Option<i32> {
        self.recorded(name).filter(Identity::runs).map(|identity| identity.pid)
    }

    /// Whether a pid file is there, whatever became of the process.
    pub(super) fn was_started(&self, name: &str) -> bool {
        self.pid_file(name).exists()
    }

    /// Starts the component unless it runs.
    pub(super) fn start(&self, component: &Component) -> Result<(), Error> {
        let name = component.name;
        if let Some(last) = self.recorded(name) {
            if last.runs() {
                return Ok(());
            }
            gone_within(Duration::from_secs(10), || last.is_gone());
        }
        let log = self.log(name);
        let pids = self.pid_file(name);
        for folder in [log.parent(), pids.parent()].into_iter().flatten() {
            fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        let out = fs::File::options().create(true).append(true).open(&log).map_err(Error::file(&log))?;
        let err = out.try_clone().map_err(Error::file(&log))?;
        // Both programs replace themselves, so that the process id is the component's. The mount namespace stays the
        // machine's: runtime and kubelet must see each other's mounts.
        let mut start = Command::new("setsid");
        if component.on_node {
            start.arg("nsenter").arg(format!("--net=/run/netns/{}", self.plan.namespace()));
        }
        start.arg(&component.program).args(&component.arguments);
        start.envs(component.environment.iter().copied());
        start.env("PATH", &self.path).current_dir("/").stdin(Stdio::null()).stdout(out).stderr(err);
        let child = start.spawn().map_err(|source| Error::Start { component: name, source })?;
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        let Some((identity, _)) = Identity::look(pid) else {
            return Err(self.died(name));
        };
        let text = serde_json::to_string(&identity).unwrap_or_default();
        fs::write(&pids, text).map_err(Error::file(pids))
    }

    /// Waits until `ready` holds, as long as the component runs and `limit` is not over.
    pub(super) fn wait(
        &self,
        name: &'static str,
        what: &'static str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let end = Instant::now() + limit;
        while !ready() {
            if self.pid(name).is_none() {
                return Err(self.died(name));
            }
            if Instant::now() > end {
                let log = self.log(name);
                return Err(Error::NotReady { component: name, what, limit, last: command::tail(&log), log });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn died(&self, name: &'static str) -> Error {
        let log = self.log(name);
        Error::Died { component: name, last: command::tail(&log), log }
    }

    /// Ends the component if it runs, with `signal` first and by force after `grace`, and forgets it.
    pub(super) fn stop(&self, name: &str, signal: Signal, grace: Duration) {
        if let Some(identity) = self.recorded(name) {
            if identity.runs() {
                send(identity.pid, signal);
                if !gone_within(grace, || !identity.runs()) {
                    send(identity.pid, Signal::KILL);
                }
            }
            gone_within(grace, || identity.is_gone());
            let _ = fs::remove_file(self.pid_file(name));
        }
    }
}

/// Sends a signal. A process that has ended meanwhile is what was wanted.
pub(super) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits until `gone` holds, at most for `limit`, and says whether it does.
pub(super) fn gone_within(limit: Duration, mut gone: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if gone() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// The ids of all processes whose command line is accepted.
pub(super) fn pids_where(accepts: impl Fn(&[&str]) -> bool) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    entries
        .flatten()
        .filter_map(pid)
        .filter(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            accepts(&line.trim_end_matches('\0').split('\0').collect::<Vec<_>>())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_process_is_told_from_another_with_its_number() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (identity, runs) = Identity::look(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(runs && identity.runs() && !identity.is_gone());
        assert!(!Identity { started: identity.started + 1, ..identity.clone() }.runs());
        assert!(!Identity { boot: "before".to_owned(), ..identity.clone() }.runs());
        child.kill().unwrap();
        // Not reaped yet: a zombie, which counts as gone.
        assert!(gone_within(Duration::from_secs(5), || identity.is_gone() && !identity.runs()));
        child.wait().unwrap();
    }

    #[test]
    fn what_dies_at_once_is_told_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::new("x", 0, folder.path().to_owned());
        let processes = Processes::new(&plan, std::env::var_os("PATH").unwrap_or_default());
        let component = Component {
            name: "kubelet",
            program: Path::new("sh").to_owned(),
            arguments: vec!["-c".to_owned(), "echo no such flag; exit 1".to_owned()],
            on_node: false,
            environment: Vec::new(),
        };
        // It may be gone before it is recorded, or while it is waited for.
        let error = processes
            .start(&component)
            .and_then(|()| processes.wait("kubelet", "anything", Duration::from_secs(10), || false))
            .unwrap_err()
            .to_string();
        assert!(error.contains("kubelet") && error.contains("kubelet.log"), "{error}");
        assert!(!processes.was_started("kubelet") || processes.pid("kubelet").is_none());
    }
}
