//! What lies in the checkpoint's directory, and whether it has changed since.
//!
//! A file is the same as before when its name, inode, size and time of modification are. Whether its bytes were touched while they were
//! read is asked more strictly: by the time of change, which the kernel sets at each write and no program can set.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use step_protocol::paths;

use crate::beneath;

/// What a program writes under such a name is not done.
const UNDONE: &str = ".tmp";

/// A file that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) executable: bool,
    inode: u64,
    modified: (i64, u64),
    /// Not a part of what it is: our own links change both, and so does another file that takes its name.
    changed: (i64, u64),
    links: u64,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let of = |seen: &Self| (seen.size, seen.executable, seen.inode, seen.modified);
        self.path == other.path && of(self) == of(other)
    }
}

impl Eq for Seen {}

impl Seen {
    fn is_untouched_since(&self, before: &Self) -> bool {
        self == before && (self.changed == before.changed || self.links != before.links)
    }
}

/// Everything in the directory, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey(pub(crate) Vec<Seen>);

impl Survey {
    /// Whether nobody has written to any of its files since.
    pub(crate) fn is_untouched_since(&self, before: &Self) -> bool {
        self.0.len() == before.0.len()
            && self.0.iter().zip(&before.0).all(|(now, before)| now.is_untouched_since(before))
    }
}

/// As much of it as says that something has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    files: usize,
    bytes: u64,
    newest: (i64, u64),
}

/// Why the directory cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SurveyError {
    #[error("something in it was moved or deleted meanwhile")]
    Changed,
    #[error("{path:?} {what}; a checkpoint is made of regular files")]
    Unsafe { path: String, what: &'static str },
    #[error("{path:?} cannot be read: {source}")]
    Io { path: String, source: std::io::Error },
}

/// Opens the checkpoint's directory below the root of the step.
pub(crate) fn open(root: BorrowedFd<'_>) -> Result<OwnedFd, SurveyError> {
    beneath::open(root, paths::CHECKPOINT, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| refused(paths::CHECKPOINT, error))
}

/// Looks through the directory. What is not done yet (`*.tmp`) is left out.
pub(crate) fn survey(directory: BorrowedFd<'_>) -> Result<Survey, SurveyError> {
    let mut files = Vec::new();
    // Paths and not descriptors wait here: a deep tree must not use up the descriptors.
    let mut waiting = vec![String::new()];
    while let Some(below) = waiting.pop() {
        let opened = if below.is_empty() {
            rustix::fs::openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        } else {
            beneath::open(directory, &below, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        };
        let opened = opened.map_err(|error| refused(&below, error))?;
        for entry in Dir::read_from(&opened).map_err(|error| refused(&below, error))? {
            let entry = entry.map_err(|error| refused(&below, error))?;
            let Ok(name) = entry.file_name().to_str() else {
                let path = format!("{below}/{}", entry.file_name().to_string_lossy());
                return Err(SurveyError::Unsafe { path, what: "has a name that is not UTF-8" });
            };
            if matches!(name, "." | "..") || name.ends_with(UNDONE) {
                continue;
            }
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            if beneath::check_relative(&path).is_err() {
                return Err(SurveyError::Unsafe { path, what: "is longer than 4095 bytes" });
            }
            let meta =
                rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| refused(&path, error))?;
            match FileType::from_raw_mode(meta.st_mode) {
                FileType::RegularFile => files.push(seen(path, &meta)),
                FileType::Directory => waiting.push(path),
                FileType::Symlink => return Err(SurveyError::Unsafe { path, what: "is a symbolic link" }),
                _ => return Err(SurveyError::Unsafe { path, what: "is no file" }),
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Survey(files))
}

/// The outline of the checkpoint's directory; `None` if there is none that can be read.
pub(crate) fn outline(root: BorrowedFd<'_>) -> Option<Outline> {
    let directory = open(root).ok()?;
    let Survey(files) = survey(directory.as_fd()).ok()?;
    Some(Outline {
        files: files.len(),
        bytes: files.iter().map(|file| file.size).sum(),
        newest: files.iter().map(|file| file.modified).max().unwrap_or_default(),
    })
}

fn seen(path: String, meta: &Stat) -> Seen {
    Seen {
        path,
        size: u64::try_from(meta.st_size).unwrap_or(0),
        executable: meta.st_mode & 0o111 != 0,
        inode: meta.st_ino,
        modified: (meta.st_mtime, meta.st_mtime_nsec),
        changed: (meta.st_ctime, meta.st_ctime_nsec),
        links: meta.st_nlink,
    }
}

fn refused(path: &str, error: Errno) -> SurveyError {
    let path = path.to_owned();
    match error {
        Errno::NOENT => SurveyError::Changed,
        Errno::LOOP | Errno::NOTDIR => SurveyError::Unsafe { path, what: "is no directory" },
        other => SurveyError::Io { path, source: other.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn surveyed(folder: &Path) -> Result<Survey, SurveyError> {
        survey(beneath::open_root(folder).unwrap().as_fd())
    }

    #[test]
    fn files_are_found_at_every_depth_and_what_is_not_done_is_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("step-2/part")).unwrap();
        std::fs::create_dir_all(folder.path().join("step-3.tmp")).unwrap();
        for (path, text) in
            [("b", "12"), ("step-2/part/a", "1"), ("c.tmp", "1"), ("step-3.tmp/a", "1"), (".metadata", "")]
        {
            std::fs::write(folder.path().join(path), text).unwrap();
        }
        let Survey(files) = surveyed(folder.path()).unwrap();
        let found: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.size)).collect();
        assert_eq!(found, [(".metadata", 0), ("b", 2), ("step-2/part/a", 1)]);
    }

    #[test]
    fn every_change_is_seen_also_one_that_hides_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights");
        std::fs::write(&file, "old").unwrap();
        let before = surveyed(folder.path()).unwrap();
        assert_eq!(surveyed(folder.path()).unwrap(), before);
        // Times have the grain of a kernel's tick.
        let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
        while surveyed(folder.path()).unwrap().is_untouched_since(&before) {
            std::fs::write(&file, "new").unwrap();
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        }
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), modified);
        let before = surveyed(folder.path()).unwrap();
        // A link of our own is no change.
        std::fs::hard_link(&file, folder.path().join("link.tmp")).unwrap();
        assert!(surveyed(folder.path()).unwrap().is_untouched_since(&before));
        std::fs::write(folder.path().join("other"), "new").unwrap();
        std::fs::rename(folder.path().join("other"), &file).unwrap();
        assert_ne!(surveyed(folder.path()).unwrap(), before);
    }

    #[test]
    fn what_is_no_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("latest")).unwrap();
        let error = surveyed(folder.path()).unwrap_err().to_string();
        assert!(error.contains("\"latest\" is a symbolic link"), "{error}");
    }
}
