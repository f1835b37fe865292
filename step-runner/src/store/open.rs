//! From a URL to a store.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use step_protocol::StoreSpec;

use super::http::Connector;
use super::{Backend, Store, StoreError};
use crate::environment::Credentials;

/// Opens stores with one set of credentials and one HTTP client.
#[derive(Debug, Clone)]
pub(crate) struct Opener {
    spec: StoreSpec,
    credentials: Credentials,
    connector: Connector,
    patience: Duration,
}

impl Opener {
    pub(crate) fn new(spec: &StoreSpec, credentials: Credentials, patience: Duration) -> Self {
        Self { spec: spec.clone(), credentials, connector: Connector::default(), patience }
    }

    /// The stage's own store.
    pub(crate) fn store(&self) -> Result<Store, StoreError> {
        let uri = self.spec.uri.trim_end_matches('/');
        let location = Location::parse(uri)?;
        let below = match location.scheme {
            "file" => Path::default(),
            _ => Path::parse(location.path).map_err(|error| StoreError::Config(format!("{uri}: {error}")))?,
        };
        Ok(Store::new(self.backend(&location, true)?, below, uri.to_owned(), self.patience))
    }

    /// The store that an input's URI names, by the same credentials and endpoint, and the key in it.
    pub(crate) fn input(&self, uri: &str) -> Result<(Store, String), StoreError> {
        let location = Location::parse(uri)?;
        let own = Location::parse(&self.spec.uri)?;
        if location.scheme != own.scheme {
            return Err(StoreError::Config(format!(
                "the input {uri} is not in a store of the stage's own kind ({}://): copy it there, or change `store.uri`",
                own.scheme
            )));
        }
        let (base, key) = if location.scheme == "file" {
            // A container's other files are no store, and some of them are nobody's business.
            let root = self.spec.uri.trim_end_matches('/');
            let mount = format!("file://{}", step_protocol::paths::STORE_MOUNT);
            let base = [root.to_owned(), mount].into_iter().find(|base| uri.starts_with(&format!("{base}/")));
            let Some(base) = base else {
                return Err(StoreError::Config(format!("the input {uri} is not below the store {root}")));
            };
            let key = uri[base.len() + 1..].to_owned();
            (base, key)
        } else {
            (format!("{}://{}", location.scheme, location.bucket), location.path.to_owned())
        };
        let backend = self.backend(&Location::parse(&base)?, false)?;
        Ok((Store::new(backend, Path::default(), base, self.patience), key))
    }

    fn backend(&self, location: &Location<'_>, make: bool) -> Result<Backend, StoreError> {
        match location.scheme {
            "file" => local(location.path, make),
            "s3" => self.s3(location.bucket).map(cloud),
            "gs" => self.gcs(location.bucket).map(cloud),
            _ => self.azure(location.bucket).map(cloud),
        }
    }

    fn s3(&self, bucket: &str) -> Result<object_store::aws::AmazonS3, StoreError> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_http_connector(self.connector.clone())
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(no_retry());
        for (key, value) in self.settings("aws_") {
            if let Ok(key) = AmazonS3ConfigKey::from_str(&key) {
                builder = builder.with_config(key, value);
            }
        }
        let s3 = self.spec.s3.clone().unwrap_or_default();
        if let Some(region) = s3.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = s3.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        builder.with_virtual_hosted_style_request(s3.virtual_hosted_style).build().map_err(unusable)
    }

    fn gcs(&self, bucket: &str) -> Result<object_store::gcp::GoogleCloudStorage, StoreError> {
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_http_connector(self.connector.clone())
            .with_retry(no_retry());
        for (key, value) in self.settings("google_") {
            if let Ok(key) = GoogleConfigKey::from_str(&key) {
                builder = builder.with_config(key, value);
            }
        }
        builder.build().map_err(unusable)
    }

    fn azure(&self, bucket: &str) -> Result<object_store::azure::MicrosoftAzure, StoreError> {
        let mut builder = MicrosoftAzureBuilder::new()
            .with_container_name(bucket)
            .with_http_connector(self.connector.clone())
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(no_retry());
        for (key, value) in self.settings("azure_") {
            if let Ok(key) = AzureConfigKey::from_str(&key) {
                builder = builder.with_config(key, value);
            }
        }
        builder.build().map_err(unusable)
    }

    /// The Secret's keys; without any, what the cloud gave the Pod by its service account.
    fn settings(&self, provider: &str) -> Vec<(String, String)> {
        if !self.credentials.0.is_empty() {
            return self.credentials.0.clone().into_iter().collect();
        }
        std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
            })
            .filter(|(name, _)| name.starts_with(provider))
            .collect()
    }
}

