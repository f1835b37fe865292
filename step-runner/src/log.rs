//! The user's standard output and error: passed on unchanged, and their end kept.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::beneath;

/// Bytes of output that are kept beside the artifacts.
const KEEP: u64 = 64 << 20;
/// Bytes of output that a report carries.
const LAST: usize = 2048;

/// The end of the output, in a file that has no name: user code cannot reach it, and the kernel frees it with us.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Ring>>);

struct Ring {
    /// `None` once a write failed: the log is lost, never the attempt.
    file: Option<Arc<File>>,
    keep: u64,
    written: u64,
    /// All bytes that ever came, kept or not.
    count: u64,
    last: VecDeque<u8>,
}

impl Log {
    /// A log whose file lies in the file system of `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        Self::with_capacity(directory, KEEP)
    }

    fn with_capacity(directory: &Path, keep: u64) -> Self {
        let file = nameless(directory).ok().map(Arc::new);
        Self(Arc::new(Mutex::new(Ring { file, keep, written: 0, count: 0, last: VecDeque::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        let mut ring = self.lock();
        ring.count += bytes.len() as u64;
        let tail = &bytes[bytes.len().saturating_sub(LAST)..];
        let excess = (ring.last.len() + tail.len()).saturating_sub(LAST);
        ring.last.drain(..excess);
        ring.last.extend(tail);
        let mut rest = bytes;
        while let Some(file) = ring.file.clone().filter(|_| !rest.is_empty()) {
            let at = ring.written % ring.keep;
            let room = usize::try_from(ring.keep - at).unwrap_or(usize::MAX).min(rest.len());
            if file.write_all_at(&rest[..room], at).is_err() {
                ring.file = None;
            }
            ring.written += room as u64;
            rest = &rest[room..];
        }
    }

    /// How many bytes the program has written.
    pub(crate) fn count(&self) -> u64 {
        self.lock().count
    }

    /// The last 2 KiB as text, from a line's begin if there is one.
    pub(crate) fn last_lines(&self) -> String {
        let mut ring = self.lock();
        let full = ring.last.len() == LAST;
        let bytes: &[u8] = ring.last.make_contiguous();
        let begin = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(newline) if full && newline + 1 < bytes.len() => newline + 1,
            _ => 0,
        };
        String::from_utf8_lossy(&bytes[begin..]).into_owned()
    }

    /// What was kept, from its begin, and how many bytes that is.
    pub(crate) fn reader(&self) -> Option<(impl Read + Send + use<>, u64)> {
        let ring = self.lock();
        let size = ring.written.min(ring.keep);
        let file = ring.file.clone()?;
        Some((Kept { file, keep: ring.keep, at: ring.written - size, end: ring.written }, size))
    }
}

struct Kept {
    file: Arc<File>,
    keep: u64,
    at: u64,
    end: u64,
}

impl Read for Kept {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let offset = self.at % self.keep;
        let room = (self.end - self.at).min(self.keep - offset).min(buffer.len() as u64);
        let Ok(room) = usize::try_from(room) else { return Ok(0) };
        let read = self.file.read_at(&mut buffer[..room], offset)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn nameless(directory: &Path) -> std::io::Result<File> {
    let root = beneath::open_root(directory)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    if let Ok(file) = rustix::fs::openat(root.as_fd(), ".", flags | OFlags::TMPFILE, mode) {
        return Ok(file.into());
    }
    // A file system without O_TMPFILE.
    let name = ".trainyard-log";
    let _ = rustix::fs::unlinkat(root.as_fd(), name, rustix::fs::AtFlags::empty());
    let file = rustix::fs::openat(root.as_fd(), name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    rustix::fs::unlinkat(root.as_fd(), name, rustix::fs::AtFlags::empty())?;
    Ok(file.into())
}

/// Copies one stream of the child on until its end, in a thread of its own: the reader of our output may be slow, and that must
/// hold up the user's program (as without us) but never the runner.
pub(crate) fn pass_on(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    log: Log,
    end: tokio::sync::mpsc::Sender<()>,
) -> std::io::Result<()> {
    let copy = move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut listened = true;
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    // Whoever reads our output may be gone; the log is kept all the same.
                    listened = listened && to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_ok();
                    log.append(&buffer[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        drop(end);
    };
    std::thread::Builder::new().name("log".into()).stack_size(128 * 1024).spawn(copy)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(log: &Log) -> String {
        let (mut reader, size) = log.reader().unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, size);
        text
    }

    #[test]
    fn the_end_is_kept_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::with_capacity(dir.path(), 10);
        log.append(b"0123456");
        assert_eq!(kept(&log), "0123456");
        log.append(b"789ab");
        assert_eq!(kept(&log), "23456789ab");
        log.append(b"the quick brown fox");
        assert_eq!(kept(&log), " brown fox");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn last_lines_begin_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path());
        log.append(b"a short one");
        assert_eq!(log.last_lines(), "a short one");
        for line in 0..1000 {
            log.append(format!("line {line}\n").as_bytes());
        }
        let last = log.last_lines();
        assert!(last.len() <= LAST && last.starts_with("line ") && last.ends_with("line 999\n"), "{last}");
    }

    #[test]
    fn a_log_without_a_disk_keeps_its_last_lines() {
        let log = Log::new(Path::new("/nonexistent"));
        log.append(b"boom");
        assert_eq!(log.last_lines(), "boom");
        assert!(log.reader().is_none());
    }
}
