//! The process: what is started in which order, and in which order it stops.
//!
//! Health first, so that the kubelet sees who is there; then the kinds; then the lease; then the work. On the way down the work ends
//! first and the lease is given back last, so that the next leader begins when this one has finished.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::args::Settings;
use crate::client::{self, ConnectError};
use crate::controllers::{self, Parts};
use crate::crd;
use crate::events::Events;
use crate::health::{self, Readiness};
use crate::lease::{Elector, Leadership, LeaseLost};
use crate::metrics::Metrics;
use crate::report::{self, EarlyProgress, EarlyReport, KeyError, ReportKeys};
use crate::shutdown::{self, ShutdownError};
use crate::telemetry::{self, TelemetryError};
use crate::training_job::memory::Jobs;

/// The word for readiness while nothing is.
const START: &str = "start";
/// Reports that were accepted and not yet looked at; a wide run ends 10,000 stages within seconds.
const REPORTS: usize = 4096;
/// Reconciles take milliseconds; Kubernetes kills a Pod 30 s after it was asked to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the process ends other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The log.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Signals.
    #[error(transparent)]
    Shutdown(#[from] ShutdownError),
    /// The API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An address that cannot be listened at.
    #[error("failed to listen at {address}: set {flag} to a free address of this host")]
    Listen {
        /// The flag.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The lease.
    #[error(transparent)]
    Lease(#[from] LeaseLost),
    /// The controllers, which only end when asked to.
    #[error("the controllers ended by themselves")]
    Controllers,
}

impl AppError {
    /// The process's exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Lease(_) => 3,
            _ => 1,
        }
    }
}

/// Runs the operator until it is asked to stop.
///
/// # Errors
/// When it cannot start, or not go on.
pub async fn run(settings: Settings) -> Result<(), AppError> {
    telemetry::start(settings.log_format, &settings.log_level)?;
    let shutdown = shutdown::on_signal()?;
    let settings = Arc::new(settings);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity = %settings.identity, "starting");

    let (metrics, readiness) = (Metrics::new(), Readiness::new());
    readiness.missing(START, "not started");
    let stopped = CancellationToken::new();
    let health = health::router(readiness.clone(), metrics.clone());
    serve("--health-listen", settings.listen.health, health, stopped.clone()).await?;

    let client = client::connect().await?;
    let result = tokio::select! {
        () = crd::wait(&client, &readiness) => {
            let operator = Operator { client, settings, metrics, readiness, shutdown, stopped: stopped.clone() };
            operator.lead().await
        }
        () = shutdown.cancelled() => Ok(()),
    };
    stopped.cancel();
    result
}

/// What is there once the kinds are.
struct Operator {
    client: Client,
    settings: Arc<Settings>,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: CancellationToken,
    /// Ends the servers, after everything else.
    stopped: CancellationToken,
}

