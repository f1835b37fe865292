//! Class G: the way between runners and their S3 server, on which requests are counted and the faults of the case happen.
//!
//! Every Pod has an address of its own, so that it is known whose request it is. Bodies are small here and are passed on whole.

use super::fault::{Fault, Place, Strike};
use super::history::{Recorder, What};
use super::kubelet::Runners;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type Answer = Response<BoxBody<Bytes, Cut>>;

#[derive(Debug, thiserror::Error)]
#[error("the connection was cut")]
struct Cut;

/// The way to a store. Its listeners end with it.
pub struct StoreProxy {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    client: Client<HttpConnector, Full<Bytes>>,
    /// `host:port` of the server.
    server: String,
    strikes: Vec<Strike>,
    requests: AtomicU32,
    runners: Arc<Runners>,
    recorder: Recorder,
}

impl StoreProxy {
    /// A way to the server at this endpoint, `http://host:port`.
    #[must_use]
    pub fn new(endpoint: &str, strikes: &[Strike], runners: &Arc<Runners>, recorder: &Recorder) -> Self {
        let shared = Shared {
            client: Client::builder(TokioExecutor::new()).build_http(),
            server: endpoint.trim_start_matches("http://").to_owned(),
            strikes: strikes.to_vec(),
            requests: AtomicU32::new(0),
            runners: Arc::clone(runners),
            recorder: recorder.clone(),
        };
        Self { shared: Arc::new(shared), listeners: Mutex::default() }
    }

    /// The endpoint for the runner of one Pod.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn endpoint(&self, uid: &str) -> Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for the store")?;
        let address = listener.local_addr()?;
        let (shared, uid) = (Arc::clone(&self.shared), Arc::<str>::from(uid));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (shared, uid) = (Arc::clone(&shared), Arc::clone(&uid));
                let service = service_fn(move |request| Arc::clone(&shared).answer(Arc::clone(&uid), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        Ok(format!("http://{address}"))
    }

    /// How many requests there were.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for StoreProxy {
    fn drop(&mut self) {
        for task in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            task.abort();
        }
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, uid: Arc<str>, request: Request<Incoming>) -> Result<Answer, Cut> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let strike = self.strikes.iter().copied().find(|strike| strike.place == Place::Store(number));
        let Some(strike) = strike else {
            let (parts, body) = self.pass(head, body).await?;
            return Ok(Response::from_parts(parts, whole(body)));
        };
        self.recorder.push(What::Fault(strike.to_string()));
        match strike.fault {
            Fault::StoreInternalError => Ok(refusal(500, "InternalError")),
            Fault::StoreSlowDown => Ok(refusal(503, "SlowDown")),
            Fault::StoreDenied => Ok(refusal(403, "ExpiredToken")),
            Fault::StoreReset => Err(Cut),
            Fault::RunnerKilledBefore => {
                self.runners.kill(&uid);
                Err(Cut)
            }
            fault => {
                let (mut parts, body) = self.pass(head, body).await?;
                match fault {
                    Fault::StoreLostReply => Err(Cut),
                    Fault::RunnerKilledAfter => {
                        self.runners.kill(&uid);
                        Err(Cut)
                    }
                    Fault::StoreCut => Ok(Response::from_parts(parts, cut(body.slice(..body.len() / 2)))),
                    Fault::StoreShort => {
                        parts.headers.remove(header::CONTENT_LENGTH);
                        Ok(Response::from_parts(parts, whole(body.slice(..body.len() / 2))))
                    }
                    Fault::StoreBitFlip => {
                        let mut bytes = body.to_vec();
                        let middle = bytes.len() / 2;
                        if let Some(byte) = bytes.get_mut(middle) {
                            *byte ^= 1;
                        }
                        Ok(Response::from_parts(parts, whole(bytes.into())))
                    }
                    _ => Ok(Response::from_parts(parts, whole(body))),
                }
            }
        }
    }

    /// Signed for the address that the runner knows: the headers go on as they are.
    async fn pass(&self, head: http::request::Parts, body: Bytes) -> Result<(http::response::Parts, Bytes), Cut> {
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::builder().method(head.method).uri(format!("http://{}{target}", self.server));
        if let Some(headers) = request.headers_mut() {
            *headers = head.headers;
            headers.remove(header::CONNECTION);
            headers.remove(header::TRANSFER_ENCODING);
        }
        let request = request.body(Full::new(body)).map_err(|_| Cut)?;
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => {
                self.recorder.push(What::Trouble(format!("the store does not answer: {error}")));
                return Err(Cut);
            }
        };
        let (mut parts, body) = response.into_parts();
        parts.headers.remove(header::CONNECTION);
        parts.headers.remove(header::TRANSFER_ENCODING);
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        Ok((parts, body))
    }
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, Cut> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// These bytes, and then the end of the connection.
fn cut(bytes: Bytes) -> BoxBody<Bytes, Cut> {
    let frames = [Ok(Frame::data(bytes)), Err(Cut)];
    BoxBody::new(StreamBody::new(futures::stream::iter(frames)))
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    let mut answer = Response::new(whole(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    answer
}
