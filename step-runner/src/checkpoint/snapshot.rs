//! The checkpoint's files as they were named at one moment: hard links, which cost nothing and stay when the program puts newer files in
//! their place. What writes into a file itself is noticed, since the link is to the same bytes.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::survey::{self, Survey, SurveyError};
use crate::beneath;

/// Below the root: where the links are while they are needed.
const NAME: &str = ".checkpoint-links";

/// Gone with this value.
#[derive(Debug)]
pub(super) struct Snapshot {
    directory: Arc<OwnedFd>,
    before: Survey,
    /// The directory of links; `None` where the file system has none, and the files themselves are sent.
    links: Option<PathBuf>,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(links) = &self.links {
            let _ = std::fs::remove_dir_all(links);
        }
    }
}

impl Snapshot {
    /// Takes it of what was seen below `root`, whose path is `of`: [`SurveyError::Changed`] if it is not there any more.
    pub(super) fn take(root: BorrowedFd<'_>, of: &Path, wanted: &Survey) -> Result<Self, SurveyError> {
        let source = survey::open(root)?;
        let links = of.join(NAME);
        let mut snapshot = match link(source.as_fd(), &links, wanted) {
            Ok(directory) => {
                let directory = Arc::new(directory);
                Self { directory, before: Survey::default(), links: Some(links) }
            }
            Err(Errno::NOENT) => {
                let _ = std::fs::remove_dir_all(&links);
                return Err(SurveyError::Changed);
            }
            // A file system without links, or a checkpoint on another one.
            Err(_) => {
                let _ = std::fs::remove_dir_all(&links);
                let source = survey::open(root)?;
                Self { directory: Arc::new(source), before: Survey::default(), links: None }
            }
        };
        // Links to what was wanted, and the directory has had just that all the time.
        snapshot.before = survey::survey(snapshot.directory.as_fd())?;
        if snapshot.before != *wanted || survey::survey(source.as_fd())? != *wanted {
            return Err(SurveyError::Changed);
        }
        Ok(snapshot)
    }

    /// Where the files are read.
    pub(super) fn directory(&self) -> Arc<OwnedFd> {
        self.directory.clone()
    }

    /// Whether nobody has written to them since.
    pub(super) fn is_untouched(&self) -> bool {
        survey::survey(self.directory.as_fd()).is_ok_and(|now| now.is_untouched_since(&self.before))
    }
}

fn link(source: BorrowedFd<'_>, links: &Path, wanted: &Survey) -> Result<OwnedFd, Errno> {
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    // What a runner that was killed has left.
    match std::fs::remove_dir_all(links) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Errno::EXIST),
        _ => {}
    }
    std::fs::create_dir(links).map_err(|_| Errno::ACCESS)?;
    let directory = beneath::open_root(links).map_err(errno)?;
    let mut made = "";
    for file in &wanted.0 {
        if let Some((parent, _)) = file.path.rsplit_once('/')
            && parent != made
        {
            beneath::make_directories(directory.as_fd(), parent)?;
            made = parent;
        }
        rustix::fs::linkat(source, &file.path, &directory, &file.path, AtFlags::empty())?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, OwnedFd, Survey) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("checkpoint/step/part")).unwrap();
        std::fs::write(folder.path().join("checkpoint/a"), "one").unwrap();
        std::fs::write(folder.path().join("checkpoint/step/part/b"), "two").unwrap();
        let root = beneath::open_root(folder.path()).unwrap();
        let seen = survey::survey(survey::open(root.as_fd()).unwrap().as_fd()).unwrap();
        (folder, root, seen)
    }

    #[test]
    fn what_takes_the_names_of_its_files_does_not_touch_it() {
        let (folder, root, seen) = world();
        let snapshot = Snapshot::take(root.as_fd(), folder.path(), &seen).unwrap();
        let links = folder.path().join(NAME);
        std::fs::write(folder.path().join("new"), "newer").unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join("checkpoint/a")).unwrap();
        std::fs::remove_dir_all(folder.path().join("checkpoint/step")).unwrap();
        assert!(snapshot.is_untouched());
        assert_eq!(std::fs::read(links.join("a")).unwrap(), b"one");
        assert_eq!(std::fs::read(links.join("step/part/b")).unwrap(), b"two");
        drop(snapshot);
        assert!(!links.exists());
    }

    #[test]
    fn what_is_written_into_its_files_is_noticed() {
        let (folder, root, seen) = world();
        let snapshot = Snapshot::take(root.as_fd(), folder.path(), &seen).unwrap();
        std::fs::write(folder.path().join("checkpoint/a"), "other").unwrap();
        assert!(!snapshot.is_untouched());
    }

    #[test]
    fn what_is_not_there_any_more_is_not_taken() {
        let (folder, root, seen) = world();
        // As a runner that was killed has left it.
        std::fs::create_dir(folder.path().join(NAME)).unwrap();
        std::fs::write(folder.path().join(NAME).join("left"), "").unwrap();
        drop(Snapshot::take(root.as_fd(), folder.path(), &seen).unwrap());
        std::fs::write(folder.path().join("checkpoint/c"), "three").unwrap();
        assert!(matches!(Snapshot::take(root.as_fd(), folder.path(), &seen), Err(SurveyError::Changed)));
        std::fs::remove_file(folder.path().join("checkpoint/a")).unwrap();
        assert!(matches!(Snapshot::take(root.as_fd(), folder.path(), &seen), Err(SurveyError::Changed)));
        assert!(!folder.path().join(NAME).exists());
    }
}
