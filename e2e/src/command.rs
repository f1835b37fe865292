//! Running other programs: what failed, with which arguments, and its last words.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Lines of a log that an error shows.
const LAST_LINES: usize = 15;
/// A tail is cut from this many bytes at the end of a log.
const TAIL_BYTES: u64 = 16 * 1024;

/// A program that could not be started or that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not there, or may not be run.
    #[error("cannot run `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// The program ended with a failure.
    #[error("`{command}` failed ({status}):\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// Exit code or signal.
        status: String,
        /// The last lines that it wrote to standard error.
        output: String,
    },
    /// The program, which writes to a log, ended with a failure.
    #[error("`{command}` failed ({status}); see {log}, which ends with:\n{output}", log = log.display())]
    Logged {
        /// The command line.
        command: String,
        /// Exit code or signal.
        status: String,
        /// Where all of its output is.
        log: PathBuf,
        /// The last lines of it.
        output: String,
    },
}

/// Runs `command` to its end and returns what it wrote to standard output.
pub fn run(command: &mut Command) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| cannot_start(command, source))?;
    ended(command, &output)
}

fn ended(command: &Command, output: &Output) -> Result<String, Error> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(Error::Failed {
        command: shown(command),
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(said), LAST_LINES),
    })
}

/// Runs `command` to its end with `text` on its standard input and returns what it wrote to standard output.
pub fn input(command: &mut Command, text: &str) -> Result<String, Error> {
    let mut file = tempfile::tempfile().map_err(|source| cannot_start(command, source))?;
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).map_err(|source| cannot_start(command, source))?;
    let output = command.stdin(file).output().map_err(|source| cannot_start(command, source))?;
    ended(command, &output)
}

/// Runs `command` to its end with its output in the file `log`, replacing what is there.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<(), Error> {
    let files = || -> io::Result<(File, File)> {
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::create(log)?;
        Ok((file.try_clone()?, file))
    };
    let (out, err) = files().map_err(|source| cannot_start(command, source))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .map_err(|source| cannot_start(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Logged { command: shown(command), status: status.to_string(), log: log.to_owned(), output: tail(log) })
}

/// Whether `command` runs and succeeds. For questions that are asked again and again.
#[must_use]
pub fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Whether a program of that name is on the `PATH`.
#[must_use]
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// The last lines of a log file; says so when there is none.
#[must_use]
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "(the log is empty)".to_owned(),
        Ok(text) => last_lines(&text, LAST_LINES),
        Err(error) => format!("(no log: {error})"),
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn cannot_start(command: &Command, source: io::Error) -> Error {
    Error::Start { command: shown(command), source }
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error = run(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.ends_with("first\nlast"), "{text}");
    }

    #[test]
    fn a_missing_program_is_told() {
        let error = run(&mut Command::new("/does/not/exist")).unwrap_err();
        assert!(error.to_string().starts_with("cannot run `/does/not/exist`"), "{error}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