impl Operator {
    /// Works as soon as this process leads, and for as long as it does.
    async fn lead(self) -> Result<(), AppError> {
        let (client, readiness) = (self.client.clone(), self.readiness.clone());
        tokio::spawn(async move { crd::watch(&client, &readiness).await });

        let elector = self.settings.lease.clone().map(|lease| Elector::new(self.client.clone(), lease));
        let leadership = elector.as_ref().map_or_else(Leadership::always, Elector::leadership);
        let keys = ReportKeys::random()?;
        let jobs = Jobs::default();
        let (reports, progress) = self.listen_to_reports(&keys, &leadership, &jobs).await?;
        self.readiness.found(START);

        let released = CancellationToken::new();
        let mut keeper = None;
        if let Some(mut elector) = elector {
            tokio::select! {
                () = elector.acquire() => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
            keeper = Some(tokio::spawn(keep(elector, released.clone())));
        }
        self.metrics.set_leader(true);
        let result = tokio::select! {
            lost = lost(&mut keeper) => return Err(lost.into()),
            result = self.work(keys, jobs, reports, progress) => result,
        };
        released.cancel();
        if let Some(keeper) = keeper {
            keeper.await.ok();
        }
        result
    }

    /// The controllers, until they have ended.
    async fn work(
        &self,
        keys: ReportKeys,
        jobs: Jobs,
        reports: mpsc::Receiver<EarlyReport>,
        progress: mpsc::Receiver<EarlyProgress>,
    ) -> Result<(), AppError> {
        let parts = Parts {
            client: self.client.clone(),
            settings: Arc::clone(&self.settings),
            metrics: self.metrics.clone(),
            keys,
            events: Events::new(self.client.clone(), &self.settings.identity, self.metrics.clone()),
            readiness: self.readiness.clone(),
            jobs,
            reports,
            progress,
            shutdown: self.shutdown.clone(),
        };
        let mut controllers = std::pin::pin!(controllers::run(parts));
        tokio::select! {
            () = &mut controllers => {
                // An end that was asked for and an end by itself may be seen in either order.
                return if self.shutdown.is_cancelled() { Ok(()) } else { Err(AppError::Controllers) };
            }
            () = self.shutdown.cancelled() => {}
        }
        if timeout(DRAIN, controllers).await.is_err() {
            tracing::warn!("what was being done did not end within {} s", DRAIN.as_secs());
        }
        Ok(())
    }

    /// Early reports, if Pods know where to send them.
    async fn listen_to_reports(
        &self,
        keys: &ReportKeys,
        leadership: &Leadership,
        jobs: &Jobs,
    ) -> Result<(mpsc::Receiver<EarlyReport>, mpsc::Receiver<EarlyProgress>), AppError> {
        let (accepted, reports) = mpsc::channel(REPORTS);
        let (told, progress) = mpsc::channel(REPORTS);
        if self.settings.report_url.is_some() {
            let router = report::router(keys.clone(), leadership.clone(), self.metrics.clone(), accepted);
            let jobs = jobs.clone();
            let find = move |run_uid: &str, execution: u32| jobs.report_keys(run_uid, execution);
            let progress = report::progress_router(find, leadership.clone(), self.metrics.clone(), told);
            let router = router.merge(progress);
            serve("--report-listen", self.settings.listen.report, router, self.stopped.clone()).await?;
        }
        Ok((reports, progress))
    }
}

/// Keeps the lease until it is lost, or given back.
async fn keep(mut elector: Elector, released: CancellationToken) -> Result<(), LeaseLost> {
    tokio::select! {
        lost = elector.keep() => return Err(lost),
        () = released.cancelled() => {}
    }
    elector.release().await;
    Ok(())
}

/// The loss of the lease. Never without an election.
async fn lost(keeper: &mut Option<JoinHandle<Result<(), LeaseLost>>>) -> LeaseLost {
    if let Some(handle) = keeper
        && let Ok(Err(lost)) = handle.await
    {
        return lost;
    }
    std::future::pending().await
}

/// Listens, and answers in a task of its own until `stopped`.
async fn serve(
    flag: &'static str,
    address: SocketAddr,
    router: Router,
    stopped: CancellationToken,
) -> Result<(), AppError> {
    let listener = TcpListener::bind(address).await.map_err(|source| AppError::Listen { flag, address, source })?;
    tracing::debug!(flag, %address, "listening");
    let server = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned());
    tokio::spawn(server.into_future());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_names_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = serve("--health-listen", address, Router::new(), CancellationToken::new()).await.unwrap_err();
        let expected = format!("failed to listen at {address}: set --health-listen to a free address of this host");
        assert_eq!((error.to_string(), error.exit_code()), (expected, 1));
    }

    #[tokio::test]
    async fn without_an_election_no_lease_is_lost() {
        let mut keeper = None;
        tokio::select! {
            biased;
            lost = lost(&mut keeper) => panic!("{lost}"),
            () = std::future::ready(()) => {}
        }
    }

    #[test]
    fn a_lost_lease_has_its_own_exit_code() {
        let lost = LeaseLost::Taken { lease: "system/trainyard-operator".into(), holder: "two".into() };
        assert_eq!(AppError::from(lost).exit_code(), 3);
        assert_eq!(AppError::Controllers.exit_code(), 1);
    }
}
