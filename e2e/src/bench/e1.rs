//! e1: what the runner costs: the size of its binary, the time that it adds to `exec`, its memory while user code runs.
//!
//! It runs on this machine without a cluster: the static binary of its image as the parent of the stamp program, against the
//! stamp program alone, in turns; with a store in a folder and with an S3 server on loopback, which is asked for a commit record
//! before anything is started.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::process::Process;
use super::row::Row;
use super::stats::count;
use super::step::{Place, Step};
use super::{Error, Turns};
use crate::build;
use crate::store::LocalVersity;

const ID: &str = "e1";
/// Each repeat starts every arm so often: one start takes milliseconds.
const STARTS: usize = 20;
const SIZE_GOAL: f64 = 8.0;
const ADDED_GOAL: f64 = 2.0;
const RSS_GOAL: f64 = 4.0;
/// When the memory is looked at, after the start; and for how long user code runs then.
const SETTLED: Duration = Duration::from_millis(700);
const SLEEP: &str = "1.5";

/// Measures it `repeat` times.
pub fn measure(repeat: usize) -> Result<Vec<Row>, Error> {
    let runner = build::static_binary("step-runner")?;
    let stamp = build::static_binary("trainyard-stamp")?;
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let server = LocalVersity::start()?;
    let places = [Place::in_folder(folder.path()), Place::on_server(&server)];
    let bench = Bench { runner: &runner, stamp: &stamp };

    let size = fs::metadata(&runner).map_err(Error::file(&runner))?.len();
    let mebibytes = count(usize::try_from(size).unwrap_or(usize::MAX)) / f64::from(1 << 20);
    let mut rows = vec![Row::new(ID, "size of the static binary", "MiB", &[mebibytes])?.at_most(SIZE_GOAL)];

    let mut bare = Vec::new();
    let mut added = vec![Vec::new(); places.len()];
    bench.bare()?;
    for _ in 0..repeat * STARTS {
        let alone = bench.bare()?;
        bare.push(alone);
        for (samples, place) in added.iter_mut().zip(&places) {
            samples.push(bench.below_runner(place)? - alone);
        }
    }
    // An S3 server is another process's time: what it adds is said, the goal is the runner's own.
    rows.push(Row::new(ID, &format!("added to exec, store {}", places[0].words), "ms", &added[0])?.at_most(ADDED_GOAL));
    rows.push(Row::new(ID, &format!("added to exec, store {}", places[1].words), "ms", &added[1])?);
    rows.push(Row::new(ID, "bare exec", "ms", &bare)?);

    let mut memory = vec![Vec::new(); places.len()];
    for (_, arm) in Turns::new(repeat, places.len()) {
        memory[arm].push(bench.memory(&places[arm])?);
    }
    for (place, samples) in places.iter().zip(&memory) {
        let name = format!("RSS while user code runs, store {}", place.words);
        rows.push(Row::new(ID, &name, "MiB", samples)?.at_most(RSS_GOAL));
    }
    Ok(rows)
}

struct Bench<'a> {
    runner: &'a PathBuf,
    stamp: &'a PathBuf,
}

impl Bench<'_> {
    /// From before the start to the program's first instruction, in milliseconds.
    fn bare(&self) -> Result<f64, Error> {
        let mut command = Command::new(self.stamp);
        command.arg("-");
        timed(&mut command)
    }

    /// The same below the runner.
    fn below_runner(&self, place: &Place) -> Result<f64, Error> {
        let root = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let stamp = self.stamp.display().to_string();
        timed(&mut self.command(&root, place, &[&stamp, "-"])?)
    }

    /// Resident memory of the runner while its child sleeps, in MiB.
    fn memory(&self, place: &Place) -> Result<f64, Error> {
        let root = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let mut command = self.command(&root, place, &["/bin/sleep", SLEEP])?;
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(Error::file(self.runner))?;
        std::thread::sleep(SETTLED);
        let resident = Process(child.id()).resident();
        let ended = child.wait().map_err(Error::file(self.runner))?;
        if !ended.success() {
            return Err(Error::Runner(format!("it ended with {ended}")));
        }
        resident.ok_or_else(|| Error::Runner("the kernel does not tell its VmRSS".to_owned()))
    }

    /// The runner with a step of its own below `root`.
    fn command(&self, root: &TempDir, place: &Place, words: &[&str]) -> Result<Command, Error> {
        // No two attempts here are of one stage: a commit record would be found.
        let uid = root.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let step = Step {
            runner: self.runner,
            place,
            run: &uid,
            root: root.path().join("trainyard"),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        step.command()
    }
}

/// From before the start to the time that is on the program's standard output, in milliseconds.
fn timed(command: &mut Command) -> Result<f64, Error> {
    let program = PathBuf::from(command.get_program());
    let began = SystemTime::now();
    let output = command.stdin(Stdio::null()).output().map_err(Error::file(&program))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let stamp =
        text.trim().parse::<u64>().ok().map(|nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds));
    match stamp.and_then(|stamp| stamp.duration_since(began).ok()) {
        Some(took) if output.status.success() => Ok(took.as_secs_f64() * 1e3),
        _ => Err(Error::Runner(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
