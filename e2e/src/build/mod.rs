//! The programs that a cluster and its images are made of.
//!
//! [`Product`] is a pinned Go module of `e2e/cluster`, built once into the cache; [`static_binary`] is one of our own;
//! [`debian`] installs what neither is.

mod cargo;
pub mod debian;
mod product;

pub(crate) use cargo::forget_the_caller;
pub use cargo::{static_binary, target_triple};
pub use product::Product;

use crate::command;
use std::path::PathBuf;

/// A program could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A build or an installation failed.
    #[error("failed to build {what}: {source}")]
    Build {
        /// Product or package.
        what: String,
        /// The command that failed.
        #[source]
        source: command::Error,
    },
    /// The Go toolchain is not installed.
    #[error("failed to build {what}: `go` is not on the PATH\nhint: install Go 1.26 or later")]
    NoGo {
        /// The product.
        what: String,
    },
    /// A module file does not say which version it pins.
    #[error("{file} requires no version of {module}", file = file.display())]
    NoVersion {
        /// The `go.mod`.
        file: PathBuf,
        /// The module that it should require.
        module: &'static str,
    },
    /// A file could not be read, written or moved.
    #[error("failed to use {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Debian packages are missing and cannot be installed by this user.
    #[error("missing on this machine: {packages}\nhint: as root, run `apt-get install {packages}`")]
    Missing {
        /// Names, separated by spaces.
        packages: String,
    },
    /// No crate of ours has that name.
    #[error("{0} is no program of this workspace")]
    UnknownBinary(String),
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
