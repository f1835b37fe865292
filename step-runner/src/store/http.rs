//! How requests reach a store over HTTP: one small client on hyper, TLS only where the endpoint has it.
//!
//! It is here, and not in `object_store`'s usual client, for three reasons: size, memory while user code runs, and because every
//! answer passes by, so that a store which fails is talked about with a count.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::time::{Instant, Sleep};

use crate::failure::say;

/// A connection that is not made in this time is tried again.
const CONNECT: Duration = Duration::from_secs(10);
/// Sending a part of 8 MiB and getting the answer: slower than 0.6 Mbit/s counts as a failure.
const ANSWER: Duration = Duration::from_secs(120);
/// A body that brings no byte for so long counts as broken.
const IDLE: Duration = Duration::from_secs(30);

/// An answer of the store that is not left to `object_store`: its status, and the code in its body, never the body.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}{}", code.as_ref().map_or(String::new(), |code| format!(" {code}")))]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
}

/// Makes the client, once per process and only when a store needs it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connector {
    client: Arc<OnceLock<HttpClient>>,
}

impl Connector {
    fn make() -> HttpClient {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build(Connect { tcp, tls: Arc::default() });
        HttpClient::new(Service { client, failures: AtomicU32::new(0) })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.client.get_or_init(Self::make).clone())
    }
}

#[derive(Debug)]
struct Service {
    client: Client<Connect, HttpRequestBody>,
    failures: AtomicU32,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let answer = match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.failed(&host, &innermost(&error));
                let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
                return Err(HttpError::new(kind, error));
            }
            Err(elapsed) => {
                self.failed(&host, "no answer");
                return Err(HttpError::new(HttpErrorKind::Timeout, elapsed));
            }
        };
        let status = answer.status().as_u16();
        let (head, body) = answer.into_parts();
        let body = HttpResponseBody::new(Watched::new(body));
        match status {
            200..300 | 304 | 409 | 412 => Ok(HttpResponse::from_parts(head, body)),
            // A missing object is an answer; a missing bucket is a mistake.
            404 => {
                let bytes = body.bytes().await.unwrap_or_default();
                match code(&bytes) {
                    Some(code) if matches!(code.as_str(), "NoSuchBucket" | "ContainerNotFound") => {
                        Err(HttpError::new(HttpErrorKind::Unknown, Refused { status, code: Some(code) }))
                    }
                    _ => Ok(HttpResponse::from_parts(head, bytes.into())),
                }
            }
            _ => {
                let bytes = body.bytes().await.unwrap_or_default();
                let refused = Refused { status, code: code(&bytes) };
                if status >= 500 || status == 429 || status == 408 {
                    self.failed(&host, &refused.to_string());
                }
                Err(HttpError::new(HttpErrorKind::Unknown, refused))
            }
        }
    }
}

impl Service {
    /// Says so at the first failure and at each doubling: a log line per failure would be thousands.
    fn failed(&self, host: &str, what: &str) {
        let count = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            say!("the store at {host} failed: {what} ({count} so far); trying again");
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The text of the first `<Code>` element, if it is a plain word.
fn code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(&body[..body.len().min(4096)]).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    (code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| code.to_owned())
}

/// TCP, and TLS above it when the URL says `https`. Roots are loaded when first needed.
#[derive(Clone)]
struct Connect {
    tcp: Tcp,
    tls: Arc<OnceLock<Arc<rustls::ClientConfig>>>,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connect")
    }
}

type Stream = MaybeHttpsStream<TokioIo<tokio::net::TcpStream>>;
type ConnectError = Box<dyn std::error::Error + Send + Sync>;

impl tower_service::Service<http::Uri> for Connect {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        if uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
            let tls = match tls(&self.tls) {
                Ok(tls) => tls,
                Err(error) => return Box::pin(std::future::ready(Err(error))),
            };
            let mut https = HttpsConnector::from((self.tcp.clone(), tls));
            return Box::pin(async move { https.call(uri).await });
        }
        let connecting = self.tcp.call(uri);
        Box::pin(async move { Ok(MaybeHttpsStream::Http(connecting.await?)) })
    }
}

/// The bundled Mozilla roots, since an unmodified image may have none, and those of `SSL_CERT_FILE`.
fn tls(cell: &OnceLock<Arc<rustls::ClientConfig>>) -> Result<Arc<rustls::ClientConfig>, ConnectError> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    if let Some(config) = cell.get() {
        return Ok(config.clone());
    }
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        // An image may name a file for a program of its own that is not there: the bundled roots still stand.
        if let Ok(certificates) = CertificateDer::pem_file_iter(file) {
            roots.add_parsable_certificates(certificates.flatten());
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(cell.get_or_init(|| Arc::new(config)).clone())
}

/// A body that ends with an error when it stands still.
struct Watched {
    body: hyper::body::Incoming,
    idle: Pin<Box<Sleep>>,
}

impl Watched {
    fn new(body: hyper::body::Incoming) -> Self {
        Self { body, idle: Box::pin(tokio::time::sleep(IDLE)) }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return Poll::Ready(frame.map(|frame| frame.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e))));
        }
        if self.idle.as_mut().poll(context).is_ready() {
            let stalled = std::io::Error::new(std::io::ErrorKind::TimedOut, "the body stands still");
            return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, stalled))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Posts a small JSON document over plain HTTP, signed; whether it was accepted.
pub(crate) async fn post(url: &str, signature: &str, body: String) -> Result<(), String> {
    let request = http::Request::post(url)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header("x-trainyard-signature", signature)
        .body(http_body_util::Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed())
        .map_err(|error| error.to_string())?;
    let client: Client<Tcp, http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>> =
        Client::builder(TokioExecutor::new()).build(Tcp::new());
    let answer = client.request(request).await.map_err(|error| innermost(&error))?;
    if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_an_answer_is_kept() {
        let body = b"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIASECRET</AWSAccessKeyId></Error>";
        assert_eq!(code(body).as_deref(), Some("SignatureDoesNotMatch"));
        assert_eq!(code(b"<Code>not a word</Code>"), None);
        assert_eq!(code(b""), None);
    }
}
