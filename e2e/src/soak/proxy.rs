//! A proxy between the operator and the API server at which now and then something goes wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Shared, lock};
use crate::faults::api::Api;

/// How long an answer is kept back that never comes.
const SILENCE: Duration = Duration::from_secs(2);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 500, and nothing was done.
    InternalError,
    /// 429 with Retry-After, and nothing was done.
    TooManyRequests,
    /// 503, and nothing was done.
    Unavailable,
    /// 504, and it was done.
    TimeoutDone,
    /// The connection is cut, and nothing was done.
    Cut,
    /// The connection is cut, and it was done.
    CutDone,
    /// No answer for a while, then the connection is cut; nothing was done.
    Silence,
    /// No answer for a while, then the connection is cut; it was done.
    SilenceDone,
    /// A watch ends in the middle.
    WatchCut,
}

impl Fault {
    /// Those that a request can meet.
    const OF_REQUESTS: [Self; 8] = [
        Self::InternalError,
        Self::TooManyRequests,
        Self::Unavailable,
        Self::TimeoutDone,
        Self::Cut,
        Self::CutDone,
        Self::Silence,
        Self::SilenceDone,
    ];

    /// Whether the request reaches the API server all the same.
    const fn is_done(self) -> bool {
        matches!(self, Self::TimeoutDone | Self::CutDone | Self::SilenceDone)
    }

    /// The answer; `None` = the connection is cut.
    const fn status(self) -> Option<StatusCode> {
        match self {
            Self::InternalError => Some(StatusCode::INTERNAL_SERVER_ERROR),
            Self::TooManyRequests => Some(StatusCode::TOO_MANY_REQUESTS),
            Self::Unavailable => Some(StatusCode::SERVICE_UNAVAILABLE),
            Self::TimeoutDone => Some(StatusCode::GATEWAY_TIMEOUT),
            Self::Cut | Self::CutDone | Self::Silence | Self::SilenceDone | Self::WatchCut => None,
        }
    }
}

/// A proxy that serves as long as this value lives.
pub(super) struct Proxy {
    address: SocketAddr,
    state: Shared<State>,
    task: JoinHandle<()>,
}

struct State {
    dice: fastrand::Rng,
    percent: f64,
    requests: u64,
    faults: BTreeMap<Fault, u64>,
}

impl State {
    /// Whether it happens now, and what.
    fn roll(&mut self) -> Option<Fault> {
        let fault = Fault::OF_REQUESTS[self.dice.usize(0..Fault::OF_REQUESTS.len())];
        self.meets(fault, self.percent)
    }

    /// Whether a watch ends here. It lasts for thousands of events: one in a hundred would be no watch.
    fn roll_watch(&mut self) -> Option<Fault> {
        self.meets(Fault::WatchCut, self.percent / 20.0)
    }

    fn meets(&mut self, fault: Fault, percent: f64) -> Option<Fault> {
        let meets = self.dice.f64() * 100.0 < percent;
        meets.then(|| {
            *self.faults.entry(fault).or_default() += 1;
            fault
        })
    }
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was cut")]
struct Cut;

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl Proxy {
    pub(super) async fn start(api: Api, percent: f64, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let dice = fastrand::Rng::with_seed(seed);
        let state = Shared::new(State { dice, percent, requests: 0, faults: BTreeMap::new() }.into());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, api.clone(), Arc::clone(&shared)));
            }
        });
        Ok(Self { address, state, task })
    }

    /// Faults by their kind, and the number of requests.
    pub(super) fn told(&self) -> (BTreeMap<Fault, u64>, u64) {
        let state = lock(&self.state);
        (state.faults.clone(), state.requests)
    }

    /// Writes the kubeconfig that leads to the API server through this proxy.
    pub(super) fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "operator", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
            "current-context": "proxy",
        });
        Ok(std::fs::write(path, config.to_string())?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, api: Api, state: Shared<State>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        // A task of its own: what was sent is done, also when the operator does not wait for it.
        let task = tokio::spawn(answer(request, api.clone(), Arc::clone(&state)));
        async { task.await.unwrap_or(Err(Cut)) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: http::Request<Incoming>, api: Api, state: Shared<State>) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let watching = head.uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("watch=")));
    let fault = {
        let mut state = lock(&state);
        state.requests += 1;
        state.roll()
    };
    let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let forward = api.forward(head.method, &target, passed_on(head.headers), body);
    if let Some(fault) = fault {
        // A watch has no effect that could be done.
        if fault.is_done() && !watching {
            forward.await.map_err(|_| Cut)?.into_body().collect().await.map_err(|_| Cut)?;
        }
        if matches!(fault, Fault::Silence | Fault::SilenceDone) {
            tokio::time::sleep(SILENCE).await;
        }
        return fault.status().map(refused).ok_or(Cut);
    }
    let (mut answer, incoming) = forward.await.map_err(|_| Cut)?.into_parts();
    answer.headers = passed_on(std::mem::take(&mut answer.headers));
    if !watching {
        let bytes = incoming.collect().await.map_err(|_| Cut)?.to_bytes();
        return Ok(Response::from_parts(answer, whole(bytes)));
    }
    let state = Arc::clone(&state);
    let frames = incoming.into_data_stream();
    let frames = futures::StreamExt::map(frames, move |frame| {
        let frame = frame.map_err(Box::<dyn std::error::Error + Send + Sync>::from)?;
        match lock(&state).roll_watch() {
            Some(_) => Err(Cut.into()),
            None => Ok(hyper::body::Frame::data(frame)),
        }
    });
    Ok(Response::from_parts(answer, http_body_util::StreamBody::new(frames).boxed()))
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// What an API server says that cannot.
fn refused(status: StatusCode) -> Response<Body> {
    let object = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": status.as_u16(),
        "reason": "InternalError", "message": format!("{status}, by the dice"),
    });
    let mut response = Response::new(whole(object.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

/// The headers without those that are about one connection.
fn passed_on(mut headers: HeaderMap) -> HeaderMap {
    for name in [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::ACCEPT_ENCODING,
        header::AUTHORIZATION,
    ] {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_a_hundred_meet_a_fault_of_every_kind() {
        let mut state = State { dice: fastrand::Rng::with_seed(1), percent: 1.0, requests: 0, faults: BTreeMap::new() };
        let met = (0..100_000).filter(|_| state.roll().is_some()).count();
        assert!((800..1200).contains(&met), "{met}");
        assert_eq!(state.faults.len(), Fault::OF_REQUESTS.len());
        state.percent = 0.0;
        assert!((0..10_000).all(|_| state.roll().is_none()));
    }
}
