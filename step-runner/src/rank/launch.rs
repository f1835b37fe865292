//! MPI without ssh: rank 0's launcher starts its daemons in the other Pods by their runners.
//!
//! ```text
//! rank 0's Pod                                              another rank's Pod
//! mpirun -> launch-agent HOST COMMAND -> runner  ==========>  runner -> sh -c COMMAND, as user code
//!           (a Unix socket)                      gang key
//! ```
//!
//! What travels is a command and its exit code; what the command prints is in its own Pod's log. When the agent goes, the command is
//! killed.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, WaitStatus};
use serde::{Deserialize, Serialize};
use step_protocol::{Outcome, RankSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::gate::{self, First, Order};
use super::strangers::{self, Stranger};
use super::wire::{LONG, SHORT, Wire, WireError};
use super::{files, follower};
use crate::exec::{self, Ended, Program, StartError};
use crate::failure::Failure;
use crate::log::Log;
use crate::oom;
use crate::process;
use crate::stop::{Stop, Stopped};

/// Rank 0 that is gone without a word is an attempt that is ending: the operator says so before this is over.
const GONE: Duration = Duration::from_secs(30);
/// Between two looks at the kernel's count of kills: what it kills here is a child of a daemon, not ours.
const MEMORY: Duration = Duration::from_secs(1);
/// How long daemons may take to go when all is done.
const DAEMONS: Duration = Duration::from_secs(5);
/// How long another Pod's runner, which is there, may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Agents at the same time: as many as the largest job has ranks.
const AGENTS: usize = 1024;
/// What a shell says of a program that cannot be started.
const NOT_STARTED: i32 = 126;

/// What the agent asks of its runner, and the answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) host: String,
    pub(super) command: String,
}

/// What the agent is told.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Reply {
    /// The command has ended.
    Exit(i32),
    /// The host is the agent's own.
    Here,
    /// It could not be asked.
    Failed(String),
}

/// Rank 0's door for agents, open until this is dropped.
#[derive(Debug)]
pub(crate) struct Agents(JoinHandle<()>);

impl Drop for Agents {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agents {
    pub(super) fn listen(spec: &RankSpec, key: &[u8], root: &Path) -> Result<Self, Failure> {
        let path = root.join(files::LAUNCH_SOCKET);
        let failed = |error: std::io::Error| Failure::io("listen at", &path, &error);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (spec, key) = (Arc::new(spec.clone()), Arc::<[u8]>::from(key));
        Ok(Self(tokio::spawn(async move {
            let mut agents = JoinSet::new();
            loop {
                // More wait until one has ended.
                while agents.len() >= AGENTS {
                    agents.join_next().await;
                }
                while agents.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => drop(agents.spawn(answer(stream, spec.clone(), key.clone()))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })))
    }
}

async fn answer(mut agent: UnixStream, spec: Arc<RankSpec>, key: Arc<[u8]>) {
    let Some(request) = request(&mut agent).await else { return };
    let mut nothing = [0; 1];
    let reply = tokio::select! {
        reply = ask(&spec, &key, request) => reply,
        // It says nothing more: it is gone, and with it what it wanted.
        _ = agent.read(&mut nothing) => return,
    };
    if let Ok(json) = serde_json::to_vec(&reply) {
        let _ = agent.write_all(&[&json[..], b"\n"].concat()).await;
    }
}

async fn request(agent: &mut UnixStream) -> Option<Request> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        if line.len() > LONG || agent.read_buf(&mut line).await.ok()? == 0 {
            return None;
        }
    }
    serde_json::from_slice(&line).ok()
}

/// Has the host's runner run the command.
async fn ask(spec: &RankSpec, key: &[u8], request: Request) -> Reply {
    let Request { host, command } = request;
    let Some(index) = find(spec, &host) else {
        return Reply::Failed(format!("{host} is no host of this attempt: {}", spec.hosts.join(", ")));
    };
    if index == spec.rank as usize {
        return Reply::Here;
    }
    let asking = async {
        let mut wire = follower::connect(spec, key, &spec.hosts[index], CONNECT).await?;
        wire.say(&First::Launch { rendezvous_id: spec.rendezvous_id.clone() }).await?;
        wire.say(&command).await?;
        wire.hear::<i32>(SHORT).await
    };
    match asking.await {
        Ok(code) => Reply::Exit(code),
        Err(error) => {
            let name = gate::rank_name(spec, u32::try_from(index).unwrap_or(u32::MAX));
            Reply::Failed(format!("the runner of {name} at {host}:{}: {error}", spec.gate_port))
        }
    }
}

/// The rank of that name; launchers may cut a name at its first dot.
fn find(spec: &RankSpec, host: &str) -> Option<usize> {
    let short = |name: &str| name.parse::<std::net::IpAddr>().is_err() && name.split('.').next() == Some(host);
    let whole = spec.hosts.iter().position(|known| known == host);
    whole.or_else(|| spec.hosts.iter().position(|known| short(known)))
}

/// What another rank runs in place of a program of its own.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(super) listener: TcpListener,
    /// Where rank 0 tells the end.
    pub(super) leader: Wire,
    pub(super) key: Vec<u8>,
    pub(super) rendezvous_id: String,
}

