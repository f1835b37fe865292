//! The user program of the benchmarks: writes when it was started, in nanoseconds since 1970, and ends.
//!
//! `trainyard-stamp FILE [HOST:PORT WORD | stay]`: the time goes to FILE (`-` is standard output); with an address, WORD is then sent
//! there as one line, which is the early report of a null engine's Pod. With `stay` it ends when it is told to. It is static and does nothing else, so what is measured
//! around it is not it.

use std::env::args_os;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let now = SystemTime::now();
    match run(now) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trainyard-stamp: {error}; usage: trainyard-stamp FILE [HOST:PORT WORD | stay]");
            ExitCode::FAILURE
        }
    }
}

fn run(now: SystemTime) -> io::Result<()> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
    let text = since.as_nanos().to_string();
    let mut words = args_os().skip(1);
    let file = words.next().ok_or_else(|| io::Error::other("no file is named"))?;
    if file == "-" {
        // As a line: the runner passes lines on.
        writeln!(io::stdout(), "{text}")?;
    } else {
        // Not truncated: the kubelet's termination log is a file that only its mount keeps in place.
        OpenOptions::new().write(true).create(true).truncate(false).open(file)?.write_all(text.as_bytes())?;
    }
    let Some(address) = words.next() else { return Ok(()) };
    if address == "stay" {
        loop {
            std::thread::park();
        }
    }
    let Some(word) = words.next() else { return Ok(()) };
    let address = address.to_string_lossy().parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("{}\n", word.to_string_lossy()).as_bytes())
}
