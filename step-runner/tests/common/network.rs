//! A network of machines on this one: a namespace for each rank, with a host name, an address, ports and loopback of its own, as a Pod
//! has. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal};

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Gone with this value.
pub struct Network {
    switch: String,
    machines: Vec<String>,
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// So many machines; `None` where that cannot be had.
    pub fn new(count: u8) -> Option<Self> {
        if !super::is_root() || Command::new("ip").arg("-V").output().is_err() {
            eprintln!("not run: needs root and `ip` for a network of its own");
            return None;
        }
        let name = format!("ty{}-{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let network = Self {
            switch: format!("{name}-switch"),
            machines: (1..=count).map(|number| format!("{name}-{number}")).collect(),
        };
        let switch = network.switch.as_str();
        ip(&["netns", "add", switch]);
        ip(&["-n", switch, "link", "add", "bridge0", "type", "bridge"]);
        ip(&["-n", switch, "link", "set", "bridge0", "up"]);
        let hosts: String = (0..network.machines.len())
            .map(|index| format!("{} {}\n", network.address(index), Self::host(index)))
            .collect();
        for (index, machine) in network.machines.iter().enumerate() {
            // `ip netns exec` puts it in the place of /etc/hosts.
            std::fs::create_dir_all(Self::files(machine)).unwrap();
            std::fs::write(Self::files(machine).join("hosts"), format!("127.0.0.1 localhost\n{hosts}")).unwrap();
            let (port, address) = (format!("port{index}"), format!("{}/24", network.address(index)));
            ip(&["netns", "add", machine]);
            ip(&["link", "add", "eth0", "netns", machine, "type", "veth", "peer", "name", &port, "netns", switch]);
            ip(&["-n", switch, "link", "set", &port, "master", "bridge0", "up"]);
            ip(&["-n", machine, "address", "add", &address, "dev", "eth0"]);
            ip(&["-n", machine, "link", "set", "eth0", "up"]);
            ip(&["-n", machine, "link", "set", "lo", "up"]);
        }
        Some(network)
    }

    fn address(&self, index: usize) -> String {
        format!("10.99.0.{}", index + 1)
    }

    fn host(index: usize) -> String {
        format!("worker-{index}.fit")
    }

    fn files(machine: &str) -> PathBuf {
        Path::new("/etc/netns").join(machine)
    }

    pub fn hosts(&self) -> Vec<String> {
        (0..self.machines.len()).map(Self::host).collect()
    }

    /// Words before a command that is to run on that machine.
    pub fn on(&self, index: u32) -> Vec<String> {
        let machine = &self.machines[index as usize];
        let script = format!("hostname {} && exec \"$@\"", Self::host(index as usize));
        let words = ["ip", "netns", "exec", machine, "unshare", "--uts", "sh", "-c", &script, "sh"];
        words.map(str::to_owned).to_vec()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.machines.iter().chain([&self.switch]) {
            // What a test that failed has left there.
            let pids = Command::new("ip").args(["netns", "pids", name]).output();
            let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            for pid in pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
            let _ = std::fs::remove_dir_all(Self::files(name));
        }
    }
}
