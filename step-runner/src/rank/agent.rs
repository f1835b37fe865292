//! The program that MPI's launchers call in place of ssh: `launch-agent [OPTIONS] HOST COMMAND...`.
//!
//! It is user code's process: it knows no key, asks the Pod's runner by a socket, and ends as the command ends.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;

use super::environment::LAUNCH_SOCKET;
use super::launch::{Reply, Request};
use crate::failure::say;

/// What ssh says when it could not do its work.
const FAILED: u8 = 255;
/// Options of ssh that are followed by a value.
const WITH_VALUE: &[u8] = b"BbcDEeFIiJLlmOopQRSWw";

/// Has the runner of the host run the command; the exit code.
pub(crate) fn main(arguments: &[OsString]) -> u8 {
    let Some(request) = parse(arguments) else {
        say!("usage: launch-agent HOST COMMAND...: called by mpirun in place of ssh");
        return FAILED;
    };
    let command = request.command.clone();
    match ask(&request) {
        Ok(Reply::Exit(code)) => u8::try_from(code).unwrap_or(FAILED),
        Ok(Reply::Here) => {
            let error = std::process::Command::new("/bin/sh").arg("-c").arg(command).exec();
            say!("launch-agent: failed to start /bin/sh: {error}");
            FAILED
        }
        Ok(Reply::Failed(why)) => {
            say!("launch-agent: {why}");
            FAILED
        }
        Err(error) => {
            say!("launch-agent: the runner of this Pod could not be asked: {error}");
            FAILED
        }
    }
}

fn ask(request: &Request) -> std::io::Result<Reply> {
    let path = std::env::var_os(LAUNCH_SOCKET).ok_or_else(|| {
        std::io::Error::new(
            std::io::ErrorKind::NotFound,
            format!("{LAUNCH_SOCKET} is not set: this is no rank 0 of MPI"),
        )
    })?;
    let mut stream = UnixStream::connect(path)?;
    let line = serde_json::to_string(request)? + "\n";
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream.take(64 << 10)).read_line(&mut reply)?;
    Ok(serde_json::from_str(&reply)?)
}

/// As ssh reads them: options, host, and words that a shell gets joined.
fn parse(arguments: &[OsString]) -> Option<Request> {
    let mut words = arguments.iter().map(|word| word.to_string_lossy().into_owned());
    let host = loop {
        let word = words.next()?;
        match word.as_bytes() {
            [b'-', option] if WITH_VALUE.contains(option) => drop(words.next()),
            [b'-', ..] => {}
            _ => break word,
        }
    };
    let command = words.collect::<Vec<_>>().join(" ");
    // `user@host`
    let host = host.rsplit_once('@').map_or(host.clone(), |(_, host)| host.to_owned());
    (!command.is_empty()).then_some(Request { host, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Option<(String, String)> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        parse(&words).map(|request| (request.host, request.command))
    }

    #[test]
    fn words_are_read_as_ssh_reads_them() {
        let expected = |host: &str, command: &str| Some((host.to_owned(), command.to_owned()));
        assert_eq!(parsed(&["h1", "orted", "-mca", "\"x y\""]), expected("h1", "orted -mca \"x y\""));
        assert_eq!(parsed(&["-x", "-o", "A=b", "me@h1.fit", "a; b"]), expected("h1.fit", "a; b"));
        for words in [&[][..], &["h1"], &["-x"], &["-o"]] {
            assert_eq!(parsed(words), None);
        }
    }
}
