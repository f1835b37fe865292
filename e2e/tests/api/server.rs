//! The API server of these tests: that of `KUBECONFIG`, or a control plane of their own, which ends with the last process that uses it.

use e2e::cluster::{Cluster, Options};
use e2e::command;
use e2e::paths::{self, Directories};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

const NAME: &str = "test-crds";

/// Runs `kubectl proxy` until the standard input closes, which it does however the test process ends; then removes the namespace,
/// and the cluster if it is our own and nobody else holds its lock.
const SUPERVISOR: &str = r#"
kubectl proxy --port=0 & proxy=$!
cat >/dev/null
kill $proxy
if [ -n "$LOCK" ]; then
    flock --nonblock --exclusive "$LOCK" "$TOOL" cluster down --wipe --name "$NAME"
else
    kubectl delete namespace "$NAMESPACE" --wait=false
fi
"#;

/// An answer of the API server.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Answer {
    pub fn accepted(&self) -> bool {
        self.code < 300
    }

    /// What the user reads.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// The cluster, and a connection to it that needs no credentials.
pub struct Server {
    pub cluster: Cluster,
    /// A namespace for whatever is more than a dry run.
    pub namespace: String,
    address: String,
    runtime: tokio::runtime::Runtime,
    client: Client<HttpConnector, Full<bytes::Bytes>>,
    _lock: Option<File>,
}

/// The server, with the definitions installed as a user does it.
pub fn server() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
    &SERVER
}

impl Server {
    fn start() -> Self {
        let (cluster, lock) = match Cluster::foreign() {
            Some(cluster) => (cluster, None),
            None => {
                let folder = Directories::from_env().state;
                std::fs::create_dir_all(&folder).unwrap();
                let path = folder.join(format!("{NAME}.lock"));
                let lock = File::create(&path).unwrap();
                lock.lock_shared().unwrap();
                (Cluster::up(Options::control_plane(NAME)).unwrap(), Some((lock, path)))
            }
        };
        let crds = paths::repository().join("crds/yaml");
        command::run(cluster.kubectl().args(["apply", "-f"]).arg(&crds)).unwrap();
        command::run(cluster.kubectl().args(["wait", "--for=condition=Established", "--timeout=30s", "-f"]).arg(&crds))
            .unwrap();
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "trainyard-api-"}});
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), namespace.to_string()).unwrap();
        let created =
            cluster.kubectl().args(["create", "-o=jsonpath={.metadata.name}", "-f"]).arg(file.path()).output();
        let namespace = String::from_utf8(created.unwrap().stdout).unwrap();

        let address = supervise(&cluster, &namespace, lock.as_ref().map(|(_, path)| path.as_path()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { cluster, namespace, address, runtime, client, _lock: lock.map(|(file, _)| file) }
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, command::Error> {
        command::run(self.cluster.kubectl().args(["--namespace", &self.namespace]).args(arguments))
    }

    /// Sends `body` to a path below the namespace's resources of ours, such as `pipelines?dryRun=All`.
    pub fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let uri = format!("http://{}/apis/trainyard.dev/v1alpha1/namespaces/{}/{path}", self.address, self.namespace);
        let request = Request::builder().method(method).uri(uri).header("content-type", content);
        let request = request.body(Full::from(body.to_string())).unwrap();
        self.runtime.block_on(async {
            let response = self.client.request(request).await.unwrap();
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            Answer { code, body: serde_json::from_slice(&bytes).unwrap() }
        })
    }

    /// What a create of such an object would give, under kubectl's default of strict validation.
    pub fn try_create(&self, kind: Kind, spec: &Value) -> Answer {
        let object = kind.object("corpus", spec.clone());
        self.send(Method::POST, &format!("{}?dryRun=All&fieldValidation=Strict", kind.resource()), &object)
    }

    /// Creates the object and returns it.
    pub fn create(&self, kind: Kind, name: &str, spec: &Value) -> Value {
        let answer = self.send(Method::POST, kind.resource(), &kind.object(name, spec.clone()));
        assert!(answer.accepted(), "{name}: {}", answer.message());
        answer.body
    }
}

/// Returns the address of the proxy.
#[expect(clippy::zombie_processes, reason = "the supervisor outlives this process")]
fn supervise(cluster: &Cluster, namespace: &str, lock: Option<&std::path::Path>) -> String {
    let mut command: Command = cluster.command("sh");
    command.args(["-c", SUPERVISOR]).env("NAMESPACE", namespace).env("NAME", NAME);
    command.env("TOOL", env!("CARGO_BIN_EXE_trainyard-e2e")).env("LOCK", lock.unwrap_or("".as_ref()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // The pipe stays open as long as this process lives.
    std::mem::forget(child.stdin.take());
    line.trim_end().rsplit(' ').next().unwrap().to_owned()
}

/// A kind of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pipeline,
    PipelineRun,
    TrainingJob,
}

impl Kind {
    pub fn resource(self) -> &'static str {
        match self {
            Self::Pipeline => "pipelines",
            Self::PipelineRun => "pipelineruns",
            Self::TrainingJob => "trainingjobs",
        }
    }

    pub fn object(self, name: &str, spec: Value) -> Value {
        let kind = format!("{self:?}");
        json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    }
}
