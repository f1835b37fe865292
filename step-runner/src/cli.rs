//! The command line: `run`, `task`, `install`, `--help`, `--version`.

use std::ffi::OsString;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use step_protocol::paths;

use crate::environment::{self, Environment};
use crate::failure::say;
use crate::{attempt, process, rank, task};

const HELP: &str = "\
The parent process of the user's command in every stage Pod of Trainyard.

Usage:
  step-runner [run]          run the step that the variables TRAINYARD_SPEC... describe (the operator sets them)
  step-runner task           do the work in the store that the variable TRAINYARD_TASK describes (the operator sets it)
  step-runner launch-agent HOST COMMAND...
                             what mpirun calls in place of ssh, in rank 0 of a training
  step-runner install DIR    copy this program to DIR/step-runner, for an init container
  step-runner --version
  step-runner --help

Examples:
  step-runner install /trainyard-runner
  TRAINYARD_SPEC=\"$(cat step.json)\" TRAINYARD_TERMINATION_LOG=/tmp/report.json step-runner run

Exit codes of `run` and `task`:
   0 Succeeded        68 OutputUnsafe       73 StoreAccessDenied   78 ConfigError
  64 UserError        69 ResultInvalid      74 StoreUnsupported    79 RunnerError
  65 OOMKilled        70 StartError         75 ArtifactCorrupt     80 Stalled
  66 Timeout          71 Disrupted          76 InputMissing        81 GangTimeout
  67 OutputMissing    72 StoreUnavailable   77 DiskFull            82 AlreadyRun
   1 `install` failed  2 wrong usage
";

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run,
    Task,
    Install(PathBuf),
    LaunchAgent(Vec<OsString>),
    Help,
    Version,
}

/// Does what the arguments of this process ask for; the process's exit code.
///
/// Call it first of all in `main`, while there is one thread.
#[must_use]
pub fn main() -> u8 {
    if let Some(arguments) = as_agent(std::env::args_os()) {
        return rank::agent::main(&arguments);
    }
    match parse(lexopt::Parser::from_env()) {
        Ok(Command::LaunchAgent(arguments)) => rank::agent::main(&arguments),
        Ok(Command::Run) => with_environment(attempt::run),
        Ok(Command::Task) => with_environment(task::run),
        Ok(Command::Install(directory)) => match install(&directory) {
            Ok(()) => 0,
            Err(error) => {
                say!("failed to install into {}: {error}", directory.display());
                1
            }
        },
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(concat!("step-runner ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => {
            say!("{error}; see `step-runner --help`");
            2
        }
    }
}

fn print(text: &str) -> u8 {
    use std::io::Write as _;
    u8::from(std::io::stdout().write_all(text.as_bytes()).is_err())
}

/// The arguments of a process that was started by the name that MPI knows, which is a link to this program.
fn as_agent(mut words: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let name = PathBuf::from(words.next()?);
    (name.file_name()? == rank::files::LAUNCH_AGENT).then(|| words.collect())
}

fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    use lexopt::prelude::*;
    let mut words: Vec<OsString> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            // What follows is ssh's syntax and not ours.
            Value(word) if words.is_empty() && word == rank::files::LAUNCH_AGENT => {
                return Ok(Command::LaunchAgent(parser.raw_args()?.collect()));
            }
            Value(word) => words.push(word),
            other => return Err(other.unexpected()),
        }
    }
    match words.as_slice() {
        [] => Ok(Command::Run),
        [word] if word == "run" => Ok(Command::Run),
        [word] if word == "task" => Ok(Command::Task),
        [word, directory] if word == "install" => Ok(Command::Install(directory.into())),
        [word] if word == "install" => Err("install needs a directory".into()),
        [word, ..] => Err(format!("unknown command {word:?}").into()),
    }
}

/// Does what the variables describe, as a process whose keys its children cannot read.
fn with_environment(work: impl FnOnce(Environment) -> u8) -> u8 {
    if let Err(error) = process::harden() {
        say!("failed to protect the runner from its child: {error}");
        return step_protocol::Outcome::RunnerError.exit_code();
    }
    let environment = Environment::new(std::env::vars_os());
    process::erase_environment(environment::is_secret);
    work(environment)
}

/// Copies this program under a temporary name, then renames: a runner that is half there is never started.
fn install(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let temporary = directory.join(".step-runner.partial");
    let _ = std::fs::remove_file(&temporary);
    let mut from = std::fs::File::open("/proc/self/exe")?;
    let mut to = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o555).open(&temporary)?;
    std::io::copy(&mut from, &mut to)?;
    // The process's umask may have taken bits from it.
    to.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o555))?;
    drop(to);
    std::fs::rename(&temporary, directory.join(paths::RUNNER_BINARY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Command, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_read() {
        assert_eq!(parsed(&[]), Ok(Command::Run));
        assert_eq!(parsed(&["run"]), Ok(Command::Run));
        assert_eq!(parsed(&["task"]), Ok(Command::Task));
        assert_eq!(parsed(&["install", "/x"]), Ok(Command::Install("/x".into())));
        assert_eq!(parsed(&["--version"]), Ok(Command::Version));
        let agent = ["launch-agent", "-x", "host", "orted", "--daemonize"];
        assert_eq!(parsed(&agent), Ok(Command::LaunchAgent(agent[1..].iter().map(OsString::from).collect())));
        let by_name = |words: &[&str]| as_agent(words.iter().map(OsString::from));
        assert_eq!(by_name(&["/trainyard/launch-agent", "host"]), Some(vec!["host".into()]));
        assert_eq!(by_name(&["/trainyard-runner/step-runner", "launch-agent"]), None);
        assert!(parsed(&["install"]).unwrap_err().contains("directory"));
        assert!(parsed(&["walk"]).unwrap_err().contains("walk"));
        assert!(parsed(&["--fast"]).unwrap_err().contains("--fast"));
    }

    #[test]
    fn help_names_every_command_and_exit_code() {
        for command in ["[run] ", "task ", "launch-agent ", "install ", "--version", "--help"] {
            assert!(HELP.contains(&format!("\n  step-runner {command}")), "{command}");
        }
        for outcome in step_protocol::Outcome::ALL {
            assert!(HELP.contains(&format!("{:>2} {}", outcome.exit_code(), outcome.as_str())), "{outcome:?}");
        }
    }
}
