//! Python packages as files: only wheels, only those whose hashes are written down.

use super::layer::{self, Layer, Modes, StoredLayer};
use super::recipe::{Recipe, Wheels};
use super::{Error, ensured};
use crate::build::debian;
use crate::paths::{self, Directories};
use crate::{command, progress};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The oldest glibc first: Debian 12 has 2.36.
const PLATFORMS: [&str; 4] = ["manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28"];

/// Scripts name the Python that installed them.
const LEFT_OUT: [&str; 1] = ["bin"];

/// Unpacks the data of wheels.
const DATA: &str = include_str!("wheel_data.py");

pub(super) fn layer(directories: &Directories, recipe: &Recipe, wheels: &Wheels) -> Result<StoredLayer, Error> {
    let requirements = paths::repository().join(&wheels.requirements);
    let removed = format!("{:?}", recipe.remove);
    let mut settings = vec![wheels.python.as_str(), &wheels.to, &removed, std::env::consts::ARCH];
    settings.extend(wheels.data.as_deref());
    let key = layer::key(&settings, std::slice::from_ref(&requirements))?;
    let store = directories.cache.join("layers");
    if let Some(stored) = StoredLayer::find(&store, &key) {
        return Ok(stored);
    }
    if !command::succeeds(Command::new("python3").args(["-m", "pip", "--version"])) {
        debian::ensure(&debian::PYTHON)
            .map_err(|source| Error::Build { image: recipe.name.clone(), source: Box::new(source) })?;
    }
    progress::step(&format!("image {}: Python packages", recipe.name), || {
        let root = tempfile::tempdir_in(ensured(&directories.cache)?).map_err(Error::file(&directories.cache))?;
        let target = root.path().join(wheels.to.trim_start_matches('/'));
        command::run(pip("install", &requirements, &wheels.python).arg("--no-compile").arg("--target").arg(&target))?;
        for name in LEFT_OUT {
            let _ = fs::remove_dir_all(target.join(name));
        }
        if let Some(data) = &wheels.data {
            let folder = tempfile::tempdir_in(&directories.cache).map_err(Error::file(&directories.cache))?;
            command::run(pip("download", &requirements, &wheels.python).arg("--dest").arg(folder.path()))?;
            let target = root.path().join(data.trim_start_matches('/'));
            command::run(Command::new("python3").args(["-c", DATA]).arg(folder.path()).arg(target))?;
        }
        let below = |path: &str| path.starts_with(&wheels.to) || wheels.data.iter().any(|data| path.starts_with(data));
        for path in recipe.remove.iter().filter(|path| below(path)) {
            super::remove(root.path(), path)?;
        }
        Layer::of_folder(root.path(), Path::new(""), Modes::Usual)?.store(&store, Some(&key))
    })
}

/// `pip install` or `pip download` for another Python than that of this machine.
fn pip(verb: &str, requirements: &Path, python: &str) -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--require-hashes", "--python-version", python, "--implementation", "cp"]);
    pip.args(PLATFORMS.iter().map(|platform| format!("--platform={platform}_{}", std::env::consts::ARCH)));
    pip.arg("--requirement").arg(requirements);
    pip.env_remove("PIP_TARGET").env("PIP_ROOT_USER_ACTION", "ignore");
    pip
}
