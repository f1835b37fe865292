//! The user's process: started in a group of its own, waited for by events, stopped with grace, and nothing of it left behind.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, WaitStatus};
use step_protocol::Outcome;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::failure::{Failure, say};
use crate::log::{self, Log};
use crate::oom;
use crate::process;
use crate::stop::{Reason, Stop, Stopped};

mod program;

/// After everything is dead the pipes are at their end; only a reader of our own output that stands still can hold this up.
const DRAIN: Duration = Duration::from_secs(10);

/// What to start, and how.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program as it was named, or the script's path.
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) directory: Option<PathBuf>,
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the stage has neither a command nor a script")]
    Nothing,
    #[error("the program {name:?} was not found in PATH={path}; name one that the image has")]
    NotFound { name: String, path: String },
    #[error("the program {name:?} does not exist in the image (working directory {directory})")]
    Missing { name: String, directory: String },
    #[error(
        "the program {name:?} ({path}) is not executable; run `chmod +x` on it in the image, or name its interpreter"
    )]
    NotExecutable { name: String, path: String },
    #[error("the working directory {directory} does not exist or cannot be entered")]
    Directory { directory: String },
    #[error(
        "the program {name:?} cannot be run by this machine: it is built for another architecture, or a script without a first line such as #!/bin/sh"
    )]
    Format { name: String },
    #[error("the program {name:?} names an interpreter that the image does not have (first line #!...)")]
    Interpreter { name: String },
    #[error(
        "the arguments and variables of {name:?} are larger than the kernel takes; pass large parameters by params.json"
    )]
    TooLong { name: String },
    #[error("failed to start {name:?}: {source}")]
    Other { name: String, source: std::io::Error },
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let other = matches!(error, StartError::Other { .. });
        Self::new(if other { Outcome::RunnerError } else { Outcome::StartError }, error.to_string())
    }
}

/// How the user's process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) started: SystemTime,
    /// The start plus what a steady clock measured.
    pub(crate) finished: SystemTime,
    /// Whether it was asked to end while it ran.
    pub(crate) stopped: Option<Stopped>,
    /// What the kernel killed for lack of memory meanwhile.
    pub(crate) kills: Option<oom::Kills>,
}

/// Runs the program to its end and leaves no process of it alive.
pub(crate) async fn run(program: Program, stop: &Stop, grace: Duration, log: &Log) -> Result<Ended, StartError> {
    let name = program.name.clone();
    let other = |source| StartError::Other { name: name.clone(), source };
    // Before the start: the end of a very short program must not be missed.
    let mut children = signal(SignalKind::child()).map_err(other)?;
    let memory = oom::Watch::begin();
    let started = SystemTime::now();
    let clock = Instant::now();
    let (child, drained) = start(program, log)?;
    let mut drained = drained;

    let mut status = None;
    let mut stopped: Option<Stopped> = None;
    let mut kill_at: Option<Instant> = None;
    while status.is_none() {
        let killing = async {
            match kill_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = children.recv() => process::reap(|pid, ended| {
                if pid == child {
                    status = Some(ended);
                }
            }),
            why = stop.wait(), if stopped.is_none() => {
                stopped = Some(why);
                kill_at = Some(why.at + grace);
                if why.reason == Reason::Timeout {
                    say!("the stage's timeout has passed; the process has {} s to end", grace.as_secs());
                }
                // What hangs has had its time.
                let signal = if why.reason == Reason::Stalled { Signal::KILL } else { Signal::TERM };
                let _ = rustix::process::kill_process_group(child, signal);
            }
            () = killing => {
                kill_at = None;
                let _ = rustix::process::kill_process_group(child, Signal::KILL);
            }
        }
    }
    let finished = started + clock.elapsed();
    // Whatever it left in the background: nothing may change the outputs from here on.
    process::kill_all(Some(child), |_, _| {});
    let kills = memory.kills();
    // The channel closes when both streams have ended.
    let _ = tokio::time::timeout(DRAIN, drained.recv()).await;
    let status: Option<WaitStatus> = status;
    Ok(Ended {
        code: status.and_then(WaitStatus::exit_status),
        signal: status.and_then(WaitStatus::terminating_signal),
        started,
        finished,
        stopped,
        kills,
    })
}

/// Starts the program; the channel closes when both of its streams have ended. Who calls this collects the process by
/// [`process::reap`].
pub(crate) fn start(program: Program, log: &Log) -> Result<(Pid, tokio::sync::mpsc::Receiver<()>), StartError> {
    let path = program::find(&program)?;
    let name = program.name;
    let other = |source| StartError::Other { name: name.clone(), source };
    let mut command = std::process::Command::new(&path);
    command.arg0(&name).args(&program.arguments).env_clear().envs(&program.environment);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    if let Some(directory) = &program.directory {
        command.current_dir(directory);
    }
    let mut child = command.spawn().map_err(|error| program::explain(&name, &path, error))?;
    let (sender, drained) = tokio::sync::mpsc::channel(1);
    // Copies of our own descriptors, without the line buffer of the standard library.
    if let Some(from) = child.stdout.take() {
        let to = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).map_err(|error| other(error.into()))?;
        log::pass_on(from, std::fs::File::from(to), log.clone(), sender.clone()).map_err(other)?;
    }
    if let Some(from) = child.stderr.take() {
        let to = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3).map_err(|error| other(error.into()))?;
        log::pass_on(from, std::fs::File::from(to), log.clone(), sender).map_err(other)?;
    }
    // Only waited for by `process::reap`, which knows every child.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.map(|pid| (pid, drained)).ok_or_else(|| other(std::io::ErrorKind::InvalidData.into()))
}
