//! Brings images to where a cluster finds them.

use super::{Error, Image};
use crate::build::Product;
use crate::cluster::Cluster;
use crate::command;
use crate::paths::Directories;
use std::env;
use std::path::Path;
use std::process::Command;

/// The way to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The runtime of a cluster of ours.
    Own,
    /// The nodes of a cluster of kind, by its name.
    Kind(String),
    /// A registry that the cluster pulls from.
    Registry(String),
}

impl Destination {
    /// Chooses by whose the cluster is, what is set, and what its context is called.
    pub fn of(cluster: &Cluster) -> Result<Self, Error> {
        if cluster.plan().is_some() {
            return Ok(Self::Own);
        }
        let registry = env::var("TRAINYARD_REGISTRY").ok().filter(|value| !value.is_empty());
        let context = command::run(cluster.kubectl().args(["config", "current-context"]))?;
        Self::choose(registry, context.trim())
    }

    fn choose(registry: Option<String>, context: &str) -> Result<Self, Error> {
        match (registry, context.strip_prefix("kind-")) {
            (Some(registry), _) => Ok(Self::Registry(registry)),
            (None, Some(name)) => Ok(Self::Kind(name.to_owned())),
            (None, None) => Err(Error::NoWay(context.to_owned())),
        }
    }

    /// The name under which the cluster finds `image`.
    #[must_use]
    pub fn reference(&self, image: &Image) -> String {
        match self {
            Self::Own | Self::Kind(_) => image.reference.clone(),
            Self::Registry(registry) => {
                let name = image.reference.trim_start_matches("localhost/");
                format!("{}/{name}", registry.trim_end_matches('/'))
            }
        }
    }
}

/// Loads `image` and returns the name under which the cluster finds it.
pub fn load(cluster: &Cluster, image: &Image) -> Result<String, Error> {
    let destination = Destination::of(cluster)?;
    let reference = destination.reference(image);
    match (&destination, cluster.plan()) {
        (Destination::Own, Some(plan)) => import(&cluster.program("ctr"), &plan.runtime_socket(), image)?,
        (Destination::Kind(name), _) => {
            let archive = image.archive.display().to_string();
            command::run(cluster.command("kind").args(["load", "image-archive", &archive, "--name", name]))?;
        }
        (Destination::Registry(_), _) => push(image, &reference)?,
        (Destination::Own, None) => {}
    }
    Ok(reference)
}

/// Imports `image` into the runtime at `socket`, unless it has that very one.
pub(crate) fn import(ctr: &Path, socket: &Path, image: &Image) -> Result<(), Error> {
    let ctr = || {
        let mut command = Command::new(ctr);
        command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images"]);
        command
    };
    let filter = format!("name=={}", image.reference);
    let listed = command::run(ctr().args(["list", &filter]))?;
    if !listed.contains(&image.digest) {
        command::run(ctr().args(["import", "--digests"]).arg(&image.archive))?;
    }
    Ok(())
}

/// crane pushes layouts that are folders, and archives of another format: so unpack.
fn push(image: &Image, reference: &str) -> Result<(), Error> {
    let crane = Product::Crane
        .ensure(&Directories::from_env())
        .map_err(|source| Error::Build { image: image.reference.clone(), source: Box::new(source) })?
        .join("crane");
    let folder = tempfile::tempdir().map_err(Error::file(env::temp_dir()))?;
    let file = std::fs::File::open(&image.archive).map_err(Error::file(&image.archive))?;
    tar::Archive::new(file).unpack(folder.path()).map_err(Error::file(folder.path()))?;
    command::run(Command::new(crane).arg("push").arg(folder.path()).arg(reference))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_preferred_then_kind() {
        let registry = || Some("registry.example.com/team/".to_owned());
        assert_eq!(Destination::choose(None, "kind-dev").unwrap(), Destination::Kind("dev".to_owned()));
        let chosen = Destination::choose(registry(), "kind-dev").unwrap();
        let image =
            Image { reference: "localhost/trainyard/busybox:1".to_owned(), digest: String::new(), archive: "x".into() };
        assert_eq!(chosen.reference(&image), "registry.example.com/team/trainyard/busybox:1");
        assert!(matches!(Destination::choose(None, "prod"), Err(Error::NoWay(context)) if context == "prod"));
    }
}
