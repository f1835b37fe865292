//! The programs under test, built from this tree.

use crate::command::{self, Error};
use crate::{build, paths};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names another cargo profile, such as `release`.
pub const ENV_PROFILE: &str = "TRAINYARD_FAULTS_PROFILE";

/// Where operator and step-runner are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The operator.
    pub operator: PathBuf,
    /// The step-runner.
    pub runner: PathBuf,
}

/// Builds both, and copies them to `folder`: a later build does not change what is being tested. The variable names another
/// cargo profile than `dev`.
///
/// # Errors
/// When one cannot be built.
pub fn build(folder: &Path) -> Result<Programs, Error> {
    let profile = env::var(ENV_PROFILE).unwrap_or_else(|_| "dev".to_owned());
    both(folder, &profile, &[])
}

/// Builds both with the feature `mutants`, and copies them to `folder`.
///
/// # Errors
/// When one cannot be built.
pub fn with_mutants(folder: &Path) -> Result<Programs, Error> {
    both(folder, "dev", &["--features", "mutants"])
}

fn both(folder: &Path, profile: &str, features: &[&str]) -> Result<Programs, Error> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| paths::repository().join("target"), |folder| paths::repository().join(folder));
    // One by one: together, their dependencies would have each other's features, and all be built once more.
    let program = |name: &str| {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build::forget_the_caller(&mut cargo);
        cargo.current_dir(paths::repository()).args(["build", "--quiet", "--profile", profile]).args(features);
        command::run(cargo.args(["--package", name, "--bin", name, "--target-dir"]).arg(&target))?;
        let built = target.join(if profile == "dev" { "debug" } else { profile }).join(name);
        let copy = folder.join(name);
        std::fs::copy(&built, &copy)
            .map_err(|source| Error::Start { command: format!("copy {}", built.display()), source })?;
        Ok(copy)
    };
    Ok(Programs { operator: program("trainyard-operator")?, runner: program("step-runner")? })
}
