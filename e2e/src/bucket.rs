//! Files into and out of the store in the cluster, through a port-forward, so that it works on any cluster.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::cluster::Cluster;
use crate::store::{Access, REGION};

/// A file did not reach the store, or did not come from it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No way to the store.
    #[error("kubectl port-forward to the store in {namespace} failed: {detail}")]
    Forward {
        /// Namespace of the store.
        namespace: String,
        /// What happened.
        detail: String,
    },
    /// A local file.
    #[error("failed to read {path}: {source}", path = path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store.
    #[error("the store refuses s3://{bucket}/{key}: {source}")]
    Store {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
        /// Why.
        source: object_store::Error,
    },
    /// No runtime for the client.
    #[error("failed to start the client of the store: {0}")]
    Runtime(#[source] std::io::Error),
}

/// A connection to the store in a cluster for as long as it lives.
pub struct Connection {
    forward: Option<Child>,
    _output: Option<BufReader<ChildStdout>>,
    runtime: tokio::runtime::Runtime,
    access: Access,
    endpoint: String,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(forward) = &mut self.forward {
            forward.kill().ok();
            forward.wait().ok();
        }
    }
}

impl Connection {
    /// Connects to the store in this namespace.
    pub fn open(cluster: &Cluster, namespace: &str, access: &Access) -> Result<Self, Error> {
        // One for the process; the client of the store leaves the choice to us.
        rustls::crypto::ring::default_provider().install_default().ok();
        let failed = |detail: String| Error::Forward { namespace: namespace.to_owned(), detail };
        let mut forward = cluster
            .kubectl()
            .args(["--namespace", namespace, "port-forward", "service/store", ":9000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut line = String::new();
        // Kept open: kubectl writes a line for every connection and would die of a closed pipe.
        let mut output = forward.stdout.take().map(BufReader::new);
        if let Some(output) = &mut output {
            output.read_line(&mut line).map_err(|error| failed(error.to_string()))?;
        }
        // Forwarding from 127.0.0.1:40123 -> 7070
        let port = line.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:")).map(str::to_owned);
        let Some(port) = port else {
            forward.kill().ok();
            forward.wait().ok();
            return Err(failed(format!("it printed {line:?}")));
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
        Ok(Self {
            forward: Some(forward),
            _output: output,
            runtime,
            access: access.clone(),
            endpoint: format!("http://127.0.0.1:{port}"),
        })
    }

    /// Connects to a store that this machine reaches by itself, as it does those in clusters of its own. No API server is needed.
    pub fn direct(endpoint: &str, access: &Access) -> Result<Self, Error> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
        Ok(Self { forward: None, _output: None, runtime, access: access.clone(), endpoint: endpoint.to_owned() })
    }

    fn client(&self, bucket: &str, key: &str) -> Result<Arc<AmazonS3>, Error> {
        AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region(REGION)
            .with_bucket_name(bucket)
            .with_access_key_id(&self.access.access_key)
            .with_secret_access_key(&self.access.secret_key)
            .build()
            .map(Arc::new)
            .map_err(|source| Error::Store { bucket: bucket.to_owned(), key: key.to_owned(), source })
    }

    /// Writes an object.
    pub fn put(&self, bucket: &str, key: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let client = self.client(bucket, key)?;
        self.runtime.block_on(client.put(&key.into(), bytes.into())).map(|_| ()).map_err(|source| Error::Store {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            source,
        })
    }

    /// Reads an object.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Error> {
        let client = self.client(bucket, key)?;
        let read = async { client.get(&key.into()).await?.bytes().await };
        self.runtime.block_on(read).map(|bytes| bytes.to_vec()).map_err(|source| Error::Store {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            source,
        })
    }

    /// Deletes an object.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<(), Error> {
        let client = self.client(bucket, key)?;
        let failed = |source| Error::Store { bucket: bucket.to_owned(), key: key.to_owned(), source };
        self.runtime.block_on(client.delete(&key.into())).map_err(failed)
    }

    /// The keys below a prefix, sorted.
    pub fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<String>, Error> {
        use futures::TryStreamExt as _;
        let client = self.client(bucket, prefix)?;
        let prefix_path = object_store::path::Path::from(prefix);
        let listed = client.list(Some(&prefix_path)).map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>();
        let mut keys = self.runtime.block_on(listed).map_err(|source| Error::Store {
            bucket: bucket.to_owned(),
            key: prefix.to_owned(),
            source,
        })?;
        keys.sort();
        Ok(keys)
    }
}

/// Uploads one file.
pub fn upload(
    cluster: &Cluster,
    namespace: &str,
    access: &Access,
    bucket: &str,
    key: &str,
    path: &Path,
) -> Result<(), Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    Connection::open(cluster, namespace, access)?.put(bucket, key, bytes)
}
