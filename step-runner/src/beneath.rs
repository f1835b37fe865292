//! Paths that others chose: opened below a directory, never through a symbolic link, never out of it.
//!
//! `openat2` does it in one call; where the kernel or a sandbox lacks it, each part is opened by itself with `O_NOFOLLOW`, which
//! is as safe and slower.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Why a relative path is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnsafePath {
    #[error("it is empty")]
    Empty,
    #[error("it is absolute")]
    Absolute,
    #[error("it has an empty, `.` or `..` part")]
    Part,
    #[error("it has a NUL character")]
    Nul,
    #[error("it is longer than 4095 bytes")]
    Long,
}

/// Checks a relative path that came from outside: a manifest, a key of a bucket, a name in the step.
pub(crate) fn check_relative(path: &str) -> Result<(), UnsafePath> {
    if path.is_empty() {
        return Err(UnsafePath::Empty);
    }
    if path.starts_with('/') {
        return Err(UnsafePath::Absolute);
    }
    if path.contains('\0') {
        return Err(UnsafePath::Nul);
    }
    if path.len() > 4095 {
        return Err(UnsafePath::Long);
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(UnsafePath::Part);
    }
    Ok(())
}

/// Whether a name is one safe part of a path.
pub(crate) fn is_name(name: &str) -> bool {
    check_relative(name).is_ok() && !name.contains('/')
}

/// Opens a directory by a path of our own.
pub(crate) fn open_root(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `path` below `root`; `ELOOP` when a part is a symbolic link.
///
/// Never blocks on a FIFO and never takes a terminal as its own.
pub(crate) fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    if check_relative(path).is_err() {
        return Err(Errno::INVAL);
    }
    let mut flags = flags | OFlags::CLOEXEC;
    if !flags.contains(OFlags::DIRECTORY) {
        flags |= OFlags::NOFOLLOW;
    }
    if !flags.contains(OFlags::PATH) {
        // openat2 takes nothing beside O_PATH that O_PATH ignores.
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, mode, resolve) {
        // EPERM: a seccomp profile that does not know the call; EAGAIN: a rename raced it.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => open_by_parts(root, path, flags, mode),
        other => other,
    }
}

fn open_by_parts(root: BorrowedFd<'_>, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let directory = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut parts = path.split('/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let base = at.as_ref().map_or(root, AsFd::as_fd);
        if parts.peek().is_none() {
            return rustix::fs::openat(base, part, flags | OFlags::NOFOLLOW, mode);
        }
        at = Some(match rustix::fs::openat(base, part, directory, Mode::empty()) {
            // With O_PATH a link gives ENOTDIR.
            Err(Errno::NOTDIR) => return Err(Errno::LOOP),
            other => other?,
        });
    }
    Err(Errno::INVAL)
}

/// Makes the directories above `path` below `root`, then the file itself, which must not exist.
pub(crate) fn create(root: BorrowedFd<'_>, path: &str, executable: bool) -> Result<File, Errno> {
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    match open(root, path, flags, mode) {
        Err(Errno::NOENT) => {
            if let Some((parent, _)) = path.rsplit_once('/') {
                make_directories(root, parent)?;
            }
            open(root, path, flags, mode).map(File::from)
        }
        other => other.map(File::from),
    }
}

/// Makes `path` and what is above it below `root`, where missing.
pub(crate) fn make_directories(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let mut made = 0;
    for part in path.split('/') {
        let parent = if made == 0 {
            None
        } else {
            Some(open(root, &path[..made - 1], OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?)
        };
        let base = parent.as_ref().map_or(root, AsFd::as_fd);
        match rustix::fs::mkdirat(base, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        made += part.len() + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_paths_are_named() {
        for (path, why) in [
            ("", UnsafePath::Empty),
            ("/etc/passwd", UnsafePath::Absolute),
            ("../x", UnsafePath::Part),
            ("a/../../x", UnsafePath::Part),
            ("a//b", UnsafePath::Part),
            ("a/./b", UnsafePath::Part),
            ("a/", UnsafePath::Part),
            ("a\0b", UnsafePath::Nul),
        ] {
            assert_eq!(check_relative(path), Err(why), "{path:?}");
        }
        for path in ["a", "a/b", "...", "a..b/.c", "-", "ä ö/\n", "a\\..\\b"] {
            assert_eq!(check_relative(path), Ok(()), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn a_taken_path_never_leaves_its_root(path in "[./a\\\\\u{0}-]{0,12}") {
            if check_relative(&path).is_ok() {
                let mut depth = 0i32;
                for component in Path::new(&path).components() {
                    match component {
                        std::path::Component::Normal(_) => depth += 1,
                        std::path::Component::ParentDir => depth -= 1,
                        other => prop_assert!(false, "{other:?}"),
                    }
                    prop_assert!(depth > 0);
                }
                prop_assert_eq!(depth as usize, path.split('/').count());
            }
        }
    }

    #[test]
    fn links_are_refused_by_both_ways_of_opening() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "x").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("real/file", dir.path().join("filelink")).unwrap();
        let root = open_root(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        for way in [open, |r: BorrowedFd<'_>, p: &str, f, m| open_by_parts(r, p, f, m)] {
            assert!(way(root.as_fd(), "real/file", flags, Mode::empty()).is_ok());
            assert_eq!(way(root.as_fd(), "link/file", flags, Mode::empty()).unwrap_err(), Errno::LOOP);
            assert_eq!(way(root.as_fd(), "filelink", flags, Mode::empty()).unwrap_err(), Errno::LOOP);
        }
    }

    #[test]
    fn files_are_made_with_their_directories_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = open_root(dir.path()).unwrap();
        create(root.as_fd(), "a/b/c", true).unwrap();
        assert_eq!(create(root.as_fd(), "a/b/c", false).unwrap_err(), Errno::EXIST);
        assert_eq!(create(root.as_fd(), "../x", false).unwrap_err(), Errno::INVAL);
        symlink("/tmp", dir.path().join("l")).unwrap();
        assert_eq!(create(root.as_fd(), "l/x", false).unwrap_err(), Errno::LOOP);
    }
}
