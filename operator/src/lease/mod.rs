//! Leader election by a `Lease`: one of several replicas works, the others wait.
//!
//! Correctness never depends on it: names are deterministic and status has a precondition, so a second process that believes itself
//! the leader repeats writes and loses conflicts. The lease keeps that from happening all day. Losing it ends the process, which
//! is the only way to be sure that nothing of it goes on.
//!
//! `decision` is the rule as a pure function; here are the requests and the clock. As in client-go, another holder's lease has run
//! out when *we* have seen it unchanged for its duration, so clocks of different machines are never compared. No crate was taken:
//! the one that speaks this version of kube takes leases by server-side apply, has no renew deadline, and is ten times as long.

mod decision;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use decision::{Decision, decide};

use crate::telemetry;

/// How long a lease is good for after its last renewal.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long stops, well before anybody else may begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks or renewals.
const RETRY: Duration = Duration::from_secs(2);

/// Which lease, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who asks: the Pod's name, unique among the replicas.
    pub identity: String,
}

/// The leader could not renew its lease in time.
#[derive(Debug, thiserror::Error)]
pub enum LeaseLost {
    /// Somebody else holds it.
    #[error("the lease {lease} was taken by {holder}")]
    Taken {
        /// Namespace and name.
        lease: String,
        /// Who holds it.
        holder: String,
    },
    /// The API server did not take a renewal.
    #[error("the lease {lease} could not be renewed for {} s: {last_error}", RENEW_DEADLINE.as_secs())]
    Expired {
        /// Namespace and name.
        lease: String,
        /// What the last try said.
        last_error: String,
    },
}

/// Whether this process leads, for everybody who must know.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Without election there is one process, and it leads.
    #[must_use]
    pub fn always() -> Self {
        Self(watch::Sender::new(true).subscribe())
    }

    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(watch::Sender::new(false).subscribe())
    }

    /// Whether this process leads now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        *self.0.borrow()
    }
}

/// One replica's part in the election.
pub struct Elector {
    api: Api<Lease>,
    settings: LeaseSettings,
    leads: watch::Sender<bool>,
    /// The lease as last seen or written, and since when it has been so.
    seen: Option<(Lease, Instant)>,
}

impl Elector {
    /// Nobody leads yet.
    #[must_use]
    pub fn new(client: kube::Client, settings: LeaseSettings) -> Self {
        let api = Api::namespaced(client, &settings.namespace);
        Self { api, settings, leads: watch::Sender::new(false), seen: None }
    }

    /// What this replica is at any time.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership(self.leads.subscribe())
    }

    /// Waits until this process leads. May be dropped at any time.
    pub async fn acquire(&mut self) {
        tracing::info!(lease = %self.label(), identity = %self.settings.identity, "waiting for the lease");
        loop {
            // Not longer than a renewal may take: what was granted would have run out otherwise.
            match timeout(RENEW_DEADLINE, self.attempt()).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    let error = telemetry::chain(&error);
                    tracing::warn!(lease = %self.label(), error, "failed to ask for the lease");
                }
                Err(_) => tracing::warn!(lease = %self.label(), "failed to ask for the lease: no answer"),
            }
            sleep(RETRY).await;
        }
        self.leads.send_replace(true);
        tracing::info!(lease = %self.label(), identity = %self.settings.identity, "leading");
    }

    /// Renews the lease until it is lost. Dropping it stops renewing and gives nothing back.
    pub async fn keep(&mut self) -> LeaseLost {
        let mut renewed = Instant::now();
        let mut last_error = "no answer".to_owned();
        let lost = loop {
            sleep(RETRY).await;
            let asked = Instant::now();
            let left = RENEW_DEADLINE.saturating_sub(asked - renewed);
            match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) if self.holder() != self.settings.identity => {
                    break LeaseLost::Taken { lease: self.label(), holder: self.holder().to_owned() };
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => last_error = telemetry::chain(&error),
                Err(_) => {}
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                break LeaseLost::Expired { lease: self.label(), last_error };
            }
        };
        self.leads.send_replace(false);
        lost
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release(mut self) {
        self.leads.send_replace(false);
        let Some((lease, _)) = self.seen.take() else { return };
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(&self.settings.identity) {
            return;
        }
        let released = decision::released(&lease);
        let params = PostParams::default();
        let write = self.api.replace(&self.settings.name, &params, &released);
        match timeout(RETRY, write).await {
            Ok(Ok(_)) => tracing::info!(lease = %self.label(), "released the lease"),
            Ok(Err(error)) => tracing::warn!(lease = %self.label(), %error, "failed to release the lease"),
            Err(_) => tracing::warn!(lease = %self.label(), "failed to release the lease: no answer"),
        }
    }

    /// Looks, and writes if the rule says so. `true` when the lease is ours from now on.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let current = self.api.get_opt(&self.settings.name).await?;
        let unchanged = self.see(current.as_ref());
        let now = Timestamp::now();
        let params = PostParams::default();
        let written = match decide(current.as_ref(), unchanged, now, &self.settings) {
            Decision::Wait => return Ok(false),
            Decision::Create(lease) => self.api.create(&params, &lease).await,
            Decision::Replace(lease) => self.api.replace(&self.settings.name, &params, &lease).await,
        };
        match written {
            Ok(lease) => {
                self.see(Some(&lease));
                Ok(true)
            }
            // Somebody else was faster; the next look says who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Remembers the lease, and says for how long it has been as it is.
    fn see(&mut self, lease: Option<&Lease>) -> Duration {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        match (&self.seen, lease) {
            (Some((seen, since)), Some(lease)) if version(seen) == version(lease) => return since.elapsed(),
            (_, lease) => self.seen = lease.map(|lease| (lease.clone(), Instant::now())),
        }
        Duration::ZERO
    }

    fn holder(&self) -> &str {
        let spec = self.seen.as_ref().and_then(|(lease, _)| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or("nobody")
    }

    fn label(&self) -> String {
        format!("{}/{}", self.settings.namespace, self.settings.name)
    }
}

#[cfg(test)]
mod tests;
