//! The proxy between the operator and the API server: records what passes, and does the faults of the case at the writes and
//! events that it is told to.
//!
//! HTTP/1.1 on loopback to the operator, TLS with the administrator's certificate to the API server. Watches stream through as
//! they come. Every request is answered by a task of its own, so that what the operator sent before it was killed still
//! happens, as it would on a network.
//!
//! | file | does |
//! |---|---|
//! | `canned` | class B: answers that the API server did not give |
//! | `watching` | class C: what happens to events on their way |
//! | `stale` | class D: lists of the past |

mod canned;
mod stale;
mod watching;

use super::api::Api;
use super::fault::{Fault, Place, Strike};
use super::history::{Recorder, Reply, Request, What};
use super::monkey;
use super::operator::Killer;
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long a request without an answer is held. The operator gives up before that.
const HELD: Duration = Duration::from_secs(100);
/// How long a frozen leader is kept frozen if nobody takes over.
const FROZEN: Duration = Duration::from_secs(40);

/// What all proxies of a case have in common: one history, one count, one list of faults.
pub struct Scene {
    api: Api,
    recorder: Recorder,
    strikes: Vec<Strike>,
    numbers: Mutex<Numbers>,
    stale: Mutex<stale::Stale>,
    /// Strikes that have taken place.
    done: Mutex<HashSet<Strike>>,
}

impl Scene {
    /// The scene of a case in which these faults strike.
    #[must_use]
    pub fn new(api: Api, recorder: Recorder, strikes: &[Strike]) -> Arc<Self> {
        let strikes = strikes.to_vec();
        Arc::new(Self {
            api,
            recorder,
            strikes,
            numbers: Mutex::default(),
            stale: Mutex::default(),
            done: Mutex::default(),
        })
    }

    /// The fault at this place, if there is one.
    fn strike(&self, place: Place) -> Option<Strike> {
        self.strikes.iter().copied().find(|strike| strike.place == place)
    }

    /// The fault at this write. One that fits only some writes strikes at the first of these from its number on, once.
    fn due(&self, write: u32, method: &Method, path: &str) -> Option<Strike> {
        if let Some(strike) = self.strike(Place::Write(write))
            && applies(strike.fault, method, path)
        {
            return Some(strike);
        }
        let later = |strike: &&Strike| {
            matches!(strike.fault, Fault::ForeignPod | Fault::SwappedPod)
                && matches!(strike.place, Place::Write(number) if number < write)
                && applies(strike.fault, method, path)
        };
        let strike = *self.strikes.iter().find(later)?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(strike).then_some(strike)
    }

    fn struck(&self, strike: Strike) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(strike);
        self.recorder.push(What::Fault(strike.to_string()));
    }

    fn numbers(&self) -> std::sync::MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stale(&self) -> std::sync::MutexGuard<'_, stale::Stale> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy that serves as long as this value lives.
pub struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on loopback for the operator that `killer` kills.
    pub async fn start(scene: Arc<Scene>, killer: Killer) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { scene, killer, introduced: AtomicU32::new(0) });
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&shared).serve(stream));
            }
        });
        Ok(Self { address, task })
    }

    /// Writes the kubeconfig that leads to the API server through this proxy.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
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

#[derive(Default)]
struct Numbers {
    requests: u64,
    writes: u32,
    events: u32,
}

struct Shared {
    scene: Arc<Scene>,
    killer: Killer,
    /// The last process that has asked what every process asks first.
    introduced: AtomicU32,
}

/// What every process of the operator asks first: whether its kinds are there.
const FIRST: &str = "/apis/trainyard.dev/v1alpha1";

/// What one connection of the operator is about.
struct Connection {
    process: u32,
    /// The answer that is on its way is the last that this process hears.
    last_answer: AtomicBool,
    /// Says that this has just become so.
    is_last: Notify,
}

impl Connection {
    fn new(process: u32) -> Self {
        Self { process, last_answer: AtomicBool::new(false), is_last: Notify::new() }
    }

