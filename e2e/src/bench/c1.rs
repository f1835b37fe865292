//! c1: a file of 1 GiB from the program's end to the committed artifact, and from the next runner's start to the next program's;
//! against `s5cmd cp` of the same file on the same server.
//!
//! And c2: a directory of 10,000 files of 10 KiB, both ways. Neither needs a cluster. The artifact is the runner's whole work, with
//! checksums, manifest and commit record; `s5cmd` copies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use step_protocol::{InputSource, InputSpec, OutputSpec, paths};

use super::process::{self, Ended};
use super::row::Row;
use super::step::{self, Place, Step};
use super::{Error, Turns};
use crate::build::{self, Product};
use crate::paths::Directories;
use crate::store::LocalVersity;

/// Name of the input and of the output.
const NAME: &str = "data";
/// Most memory of the runner, in MiB.
const PEAK_GOAL: f64 = 64.0;
/// In MiB: the report of the runner's end is a file.
const DISK_GOAL: f64 = 0.1;

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// c1.
    File,
    /// c2.
    Directory,
}

impl Load {
    fn id(self) -> &'static str {
        match self {
            Self::File => "c1",
            Self::Directory => "c2",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::File => "1 GiB",
            Self::Directory => "10,000 x 10 KiB",
        }
    }

    /// What the runner's time may be of the time of `s5cmd`.
    fn goal(self) -> f64 {
        match self {
            Self::File => 1.0,
            Self::Directory => 0.25,
        }
    }

    /// Writes it: bytes that nothing can make smaller.
    fn write(self, at: &Path) -> Result<(), Error> {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).map_err(Error::file(path));
        match self {
            Self::File => {
                let mut file = fs::File::create(at).map_err(Error::file(at))?;
                let mut bytes = vec![0; 1 << 20];
                for _ in 0..1024 {
                    noise.fill(&mut bytes);
                    std::io::Write::write_all(&mut file, &bytes).map_err(Error::file(at))?;
                }
            }
            Self::Directory => {
                let mut bytes = vec![0; 10 << 10];
                for n in 0..10_000 {
                    let folder = at.join(format!("{:02}", n % 100));
                    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
                    noise.fill(&mut bytes);
                    write(&folder.join(format!("{n:05}")), &bytes)?;
                }
            }
        }
        Ok(())
    }
}

/// Bytes without a pattern, the same each time.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The arms, as their figures are named.
const ARMS: [&str; 2] = ["trainyard", "s5cmd"];
/// The ways of a copy.
const WAYS: [&str; 2] = ["up", "down"];

/// Both ways of one arm in one round.
struct Took {
    seconds: [f64; 2],
    peak: [f64; 2],
    /// While it was sent.
    written: Option<f64>,
}

/// Measures it `repeat` times.
pub fn measure(load: Load, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let server = LocalVersity::start()?;
    let bench = Bench {
        load,
        runner: build::static_binary("step-runner")?,
        stamp: build::static_binary("trainyard-stamp")?,
        s5cmd: Product::S5cmd.ensure(&Directories::from_env())?.join("s5cmd"),
        place: Place::on_server(&server),
        server: &server,
        folder: folder.path(),
    };
    let out = bench.out();
    fs::create_dir_all(&out).map_err(Error::file(&out))?;
    load.write(&out.join(NAME))?;
    // Both once, uncounted: the page cache, and folders that the server makes.
    for arm in 0..ARMS.len() {
        bench.both_ways(arm, "warm")?;
    }
    let mut took = [Vec::new(), Vec::new()];
    for (round, arm) in Turns::new(repeat, ARMS.len()) {
        took[arm].push(bench.both_ways(arm, &format!("{round}-{arm}"))?);
    }
    rows(load, &took)
}

fn rows(load: Load, took: &[Vec<Took>; 2]) -> Result<Vec<Row>, Error> {
    let [ours, theirs] = took;
    let row = |name: &str, unit: &str, samples: Vec<f64>| {
        Row::new(load.id(), &format!("{}, {name}", load.words()), unit, &samples)
    };
    let mut rows = Vec::new();
    for (way, name) in WAYS.into_iter().enumerate() {
        for (arm, took) in ARMS.into_iter().zip(took) {
            rows.push(row(&format!("{arm}, {name}"), "s", took.iter().map(|took| took.seconds[way]).collect())?);
        }
        let shares = ours.iter().zip(theirs).map(|(ours, theirs)| ours.seconds[way] / theirs.seconds[way]).collect();
        rows.push(row(&format!("trainyard / s5cmd, {name}"), "ratio", shares)?.at_most(load.goal()));
    }
    for (way, name) in WAYS.into_iter().enumerate() {
        let peaks = |took: &[Took]| took.iter().map(|took| took.peak[way]).collect();
        rows.push(row(&format!("trainyard, {name}, peak RSS"), "MiB", peaks(ours))?.at_most(PEAK_GOAL));
        rows.push(row(&format!("s5cmd, {name}, peak RSS"), "MiB", peaks(theirs))?);
    }
    let written: Vec<f64> = ours.iter().filter_map(|took| took.written).collect();
    if !written.is_empty() {
        rows.push(row("trainyard, up, written to disk by the runner", "MiB", written)?.at_most(DISK_GOAL));
    }
    Ok(rows)
}

struct Bench<'a> {
    load: Load,
    runner: PathBuf,
    stamp: PathBuf,
    s5cmd: PathBuf,
    place: Place,
    server: &'a LocalVersity,
    folder: &'a Path,
}

