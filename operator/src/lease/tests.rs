//! Electors against a lease in memory, in paused time.

use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;

use super::*;

/// One Lease as the API server keeps it.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    version: u64,
    down: bool,
    writes: u32,
}

impl Server {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                let (status, body) = server.answer(&method, &body);
                let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(response.unwrap())
            }
        });
        kube::Client::new(service, "system")
    }

    fn answer(&self, method: &Method, body: &[u8]) -> (StatusCode, serde_json::Value) {
        let mut state = self.0.lock().unwrap();
        let status = |code: StatusCode| {
            let reason = code.canonical_reason().unwrap_or_default().replace(' ', "");
            let message = format!("{reason}: so says the test");
            let code_number = code.as_u16();
            (code, json!({"status": "Failure", "code": code_number, "reason": reason, "message": message}))
        };
        if state.down {
            return status(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if *method == Method::GET {
            return match &state.lease {
                Some(lease) => (StatusCode::OK, json!(lease)),
                None => status(StatusCode::NOT_FOUND),
            };
        }
        let mut lease: Lease = serde_json::from_slice(body).unwrap();
        let current = state.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if current != lease.metadata.resource_version {
            return status(StatusCode::CONFLICT);
        }
        state.version += 1;
        state.writes += 1;
        lease.metadata.resource_version = Some(state.version.to_string());
        state.lease = Some(lease.clone());
        (StatusCode::OK, json!(lease))
    }

    fn elector(&self, identity: &str) -> Elector {
        let settings =
            LeaseSettings { namespace: "system".into(), name: "trainyard-operator".into(), identity: identity.into() };
        Elector::new(self.client(), settings)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn holder(&self) -> Option<String> {
        self.0.lock().unwrap().lease.as_ref()?.spec.as_ref()?.holder_identity.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_leads_at_once_and_the_second_waits() {
    let server = Server::default();
    let (mut one, mut two) = (server.elector("one"), server.elector("two"));
    let began = Instant::now();
    one.acquire().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(one.leadership().is_leader() && !two.leadership().is_leader());
    tokio::select! {
        lost = one.keep() => panic!("{lost}"),
        () = two.acquire() => panic!("two leaders"),
        () = sleep(Duration::from_secs(3600)) => {}
    }
    assert_eq!(server.holder().as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn a_crashed_leaders_lease_runs_out() {
    let server = Server::default();
    let mut one = server.elector("one");
    one.acquire().await;
    drop(one);
    let began = Instant::now();
    server.elector("two").acquire().await;
    let waited = began.elapsed();
    assert!(waited >= DURATION && waited <= DURATION + RETRY, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_the_next_look() {
    let server = Server::default();
    let (mut one, mut two) = (server.elector("one"), server.elector("two"));
    one.acquire().await;
    let leadership = one.leadership();
    one.release().await;
    assert!(!leadership.is_leader());
    let began = Instant::now();
    two.acquire().await;
    assert_eq!((began.elapsed(), server.holder().as_deref()), (Duration::ZERO, Some("two")));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_replica_takes_its_own_lease_at_once() {
    let server = Server::default();
    server.elector("one").acquire().await;
    let began = Instant::now();
    server.elector("one").acquire().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_anybody_else_may_begin() {
    let server = Server::default();
    let mut one = server.elector("one");
    one.acquire().await;
    server.change(|state| state.down = true);
    let began = Instant::now();
    let lost = one.keep().await;
    assert!(matches!(lost, LeaseLost::Expired { .. }), "{lost}");
    assert!(began.elapsed() >= RENEW_DEADLINE && began.elapsed() < DURATION, "{:?}", began.elapsed());
    assert!(!one.leadership().is_leader());
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_deadline_loses_nothing() {
    let server = Server::default();
    let mut one = server.elector("one");
    one.acquire().await;
    server.change(|state| state.down = true);
    let outage = async {
        sleep(RENEW_DEADLINE - RETRY * 2).await;
        server.change(|state| state.down = false);
        sleep(Duration::from_secs(60)).await;
    };
    tokio::select! {
        lost = one.keep() => panic!("{lost}"),
        () = outage => {}
    }
    assert!(one.leadership().is_leader());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_took_is_lost() {
    let server = Server::default();
    let mut one = server.elector("one");
    one.acquire().await;
    server.change(|state| {
        let lease = state.lease.as_mut().unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("two".into());
        lease.metadata.resource_version = Some("99".into());
    });
    let lost = one.keep().await;
    assert_eq!(lost.to_string(), "the lease system/trainyard-operator was taken by two");
    one.release().await;
    assert_eq!((server.holder().as_deref(), server.0.lock().unwrap().writes), (Some("two"), 1));
}
