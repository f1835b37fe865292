//! Our own programs, linked statically, for images without a file system.

use super::Error;
use crate::{command, paths, progress};
use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Programs that go into images, each the package of the same name, with their profiles: the runner is to be small, the operator is to
/// survive a panic over one object, for which it must unwind.
const PROGRAMS: [(&str, &str); 3] =
    [("trainyard-operator", "release"), ("step-runner", "runner"), ("trainyard-stamp", "runner")];

/// The target that this machine's images are built for.
#[must_use]
pub fn target_triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Builds one of our programs with its profile and a static C library, and returns its path in the target folder.
///
/// Cargo decides whether there is something to do, so a second call is quick.
pub fn static_binary(name: &str) -> Result<PathBuf, Error> {
    let Some((_, profile)) = PROGRAMS.into_iter().find(|(program, _)| *program == name) else {
        return Err(Error::UnknownBinary(name.to_owned()));
    };
    let target = target_triple();
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    let folder = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| paths::repository().join("target"), |folder| paths::repository().join(folder));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::repository());
    cargo.args(["build", "--quiet", "--profile", profile, "--package", name, "--bin", name]);
    cargo.arg("--target").arg(&target).arg("--target-dir").arg(&folder);
    forget_the_caller(&mut cargo);
    // For the target alone: build scripts and macros stay dynamic. Flags of the caller would undo that.
    cargo.env(flags, "-C target-feature=+crt-static").env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let binary = folder.join(target).join(profile).join(name);
    let what = format!("building {name}");
    let build =
        || command::run(&mut cargo).map_err(|source| Error::Build { what: format!("the static {name}"), source });
    // The first build takes minutes, a later one seconds.
    if binary.is_file() {
        progress::step(&what, build)?
    } else {
        progress::long_step(&what, build)?
    };
    Ok(binary)
}

/// What `cargo run` and `cargo test` tell a program of itself is not for a cargo below it: crates whose build scripts look at such
/// a variable would be built anew, here and then by the next plain `cargo build`.
pub(crate) fn forget_the_caller(cargo: &mut Command) {
    let of_a_package = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "OUT_DIR"];
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| of_a_package.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_are_refused() {
        assert!(matches!(static_binary("bash"), Err(Error::UnknownBinary(name)) if name == "bash"));
    }
}
