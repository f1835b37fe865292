//! Trainyard itself in a cluster: our own images, and the chart as users install it.

use crate::cluster::Cluster;
use crate::{command, image, paths, progress};

/// Namespace of the operator.
pub const NAMESPACE: &str = "trainyard-system";
/// Name of the Helm release.
pub const RELEASE: &str = "trainyard";

/// Trainyard could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image could not be made or loaded.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Helm or kubectl failed.
    #[error(transparent)]
    Command(#[from] command::Error),
}

/// Builds operator and runner, brings them to the cluster and installs or upgrades the chart. `values` are further `--set-json` values.
pub fn up(cluster: &Cluster, values: &[&str]) -> Result<(), Error> {
    let [operator, runner] = ["trainyard-operator", "step-runner"].map(|name| {
        let image = image::build(name)?;
        let reference = image::load(cluster, &image)?;
        Ok::<_, Error>((reference, image.digest))
    });
    let ((operator, digest), (runner, _)) = (operator?, runner?);
    let chart = paths::repository().join("charts/trainyard");
    progress::step("chart trainyard", || {
        let mut helm = cluster.helm();
        helm.args(["upgrade", "--install", RELEASE]).arg(chart).args(["--namespace", NAMESPACE, "--create-namespace"]);
        for (kind, reference) in [("operator", &operator), ("runner", &runner)] {
            let (repository, tag) = reference.rsplit_once(':').unwrap_or((reference, ""));
            helm.arg("--set").arg(format!("image.{kind}.repository={repository},image.{kind}.tag={tag}"));
        }
        // The tag stays the same from build to build: what runs is to follow the content.
        helm.arg("--set-string").arg(format!("podAnnotations.build={}", digest.trim_start_matches("sha256:")));
        for value in values {
            helm.arg("--set-json").arg(value);
        }
        helm.args(["--wait", "--timeout", "120s"]);
        command::run(&mut helm)
    })?;
    Ok(())
}
