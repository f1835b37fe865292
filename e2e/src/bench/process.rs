//! What the kernel says of a process: how long it ran, its memory, its processor time, what it wrote to disks.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::Error;
use super::stats::count;

/// How often a process is looked at while it runs. What it peaks at is kept by the kernel: only the last moments can be missed.
const GLANCE: Duration = Duration::from_millis(5);
const MEBIBYTE: f64 = 1_048_576.0;

/// A process that has ended well.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Before it was started.
    pub began: SystemTime,
    /// When it was seen to have ended.
    pub finished: SystemTime,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// Most resident memory, in MiB.
    pub peak: f64,
    /// What it wrote to file systems on disks, in MiB; `None` where the kernel does not tell us.
    pub written: Option<f64>,
}

impl Ended {
    /// How long it ran, in seconds.
    #[must_use]
    pub fn took(&self) -> f64 {
        seconds(self.began, self.finished)
    }

    /// When its program was started, if that wrote a stamp to the standard output.
    pub fn stamp(&self) -> Result<SystemTime, Error> {
        let nanoseconds = self.stdout.trim().parse().map(Duration::from_nanos);
        let stamp = nanoseconds.map(|since| SystemTime::UNIX_EPOCH + since);
        stamp.map_err(|_| Error::Runner(format!("its program wrote {:?} and no time", self.stdout)))
    }
}

/// From one moment to another, in seconds; 0 if they are the other way round.
#[must_use]
pub fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Result<Ended, Error> {
    let program = PathBuf::from(command.get_program());
    let failed = || Error::file(program.clone());
    let mut files = [tempfile::tempfile().map_err(failed())?, tempfile::tempfile().map_err(failed())?];
    let [out, err] = [files[0].try_clone().map_err(failed())?, files[1].try_clone().map_err(failed())?];
    let began = SystemTime::now();
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(failed())?;
    let (ended, process) = (AtomicBool::new(false), Process(child.id()));
    let (status, finished, (peak, written)) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = (0.0_f64, None);
            while !ended.load(Ordering::Relaxed) {
                seen = (process.peak().unwrap_or(seen.0), process.written().or(seen.1));
                std::thread::sleep(GLANCE);
            }
            seen
        });
        let status = child.wait();
        let finished = SystemTime::now();
        ended.store(true, Ordering::Relaxed);
        (status, finished, looking.join().unwrap_or_default())
    });
    let [stdout, stderr] = files.each_mut().map(|file| {
        let mut text = String::new();
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
        text
    });
    let status = status.map_err(failed())?;
    if !status.success() {
        return Err(Error::Program { program: program.display().to_string(), status, said: stderr.trim().to_owned() });
    }
    Ok(Ended { began, finished, stdout, peak, written })
}

/// A process of this machine, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    fn read(self, name: &str) -> Option<String> {
        fs::read_to_string(Path::new("/proc").join(self.0.to_string()).join(name)).ok()
    }

    /// The most memory that was resident, in MiB.
    #[must_use]
    pub fn peak(self) -> Option<f64> {
        kibibytes(&self.read("status")?, "VmHWM:")
    }

    /// Resident memory now, in MiB.
    #[must_use]
    pub fn resident(self) -> Option<f64> {
        kibibytes(&self.read("status")?, "VmRSS:")
    }

    /// What it wrote to file systems on disks, in MiB. Only root may know it of a process that hides itself, as the runner does.
    fn written(self) -> Option<f64> {
        let text = self.read("io")?;
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?;
        Some(count(line.trim().parse().ok()?) / MEBIBYTE)
    }

    /// Processor time of all its threads, in seconds, to the nanosecond.
    #[must_use]
    pub fn processor(self) -> Option<f64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).ok()?;
        let of = |task: std::io::Result<fs::DirEntry>| {
            on_processor(&fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?)
        };
        Some(tasks.filter_map(of).sum())
    }
}

/// A field of a status file, in MiB.
fn kibibytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(count(kibibytes) / 1024.0)
}

/// The first number of a `schedstat`, which is nanoseconds, as seconds.
fn on_processor(schedstat: &str) -> Option<f64> {
    let nanoseconds: u64 = schedstat.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_mebibytes() {
        let status = "Name:\tx\nVmHWM:\t 9216 kB\nVmRSS:\t    3072 kB\n";
        assert_eq!((kibibytes(status, "VmRSS:"), kibibytes(status, "VmHWM:")), (Some(3.0), Some(9.0)));
        assert_eq!(kibibytes("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn processor_time_is_read_in_seconds() {
        assert_eq!(on_processor("1500000000 7 3\n"), Some(1.5));
        let own = Process(std::process::id());
        assert!(own.processor().is_some_and(|time| time >= 0.0) && own.resident() <= own.peak());
    }

    #[test]
    fn a_program_is_run_to_its_end_and_a_failure_is_told() {
        let ended = run(Command::new("/bin/sh").args(["-c", "sleep 0.05; echo 1500000000"])).unwrap();
        assert_eq!(ended.stamp().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
        assert!(ended.peak > 0.0);
        let error = run(Command::new("/bin/sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }
}
