//! What every story stands on: the cluster with Trainyard in it, and a namespace of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use e2e::bucket::Connection;
use e2e::cluster::{self, Cluster, Options};
use e2e::{command, demo, image, install, store};
use serde_json::Value;

/// Longest that anything in a story may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The cluster with Trainyard and a store in it, brought up once for all stories.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::up(Options::full(&cluster::default_name())).unwrap();
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

    /// The same where nothing is left in the store of what an earlier story of this name wrote: what was trained once is not trained again.
    pub(crate) fn fresh(name: &str) -> Self {
        let story = Self::new(name);
        let bucket = bucket_of_all();
        for prefix in ["artifacts", "data"] {
            for key in bucket.list(store::BUCKET, &format!("{prefix}/{}/", story.namespace)).unwrap() {
                bucket.delete(store::BUCKET, &key).unwrap();
            }
        }
        story
    }

    /// What Trainyard wrote into the store for this namespace.
    pub(crate) fn stored(&self, key: &str) -> String {
        let key = format!("artifacts/{}/{key}", self.namespace);
        String::from_utf8(bucket_of_all().get(store::BUCKET, &key).unwrap()).unwrap()
    }

    /// Where [`Story::store`] writes.
    pub(crate) fn stored_uri(&self, key: &str) -> String {
        format!("s3://{}/data/{}/{key}", store::BUCKET, self.namespace)
    }

    /// Puts an object into the store, as whoever delivers data does.
    pub(crate) fn store(&self, key: &str, text: &str) {
        let key = format!("data/{}/{key}", self.namespace);
        bucket_of_all().put(store::BUCKET, &key, text.as_bytes().to_vec()).unwrap();
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

    /// Whether the API server would not take this.
    pub(crate) fn refuses(&self, yaml: &str) -> bool {
        let create = ["create", "--dry-run=server", "--filename", "-"];
        command::input(cluster().kubectl().args(["--namespace", &self.namespace]).args(create), yaml).is_err()
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
        self.until_within(LIMIT, object, what, holds)
    }

    /// [`Story::until`] where users are told by when they see it.
    pub(crate) fn until_within(
        &self,
        limit: Duration,
        object: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
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
                .args(["--request-timeout", &format!("{}s", limit.as_secs())])
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
        panic!("{object} in {}: {what} did not come within {limit:?}; it was last:\n{last:#}", self.namespace);
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

    /// The Pod of a stage's last attempt, as the run's status names it.
    pub(crate) fn pod(&self, run: &str, stage_name: &str) -> String {
        let run = self.get(&format!("plr/{run}")).unwrap();
        stage(&run, stage_name)["pod"].as_str().unwrap().to_owned()
    }

    /// Lets a stage go on whose script waits for it, see [`HELD`].
    pub(crate) fn release(&self, run: &str, stage_name: &str) {
        let pod = self.pod(run, stage_name);
        self.kubectl(&["exec", &pod, "--", "touch", "/trainyard/tmp/go"]);
    }

    /// Waits for a line of a Pod's log. The container has started.
    pub(crate) fn log_until(&self, pod: &str, text: &str) {
        let mut kubectl = cluster().kubectl();
        kubectl.args(["--namespace", &self.namespace, "logs", "--follow", pod]);
        let mut follow = Watch(kubectl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        // A read has no time limit of its own. The thread ends with the process that it reads from.
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let end = Instant::now() + LIMIT;
        let mut log = String::new();
        while let Ok(line) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return;
            }
            log.push_str(&line);
            log.push('\n');
        }
        panic!("the log of Pod {pod} in {} does not come to {text:?}:\n{log}", self.namespace);
    }

    /// What `kubectl` shows of the events of a run: a line each with type, reason and message.
    pub(crate) fn events(&self, run: &str) -> String {
        let columns = "custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message";
        let regarding = format!("involvedObject.kind=PipelineRun,involvedObject.name={run}");
        self.kubectl(&["get", "events", "--field-selector", &regarding, "--output", columns])
    }

    /// An S3 store in this namespace, as `store:` of a pipeline. It can be taken away without harm to others; its data is gone then.
    pub(crate) fn own_store(&self) -> String {
        let access = store::up(cluster(), &self.namespace).unwrap();
        format!(
            "store: {{uri: s3://{}/own, s3: {{endpoint: '{}', region: {}}}, credentials: {{secretName: store}}}}\n",
            store::BUCKET,
            access.endpoint,
            store::REGION
        )
    }

    /// Takes the store of this namespace away.
    pub(crate) fn stop_store(&self) {
        self.kubectl(&["scale", "deployment/store", "--replicas=0"]);
        self.kubectl(&["wait", "--for=delete", "pod", "--selector=app=store", "--timeout=60s"]);
    }

    /// Brings the store of this namespace back, empty.
    pub(crate) fn start_store(&self) {
        self.kubectl(&["scale", "deployment/store", "--replicas=1"]);
        self.kubectl(&["rollout", "status", "deployment/store", "--timeout=120s"]);
    }

    /// A connection to the store of this namespace.
    pub(crate) fn own_bucket(&self) -> Connection {
        Connection::open(cluster(), &self.namespace, &store::access(&self.namespace)).unwrap()
    }

    /// Reads a file of a published output.
    pub(crate) fn artifact(&self, run: &Value, stage_name: &str, output: &str, file: &str) -> String {
        let (bucket, prefix) = place(run, stage_name, output);
        String::from_utf8(bucket_of_all().get(&bucket, &format!("{prefix}{file}")).unwrap()).unwrap()
    }
}

/// Waits for what nobody tells of.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The first line of a script that waits until [`Story::release`].
pub(crate) const HELD: &str = "until test -e \"$TMPDIR/go\"; do sleep 0.1; done";

/// A script of a stage as YAML.
pub(crate) fn script(lines: &str) -> String {
    serde_json::to_string(&format!("#!/bin/sh\n{lines}\n")).unwrap()
}

/// A connection to the store that all stories share.
pub(crate) fn bucket_of_all() -> Connection {
    Connection::open(cluster(), store::NAMESPACE, &store::access(store::NAMESPACE)).unwrap()
}

/// Bucket and prefix of a published output.
pub(crate) fn place(run: &Value, stage_name: &str, output: &str) -> (String, String) {
    let outputs = stage(run, stage_name)["outputs"].as_array().unwrap();
    let uri = outputs.iter().find(|known| known["name"] == output).unwrap()["uri"].as_str().unwrap();
    let (bucket, prefix) = uri.strip_prefix("s3://").unwrap().split_once('/').unwrap();
    (bucket.to_owned(), prefix.to_owned())
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
