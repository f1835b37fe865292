//! What an output is made of: regular files below its own directory, or one regular file. Everything else is refused by its name.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use step_protocol::{Outcome, StepSpec, paths};

use crate::beneath;
use crate::failure::{Failure, shown};

/// An output, looked through but not read.
#[derive(Debug)]
pub(super) struct Found {
    /// Whether it is a directory.
    pub(super) directory: bool,
    /// What the files' paths are relative to: the output itself, or the directory of outputs for a single file.
    pub(super) root: OwnedFd,
    /// Sorted by path.
    pub(super) files: Vec<FoundFile>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundFile {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) executable: bool,
}

/// Finds the output `name` below the root of the step.
pub(super) fn output(root: BorrowedFd<'_>, spec: &StepSpec, name: &str) -> Result<Found, Failure> {
    let below = Path::new(&spec.root).join(paths::OUT);
    let path = below.join(name);
    let outputs = beneath::open(root, paths::OUT, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| refused(&below, error))?;
    let meta = match rustix::fs::statat(&outputs, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(meta) => meta,
        Err(Errno::NOENT) => {
            return Err(Failure::new(
                Outcome::OutputMissing,
                format!(
                    "the stage declares the output {name:?}, and its program did not write {}; write a file or a directory there \
                     (the variable TRAINYARD_OUT_{} names it)",
                    path.display(),
                    paths::env_name(name)
                ),
            ));
        }
        Err(error) => return Err(refused(&path, error)),
    };
    match FileType::from_raw_mode(meta.st_mode) {
        FileType::RegularFile => {
            let file = file(name.to_owned(), &meta);
            Ok(Found { directory: false, root: outputs, files: vec![file] })
        }
        FileType::Directory => {
            let root = beneath::open(outputs.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
                .map_err(|error| refused(&path, error))?;
            let files = directory(root.as_fd(), &path)?;
            Ok(Found { directory: true, root, files })
        }
        other => Err(not_a_file(&path, other)),
    }
}

fn directory(root: BorrowedFd<'_>, at: &Path) -> Result<Vec<FoundFile>, Failure> {
    let mut files = Vec::new();
    // Paths and not descriptors wait here: a deep tree must not use up the descriptors.
    let mut waiting = vec![String::new()];
    while let Some(below) = waiting.pop() {
        let here = if below.is_empty() { at.to_owned() } else { at.join(&below) };
        let opened = if below.is_empty() {
            rustix::fs::openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        } else {
            beneath::open(root, &below, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        };
        let opened = opened.map_err(|error| refused(&here, error))?;
        let entries = Dir::read_from(&opened).map_err(|error| refused(&here, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| refused(&here, error))?;
            let Ok(name) = entry.file_name().to_str() else {
                return Err(unsafe_output(
                    &here,
                    &format!("has an entry whose name is not UTF-8 ({:?})", entry.file_name()),
                ));
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            if beneath::check_relative(&path).is_err() {
                return Err(unsafe_output(&here, "has a path longer than 4095 bytes below it"));
            }
            let meta = rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| refused(&here.join(name), error))?;
            match FileType::from_raw_mode(meta.st_mode) {
                FileType::RegularFile => files.push(file(path, &meta)),
                FileType::Directory => waiting.push(path),
                other => return Err(not_a_file(&here.join(name), other)),
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn file(path: String, meta: &Stat) -> FoundFile {
    FoundFile { path, size: u64::try_from(meta.st_size).unwrap_or(0), executable: meta.st_mode & 0o111 != 0 }
}

fn not_a_file(path: &Path, kind: FileType) -> Failure {
    let kind = match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::RegularFile | FileType::Directory | FileType::Unknown => "of an unknown kind",
    };
    unsafe_output(path, &format!("is {kind}"))
}

fn unsafe_output(path: &Path, what: &str) -> Failure {
    Failure::new(
        Outcome::OutputUnsafe,
        format!(
            "{} {what}: an output is made of regular files in its own directory; copy what it needs there",
            shown(path)
        ),
    )
}

/// A file that had another size when it was found.
pub(super) fn changed(path: &Path, size: u64) -> Failure {
    let message = format!(
        "{} had {size} bytes when the program had ended, and has others now: something else writes to it",
        shown(path)
    );
    Failure::new(Outcome::OutputUnsafe, message)
}

fn refused(path: &Path, error: Errno) -> Failure {
    match error {
        Errno::LOOP => not_a_file(path, FileType::Symlink),
        Errno::NOTDIR => unsafe_output(path, "is not a directory"),
        Errno::ACCESS => unsafe_output(path, "cannot be read by the stage's own user"),
        other => Failure::io("read", path, &other.into()),
    }
}

/// A regular file below `directory` of at most `limit` bytes; `None` if there is none.
pub(crate) fn small_file(root: BorrowedFd<'_>, path: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
    use std::io::Read as _;
    let file = match beneath::open(root, path, OFlags::RDONLY, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err("it is a symbolic link".into()),
        Err(error) => return Err(error.to_string()),
    };
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("it is larger than {} KiB; write large values as an output", limit >> 10));
    }
    Ok(Some(bytes))
}
