//! What is run under faults.

mod triggers;

pub(super) use triggers::parameter;

use super::user::During;
use serde_json::{Value, json};

/// The image that stages name. Nobody pulls it.
const IMAGE: &str = "localhost/none:1";

/// A pipeline, and what the invariants have to know of it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Part of the names of its cases.
    pub name: &'static str,
    /// `spec` of the Pipeline.
    pub pipeline: Value,
    /// `spec` of another Pipeline, which follows it.
    pub downstream: Option<Value>,
    /// Its stages, in order, and then those of the other.
    pub stages: Vec<Stage>,
    /// The TrainingJob that is run instead of a pipeline.
    pub job: Option<Job>,
    /// The training that its second stage is.
    pub trains: Option<Job>,
    /// Whether runners reach the operator. If not, success is known only when the kubelet shows it.
    pub early_reports: bool,
    /// Whether its store is a bucket of an S3 server; else it is a folder.
    pub bucket: bool,
    /// What starts its run: its user, who creates it, or its Pipeline.
    pub starts: Starts,
    /// How many runs there are in the end.
    pub runs: usize,
    /// How many of these may be active at once.
    pub together: usize,
    /// What its user does meanwhile.
    pub during: Option<During>,
    /// How it ends without a fault: a phase, or `Deleted`.
    pub end: &'static str,
    /// How many cases of the gate are its share, relative to the others.
    pub weight: u32,
}

/// What starts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// Its user creates it.
    Run,
    /// A trigger of its Pipeline.
    Trigger,
    /// An annotation of its Pipeline that asks for it.
    Request,
}

/// A stage, as far as the invariants are concerned.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// The stages that must have committed before its Pod may exist.
    pub needs: Vec<String>,
    /// How often it may be repeated after a failure of its own.
    pub retries: u32,
}

/// A TrainingJob, as far as the invariants are concerned.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its `spec`; of a stage that trains its `trainingJob`.
    pub spec: Value,
    /// How many ranks it has.
    pub ranks: u32,
    /// How often all start again after a failure of its own.
    pub limit: u32,
}

impl Stage {
    pub(super) fn new(name: &str, needs: &[&str], retries: u32) -> Self {
        Self { name: name.to_owned(), needs: needs.iter().map(|name| (*name).to_owned()).collect(), retries }
    }
}

/// Where a volume stands for the store; the test kubelet has its folder.
fn folder() -> Value {
    json!({"volume": {"claimName": "store"}})
}

/// A stage that writes a text of its inputs' lines and one of its own, and counts the lines as a result.
fn writer(name: &str, inputs: &[&str]) -> Value {
    let read: String = inputs.iter().map(|input| format!("cat \"$TRAINYARD_IN_{}\"\n", input.to_uppercase())).collect();
    let script = format!(
        "#!/bin/sh\nset -e\n{{\n{read}echo \"{name} $1\"\n}} > \"$TRAINYARD_OUT_TEXT\"\n\
         grep -c . \"$TRAINYARD_OUT_TEXT\" > \"$TRAINYARD_ROOT/results/lines\"\n"
    );
    // What the first input's stage has counted goes by parameters, what it has written by the store.
    let argument = inputs.first().map_or_else(|| "0".to_owned(), |before| format!("$(stages.{before}.results.lines)"));
    let mut stage = json!({
        "name": name,
        "container": {"image": IMAGE, "script": script, "args": [argument]},
        "outputs": [{"name": "text", "type": "Text"}],
        "results": [{"name": "lines", "type": "integer"}],
    });
    if !inputs.is_empty() {
        let from = |input: &&str| json!({"name": input, "from": format!("{input}.text")});
        stage["inputs"] = inputs.iter().map(from).collect();
    }
    stage
}

fn script(name: &str, script: &str) -> Value {
    json!({"name": name, "container": {"image": IMAGE, "script": format!("#!/bin/sh\n{script}\n")}})
}

