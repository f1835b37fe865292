//! Why a benchmark could not be made.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::{build, cluster, command, image, install, store};

/// A benchmark could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster is somebody else's.
    #[error(
        "a benchmark reads the API server's audit log, which only a cluster of ours has\nhint: unset KUBECONFIG, or set TRAINYARD_OWN_CLUSTER=1"
    )]
    ForeignCluster,
    /// No cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// No store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// No image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The recipe of the stamp's image.
    #[error("the recipe of the stamp's image: {0}")]
    Recipe(String),
    /// No Trainyard.
    #[error(transparent)]
    Install(#[from] install::Error),
    /// No program.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// The API server, or the way to it.
    #[error("the API server: {0}")]
    Api(#[source] Box<kube::Error>),
    /// The kubeconfig of the cluster.
    #[error("the kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Something is not the JSON that it should be.
    #[error("not the JSON that it should be: {0}")]
    Json(#[from] serde_json::Error),
    /// No threads.
    #[error("failed to start an asynchronous runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// A file.
    #[error("failed to use {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An address that cannot be listened at.
    #[error("failed to listen at {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The operator does not work.
    #[error("the operator did not become ready; see {log}, which ends with:\n{last}", log = log.display())]
    Operator {
        /// Its log.
        log: PathBuf,
        /// The last lines of that.
        last: String,
    },
    /// The proxy that counts bytes.
    #[error("the proxy that counts bytes: {0}")]
    Proxy(String),
    /// A run ended badly.
    #[error(
        "run {run} ended as {phase}: {message}\nhint: target/bench/operator.log, or the operator's log in the cluster"
    )]
    Run {
        /// Its name.
        run: String,
        /// Its phase.
        phase: &'static str,
        /// Its message.
        message: String,
    },
    /// Something does not come.
    #[error("{what} did not come within {limit:?}\nhint: `cluster status`, and the logs that it names")]
    Slow {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The null engine cannot go on.
    #[error("the null engine: {0}")]
    NullEngine(String),
    /// The runner does not do what it should.
    #[error("the step-runner did not run its step: {0}")]
    Runner(String),
    /// A request is not in the audit log.
    #[error("the audit log does not show {0}\nhint: was it rotated away? `cluster down` and again")]
    NotInAudit(String),
    /// Programs that did not say when they started.
    #[error("{found} of {expected} programs said when they had started")]
    Stamps {
        /// How many should have.
        expected: usize,
        /// How many have.
        found: usize,
    },
    /// The operator ended while it was measured.
    #[error("the operator has ended\nhint: target/bench/operator.log")]
    OperatorGone,
    /// An engine has done too much, or too little.
    #[error("{found} Pods were created instead of {expected}\nhint: target/bench/operator.log")]
    Creates {
        /// How many should have been.
        expected: usize,
        /// How many were.
        found: usize,
    },
    /// A program that is measured ended badly.
    #[error("{program} failed ({status}):\n{said}")]
    Program {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        said: String,
    },
    /// A copy is not what was copied.
    #[error("{arm} has copied {} files of {} bytes together, and there are {} of {}", found.0, found.1, expected.0, expected.1)]
    Copy {
        /// The arm.
        arm: &'static str,
        /// Files and bytes of the original.
        expected: (u64, u64),
        /// Those of the copy.
        found: (u64, u64),
    },
    /// A figure of nothing.
    #[error("{measure}: nothing was measured for {arm}\nhint: --repeat must be at least 1")]
    NoSamples {
        /// The measure.
        measure: String,
        /// The arm.
        arm: String,
    },
    /// A file of an earlier benchmark.
    #[error("{path} is not what a benchmark writes: {source}\nhint: remove it", path = path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The document has no place for figures.
    #[error("{path} lacks the marks between which figures stand", path = .0.display())]
    Marks(PathBuf),
}

impl Error {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}
