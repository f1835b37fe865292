//! What every story stands on: the cluster with Trainyard in it, and a namespace of its own.

use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use e2e::cluster::{self, Cluster, Options};
use e2e::{command, demo, image, install, store};
use serde_json::Value;

/// Longest that anything in a story may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The cluster with Trainyard and a store in it, brought up once for all stories.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::up(Options::full(cluster::DEFAULT_NAME)).unwrap();
        store::up(&cluster, store::NAMESPACE).unwrap();
        install::up(&cluster, &[&demo::default_store()]).unwrap();
        cluster
    })
}

/// A namespace that enforces the restricted profile. It goes with the story.
pub(crate) struct Story {
    namespace: String,
}

impl Story {
    pub(crate) fn new(name: &str) -> Self {
        let namespace = format!("story-{name}");
        let cluster = cluster();
        kubectl(&["delete", "namespace", &namespace, "--ignore-not-found", "--wait"]);
        demo::namespace(cluster, &namespace, &store::access(store::NAMESPACE)).unwrap();
        let story = Self { namespace };
        story.until("serviceaccount/default", "the default ServiceAccount", |_| true);
        story
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        command::run(cluster().kubectl().args(["--namespace", &self.namespace]).args(arguments)).unwrap()
    }

    /// What kubectl says when it refuses.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        command::run(cluster().kubectl().args(["--namespace", &self.namespace]).args(arguments))
            .unwrap_err()
            .to_string()
    }

    pub(crate) fn apply(&self, yaml: &str) {
        command::input(cluster().kubectl().args(["--namespace", &self.namespace, "apply", "--filename", "-"]), yaml)
            .unwrap();
    }

    /// A run of this name with a pipeline of its own, all stages in busybox.
    pub(crate) fn run(&self, name: &str, pipeline: &str) {
        let indented: String = pipeline.lines().map(|line| format!("    {line}\n")).collect();
        self.apply(&format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {{name: {name}}}\nspec:\n  pipeline:\n    defaults: {{container: {{image: \"{}\"}}}}\n{indented}",
            busybox(),
        ));
    }

    pub(crate) fn get(&self, object: &str) -> Option<Value> {
        let text = command::run(cluster().kubectl().args([
            "--namespace",
            &self.namespace,
            "get",
            object,
            "--output",
            "json",
            "--ignore-not-found",
        ]))
        .unwrap();
        if text.trim().is_empty() { None } else { Some(serde_json::from_str(&text).unwrap()) }
    }

    /// Waits for an object to be as asked, by watching it.
    pub(crate) fn until(&self, object: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut watch = Watch(
            cluster()
                .kubectl()
                .args([
                    "--namespace",
                    &self.namespace,
                    "get",
                    object.split('/').next().unwrap(),
                    "--watch",
                    "--output",
                    "json",
                ])
                .args(["--request-timeout", &format!("{}s", LIMIT.as_secs())])
                .args(["--field-selector", &format!("metadata.name={}", object.split('/').nth(1).unwrap())])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let stream = serde_json::Deserializer::from_reader(watch.0.stdout.take().unwrap()).into_iter::<Value>();
        let mut last = Value::Null;
        for value in stream.map_while(Result::ok) {
            if holds(&value) {
                return value;
            }
            last = value;
        }
        panic!("{object} in {}: {what} did not come within {LIMIT:?}; it was last:\n{last:#}", self.namespace);
    }

    /// Waits for a run's end as users do, and returns it.
    pub(crate) fn finished(&self, run: &str) -> Value {
        self.kubectl(&[
            "wait",
            "--for=condition=Finished",
            &format!("--timeout={}s", LIMIT.as_secs()),
            &format!("plr/{run}"),
        ]);
        self.get(&format!("plr/{run}")).unwrap()
    }

    /// Waits for a stage of a run to be in a phase.
    pub(crate) fn stage_until(&self, run: &str, stage_name: &str, phase: &str) -> Value {
        self.until(&format!("plr/{run}"), &format!("stage {stage_name} {phase}"), |run| {
            stage(run, stage_name)["phase"] == phase
        })
    }

    /// Reads a file of a published output.
    pub(crate) fn artifact(&self, run: &Value, stage_name: &str, output: &str, file: &str) -> String {
        let outputs = stage(run, stage_name)["outputs"].as_array().unwrap().clone();
        let uri = outputs.iter().find(|known| known["name"] == output).unwrap()["uri"].as_str().unwrap().to_owned();
        let (bucket, prefix) = uri.strip_prefix("s3://").unwrap().split_once('/').unwrap();
        let connection =
            e2e::bucket::Connection::open(cluster(), store::NAMESPACE, &store::access(store::NAMESPACE)).unwrap();
        String::from_utf8(connection.get(bucket, &format!("{prefix}{file}")).unwrap()).unwrap()
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // After a failure what is there is worth more than the tidiness.
        if !std::thread::panicking() {
            kubectl(&["delete", "namespace", &self.namespace, "--wait=false", "--ignore-not-found"]);
        }
    }
}

struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// kubectl without a namespace.
pub(crate) fn kubectl(arguments: &[&str]) -> String {
    command::run(cluster().kubectl().args(arguments)).unwrap()
}

/// The name of the busybox image in the cluster.
pub(crate) fn busybox() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| image::load(cluster(), &image::build("busybox").unwrap()).unwrap()).clone()
}

/// A stage's row in a run's status.
pub(crate) fn stage<'a>(run: &'a Value, name: &str) -> &'a Value {
    static NONE: Value = Value::Null;
    run["status"]["stages"].as_array().into_iter().flatten().find(|row| row["name"] == name).unwrap_or(&NONE)
}
