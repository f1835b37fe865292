//! Several ranks on this machine, each with an address of its own (127.x.y.z) and its own runner.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdout};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal};
use step_protocol::{CheckpointSpec, Framework, RankSpec, RoleSpec, paths};

use super::{Done, Step, World, prefix};

static GANGS: AtomicU8 = AtomicU8::new(1);

/// The attempt key of every gang here.
pub const KEY: &str = "6b65796b65796b65796b65796b65796b65796b65796b65796b65796b65796b65";

/// The ranks of one attempt, which are yet to be started.
pub struct Gang {
    pub framework: Framework,
    pub execution: u32,
    pub hosts: Vec<String>,
    pub port: u16,
    pub gate_port: u16,
    pub start_timeout: u64,
    pub stall_timeout: Option<u64>,
    pub scatter: bool,
    pub checkpoint: Option<u64>,
}

impl Gang {
    pub fn new(framework: Framework, world_size: u8) -> Self {
        // Tests of one process run at the same time, and so do processes.
        let net = GANGS.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id() % 200 + 20;
        let hosts: Vec<_> = (1..=world_size).map(|last| format!("127.{process}.{net}.{last}")).collect();
        // Whether a port listens is seen for the whole machine, so each gang has its own.
        let free = || TcpListener::bind((hosts[0].as_str(), 0)).unwrap();
        let (port, gate_port) = (free(), free());
        let number = |socket: &TcpListener| socket.local_addr().unwrap().port();
        let (port, gate_port) = (number(&port), number(&gate_port));
        Self {
            framework,
            execution: 1,
            hosts,
            port,
            gate_port,
            start_timeout: 120,
            stall_timeout: None,
            scatter: false,
            checkpoint: None,
        }
    }

    /// The same job, started again.
    pub fn again(&mut self) {
        self.execution += 1;
    }

    pub fn rank(&self, rank: u32) -> RankSpec {
        let world_size = u32::try_from(self.hosts.len()).unwrap();
        RankSpec {
            framework: self.framework,
            role: "worker".into(),
            index: rank,
            rank,
            world_size,
            roles: vec![RoleSpec { name: "worker".into(), replicas: world_size, processes_per_replica: 1 }],
            hosts: self.hosts.clone(),
            port: self.port,
            gate_port: self.gate_port,
            processes_per_replica: 1,
            execution: self.execution,
            start_timeout_seconds: self.start_timeout,
            stall_timeout_seconds: self.stall_timeout,
            elastic: None,
            rendezvous_id: format!("uid-1-{}", self.execution),
            scatter: self.scatter,
        }
    }

    /// A rank that runs a shell script.
    pub fn shell(&self, world: &World, rank: u32, script: &str) -> Step {
        let mut step = world.shell("train", self.execution, script).variable("TRAINYARD_GANG_KEY", KEY);
        let job = prefix("train");
        if rank > 0 {
            step.spec.prefix = if self.scatter {
                paths::shard_prefix(&job, "worker", rank)
            } else {
                paths::rank_prefix(&job, self.execution, "worker", rank)
            };
        }
        step.spec.rank = Some(self.rank(rank));
        step.spec.checkpoint = self.checkpoint.map(|interval_seconds| CheckpointSpec {
            interval_seconds,
            keep: 2,
            prefix: paths::checkpoint_prefix(&job),
            upload: rank == 0,
        });
        step
    }
}

/// A runner that was started, whose program's lines are read one by one.
pub struct Running {
    pub step: Step,
    pub child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub fn start(mut step: Step) -> Self {
        let mut child = step.start();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { step, child, lines }
    }

    /// The next line of the program's output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Kills the runner, and with it what it runs, as the end of a container's first process does.
    pub fn kill(&mut self) {
        let mut found = vec![Pid::from_child(&self.child)];
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten();
            let children = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children")));
            let children: String = children.map(Result::unwrap_or_default).collect();
            found.extend(children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())));
            next += 1;
        }
        for pid in found {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        self.child.wait().unwrap();
    }

    /// Waits for the end; the output is what was not read as lines.
    pub fn end(mut self) -> Done {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.lines, &mut rest).unwrap();
        let mut done = self.step.wait(self.child);
        done.stdout = rest;
        done
    }
}
