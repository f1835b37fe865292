//! The hang watchdog: a program that shows no sign of progress for long is killed.
//!
//! Signs are a byte of output, a change of the metrics, of the progress file or below the checkpoint's directory. Of a rank other than
//! 0, which may work in silence, the processor time of its processes is one as well: one that is stopped or waits uses none. Rank 0 has
//! to show more, so a training whose ranks only turn in circles is found there.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::AtFlags;
use step_protocol::{Framework, RankSpec, paths};
use tokio::time::Instant;

use crate::checkpoint::survey;
use crate::log::Log;
use crate::stop::Stop;

/// The longest pause between two looks: with it a stall is found well within 30 s after its time.
const LONGEST: Duration = Duration::from_secs(15);
/// Looks in the time that a program may be silent.
const LOOKS: u32 = 8;

/// What is looked at.
pub(crate) struct Signs {
    pub(crate) log: Log,
    /// The root as it was opened before user code could replace it.
    pub(crate) root: Arc<OwnedFd>,
    pub(crate) checkpoint: bool,
    /// Whether processor time is a sign.
    pub(crate) processor: bool,
}

/// How the program looks at one moment: two that are equal mean that nothing has happened.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    output: u64,
    files: Vec<Option<(u64, i64, i64, u64)>>,
    checkpoint: Option<survey::Outline>,
    processor: BTreeMap<i32, u64>,
}

/// Whether this rank's program is watched: ranks that run what MPI's launcher asks for have their output in rank 0.
pub(crate) fn timeout(spec: &RankSpec) -> Option<Duration> {
    let watched = spec.framework != Framework::MPI || spec.rank == 0;
    spec.stall_timeout_seconds.filter(|_| watched).map(Duration::from_secs)
}

/// Watches until the program has stalled, and ends it then. Never ends: it is dropped with the program.
pub(crate) async fn watch(signs: Signs, timeout: Duration, stop: &Stop) -> Infallible {
    let signs = Arc::new(signs);
    let pause = (timeout / LOOKS).clamp(Duration::from_millis(50), LONGEST);
    let (mut last, mut since) = (look(&signs).await, Instant::now());
    while since.elapsed() < timeout {
        tokio::time::sleep(pause).await;
        let now = look(&signs).await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    stop.stalled();
    std::future::pending().await
}

async fn look(signs: &Arc<Signs>) -> Look {
    let signs = signs.clone();
    tokio::task::spawn_blocking(move || {
        let root = signs.root.as_fd();
        Look {
            output: signs.log.count(),
            files: [paths::METRICS, paths::PROGRESS].map(|name| file(root, name)).to_vec(),
            checkpoint: signs.checkpoint.then(|| survey::outline(root)).flatten(),
            processor: if signs.processor { processor() } else { BTreeMap::new() },
        }
    })
    .await
    .unwrap_or_default()
}

fn file(root: BorrowedFd<'_>, name: &str) -> Option<(u64, i64, i64, u64)> {
    let meta = rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((meta.st_ino, meta.st_size, meta.st_ctime, meta.st_ctime_nsec))
}

/// The processor time of every descendant, in the kernel's ticks.
fn processor() -> BTreeMap<i32, u64> {
    let mut parents: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let mut times = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((parent, ticks)) = stat_of(&stat) {
            parents.entry(parent).or_default().push(pid);
            times.insert(pid, ticks);
        }
    }
    let mut ours = BTreeSet::new();
    let mut waiting = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(pid) = waiting.pop() {
        for child in parents.remove(&pid).unwrap_or_default() {
            ours.insert(child);
            waiting.push(child);
        }
    }
    times.retain(|pid, _| ours.contains(pid));
    times
}

/// Parent and processor time of a line of `/proc/<pid>/stat`, whose second field may have anything in it.
fn stat_of(stat: &str) -> Option<(i32, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((parent, user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_program_is_called() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 500 60 7 8 20 0 1 0 9 10 11";
        assert_eq!(stat_of(line), Some((7, 560)));
        for garbage in ["", "1 (x)", "1 (x) S", "1 (x) S a b", "1 x S 2"] {
            assert_eq!(stat_of(garbage), None);
        }
    }

    #[test]
    fn processor_time_is_that_of_descendants() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(processor().contains_key(&pid));
        assert!(!processor().contains_key(&rustix::process::getpid().as_raw_nonzero().get()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn signs(folder: &std::path::Path) -> Arc<Signs> {
        let root = Arc::new(crate::beneath::open_root(folder).unwrap());
        Arc::new(Signs { log: Log::new(folder), root, checkpoint: true, processor: false })
    }

    #[tokio::test]
    async fn every_sign_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let signs = signs(folder.path());
        std::fs::create_dir_all(folder.path().join("checkpoint/step")).unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let changes: [&dyn Fn(); 5] = [
            &|| signs.log.append(b"."),
            &|| put("metrics.jsonl", "{}\n"),
            &|| put("progress.json", "{}"),
            &|| put("checkpoint/a", "1"),
            &|| put("checkpoint/step/b", ""),
        ];
        let mut last = look(&signs).await;
        assert_eq!(look(&signs).await, last, "nothing has happened");
        for (number, change) in changes.iter().enumerate() {
            change();
            let now = look(&signs).await;
            assert_ne!(now, last, "sign {number}");
            last = now;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_program_and_a_byte_now_and_then_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Stop::quiet();
        let log = signs(folder.path()).log.clone();
        let root = Arc::new(crate::beneath::open_root(folder.path()).unwrap());
        let signs = Signs { log: log.clone(), root, checkpoint: false, processor: false };
        let working = async {
            for _ in 0..10 {
                log.append(b".");
                tokio::time::sleep(Duration::from_secs(50)).await;
                assert!(stop.now().is_none());
            }
        };
        let watching = watch(signs, Duration::from_secs(60), &stop);
        tokio::select! {
            _ = watching => {}
            () = async { working.await; stop.wait().await; } => {}
        }
        assert_eq!(stop.now().unwrap().reason, crate::stop::Reason::Stalled);
    }
}