impl Workload {
    fn new(name: &'static str, pipeline: Value, stages: Vec<Stage>) -> Self {
        let (end, weight) = ("Succeeded", 4);
        let (job, trains, during) = (None, None, None);
        let (starts, runs, together) = (Starts::Run, 1, 1);
        let (early_reports, bucket) = (true, false);
        let downstream = None;
        Self {
            name,
            pipeline,
            downstream,
            stages,
            job,
            trains,
            early_reports,
            bucket,
            starts,
            runs,
            together,
            during,
            end,
            weight,
        }
    }

    /// A training of four ranks. What follows an attempt is the same for all but rank 0, whose output is the job's.
    fn of_ranks(name: &'static str, limit: u32, script: &str) -> Self {
        let script = format!(
            "#!/bin/sh\nset -e\necho \"rank $TRAINYARD_RANK, attempt $TRAINYARD_ATTEMPT\"\n{script}\n\
             if [ \"$TRAINYARD_RANK\" = 0 ]; then\n\
             echo \"trained by $TRAINYARD_WORLD_SIZE\" > \"$TRAINYARD_OUT_MODEL\"\n\
             echo \"$TRAINYARD_WORLD_SIZE\" > \"$TRAINYARD_ROOT/results/ranks\"\nfi\n"
        );
        let spec = json!({
            "framework": "None",
            "store": folder(),
            "roles": [{"name": "worker", "replicas": 4, "container": {"image": IMAGE, "script": script}}],
            "restart": {"limit": limit, "backoff": {"initial": "1s", "factor": 1}},
            "outputs": [{"name": "model", "type": "Text"}],
            "results": [{"name": "ranks", "type": "integer"}],
        });
        Self { job: Some(Job { spec, ranks: 4, limit }), ..Self::new(name, Value::Null, Vec::new()) }
    }

    /// All trainings.
    fn trainings() -> Vec<Self> {
        // What a rank does once, with its peers around it.
        let work = "sleep 0.3";
        let first = |script: &str| format!("if [ \"$TRAINYARD_ATTEMPT\" = 1 ]; then\n{script}\nfi\n{work}");
        let fails = |rank: u32| format!("if [ \"$TRAINYARD_RANK\" = {rank} ]; then exit 3; fi\nexec sleep 1000");
        let forever = "exec sleep 1000";
        vec![
            Self::of_ranks("training", 3, work),
            Self::of_ranks("training-restart", 3, &first(&fails(1))),
            Self { end: "Failed", ..Self::of_ranks("training-failure", 1, &fails(2)) },
            Self { during: Some(During::Suspend), ..Self::of_ranks("training-suspend", 3, &first(forever)) },
            Self {
                end: "Deleted",
                during: Some(During::Delete),
                weight: 1,
                ..Self::of_ranks("training-delete", 3, forever)
            },
            Self { weight: 1, ..Self::in_a_bucket(Self::of_ranks("training-bucket", 3, work)) },
        ]
    }

    /// A stage, a training of three ranks that reads what it has written, and a stage that reads what the training has made.
    fn training_stage(name: &'static str, limit: u32, script: &str) -> Self {
        let script = format!(
            "#!/bin/sh\nset -e\necho \"rank $TRAINYARD_RANK, attempt $TRAINYARD_ATTEMPT, $1\"\ncat \"$TRAINYARD_IN_FIRST\"\n{script}\n\
             if [ \"$TRAINYARD_RANK\" = 0 ]; then\n\
             {{\ncat \"$TRAINYARD_IN_FIRST\"\necho \"trained by $TRAINYARD_WORLD_SIZE\"\n}} > \"$TRAINYARD_OUT_TEXT\"\n\
             grep -c . \"$TRAINYARD_OUT_TEXT\" > \"$TRAINYARD_ROOT/results/lines\"\nfi\n"
        );
        let container = json!({"image": IMAGE, "script": script, "args": ["$(stages.first.results.lines)"]});
        let training = json!({
            "framework": "None",
            "roles": [{"name": "worker", "replicas": 3, "container": container}],
            "restart": {"limit": limit, "backoff": {"initial": "1s", "factor": 1}},
        });
        let second = json!({
            "name": "second",
            "trainingJob": training,
            "inputs": [{"name": "first", "from": "first.text"}],
            "outputs": [{"name": "text", "type": "Text"}],
            "results": [{"name": "lines", "type": "integer"}],
        });
        let stages = json!([writer("first", &[]), second, writer("third", &["second"])]);
        let known =
            vec![Stage::new("first", &[], 0), Stage::new("second", &["first"], 0), Stage::new("third", &["second"], 0)];
        let trains = Some(Job { spec: training, ranks: 3, limit });
        Self { trains, ..Self::new(name, json!({"store": folder(), "stages": stages}), known) }
    }