/// One request, one answer: who asks tries again, so that tries are counted, announced and signed anew.
fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn cloud<T: ObjectStore + MultipartStore>(store: T) -> Backend {
    let store = Arc::new(store);
    Backend::Cloud { store: store.clone(), multipart: store }
}

fn local(directory: &str, make: bool) -> Result<Backend, StoreError> {
    let path = PathBuf::from(directory);
    if make {
        std::fs::create_dir_all(&path).map_err(|source| of_io(directory, source))?;
    }
    let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| super::error::classify(directory, error))?;
    Ok(Backend::Local { store: Arc::new(store), directory: path })
}

fn of_io(object: &str, source: std::io::Error) -> StoreError {
    super::error::classify(object, object_store::Error::Generic { store: "volume", source: Box::new(source) })
}

fn unusable(error: object_store::Error) -> StoreError {
    StoreError::Config(error.to_string())
}

/// A URI cut into its parts as they are written: keys are bytes, nothing is decoded.
#[derive(Debug, PartialEq, Eq)]
struct Location<'a> {
    scheme: &'a str,
    bucket: &'a str,
    /// Below the bucket; with `file` the directory.
    path: &'a str,
}

impl<'a> Location<'a> {
    fn parse(uri: &'a str) -> Result<Self, StoreError> {
        let bad = |why: &str| StoreError::Config(format!("{uri:?} {why}"));
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| bad("is not a URI such as s3://bucket/prefix"))?;
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self { scheme, bucket: "", path: rest }),
            "file" => Err(bad("is not the URI of a directory: file:///directory")),
            "s3" | "gs" | "az" => {
                let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(bad("names no bucket: s3://bucket/prefix"));
                }
                Ok(Self { scheme, bucket, path })
            }
            _ => Err(bad("has an unknown scheme (known: s3, gs, az, file)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_taken_as_it_is_written() {
        let location = Location::parse("s3://b/a b/%20#1?x").unwrap();
        assert_eq!(location, Location { scheme: "s3", bucket: "b", path: "a b/%20#1?x" });
        for (uri, why) in [
            ("b/k", "not a URI"),
            ("http://x/y", "unknown scheme"),
            ("s3:///k", "no bucket"),
            ("file://x", "directory"),
        ] {
            assert!(Location::parse(uri).unwrap_err().to_string().contains(why), "{uri}");
        }
    }

    fn opener(uri: &str) -> Opener {
        let spec = StoreSpec { uri: uri.into(), s3: None };
        Opener::new(&spec, Credentials::default(), Duration::ZERO)
    }

    #[test]
    fn an_input_stays_in_the_store_or_in_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let uri = format!("file://{}", dir.path().display());
        let (_, key) = opener(&uri).input(&format!("{uri}/raw/iris.csv")).unwrap();
        assert_eq!(key, "raw/iris.csv");
        for input in ["file:///proc/self/environ".to_owned(), format!("{uri}x/y"), "s3://b/k".to_owned()] {
            assert!(matches!(opener(&uri).input(&input), Err(StoreError::Config(_))), "{input}");
        }
    }
}