enum Wish {
    Start { id: u64, command: String, done: oneshot::Sender<i32> },
    Kill { id: u64 },
}

/// Runs what rank 0 asks for until rank 0 is done. `program` makes a command a program with this rank's environment.
pub(crate) async fn serve(
    serving: Serving,
    program: impl Fn(String) -> Program,
    stop: &Stop,
    grace: Duration,
    log: &Log,
) -> Result<Ended, Failure> {
    let Serving { listener, mut leader, key, rendezvous_id } = serving;
    let failed = |error: std::io::Error| {
        Failure::new(Outcome::RunnerError, format!("failed to listen for ended processes: {error}"))
    };
    let mut children = signal(SignalKind::child()).map_err(failed)?;
    let memory = oom::Watch::begin();
    let (started, clock) = (SystemTime::now(), Instant::now());
    let (wishing, mut wishes) = mpsc::channel(16);
    let _accepting = accept(listener, key, rendezvous_id, wishing);

    let mut commands = Commands::default();
    let mut stopped: Option<Stopped> = None;
    let mut end: Option<Instant> = None;
    let mut over = Over::No;
    let kills = loop {
        let ending = async {
            match end {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(wish) = wishes.recv() => match wish {
                Wish::Start { id, command, done } if stopped.is_none() => {
                    commands.start(id, exec::start(program(command), log), done);
                }
                Wish::Start { .. } => {}
                Wish::Kill { id } => commands.kill(id),
            },
            _ = children.recv() => process::reap(|pid, status| commands.ended(pid, status)),
            () = tokio::time::sleep(MEMORY) => {}
            order = leader.hear::<Order>(LONG), if matches!(over, Over::No) => {
                (over, end) = match order {
                    Ok(Order::End) => (Over::Well, Some(Instant::now() + DAEMONS)),
                    Ok(_) | Err(_) => (Over::Lost, Some(Instant::now() + GONE)),
                };
            }
            why = stop.wait(), if stopped.is_none() => {
                stopped = Some(why);
                end = Some(why.at + grace);
                commands.signal(Signal::TERM);
            }
            () = ending => break memory.kills(),
        }
        let kills = memory.kills();
        let idle = commands.0.is_empty() && (stopped.is_some() || matches!(over, Over::Well));
        if kills.is_some() || idle {
            break kills;
        }
    };
    process::kill_all(None, |pid, status| commands.ended(pid, status));
    if stopped.is_none() && kills.is_none() && matches!(over, Over::Lost) {
        let message = "the runner of rank 0 is gone: the attempt has ended there; see why in its Pod";
        return Err(Failure::new(Outcome::Disrupted, message));
    }
    Ok(Ended {
        code: Some(if stopped.is_none() && kills.is_none() { 0 } else { 128 + libc::SIGTERM }),
        signal: None,
        started,
        finished: started + clock.elapsed(),
        stopped,
        kills,
    })
}

/// What is known of rank 0's program.
enum Over {
    No,
    Well,
    Lost,
}

/// The commands that run, by the process that was started for each.
#[derive(Default)]
struct Commands(BTreeMap<i32, (u64, oneshot::Sender<i32>)>);

impl Commands {
    fn start(
        &mut self,
        id: u64,
        started: Result<(Pid, tokio::sync::mpsc::Receiver<()>), StartError>,
        done: oneshot::Sender<i32>,
    ) {
        match started {
            Ok((pid, _)) => drop(self.0.insert(pid.as_raw_nonzero().get(), (id, done))),
            Err(error) => {
                crate::failure::say!("a command of rank 0 could not be started: {error}");
                let _ = done.send(NOT_STARTED);
            }
        }
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        if let Some((_, done)) = self.0.remove(&pid.as_raw_nonzero().get()) {
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            let _ = done.send(status.exit_status().or(signal).unwrap_or(1));
        }
    }

    fn kill(&self, id: u64) {
        for pid in self.0.iter().filter(|(_, (of, _))| *of == id).filter_map(|(pid, _)| Pid::from_raw(*pid)) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        for pid in self.0.keys().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

/// Ends with this value.
struct Accepting(JoinHandle<()>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn accept(listener: TcpListener, key: Vec<u8>, rendezvous_id: String, wishes: mpsc::Sender<Wish>) -> Accepting {
    let shared = Arc::new((key, rendezvous_id, wishes, AtomicU64::new(0)));
    Accepting(tokio::spawn(strangers::accept(listener, move |stream, stranger| {
        let shared = shared.clone();
        async move {
            let (key, rendezvous_id, wishes, ids) = &*shared;
            let id = ids.fetch_add(1, Ordering::Relaxed);
            // What a peer does wrong ends its connection and nothing else.
            let _ = take(stream, key, rendezvous_id, id, wishes, stranger).await;
        }
    })))
}

/// One command, from the connection's begin to its end.
async fn take(
    stream: TcpStream,
    key: &[u8],
    expected: &str,
    id: u64,
    wishes: &mpsc::Sender<Wish>,
    stranger: Stranger,
) -> Result<(), WireError> {
    let mut wire = Wire::accept(stream, key).await?;
    let First::Launch { rendezvous_id } = wire.hear_first().await? else { return Err(WireError::Garbled) };
    if rendezvous_id != expected {
        return Err(WireError::Garbled);
    }
    drop(stranger);
    let command: String = wire.hear(LONG).await?;
    let (done, ended) = oneshot::channel();
    let _ = wishes.send(Wish::Start { id, command, done }).await;
    tokio::select! {
        code = ended => wire.say(&code.unwrap_or(NOT_STARTED)).await,
        said = wire.hear::<()>(SHORT) => {
            let _ = wishes.send(Wish::Kill { id }).await;
            said
        }
    }
}

#[cfg(test)]
mod tests {
    use step_protocol::Framework;

    use super::*;
    use crate::rank::tests::rank;

    #[test]
    fn hosts_are_found_by_their_whole_or_first_name() {
        let spec = rank(Framework::MPI, 3, 0);
        assert_eq!((find(&spec, "h1.fit"), find(&spec, "h2"), find(&spec, "h3")), (Some(1), Some(2), None));
        let addresses = RankSpec { hosts: vec!["10.0.0.1".into(), "10.0.0.2".into()], ..spec };
        assert_eq!((find(&addresses, "10.0.0.2"), find(&addresses, "10")), (Some(1), None));
    }
}
