//! Where an input is built before it is whole: below a temporary name, renamed when every file is verified.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::InputError;
use crate::beneath;
use crate::failure::Failure;

/// An input that is being built.
pub(super) struct Place {
    /// The directory of inputs.
    root: OwnedFd,
    path: PathBuf,
    name: String,
    /// For a directory, itself, under its temporary name.
    directory: Option<OwnedFd>,
}

/// A file that is being written. Empty for the single file.
pub(super) struct Slot(String);

impl Place {
    pub(super) fn prepare(root: &Path, name: &str, directory: bool) -> Result<Self, InputError> {
        let path = root.join(name);
        let failed = |error: std::io::Error| InputError::Other(Failure::io("make", &path, &error));
        let temporary = root.join(temporary(name));
        // What an earlier start of this container left.
        for left in [&temporary, &path] {
            let removed = match std::fs::symlink_metadata(left) {
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(left),
                Ok(_) => std::fs::remove_file(left),
                Err(_) => Ok(()),
            };
            removed.map_err(failed)?;
        }
        let root = beneath::open_root(root).map_err(failed)?;
        let directory = if directory {
            std::fs::create_dir(&temporary).map_err(failed)?;
            Some(beneath::open_root(&temporary).map_err(failed)?)
        } else {
            None
        };
        Ok(Self { root, path, name: name.to_owned(), directory })
    }

    /// A new file for `path` below the input; for a single file `path` is empty.
    pub(super) fn create(&self, path: &str, executable: bool) -> Result<(Slot, File), InputError> {
        let created = match &self.directory {
            // The whole directory has a temporary name, so its files have their own.
            Some(directory) => beneath::create(directory.as_fd(), path, executable),
            None => beneath::create(self.root.as_fd(), &temporary(&self.name), executable),
        };
        match created {
            Ok(file) => Ok((Slot(path.to_owned()), file)),
            Err(error) => Err(self.failed(path, error.into())),
        }
    }

    /// The file is not what it should be.
    pub(super) fn discard(&self, slot: Slot) {
        let _ = match &self.directory {
            Some(directory) => {
                let (parent, name) = slot.0.rsplit_once('/').unwrap_or((".", &slot.0));
                let parent = if parent == "." {
                    rustix::io::dup(directory)
                } else {
                    beneath::open(directory.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                };
                parent.and_then(|parent| rustix::fs::unlinkat(parent, name, AtFlags::empty()))
            }
            None => rustix::fs::unlinkat(&self.root, temporary(&self.name), AtFlags::empty()),
        };
    }

    /// Everything is there: the input gets its name.
    pub(super) fn finish(&self) -> Result<(), InputError> {
        rustix::fs::renameat(&self.root, temporary(&self.name), &self.root, &self.name)
            .map_err(|error| self.failed("", error.into()))
    }

    /// A file below the input could not be written.
    pub(super) fn failed(&self, path: &str, error: std::io::Error) -> InputError {
        InputError::Other(Failure::io("write", &self.path.join(path), &error))
    }
}

/// Input names begin with a letter or digit, so this is none.
fn temporary(name: &str) -> String {
    format!(".{name}.partial")
}