    fn answer_is_last(&self) {
        self.last_answer.store(true, Ordering::SeqCst);
        self.is_last.notify_one();
    }
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was cut")]
struct Cut;

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type Answer = Response<Body>;

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        // Small answers are not held back for a full packet: waiting is not what is tested.
        let _ = stream.set_nodelay(true);
        let connection = Arc::new(Connection::new(self.killer.process()));
        let service = service_fn(|request| {
            let task = tokio::spawn(Arc::clone(&self).answer(Arc::clone(&connection), request));
            async { task.await.unwrap_or(Err(Cut)) }
        });
        let mut served = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = served.as_mut() => {}
            () = connection.is_last.notified() => {
                // Ends when the answer is in the kernel's hands.
                served.as_mut().graceful_shutdown();
                let _ = served.await;
            }
        }
        if connection.last_answer.load(Ordering::SeqCst) {
            self.killer.kill().await;
        }
    }

    /// Whose request it is. What comes before a process has asked its first question was sent by the one that has just been killed.
    fn process(&self, connection: &Connection, path: &str) -> u32 {
        let process = connection.process;
        if path == FIRST {
            self.introduced.store(process, Ordering::SeqCst);
        }
        match self.introduced.load(Ordering::SeqCst) {
            0 => process,
            introduced => process.min(introduced),
        }
    }

    /// Numbers a request and records it, in one step: the numbers are the order of the record.
    fn record(&self, connection: &Connection, head: &http::request::Parts, body: &Bytes) -> (u64, Option<u32>) {
        let mut numbers = self.scene.numbers();
        numbers.requests += 1;
        let is_write = is_write(&head.method, head.uri.path());
        if is_write {
            numbers.writes += 1;
        }
        let write = is_write.then_some(numbers.writes);
        self.scene.recorder.push(What::Request(Request {
            id: numbers.requests,
            process: self.process(connection, head.uri.path()),
            write,
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            body: parsed(body),
        }));
        (numbers.requests, write)
    }

    async fn answer(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: http::Request<Incoming>,
    ) -> Result<Answer, Cut> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return Err(Cut) };
        let body = body.to_bytes();
        let (id, write) = self.record(&connection, &head, &body);
        let strike = write.and_then(|number| self.scene.due(number, &head.method, head.uri.path()));
        let Some(strike) = strike else { return self.pass(&connection, head, body, (id, write)).await };
        self.scene.struck(strike);
        let path = head.uri.path().to_owned();
        match strike.fault {
            Fault::KillBefore => {
                self.killer.kill().await;
                Err(Cut)
            }
            Fault::KillAfterCommit => {
                let _ = self.pass(&connection, head, body, (id, write)).await;
                self.killer.kill().await;
                Err(Cut)
            }
            Fault::KillAfterReply
            | Fault::StaleByOne
            | Fault::StaleByFive
            | Fault::StaleFromTheStart
            | Fault::StalePods => {
                let answer = self.pass(&connection, head, body, (id, write)).await;
                self.scene.stale().after(strike.fault, connection.process);
                connection.answer_is_last();
                answer
            }
            Fault::TimeoutBefore | Fault::ResetBefore => {
                if strike.fault == Fault::TimeoutBefore {
                    tokio::time::sleep(HELD).await;
                }
                Err(Cut)
            }
            Fault::TimeoutAfterCommit | Fault::ResetAfterCommit => {
                let _ = self.pass(&connection, head, body, (id, write)).await;
                if strike.fault == Fault::TimeoutAfterCommit {
                    tokio::time::sleep(HELD).await;
                }
                Err(Cut)
            }
            Fault::GatewayTimeout => {
                let _ = self.pass(&connection, head, body, (id, write)).await;
                canned::answer(strike.fault, &path).ok_or(Cut)
            }
            Fault::ForeignPod => {
                let metadata = parsed(&body)["metadata"].clone();
                let name = metadata["name"].as_str().unwrap_or_default().to_owned();
                let made = monkey::foreign_pod(&self.scene.api, &path, &name, &metadata["labels"]).await;
                if let Err(error) = made {
                    self.scene.recorder.push(What::Trouble(format!("creating a foreign Pod {name}: {error}")));
                }
                self.pass(&connection, head, body, (id, write)).await
            }
            Fault::SwappedPod => {
                if let Err(error) = monkey::swap(&self.scene.api, &path).await {
                    self.scene.recorder.push(What::Trouble(format!("swapping {path}: {error}")));
                }
                self.pass(&connection, head, body, (id, write)).await
            }
            Fault::FreezeBefore => {
                self.freeze(connection.process).await;
                self.pass(&connection, head, body, (id, write)).await
            }
            Fault::FreezeAfterReply => {
                let answer = self.pass(&connection, head, body, (id, write)).await;
                self.freeze(connection.process).await;
                answer
            }
            fault => match canned::answer(fault, &path) {
                Some(answer) => {
                    let status = answer.status().as_u16();
                    self.scene.recorder.push(What::Reply(Reply { id, status, body: Value::Null }));
                    Ok(answer)
                }
                None => self.pass(&connection, head, body, (id, write)).await,
            },
        }
    }

    /// Stops the process until another one has written something of substance, and lets it go on then.
    async fn freeze(&self, process: u32) {
        self.killer.freeze();
        let others = |world: &super::history::World| world.has_written_since(process).then_some(());
        let taken = self.scene.recorder.wait(FROZEN, "another leader", others).await;
        if taken.is_ok() {
            self.scene.recorder.push(What::TakenOver(process));
        }
        self.killer.thaw();
    }

    /// Sends a request on as it is, and records the answer.
    async fn pass(
        &self,
        connection: &Arc<Connection>,
        head: http::request::Parts,
        body: Bytes,
        (id, write): (u64, Option<u32>),
    ) -> Result<Answer, Cut> {
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        if head.method == Method::GET
            && let Some(list) = stale::list(&self.scene, connection.process, head.uri.path(), head.uri.query())
        {
            self.scene.recorder.push(What::Reply(Reply { id, status: 200, body: Value::Null }));
            return Ok(json_answer(200, &list));
        }
        let response = match self.scene.api.forward(head.method, &target, passed_on(head.headers), body).await {
            Ok(response) => response,
            Err(error) => {
                let trouble = format!("the API server does not answer the proxy: {error:#}");
                self.scene.recorder.push(What::Trouble(trouble));
                return Err(Cut);
            }
        };
        let (mut answer, incoming) = response.into_parts();
        answer.headers = passed_on(std::mem::take(&mut answer.headers));
        let status = answer.status.as_u16();
        if write.is_none() {
            self.scene.recorder.push(What::Reply(Reply { id, status, body: Value::Null }));
            let asks =
                |word: &str| head.uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with(word)));
            let body = if asks("watch=") && status == 200 {
                watching::tapped(&self.scene, connection.process, head.uri.path(), incoming)
            } else {
                incoming.map_err(Into::into).boxed()
            };
            return Ok(Response::from_parts(answer, body));
        }
        let Ok(body) = incoming.collect().await else { return Err(Cut) };
        let body = body.to_bytes();
        self.scene.recorder.push(What::Reply(Reply { id, status, body: parsed(&body) }));
        Ok(Response::from_parts(answer, full(body)))
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn json_answer(status: u16, value: &Value) -> Answer {
    let mut answer = Response::new(full(value.to_string().into()));
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// Whether a fault makes sense at this write.
#[must_use]
pub fn applies(fault: Fault, method: &Method, path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    match fault {
        Fault::Quota | Fault::ForeignPod => method == Method::POST && last == "pods",
        Fault::SwappedPod => method == Method::DELETE && path.contains("/pods/"),
        // A run that the API server refuses is refused for good: there is none then, and nothing to be followed.
        Fault::Invalid => !(method == Method::POST && last == "pipelineruns"),
        Fault::TooLargeForEtcd | Fault::TooLargeForServer | Fault::TooLargeForMessage => last == "status",
        _ => true,
    }
}

/// Questions about permissions are asked by POST and change nothing; leases are renewed by the clock.
fn is_write(method: &Method, path: &str) -> bool {
    let asks = ["/apis/authorization.k8s.io/", "/apis/coordination.k8s.io/"];
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
        && !asks.iter().any(|group| path.starts_with(group))
}

fn parsed(bytes: &Bytes) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}

/// The headers without those that are about one connection, and without anything that would make a body unreadable here.
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
mod tests;