    /// All pipelines with a training among their stages.
    fn training_stages() -> Vec<Self> {
        let work = "sleep 0.3";
        let fails = "if [ \"$TRAINYARD_RANK\" = 1 ]; then exit 3; fi\nexec sleep 1000";
        let first = |script: &str| format!("if [ \"$TRAINYARD_ATTEMPT\" = 1 ]; then\n{script}\nfi\n{work}");
        vec![
            Self::training_stage("stage-training", 3, work),
            Self::training_stage("stage-training-restart", 3, &first(fails)),
            Self { end: "Failed", ..Self::training_stage("stage-training-failure", 0, fails) },
            Self {
                end: "Cancelled",
                during: Some(During::Cancel),
                ..Self::training_stage("stage-training-cancel", 3, "exec sleep 1000")
            },
        ]
    }

    /// The training that it is or has.
    #[must_use]
    pub fn training(&self) -> Option<&Job> {
        self.job.as_ref().or(self.trains.as_ref())
    }

    /// How many Pods it has at least, if it comes to its end.
    #[must_use]
    pub fn size(&self) -> usize {
        self.runs * self.stages.len() + self.training().map_or(0, |job| job.ranks as usize)
    }

    /// Writers with these inputs, each listed after what it reads.
    fn writers(name: &'static str, graph: &[(&str, &[&str])]) -> Self {
        let stages: Vec<Value> = graph.iter().map(|(name, inputs)| writer(name, inputs)).collect();
        let known = graph.iter().map(|(name, inputs)| Stage::new(name, inputs, 0)).collect();
        Self::new(name, json!({"store": folder(), "stages": stages}), known)
    }

