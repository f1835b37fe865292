//! The proxy between the operator and the API server: records what passes, and does the fault of the case at the write it is
//! told to.
//!
//! HTTP/1.1 on loopback to the operator, TLS with the administrator's certificate to the API server. Watches stream through as
//! they come. Every request is answered by a task of its own, so that what the operator sent before it was killed still
//! happens, as it would on a network.

use super::api::{Api, Lines};
use super::fault::Fault;
use super::history::{Recorder, Reply, Request, What};
use super::operator::Killer;
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Which write meets which fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of the write, from 1.
    pub write: u32,
    /// What is done there.
    pub fault: Fault,
}

/// A proxy that serves as long as this value lives.
pub struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on loopback; `plan` is the fault of the case, none for a learning run.
    pub async fn start(api: Api, recorder: Recorder, killer: Killer, plan: Option<Plan>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { api, recorder, killer, plan, numbers: Mutex::default() });
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
}

struct Shared {
    api: Api,
    recorder: Recorder,
    killer: Killer,
    plan: Option<Plan>,
    numbers: Mutex<Numbers>,
}

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

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

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
            self.strike().await;
        }
    }

    /// Kills the operator, and comes back when it is dead.
    async fn strike(&self) {
        self.recorder.push(What::Fault(self.plan.map_or(0, |plan| plan.write)));
        self.killer.kill().await;
    }

    /// Numbers a request and records it, in one step: the numbers are the order of the record.
    fn record(&self, connection: &Connection, head: &http::request::Parts, body: &Bytes) -> (u64, Option<u32>) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.requests += 1;
        if is_write(&head.method, head.uri.path()) {
            numbers.writes += 1;
        }
        let write = is_write(&head.method, head.uri.path()).then_some(numbers.writes);
        self.recorder.push(What::Request(Request {
            id: numbers.requests,
            process: connection.process,
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
        let fault = self.plan.filter(|plan| Some(plan.write) == write).map(|plan| plan.fault);
        if fault == Some(Fault::KillBefore) {
            self.strike().await;
            return Err(Cut);
        }
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let response = match self.api.forward(head.method, target, passed_on(head.headers), body).await {
            Ok(response) => response,
            Err(error) => {
                self.recorder.push(What::Trouble(format!("the API server does not answer the proxy: {error:#}")));
                return Err(Cut);
            }
        };
        let (mut answer, incoming) = response.into_parts();
        answer.headers = passed_on(std::mem::take(&mut answer.headers));
        let status = answer.status.as_u16();
        if write.is_none() {
            self.recorder.push(What::Reply(Reply { id, status, body: Value::Null }));
            let watching =
                head.uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("watch=")));
            return Ok(Response::from_parts(
                answer,
                if watching { self.tapped(&connection, incoming) } else { incoming.boxed() },
            ));
        }
        let Ok(body) = incoming.collect().await else { return Err(Cut) };
        let body = body.to_bytes();
        self.recorder.push(What::Reply(Reply { id, status, body: parsed(&body) }));
        match fault {
            Some(Fault::KillAfterCommit) => {
                self.strike().await;
                return Err(Cut);
            }
            Some(Fault::KillAfterReply) => connection.answer_is_last(),
            Some(Fault::KillBefore) | None => {}
        }
        Ok(Response::from_parts(answer, Full::new(body).map_err(|never| match never {}).boxed()))
    }

    /// A watch that is recorded on its way.
    fn tapped(&self, connection: &Connection, body: Incoming) -> BoxBody<Bytes, hyper::Error> {
        let (recorder, process) = (self.recorder.clone(), connection.process);
        let mut lines = Lines::default();
        body.map_frame(move |frame: Frame<Bytes>| {
            for line in frame.data_ref().map(|data| lines.push(data)).unwrap_or_default() {
                recorder.push(watched(process, &line));
            }
            frame
        })
        .boxed()
    }
}

/// Questions about permissions are asked by POST and change nothing.
fn is_write(method: &Method, path: &str) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !path.starts_with("/apis/authorization.k8s.io/")
}

fn parsed(bytes: &Bytes) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}

fn watched(process: u32, line: &[u8]) -> What {
    let event: Value = serde_json::from_slice(line).unwrap_or_default();
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    let (kind, name) = (text("/object/kind"), text("/object/metadata/name"));
    What::Watched {
        process,
        event: text("/type"),
        object: format!("{kind} {name}@{}", text("/object/metadata/resourceVersion")),
    }
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
