//! Class H: the way of early reports from runners to the operator.

use super::fault::{Fault, Place, Strike};
use super::history::{Recorder, What};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The header that carries a report's signature.
const SIGNATURE: &str = "x-trainyard-signature";
/// Longer than the kubelet needs to show an end here.
const DELAY: Duration = Duration::from_millis(600);

#[derive(Debug, thiserror::Error)]
#[error("the connection was cut")]
struct Cut;

/// Where runners send their reports. It ends with this value.
pub struct ReportProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    client: Client<HttpConnector, Full<Bytes>>,
    port: u16,
    strikes: Vec<Strike>,
    reports: AtomicU32,
    recorder: Recorder,
}

impl ReportProxy {
    /// Passes reports on to the operator's port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(port: u16, strikes: &[Strike], recorder: &Recorder) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for reports")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            client: Client::builder(TokioExecutor::new()).build_http(),
            port,
            strikes: strikes.to_vec(),
            reports: AtomicU32::new(0),
            recorder: recorder.clone(),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&shared).answer(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, shared, task })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many reports there were.
    #[must_use]
    pub fn reports(&self) -> u32 {
        self.shared.reports.load(Ordering::SeqCst)
    }
}

impl Drop for ReportProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let number = self.reports.fetch_add(1, Ordering::SeqCst) + 1;
        let strike = self.strikes.iter().copied().find(|strike| strike.place == Place::Report(number));
        let Some(strike) = strike else { return self.pass(&head, body).await };
        self.recorder.push(What::Fault(strike.to_string()));
        match strike.fault {
            Fault::ReportLost => Err(Cut),
            Fault::ReportRefused => Ok(status(503)),
            Fault::ReportDelayed => {
                tokio::time::sleep(DELAY).await;
                self.pass(&head, body).await
            }
            Fault::ReportRepeated => {
                let answer = self.pass(&head, body.clone()).await;
                for wait in [Duration::ZERO, DELAY] {
                    let (shared, head, body) = (Arc::clone(&self), head.clone(), body.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        shared.pass(&head, body).await
                    });
                }
                answer
            }
            Fault::ReportForged => {
                self.forge(&head, &body).await?;
                self.pass(&head, body).await
            }
            _ => self.pass(&head, body).await,
        }
    }

    /// Sends what somebody without the key could send. None of it may be believed.
    async fn forge(&self, head: &http::request::Parts, body: &Bytes) -> Result<(), Cut> {
        let text = String::from_utf8_lossy(body).into_owned();
        let mut signed_otherwise = head.clone();
        let signature = head.headers.get(SIGNATURE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let zeros: String = signature.chars().map(|_| '0').collect();
        signed_otherwise.headers.insert(SIGNATURE, HeaderValue::from_str(&zeros).map_err(|_| Cut)?);
        let mut unsigned = head.clone();
        unsigned.headers.remove(SIGNATURE);
        let mut of_another_attempt = head.clone();
        of_another_attempt.uri = format!("{}1", head.uri.path()).parse().map_err(|_| Cut)?;
        let forgeries = [
            (signed_otherwise, text.clone()),
            (unsigned, text.clone()),
            (of_another_attempt, text.clone()),
            (head.clone(), text.replacen("sha256:", "sha256:0", 1)),
            (head.clone(), "{".to_owned()),
        ];
        for (head, forged) in forgeries {
            let answer = self.pass(&head, forged.clone().into()).await?;
            if answer.status().is_success() {
                self.recorder.push(What::Believed(format!("{} {forged}", head.uri)));
            }
        }
        Ok(())
    }

    async fn pass(&self, head: &http::request::Parts, body: Bytes) -> Result<Response<Full<Bytes>>, Cut> {
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request =
            Request::builder().method(head.method.clone()).uri(format!("http://127.0.0.1:{}{target}", self.port));
        if let Some(headers) = request.headers_mut() {
            *headers = head.headers.clone();
            for name in [header::CONNECTION, header::CONTENT_LENGTH, header::HOST, header::TRANSFER_ENCODING] {
                headers.remove(name);
            }
        }
        // The operator may be dead in this moment: then the report is lost.
        let response = self.client.request(request.body(Full::new(body)).map_err(|_| Cut)?).await.map_err(|_| Cut)?;
        Ok(status(response.status().as_u16()))
    }
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    answer
}
