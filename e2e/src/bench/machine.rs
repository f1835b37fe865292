//! On what was measured: the machine, the versions, the flags.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::build::Product;
use crate::{command, paths};

/// What figures depend on, beside what is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// When the measuring began.
    pub began: String,
    /// The commit of this tree, with `+` when files differ from it.
    pub commit: String,
    /// Model of the processor.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// Memory in MiB.
    pub memory: u64,
    /// The kernel.
    pub kernel: String,
    /// The machine's load average of one minute before and after.
    pub load: [String; 2],
    /// Names and versions of what is measured on.
    pub versions: Vec<(String, String)>,
    /// How often each arm was measured.
    pub repeat: usize,
    /// The command line.
    pub command: String,
    /// Whether the null engine was optimized, as the operator always is.
    pub optimized: bool,
}

impl Machine {
    /// What is known before the first measurement.
    #[must_use]
    pub fn now(command: String, repeat: usize) -> Self {
        Self {
            began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: commit(),
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory: field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease"),
            load: [load(), String::new()],
            versions: versions(),
            repeat,
            command,
            optimized: !cfg!(debug_assertions),
        }
    }

    /// Notes the load at the end.
    #[must_use]
    pub fn after(mut self) -> Self {
        self.load[1] = load();
        self
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

/// A field of a file of `name : value` lines.
fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        command::run(Command::new("git").current_dir(paths::repository()).args(arguments)).unwrap_or_default()
    };
    let mut commit = git(&["rev-parse", "--short=12", "HEAD"]).trim().to_owned();
    if !git(&["status", "--porcelain"]).trim().is_empty() {
        commit.push('+');
    }
    commit
}

fn versions() -> Vec<(String, String)> {
    let products = [Product::Kubernetes, Product::Containerd, Product::Etcd, Product::Kwok, Product::Versitygw];
    let named = products.iter().map(|product| (product.name().to_owned(), product.version().unwrap_or_default()));
    let rustc = command::run(Command::new("rustc").arg("--version")).unwrap_or_default();
    let rustc = rustc.split(' ').nth(1).unwrap_or_default().to_owned();
    named.chain([("rustc".to_owned(), rustc)]).collect()
}
