//! Where things live: the repository, the state of clusters, the cache of built programs. Nothing is written to the tree.

use std::env;
use std::path::{Path, PathBuf};

/// The repository that this crate was built from.
#[must_use]
pub fn repository() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The folder of state and the folder of caches.
///
/// `TRAINYARD_STATE` and `TRAINYARD_CACHE` name them; without these, the XDG base directories do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// Holds `clusters/<name>`.
    pub state: PathBuf,
    /// Holds `bin/<product>-<version>`, `debs`, `layers` and `images`.
    pub cache: PathBuf,
}

impl Directories {
    /// Reads the environment of this process.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    /// Reads `variable`, a view of an environment.
    #[must_use]
    pub fn from(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let home = variable("HOME").unwrap_or_else(|| PathBuf::from("/root"));
        let place = |own: &str, xdg: &str, fallback: &str| {
            variable(own).unwrap_or_else(|| variable(xdg).unwrap_or_else(|| home.join(fallback)).join("trainyard"))
        };
        Self {
            state: place("TRAINYARD_STATE", "XDG_STATE_HOME", ".local/state"),
            cache: place("TRAINYARD_CACHE", "XDG_CACHE_HOME", ".cache"),
        }
    }

    /// The folder with one entry per cluster.
    #[must_use]
    pub fn clusters(&self) -> PathBuf {
        self.state.join("clusters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(variables: &[(&str, &str)]) -> Directories {
        Directories::from(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
    }

    #[test]
    fn own_variables_win_over_xdg_over_home() {
        let home = ("HOME", "/home/a");
        assert_eq!(directories(&[home]).state, Path::new("/home/a/.local/state/trainyard"));
        let xdg = ("XDG_CACHE_HOME", "/x");
        assert_eq!(directories(&[home, xdg]).cache, Path::new("/x/trainyard"));
        assert_eq!(directories(&[home, xdg, ("TRAINYARD_CACHE", "/own")]).cache, Path::new("/own"));
    }
}
