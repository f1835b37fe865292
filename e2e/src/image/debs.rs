//! Debian packages as files: resolved by apt once, kept in the cache, unpacked without being installed.

use super::{Error, layer};
use crate::command;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package with the shell and the small programs.
pub(super) const BUSYBOX: &str = "busybox-static";

/// The files of the packages, in the order of their names. Which versions they are is asked once per list.
pub(super) fn fetch(cache: &Path, packages: &[String]) -> Result<Vec<PathBuf>, Error> {
    fs::create_dir_all(cache).map_err(Error::file(cache))?;
    let mut packages = packages.to_vec();
    packages.sort();
    packages.dedup();
    let resolved = cache.join(format!("resolved-{}", layer::key(&[&packages.join(" ")], &[])?));
    if let Ok(text) = fs::read_to_string(&resolved) {
        let files: Vec<PathBuf> = text.lines().map(|name| cache.join(name)).collect();
        if files.iter().all(|file| file.exists()) {
            return Ok(files);
        }
    }
    // apt says nothing of files that are there already: asked in an empty folder, it names all.
    let empty = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let ask = || command::run(apt(empty.path(), &["--print-uris"]).args(&packages));
    let listed = match ask() {
        Ok(listed) => listed,
        // A machine whose lists were never fetched knows no package.
        Err(_) => {
            command::run(Command::new("apt-get").args(["update", "-qq"]))?;
            ask()?
        }
    };
    let mut names: Vec<String> = listed.lines().filter_map(file_name).map(str::to_owned).collect();
    names.sort();
    if names.len() != packages.len() {
        return Err(Error::NoPackage(packages.join(" ")));
    }
    command::run(apt(cache, &[]).args(&packages))?;
    fs::write(&resolved, names.join("\n")).map_err(Error::file(&resolved))?;
    Ok(names.iter().map(|name| cache.join(name)).collect())
}

fn apt(cache: &Path, options: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    // As root, apt would hand downloads to a user who may not write here.
    apt.current_dir(cache).args(["download", "-qq", "-o", "APT::Sandbox::User=root"]).args(options);
    apt
}

/// The file of a line `'address' file size hash`.
fn file_name(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1).filter(|name| name.ends_with(".deb"))
}

pub(super) fn unpack(deb: &Path, root: &Path) -> Result<(), Error> {
    command::run(Command::new("dpkg").arg("-x").arg(deb).arg(root))?;
    Ok(())
}

/// Makes `/bin/<name>` for every applet that no package has.
pub(super) fn link_applets(root: &Path) -> Result<(), Error> {
    let folder = root.join("bin");
    let busybox = folder.join("busybox");
    let applets = command::run(Command::new(&busybox).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let there = ["bin", "sbin", "usr/bin", "usr/sbin"]
            .iter()
            .any(|f| root.join(f).join(applet).is_symlink() || root.join(f).join(applet).exists());
        if !there {
            let link = folder.join(applet);
            symlink("busybox", &link).map_err(Error::file(link))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_list_is_read() {
        let line = "'http://example.com/p/runc_1.1.5_amd64.deb' runc_1.1.5_amd64.deb 2731756 SHA256:1ce0";
        assert_eq!(file_name(line), Some("runc_1.1.5_amd64.deb"));
        assert_eq!(file_name("W: something"), None);
    }
}
