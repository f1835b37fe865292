//! The operator as a child process whose memory is looked at.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command;

/// A running operator; it ends with the value.
pub(super) struct Operator {
    child: Child,
    log: PathBuf,
    health: SocketAddr,
}

impl Operator {
    pub(super) fn start(program: &Path, namespace: &str, kubeconfig: &Path, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let health = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        // It ends with us even when we are killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("RUST_BACKTRACE", "1").env("KUBECONFIG", kubeconfig);
        command.env("TRAINYARD_NAMESPACES", namespace).env("TRAINYARD_POD_TTL", "0s");
        command.env("TRAINYARD_RUNNER_IMAGE", "localhost/step-runner:1").env("TRAINYARD_RUNNER_MOUNT", "Image");
        command.env("TRAINYARD_HEALTH_LISTEN", health.to_string()).env("TRAINYARD_LOG_LEVEL", "warn");
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, log: log.to_owned(), health })
    }

    /// How many runs it remembers, as its metrics say.
    pub(super) fn active_runs(&self) -> Result<u64> {
        let mut stream = TcpStream::connect(self.health)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", self.health)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        active(&text).context("no trainyard_active_runs")
    }

    /// That it ends by itself is a failure, whatever was done to it.
    pub(super) fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the operator ended ({status}); its log ends with:\n{}", command::tail(&self.log)),
        }
    }

    /// Bytes that it occupies now.
    pub(super) fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).context(path)?;
        resident(&text).context("no VmRSS")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn active(metrics: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix("trainyard_active_runs "))?.trim().parse().ok()
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_runs_are_what_the_metrics_say() {
        assert_eq!(active("# TYPE trainyard_active_runs gauge\ntrainyard_active_runs 3\n"), Some(3));
        assert_eq!(active("trainyard_leader 1\n"), None);
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t   20480 kB\nThreads: 1\n"), Some(20 << 20));
        assert_eq!(resident("Name:\tx\n"), None);
        assert!(resident(&fs::read_to_string("/proc/self/status").unwrap()).unwrap() > 1 << 20);
    }
}
