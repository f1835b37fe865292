//! Checked settings. Every error names the flag and says what to do.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use trainyard_crds::v1alpha1::{Store, duration_seconds};

use super::{Arguments, LogFormat, PullPolicyArgument, RunnerMode};
use crate::gang::GangScheduler;
use crate::lease::LeaseSettings;
use crate::pod::{PodSettings, PullPolicy};

/// All that the installation decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Namespaces whose pipelines are run, in order; empty = all.
    pub namespaces: Vec<String>,
    /// What every Pod is made with.
    pub pod: PodSettings,
    /// How the runner comes into images.
    pub runner_mode: RunnerMode,
    /// URL at which Pods reach the report endpoint, without a slash at its end; `None` = no early reports.
    pub report_url: Option<String>,
    /// Addresses of this process.
    pub listen: Listen,
    /// The lease to hold; `None` = no election.
    pub lease: Option<LeaseSettings>,
    /// Who this process is, in events and in the lease.
    pub identity: String,
    /// Store of pipelines that name none.
    pub default_store: Option<Store>,
    /// Timeout of stages that name none.
    pub default_timeout: Option<Duration>,
    /// How long succeeded Pods stay after their run's end.
    pub pod_ttl: Duration,
    /// How many runs are worked on at the same moment.
    pub concurrency: u16,
    /// Scheduler that places all ranks of a training or none.
    pub gang_scheduler: GangScheduler,
    /// Its name in Pods; `None` = the usual one.
    pub gang_scheduler_name: Option<String>,
    /// Format of the log.
    pub log_format: LogFormat,
    /// What is logged, as a filter that is known to be one.
    pub log_level: String,
}

/// Where this process listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Of early reports.
    pub report: SocketAddr,
    /// Of health and metrics.
    pub health: SocketAddr,
}

/// An argument that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// A namespace that none can have.
    #[error(
        "--namespaces: {name:?} is not the name of a namespace: give names separated by commas, or nothing for all namespaces"
    )]
    Namespace {
        /// What was given.
        name: String,
    },
    /// An empty image, or one with white space.
    #[error(
        "--runner-image: {image:?} is not an image: give one such as registry/step-runner:0.1.0, of the release of this operator"
    )]
    RunnerImage {
        /// What was given.
        image: String,
    },
    /// Not the URL of a plain HTTP server.
    #[error(
        "--report-url: {url:?} is not an http:// URL: give the Service in front of --report-listen, such as http://trainyard-report.trainyard-system.svc:8090"
    )]
    ReportUrl {
        /// What was given.
        url: String,
    },
    /// An election without a place for its lease.
    #[error(
        "--leader-election needs --lease-namespace: set it, or POD_NAMESPACE from metadata.namespace of the operator's Pod"
    )]
    LeaseNamespace,
    /// JSON that is not what it should be.
    #[error("{flag}: {source}: give the JSON of {what}")]
    Json {
        /// The flag.
        flag: &'static str,
        /// What it takes.
        what: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// JSON with more in it than it can have.
    #[error("{flag}: there is no {keys}: correct or remove that, and give the JSON of {what}")]
    UnknownKeys {
        /// The flag.
        flag: &'static str,
        /// What it takes.
        what: &'static str,
        /// Paths of what is too much.
        keys: String,
    },
    /// A store that is neither a bucket nor a volume, or both.
    #[error("--default-store: exactly one of uri and volume is required, and s3 and credentials go with a uri")]
    DefaultStore,
    /// Not a duration.
    #[error("{flag}: {text:?} is not a duration: give one such as 90s, 30m, 12h or 2d")]
    Duration {
        /// The flag.
        flag: &'static str,
        /// What was given.
        text: String,
    },
    /// Not a user.
    #[error(
        "--run-as-user: {text:?} is not a user: give a number above 0, or `none` where the cluster gives users to Pods"
    )]
    RunAsUser {
        /// What was given.
        text: String,
    },
    /// Nothing would ever be done.
    #[error("--concurrency: 0 runs at a time is none: give at least 1")]
    Concurrency,
    /// Not a filter.
    #[error("--log-level: {source}: give a level such as info, or a filter such as warn,trainyard_operator=debug")]
    LogLevel {
        /// What is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
}

impl TryFrom<Arguments> for Settings {
    type Error = ArgumentError;

