//! A client of the API server that knows no types: JSON in, JSON out, watches as lines.
//!
//! It is small on purpose. The harness must not judge the operator with the operator's own libraries: no cache, no retry, no
//! defaulting stands between what the API server says and what is recorded.

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A JSON Merge Patch.
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// A JSON Patch.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// Plain JSON.
pub const JSON: &str = "application/json";

/// A request that was not answered with success.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server said no.
    #[error("{method} {path}: {code} {message}")]
    Refused {
        /// The method.
        method: Method,
        /// The path.
        path: String,
        /// The HTTP status.
        code: u16,
        /// The `message` of the Status object.
        message: String,
    },
    /// There was no answer, or not one that can be read.
    #[error("{method} {path}: {source}")]
    Broken {
        /// The method.
        method: Method,
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: anyhow::Error,
    },
}

impl ApiError {
    /// The HTTP status, if there was an answer.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Broken { .. } => None,
        }
    }
}

/// One API server, with the administrator's certificate.
#[derive(Clone)]
pub struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    server: Arc<str>,
}

impl Api {
    /// Reads a kubeconfig as [`crate::cluster`] writes it: JSON, with all keys inside.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let config: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is not the kubeconfig of a cluster of ours", path.display()))?;
        let server = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str).context("no server")?;
        let pem = |pointer: &str| -> Result<Vec<u8>> {
            let text = config.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer}"))?;
            Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let certificates = |pem: &[u8]| -> Result<Vec<CertificateDer<'static>>> {
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| anyhow!("{error}"))
        };
        let mut roots = rustls::RootCertStore::empty();
        for root in certificates(&pem("/clusters/0/cluster/certificate-authority-data")?)? {
            roots.add(root)?;
        }
        let chain = certificates(&pem("/users/0/user/client-certificate-data")?)?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)
            .map_err(|error| anyhow!("the client's key: {error}"))?;
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), server: server.into() })
    }

    /// A server without TLS.
    #[cfg(test)]
    pub(crate) fn plain(server: &str) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Self { client: Client::builder(TokioExecutor::new()).build(connector), server: server.into() }
    }

    /// Sends a request as it is, and returns the answer with its body still on the way.
    pub async fn forward(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(format!("{}{target}", self.server));
        if let Some(all) = request.headers_mut() {
            *all = headers;
        }
        Ok(self.client.request(request.body(Full::new(body))?).await?)
    }

    async fn call(&self, method: Method, target: &str, kind: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let sent = async {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, JSON.parse()?);
            headers.insert(header::CONTENT_TYPE, kind.parse()?);
            let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
            let response = self.forward(method.clone(), target, headers, body.into()).await?;
            let code = response.status();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok::<_, anyhow::Error>((code, bytes))
        };
        let broken = |source| ApiError::Broken { method: method.clone(), path: path.clone(), source };
        let (code, bytes): (StatusCode, Bytes) = sent.await.map_err(broken)?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if code.is_success() {
            return Ok(value);
        }
        let message =
            value["message"].as_str().map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), str::to_owned);
        Err(ApiError::Refused { method, path, code: code.as_u16(), message })
    }

    /// Reads an object or a list. A kind whose definition has just changed is not served for a moment (429): then it is
    /// asked for again.
    pub async fn get(&self, target: &str) -> Result<Value, ApiError> {
        for _ in 0..100 {
            match self.call(Method::GET, target, JSON, None).await {
                Err(error) if error.code() == Some(429) => tokio::time::sleep(Duration::from_millis(100)).await,
                answer => return answer,
            }
        }
        self.call(Method::GET, target, JSON, None).await
    }

    /// Creates an object.
    pub async fn create(&self, target: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::POST, target, JSON, Some(object)).await
    }

    /// Changes an object by a JSON Merge Patch.
    pub async fn merge(&self, target: &str, patch: &Value) -> Result<Value, ApiError> {
        self.call(Method::PATCH, target, MERGE_PATCH, Some(patch)).await
    }

    /// Changes an object by a JSON Patch, which may test what is there first.
    pub async fn patch(&self, target: &str, patch: &Value) -> Result<Value, ApiError> {
        self.call(Method::PATCH, target, JSON_PATCH, Some(patch)).await
    }

    /// Deletes an object.
    pub async fn delete(&self, target: &str, options: &Value) -> Result<Value, ApiError> {
        self.call(Method::DELETE, target, JSON, Some(options)).await
    }

    /// Watches from a resourceVersion on and hands every event to `seen`, until the connection ends or `seen` says stop.
    pub async fn watch(&self, path: &str, resource_version: &str, mut seen: impl FnMut(Value) -> bool) -> Result<()> {
        let target = format!("{path}?watch=true&timeoutSeconds=3600&resourceVersion={resource_version}");
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, JSON.parse()?);
        let response = self.forward(Method::GET, &target, headers, Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(anyhow!("watching {path}: {}", response.status()));
        }
        let mut body = response.into_body();
        let mut lines = Lines::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            for line in lines.push(&data) {
                if !seen(serde_json::from_slice(&line)?) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes more bytes and returns the lines that they complete, without their ends and without empty ones.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_network_cuts() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"{\"a\""), Vec::<Vec<u8>>::new());
        assert_eq!(lines.push(b":1}\n{\"b\":2}\n{"), [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
        assert_eq!(lines.push(b"}\n"), [b"{}".to_vec()]);
    }
}
