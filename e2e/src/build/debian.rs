//! Debian packages that the machine needs, installed when they are missing.

use super::Error;
use crate::{command, progress};
use std::path::Path;
use std::process::Command;

/// A package and a file that shows that it is there, however it came.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Its name in Debian.
    pub name: &'static str,
    /// A file of it.
    pub file: &'static str,
}

/// What a node needs beside the Go programs.
pub const NODE: [Package; 7] = [
    Package { name: "runc", file: "/usr/sbin/runc" },
    Package { name: "containernetworking-plugins", file: "/usr/lib/cni/bridge" },
    Package { name: "iproute2", file: "/usr/sbin/ip" },
    Package { name: "iptables", file: "/usr/sbin/iptables" },
    Package { name: "nftables", file: "/usr/sbin/nft" },
    Package { name: "conntrack", file: "/usr/sbin/conntrack" },
    Package { name: "mount", file: "/usr/bin/mount" },
];

/// What images with Python wheels need.
pub const PYTHON: [Package; 1] = [Package { name: "python3-pip", file: "/usr/bin/pip3" }];

/// Installs those of `packages` that are missing, or says which they are when this user may not.
pub fn ensure(packages: &[Package]) -> Result<(), Error> {
    let missing: Vec<&str> = packages.iter().filter(|p| !Path::new(p.file).exists()).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !rustix::process::geteuid().is_root() || !command::on_path("apt-get") {
        return Err(Error::Missing { packages });
    }
    let apt = |arguments: &[&str]| {
        command::run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
            .map_err(|source| Error::Build { what: format!("the Debian packages {packages}"), source })
    };
    progress::step(&format!("installing {packages}"), || {
        apt(&["update", "-qq"])?;
        let options = ["install", "-y", "-qq", "--no-install-recommends"];
        apt(&[&options[..], &missing].concat()).map(drop)
    })
}