impl Bench<'_> {
    /// The root of the step whose output the data is: it lies there before the runner starts, so that its program has nothing to
    /// write.
    fn root(&self) -> PathBuf {
        self.folder.join("up")
    }

    fn out(&self) -> PathBuf {
        self.root().join(paths::OUT)
    }

    /// Sends and fetches.
    fn both_ways(&self, arm: usize, round: &str) -> Result<Took, Error> {
        let down = self.folder.join(format!("down-{round}"));
        let (up, back, key) = match arm {
            0 => {
                let up = process::run(&mut self.runner(round, self.root(), false)?)?;
                let back = process::run(&mut self.runner(round, down.clone(), true)?)?;
                (up, back, "bench".to_owned())
            }
            _ => {
                let key = format!("s5cmd-{round}");
                let url = format!("s3://{}/{key}/{NAME}", self.server.bucket);
                let source = self.out().join(NAME);
                let target = down.join(paths::IN).join(NAME);
                let parent = if self.load == Load::File { down.join(paths::IN) } else { target.clone() };
                fs::create_dir_all(&parent).map_err(Error::file(&parent))?;
                let [source, target] = [source, target].map(|path| path.display().to_string());
                let (up, back) = match self.load {
                    Load::File => ([source, url.clone()], [url, target]),
                    Load::Directory => {
                        ([format!("{source}/"), format!("{url}/")], [format!("{url}/*"), format!("{target}/")])
                    }
                };
                (process::run(&mut self.s5cmd(&up))?, process::run(&mut self.s5cmd(&back))?, key)
            }
        };
        let expected = size(&self.out().join(NAME))?;
        let found = size(&down.join(paths::IN).join(NAME))?;
        if found != expected {
            return Err(Error::Copy { arm: ARMS[arm], expected, found });
        }
        if self.load == Load::File {
            // Small files stay until the end: for a minute ext4 passes over each inode that was just deleted, which makes the next
            // files slow.
            for path in [down, self.server.root().join(&self.server.bucket).join(key)] {
                fs::remove_dir_all(&path).map_err(Error::file(path))?;
            }
        }
        took(arm, &up, &back)
    }

    fn runner(&self, round: &str, root: PathBuf, reader: bool) -> Result<Command, Error> {
        let input = || InputSpec {
            name: NAME.to_owned(),
            source: InputSource::Stage {
                commit: paths::commit_key(&step::prefix(&format!("{round}-up"))),
                output: NAME.to_owned(),
                digest: None,
            },
            optional: false,
        };
        let output = || OutputSpec { name: NAME.to_owned(), kind: None };
        let way = if reader { "down" } else { "up" };
        Step {
            runner: &self.runner,
            place: &self.place,
            run: &format!("{round}-{way}"),
            root,
            words: vec![self.stamp.display().to_string(), "-".to_owned()],
            inputs: if reader { vec![input()] } else { Vec::new() },
            outputs: if reader { Vec::new() } else { vec![output()] },
        }
        .command()
    }

    /// As it is when nothing is set.
    fn s5cmd(&self, from_to: &[String; 2]) -> Command {
        let mut command = Command::new(&self.s5cmd);
        command.args(["--endpoint-url", &self.server.endpoint, "--log", "error", "cp"]).args(from_to);
        command.env_clear().envs(self.server.variables());
        command
    }
}

/// From the program's end to the runner's, and from the runner's start to the program's. The program ends as soon as it has started.
fn took(arm: usize, up: &Ended, down: &Ended) -> Result<Took, Error> {
    let seconds = match arm {
        0 => [process::seconds(up.stamp()?, up.finished), process::seconds(down.began, down.stamp()?)],
        _ => [up.took(), down.took()],
    };
    Ok(Took { seconds, peak: [up.peak, down.peak], written: up.written })
}

/// Files and bytes at a path.
fn size(path: &Path) -> Result<(u64, u64), Error> {
    let meta = fs::symlink_metadata(path).map_err(Error::file(path))?;
    if !meta.is_dir() {
        return Ok((1, meta.len()));
    }
    let mut sum = (0, 0);
    for entry in fs::read_dir(path).map_err(Error::file(path))? {
        let (files, bytes) = size(&entry.map_err(Error::file(path))?.path())?;
        sum = (sum.0 + files, sum.1 + bytes);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_bytes_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("a"), "12").unwrap();
        fs::write(folder.path().join("d/b"), "345").unwrap();
        assert_eq!(size(folder.path()).unwrap(), (2, 5));
        assert_eq!(size(&folder.path().join("a")).unwrap(), (1, 2));
    }

    #[test]
    fn noise_is_the_same_each_time_and_has_no_pattern() {
        let fill = || {
            let mut bytes = vec![0; 4099];
            Noise(1).fill(&mut bytes);
            bytes
        };
        let bytes = fill();
        assert_eq!(bytes, fill());
        let different: std::collections::BTreeSet<_> = bytes[1000..].windows(4).collect();
        assert!(different.len() > 3000);
    }

    #[test]
    fn ratios_have_the_goals() {
        let took = |seconds: f64| Took { seconds: [seconds; 2], peak: [30.0; 2], written: Some(0.0) };
        let rows = rows(Load::Directory, &[vec![took(1.0)], vec![took(3.0)]]).unwrap();
        let judged: Vec<_> = rows.iter().filter_map(|row| Some((row.unit.as_str(), row.met?))).collect();
        let expected = [("ratio", false), ("ratio", false), ("MiB", true), ("MiB", true), ("MiB", true)];
        assert_eq!(judged, expected);
    }
}