    fn try_from(arguments: Arguments) -> Result<Self, ArgumentError> {
        let Arguments {
            namespaces,
            runner_image,
            runner_image_pull_policy,
            runner_mount,
            report_url,
            report_listen,
            health_listen,
            leader_election,
            lease_namespace,
            lease_name,
            identity,
            default_store,
            default_resources,
            default_timeout,
            pod_ttl,
            run_as_user,
            concurrency,
            gang_scheduler,
            gang_scheduler_name,
            log_format,
            log_level,
        } = arguments;
        if runner_image.is_empty() || runner_image.contains(char::is_whitespace) {
            return Err(ArgumentError::RunnerImage { image: runner_image });
        }
        if concurrency == 0 {
            return Err(ArgumentError::Concurrency);
        }
        tracing_subscriber::EnvFilter::try_new(&log_level).map_err(|source| ArgumentError::LogLevel { source })?;
        let identity = identity.filter(|name| !name.is_empty()).unwrap_or_else(host_identity);
        Ok(Self {
            namespaces: parse_namespaces(&namespaces)?,
            pod: PodSettings {
                runner_image,
                runner_pull_policy: runner_image_pull_policy.map(PullPolicy::from),
                run_as_user: parse_user(&run_as_user)?,
                default_resources: parse_json("--default-resources", RESOURCES, default_resources)?,
            },
            runner_mode: runner_mount,
            report_url: report_url.filter(|url| !url.is_empty()).map(parse_url).transpose()?,
            listen: Listen { report: report_listen, health: health_listen },
            lease: leader_election.then(|| parse_lease(lease_namespace, lease_name, &identity)).transpose()?,
            identity,
            default_store: parse_store(default_store)?,
            default_timeout: default_timeout
                .filter(|text| !text.is_empty())
                .map(|text| parse_duration("--default-timeout", &text))
                .transpose()?,
            pod_ttl: parse_duration("--pod-ttl", &pod_ttl)?,
            concurrency,
            gang_scheduler,
            gang_scheduler_name: gang_scheduler_name.filter(|name| !name.is_empty()),
            log_format,
            log_level,
        })
    }
}

const STORE: &str = r#"a pipeline's `store`, such as {"uri": "s3://bucket/prefix"}"#;
const RESOURCES: &str = r#"a container's `resources`, such as {"requests": {"cpu": "250m"}}"#;

impl From<PullPolicyArgument> for PullPolicy {
    fn from(policy: PullPolicyArgument) -> Self {
        match policy {
            PullPolicyArgument::Always => Self::Always,
            PullPolicyArgument::IfNotPresent => Self::IfNotPresent,
            PullPolicyArgument::Never => Self::Never,
        }
    }
}

/// Sorted and each once, so that nothing is watched twice.
fn parse_namespaces(text: &str) -> Result<Vec<String>, ArgumentError> {
    let mut names = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let dns = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.len() > 63 || !name.chars().all(dns) || name.starts_with('-') || name.ends_with('-') {
            return Err(ArgumentError::Namespace { name: name.to_owned() });
        }
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn parse_url(url: String) -> Result<String, ArgumentError> {
    let trimmed = url.trim_end_matches('/');
    let valid = trimmed.parse::<axum::http::Uri>().is_ok_and(|parsed| {
        parsed.scheme_str() == Some("http")
            && parsed.host().is_some_and(|host| !host.is_empty())
            && parsed.query().is_none()
    });
    if valid { Ok(trimmed.to_owned()) } else { Err(ArgumentError::ReportUrl { url }) }
}

fn parse_lease(namespace: Option<String>, name: String, identity: &str) -> Result<LeaseSettings, ArgumentError> {
    let namespace = namespace.filter(|name| !name.is_empty()).ok_or(ArgumentError::LeaseNamespace)?;
    Ok(LeaseSettings { namespace, name, identity: identity.to_owned() })
}

/// What the schema says about a pipeline's store holds here too.
fn parse_store(json: Option<String>) -> Result<Option<Store>, ArgumentError> {
    let Some(store) = parse_json::<Store>("--default-store", STORE, json)? else { return Ok(None) };
    let bucket = store.uri.is_some();
    let of_bucket = store.s3.is_some() || store.credentials.is_some();
    if bucket == store.volume.is_some() || (of_bucket && !bucket) {
        return Err(ArgumentError::DefaultStore);
    }
    Ok(Some(store))
}

fn parse_json<T: DeserializeOwned>(
    flag: &'static str,
    what: &'static str,
    json: Option<String>,
) -> Result<Option<T>, ArgumentError> {
    let Some(json) = json.filter(|json| !json.trim().is_empty()) else { return Ok(None) };
    let wrong = |source| ArgumentError::Json { flag, what, source };
    let mut unknown = Vec::new();
    let mut text = serde_json::Deserializer::from_str(&json);
    let value = serde_ignored::deserialize(&mut text, |path| unknown.push(path.to_string().replace("?.", "")))
        .map_err(wrong)?;
    text.end().map_err(wrong)?;
    // In an object the API server would say so; here a setting that is misspelt would be none.
    if unknown.is_empty() {
        Ok(Some(value))
    } else {
        Err(ArgumentError::UnknownKeys { flag, what, keys: unknown.join(", ") })
    }
}

fn parse_duration(flag: &'static str, text: &str) -> Result<Duration, ArgumentError> {
    duration_seconds(text)
        .map(Duration::from_secs)
        .ok_or_else(|| ArgumentError::Duration { flag, text: text.to_owned() })
}

fn parse_user(text: &str) -> Result<Option<i64>, ArgumentError> {
    match text {
        "none" => Ok(None),
        number => match number.parse::<i32>() {
            Ok(user) if user > 0 => Ok(Some(i64::from(user))),
            _ => Err(ArgumentError::RunAsUser { text: text.to_owned() }),
        },
    }
}

/// Outside of a Pod: two processes of one host must not hold one lease.
fn host_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "trainyard-operator" } else { host.trim() };
    format!("{host}-{}", std::process::id())
}
