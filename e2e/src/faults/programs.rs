//! The programs under test, built from this tree.

use crate::command::{self, Error};
use crate::{build, paths};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where operator and step-runner are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The operator.
    pub operator: PathBuf,
    /// The step-runner.
    pub runner: PathBuf,
}

/// Builds both as they go into images, and copies them to `folder`: a later build does not change what is being tested.
///
/// # Errors
/// When one cannot be built.
pub fn build(folder: &Path) -> anyhow::Result<Programs> {
    let program = |name: &str| anyhow::Ok(copied(&build::static_binary(name)?, folder, name)?);
    Ok(Programs { operator: program("trainyard-operator")?, runner: program("step-runner")? })
}

/// Builds both with the feature `mutants`, quickly, and copies them to `folder`.
///
/// # Errors
/// When one cannot be built.
pub fn with_mutants(folder: &Path) -> Result<Programs, Error> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| paths::repository().join("target"), |folder| paths::repository().join(folder));
    // One by one: together, their dependencies would have each other's features, and all be built once more.
    let program = |name: &str| {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build::forget_the_caller(&mut cargo);
        cargo.current_dir(paths::repository()).args(["build", "--quiet", "--features", "mutants"]);
        command::run(cargo.args(["--package", name, "--bin", name, "--target-dir"]).arg(&target))?;
        copied(&target.join("debug").join(name), folder, name)
    };
    Ok(Programs { operator: program("trainyard-operator")?, runner: program("step-runner")? })
}

fn copied(program: &Path, folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let copy = folder.join(name);
    std::fs::copy(program, &copy)
        .map_err(|source| Error::Start { command: format!("copy {}", program.display()), source })?;
    Ok(copy)
}
