//! The command line: raw arguments here, checked settings in `settings`.

mod settings;

use std::net::SocketAddr;

use clap::{ArgAction, Parser, ValueEnum};

pub use settings::{ArgumentError, Listen, Settings};

use crate::gang::GangScheduler;

const EXAMPLES: &str = "\
Examples:
  In a cluster, as the chart starts it:
    trainyard-operator --runner-image=registry/step-runner:0.1.0 --leader-election \\
      --report-url=http://trainyard-report.trainyard-system.svc:8090

  On a laptop, against the cluster of the current kubeconfig and two namespaces:
    trainyard-operator --runner-image=localhost:5000/step-runner:dev --namespaces=team-a,team-b \\
      --runner-mount=Init --log-format=text --log-level=info,trainyard_operator=debug

  With a default store for pipelines that name none:
    trainyard-operator --runner-image=... --default-store='{\"uri\": \"s3://artifacts/trainyard\",
      \"s3\": {\"endpoint\": \"http://store.storage:9000\"}, \"credentials\": {\"secretName\": \"store\"}}'

Exit codes:
  0  asked to stop (SIGTERM, SIGINT), and stopped
  1  could not start or go on; the log says why
  2  the arguments are wrong
  3  the lease was lost; start again";

/// Runs the machine-learning pipelines of a Kubernetes cluster: every stage a Pod, every artifact in the team's own store.
#[derive(Clone, Debug, Parser)]
#[command(name = "trainyard-operator", version, after_long_help = EXAMPLES, mut_args(|arg| arg.hide_env_values(true)))]
pub struct Arguments {
    /// Namespaces whose pipelines are run, separated by commas; empty means all
    #[arg(long, env = "TRAINYARD_NAMESPACES", value_name = "NAMES", default_value = "")]
    namespaces: String,

    /// Image with the step-runner, of the same release as this operator
    #[arg(long, env = "TRAINYARD_RUNNER_IMAGE", value_name = "IMAGE")]
    runner_image: String,

    /// When the image of the runner is pulled; by its tag if not said
    #[arg(long, env = "TRAINYARD_RUNNER_IMAGE_PULL_POLICY", value_name = "POLICY", ignore_case = true)]
    runner_image_pull_policy: Option<PullPolicyArgument>,

    /// How the runner comes into the images of stages: as an image volume, by an init container, or as the cluster can
    #[arg(long, env = "TRAINYARD_RUNNER_MOUNT", value_name = "MOUNT", default_value = "Auto", ignore_case = true)]
    runner_mount: RunnerMode,

    /// URL at which Pods reach --report-listen, such as http://trainyard-report.trainyard-system.svc:8090; without it a
    /// stage's end is seen 1.6 s later
    #[arg(long, env = "TRAINYARD_REPORT_URL", value_name = "URL")]
    report_url: Option<String>,

    /// Address at which early reports are taken
    #[arg(long, env = "TRAINYARD_REPORT_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8090")]
    report_listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics
    #[arg(long, env = "TRAINYARD_HEALTH_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    health_listen: SocketAddr,

    /// Work only while holding a Lease: for more than one replica
    #[arg(
        long,
        env = "TRAINYARD_LEADER_ELECTION",
        value_name = "BOOL",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set
    )]
    leader_election: bool,

    /// Namespace of the Lease: that of the operator's Pod
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,

    /// Name of the Lease
    #[arg(long, env = "TRAINYARD_LEASE_NAME", value_name = "NAME", default_value = "trainyard-operator")]
    lease_name: String,

    /// Who this replica is: its Pod's name; host name and process number if not said
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,

    /// Store of pipelines that name none, as the JSON of a pipeline's `store`
    #[arg(long, env = "TRAINYARD_DEFAULT_STORE", value_name = "JSON")]
    default_store: Option<String>,

    /// Resources of stages that name none, as the JSON of a container's `resources`
    #[arg(long, env = "TRAINYARD_DEFAULT_RESOURCES", value_name = "JSON")]
    default_resources: Option<String>,

    /// Timeout of stages that name none, such as 12h; no limit if not said
    #[arg(long, env = "TRAINYARD_DEFAULT_TIMEOUT", value_name = "DURATION")]
    default_timeout: Option<String>,

    /// How long the Pods of succeeded stages stay after their run's end
    #[arg(long, env = "TRAINYARD_POD_TTL", value_name = "DURATION", default_value = "1h")]
    pod_ttl: String,

    /// User, group and fsGroup of stages that name none, or `none` where the cluster gives them (OpenShift)
    #[arg(long, env = "TRAINYARD_RUN_AS_USER", value_name = "NUMBER", default_value = "65532")]
    run_as_user: String,

    /// How many runs are worked on at the same moment
    #[arg(long, env = "TRAINYARD_CONCURRENCY", value_name = "NUMBER", default_value_t = 32)]
    concurrency: u16,

    /// Scheduler that places all ranks of a training or none, if the cluster has it
    #[arg(
        long,
        env = "TRAINYARD_GANG_SCHEDULER",
        value_name = "SCHEDULER",
        default_value = "None",
        ignore_case = true
    )]
    gang_scheduler: GangScheduler,

    /// Its name in the `schedulerName` of Pods; the usual one if not said
    #[arg(long, env = "TRAINYARD_GANG_SCHEDULER_NAME", value_name = "NAME")]
    gang_scheduler_name: Option<String>,

    /// Format of the log
    #[arg(long, env = "TRAINYARD_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    log_format: LogFormat,

    /// What is logged, such as info or warn,trainyard_operator=debug
    #[arg(long, env = "TRAINYARD_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    log_level: String,
}

/// How the runner comes into images: a choice, or the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum RunnerMode {
    /// As an image volume, by an init container from the first node on that cannot.
    Auto,
    /// As an image volume.
    Image,
    /// By an init container.
    Init,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
enum PullPolicyArgument {
    Always,
    IfNotPresent,
    Never,
}

#[cfg(test)]
mod tests;