    /// Every workload of the sweep.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::writers("single", &[("first", &[])]),
            Self::chain5("chain5"),
            Self { early_reports: false, ..Self::chain5("chain5-silent") },
            Self::bucket(),
            Self::writers(
                "diamond",
                &[("first", &[]), ("left", &["first"]), ("right", &["first"]), ("last", &["left", "right"])],
            ),
            Self { weight: 1, ..Self::fan() },
            Self::fails_twice(),
            Self { end: "Failed", ..Self::fails_for_good() },
            Self::is_skipped(),
            Self { end: "Failed", ..Self::takes_too_long() },
            Self { end: "Cancelled", during: Some(During::Cancel), ..Self::waits("cancel") },
            Self { end: "Deleted", during: Some(During::Delete), ..Self::waits("delete") },
        ];
        all.extend(Self::triggered());
        all.extend([Self::published(), Self::approved()]);
        all.extend(Self::trainings());
        all.extend(Self::training_stages());
        all
    }

    /// The workload of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|workload| workload.name == name)
    }

    /// A stage whose output is compared with the champion and published.
    fn published() -> Self {
        let mut first = writer("first", &[]);
        let script = first["container"]["script"].as_str().unwrap_or_default();
        let metric = "echo '{\"name\": \"lines\", \"value\": 1}' >> \"$TRAINYARD_ROOT/metrics.jsonl\"\n";
        first["container"]["script"] = format!("{script}{metric}").into();
        first["metrics"] = json!(["lines"]);
        let gate =
            json!({"name": "gate", "gate": {"checks": [{"metric": "first.lines", "min": 1, "minImprovement": 0}]}});
        let publish =
            json!({"name": "publish", "dependsOn": ["gate"], "publish": {"model": "text", "from": "first.text"}});
        let known = vec![Stage::new("first", &[], 0), Stage::new("publish", &["first"], 0)];
        Self::new("published", json!({"store": folder(), "stages": [first, gate, publish]}), known)
    }

    /// A stage that waits for its user's word, and one that follows it.
    fn approved() -> Self {
        let approve = json!({"name": "approve", "approval": {"message": "go on?"}, "dependsOn": ["first"]});
        let mut last = writer("last", &["first"]);
        last["dependsOn"] = json!(["approve"]);
        let known = vec![Stage::new("first", &[], 0), Stage::new("last", &["first", "approve"], 0)];
        let pipeline = json!({"store": folder(), "stages": [writer("first", &[]), approve, last]});
        Self { during: Some(During::Approve), weight: 2, ..Self::new("approved", pipeline, known) }
    }

    /// Whether a stage of this name waits for its user's word.
    #[must_use]
    pub fn approves(&self, name: &str) -> bool {
        let mut stages = self.pipeline["stages"].as_array().into_iter().flatten();
        stages.any(|stage| stage["name"] == name && stage["approval"].is_object())
    }

    /// Whether it publishes a model.
    #[must_use]
    pub fn publishes(&self) -> bool {
        self.pipeline["stages"].as_array().into_iter().flatten().any(|stage| stage["publish"].is_object())
    }

    /// Five stages, each of which adds a line to what the one before has written.
    fn chain5(name: &'static str) -> Self {
        let graph: [(&str, &[&str]); 5] = [
            ("first", &[]),
            ("second", &["first"]),
            ("third", &["second"]),
            ("fourth", &["third"]),
            ("fifth", &["fourth"]),
        ];
        Self::writers(name, &graph)
    }

    /// Three stages on an S3 server.
    fn bucket() -> Self {
        let graph: [(&str, &[&str]); 3] = [("first", &[]), ("second", &["first"]), ("third", &["second"])];
        Self::in_a_bucket(Self::writers("bucket", &graph))
    }

    /// The same on an S3 server.
    fn in_a_bucket(mut self) -> Self {
        let store = json!({
            "uri": "s3://trainyard/runs", "s3": {"endpoint": "http://store:9000", "region": "us-east-1"},
            "credentials": {"secretName": "store"},
        });
        self.spec_mut()["store"] = store;
        self.bucket = true;
        self
    }

    fn spec_mut(&mut self) -> &mut Value {
        self.job.as_mut().map_or(&mut self.pipeline, |job| &mut job.spec)
    }

    /// One stage, twenty that read it, one that reads these.
    fn fan() -> Self {
        let names: Vec<String> = (1..=16).map(|number| format!("s{number}")).collect();
        let mut stages = vec![writer("first", &[])];
        stages.extend(names.iter().map(|name| writer(name, &["first"])));
        // A stage has at most 16 inputs: four more are waited for.
        let more: Vec<String> = (17..=20).map(|number| format!("s{number}")).collect();
        stages.extend(more.iter().map(|name| writer(name, &["first"])));
        let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut last = writer("last", &inputs);
        last["dependsOn"] = json!(more);
        stages.push(last);
        let mut known = vec![Stage::new("first", &[], 0)];
        known.extend(names.iter().chain(&more).map(|name| Stage::new(name, &["first"], 0)));
        let all: Vec<&str> = names.iter().chain(&more).map(String::as_str).collect();
        known.push(Stage::new("last", &all, 0));
        Self::new("fan20", json!({"store": folder(), "stages": stages}), known)
    }

    /// A stage that fails twice by its own fault and then succeeds. It counts in its store's folder, since attempts that the
    /// infrastructure costs do not count.
    fn fails_twice() -> Self {
        let mut first = writer("first", &[]);
        let body = first["container"]["script"].as_str().unwrap_or_default().replacen(
            "set -e\n",
            "set -e\nif [ \"$TRAINYARD_ATTEMPT\" -lt 3 ]; then echo \"attempt $TRAINYARD_ATTEMPT fails\"; exit 3; fi\n",
            1,
        );
        first["container"]["script"] = body.into();
        first["retry"] = json!({"limit": 2, "backoff": {"initial": "1s", "factor": 1}});
        let stages = json!([first, writer("second", &["first"])]);
        let known = vec![Stage::new("first", &[], 2), Stage::new("second", &["first"], 0)];
        Self::new("retry", json!({"store": folder(), "stages": stages}), known)
    }

    /// A stage that fails, one that needs it, and one that runs whatever happened.
    fn fails_for_good() -> Self {
        let mut failing = script("first", "echo something is wrong\nexit 3");
        failing["outputs"] = json!([{"name": "text", "type": "Text"}]);
        let pipeline = json!({
            "store": folder(),
            "stages": [failing, writer_of("second", "first")],
            "finally": [writer("report", &[])],
        });
        let known =
            vec![Stage::new("first", &[], 0), Stage::new("second", &["first"], 0), Stage::new("report", &[], 0)];
        Self::new("failure", pipeline, known)
    }

    /// A stage whose condition is false, and one that needs it.
    fn is_skipped() -> Self {
        let mut second = writer("second", &["first"]);
        second["when"] = "stages.first.results.lines > 5".into();
        let stages = json!([writer("first", &[]), second, writer_of("third", "second")]);
        let known =
            vec![Stage::new("first", &[], 0), Stage::new("second", &["first"], 0), Stage::new("third", &["second"], 0)];
        Self::new("when", json!({"store": folder(), "stages": stages}), known)
    }

    /// A stage that does not end in its time.
    fn takes_too_long() -> Self {
        let mut first = script("first", "exec sleep 1000");
        first["timeout"] = "1s".into();
        Self::new("timeout", json!({"store": folder(), "stages": [first]}), vec![Stage::new("first", &[], 0)])
    }

    /// A stage that ends, one that does not, and one that waits for it.
    fn waits(name: &'static str) -> Self {
        let mut second = script("second", "exec sleep 1000");
        second["dependsOn"] = json!(["first"]);
        let mut third = script("third", "exit 0");
        third["dependsOn"] = json!(["second"]);
        let stages = json!([writer("first", &[]), second, third]);
        let known =
            vec![Stage::new("first", &[], 0), Stage::new("second", &["first"], 0), Stage::new("third", &["second"], 0)];
        Self::new(name, json!({"store": folder(), "stages": stages}), known)
    }

    /// The stage of that name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }
}

/// A stage that reads the text of another, without its result.
fn writer_of(name: &str, input: &str) -> Value {
    let mut stage = writer(name, &[input]);
    stage["container"]["args"] = json!(["0"]);
    stage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_knows_its_stages() {
        for workload in Workload::all() {
            assert!(Workload::named(workload.name).is_some());
            if let Some(job) = &workload.job {
                assert_eq!((&job.spec["roles"][0]["replicas"], workload.size()), (&json!(job.ranks), 4));
                assert_eq!(job.spec["restart"]["limit"], job.limit);
                continue;
            }
            let pipelines = [Some(workload.pipeline), workload.downstream];
            let lists = pipelines.iter().flatten().flat_map(|spec| [&spec["stages"], &spec["finally"]]);
            let listed = lists.filter_map(Value::as_array);
            // A gate and an approval have no Pod.
            let with_pods = listed.flatten().filter(|stage| stage["gate"].is_null() && stage["approval"].is_null());
            let names: Vec<Value> = with_pods.map(|stage| stage["name"].clone()).collect();
            let known: Vec<&str> = workload.stages.iter().map(|stage| stage.name.as_str()).collect();
            assert_eq!(json!(names), json!(known), "{}", workload.name);
        }
    }
}
