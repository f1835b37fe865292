//! S3 stores to test against: versitygw in the cluster, or as a process of this machine.
//!
//! Both take path-style addresses and the region `us-east-1`. Data is gone with the Pod or the process.

mod local;

pub use local::LocalVersity;

use crate::cluster::Cluster;
use crate::{build, command, image, paths, progress};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// The namespace that is taken when none is said.
pub const NAMESPACE: &str = "trainyard-store";
/// The bucket that every store here has.
pub const BUCKET: &str = "trainyard";
/// The region that clients sign for.
pub const REGION: &str = "us-east-1";
/// The Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
pub const SECRET: &str = "store-credentials";
/// The access key of the store in the cluster.
pub const ACCESS_KEY: &str = "trainyard";
/// The secret key of the store in the cluster: data of tests, reachable inside of the cluster only.
pub const SECRET_KEY: &str = "trainyard-for-tests";

/// A store could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not be built.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// Its image could not be made or loaded.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// A file could not be read or written.
    #[error("failed to use {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The process does not answer.
    #[error("the store does not answer within {limit:?}; its last words:\n{last}")]
    NotReady {
        /// How long it was waited for.
        limit: Duration,
        /// The last lines of its log.
        last: String,
    },
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Where a store is and how it is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `http://host:port`.
    pub endpoint: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// A bucket that exists.
    pub bucket: String,
}

impl Access {
    /// The variables that the store tests of `step-runner` read.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, &str); 5] {
        [
            ("TRAINYARD_TEST_S3_ENDPOINT", &self.endpoint),
            ("TRAINYARD_TEST_S3_BUCKET", &self.bucket),
            ("AWS_ACCESS_KEY_ID", &self.access_key),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_key),
            ("AWS_REGION", REGION),
        ]
    }
}

/// Starts a store in `namespace` of the cluster, or leaves it as it is, and waits until it answers.
pub fn up(cluster: &Cluster, namespace: &str) -> Result<Access, Error> {
    let [server, busybox] = ["versitygw", "busybox"].map(|name| {
        let image = image::build(name)?;
        image::load(cluster, &image)
    });
    let path = paths::repository().join("e2e/manifests/store.yaml");
    let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
    let manifest = render(&text, namespace, &server?, &busybox?);
    let mut file = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
    file.write_all(manifest.as_bytes()).map_err(Error::file(file.path()))?;
    command::run(cluster.kubectl().args(["apply", "-f"]).arg(file.path()))?;
    progress::step(&format!("store in namespace {namespace}"), || {
        let wait = ["rollout", "status", "deployment/store", "--timeout=120s", "--namespace", namespace];
        command::run(cluster.kubectl().args(wait))
    })?;
    Ok(access(namespace))
}

/// The store of [`up`], as Pods of the cluster reach it.
#[must_use]
pub fn access(namespace: &str) -> Access {
    Access {
        endpoint: format!("http://store.{namespace}.svc:9000"),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        bucket: BUCKET.to_owned(),
    }
}

/// The manifest stands for itself, with our defaults; here they are replaced.
fn render(manifest: &str, namespace: &str, server: &str, busybox: &str) -> String {
    let line = |line: &str| {
        let indent = &line[..line.len() - line.trim_start().len()];
        match line.trim_start().trim_start_matches("- ") {
            rest if rest == format!("namespace: {NAMESPACE}") => format!("{indent}namespace: {namespace}\n"),
            rest if rest == format!("name: {NAMESPACE}") => format!("{indent}name: {namespace}\n"),
            rest if rest.starts_with("image: localhost/trainyard/versitygw:") => format!("{indent}image: {server}\n"),
            rest if rest.starts_with("image: localhost/trainyard/busybox:") => format!("{indent}image: {busybox}\n"),
            _ => format!("{line}\n"),
        }
    };
    manifest.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_and_images_are_replaced_and_nothing_else() {
        let manifest = std::fs::read_to_string(paths::repository().join("e2e/manifests/store.yaml")).unwrap();
        let rendered = render(&manifest, "team-a", "registry/versitygw:1", "registry/busybox:1");
        assert!(!rendered.contains(NAMESPACE) && !rendered.contains("localhost/"), "{rendered}");
        assert!(rendered.contains("name: team-a\n") && rendered.contains("image: registry/busybox:1\n"));
        assert_eq!(manifest.lines().count(), rendered.lines().count());
    }

    #[test]
    fn the_manifest_has_the_keys_that_are_told() {
        let manifest = std::fs::read_to_string(paths::repository().join("e2e/manifests/store.yaml")).unwrap();
        for part in [ACCESS_KEY, SECRET_KEY, SECRET, BUCKET] {
            assert!(manifest.contains(part), "{part}");
        }
    }
}
