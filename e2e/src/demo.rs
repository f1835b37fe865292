//! `make demo`: from a bare machine to a trained model, and what to look at then.

use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;

use crate::bucket::Connection;
use crate::cluster::{self, Cluster, Options};
use crate::store::{self, Access};
use crate::{bucket, command, image, install, paths, progress};

/// Namespace of the demo.
const NAMESPACE: &str = "iris";
/// Namespace of the demo of examples/gitops-iris.
const GITOPS: &str = "gitops-iris";
/// Bucket of the example.
const BUCKET: &str = "iris";
/// The run is given up after this time.
const LIMIT: &str = "600s";

/// The demo did not reach its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// No store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// No image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// No Trainyard.
    #[error(transparent)]
    Install(#[from] install::Error),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// The data did not reach the bucket.
    #[error(transparent)]
    Bucket(#[from] bucket::Error),
    /// kubectl printed something else than JSON.
    #[error("kubectl did not print JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// kubectl could not be started.
    #[error("failed to start kubectl: {0}")]
    Start(#[source] std::io::Error),
    /// The script of examples/gitops-iris found something that is not as it should be, and has said what.
    #[error("the demo of examples/gitops-iris failed; see: kubectl --namespace {GITOPS} describe pl,plr")]
    Gitops,
    /// The run ended badly.
    #[error("the run {run} ended as {phase}; see: kubectl --namespace {NAMESPACE} describe plr {run}")]
    Run {
        /// Its name.
        run: String,
        /// Its phase.
        phase: String,
    },
}

/// Brings up all that the example needs: cluster, store with data, Trainyard, sources. Returns the cluster.
pub fn prepare(name: &str) -> Result<Cluster, Error> {
    let cluster = Cluster::up(Options::full(name))?;
    let access = store::up(&cluster, store::NAMESPACE)?;
    install::up(&cluster, &[&default_store()])?;
    for name in ["busybox", "example-python", "postgres"] {
        let image = image::build(name)?;
        progress::step(&format!("image {}", image.reference), || image::load(&cluster, &image))?;
    }
    namespace(&cluster, NAMESPACE, &access)?;
    let data = paths::repository().join("examples/iris/data/iris.csv");
    progress::step("data into s3://iris/raw/iris.csv", || {
        bucket::upload(&cluster, store::NAMESPACE, &access, BUCKET, "raw/iris.csv", &data)
    })?;
    progress::step("database and HTTP API", || {
        apply_folder(&cluster, NAMESPACE, "examples/iris/sources")?;
        command::run(cluster.kubectl().args([
            "--namespace",
            NAMESPACE,
            "rollout",
            "status",
            "--timeout=180s",
            "deployment/iris-petals",
        ]))?;
        command::run(cluster.kubectl().args([
            "--namespace",
            NAMESPACE,
            "rollout",
            "status",
            "--timeout=180s",
            "deployment/iris-species",
        ]))
    })?;
    apply_folder(&cluster, NAMESPACE, "examples/iris")?;
    Ok(cluster)
}

/// Commits, a revert and new data by the script of examples/gitops-iris, in a namespace of its own that is made anew.
pub fn gitops(name: &str) -> Result<(), Error> {
    let cluster = Cluster::up(Options::full(name))?;
    let access = store::up(&cluster, store::NAMESPACE)?;
    install::up(&cluster, &[&default_store()])?;
    let image = image::build("example-python")?;
    progress::step(&format!("image {}", image.reference), || image::load(&cluster, &image))?;
    command::run(cluster.kubectl().args(["delete", "namespace", GITOPS, "--ignore-not-found", "--wait"]))?;
    namespace(&cluster, GITOPS, &access)?;
    let tool = std::env::current_exe().map_err(Error::Start)?;
    let kubectl = cluster.kubectl();
    let mut script = std::process::Command::new("bash");
    script.arg(paths::repository().join("examples/gitops-iris/demo.sh"));
    script.envs(kubectl.get_envs().filter_map(|(key, value)| Some((key, value?))));
    script.env("KUBECTL", kubectl.get_program()).env("NAMESPACE", GITOPS).env("RAW_URI", "s3://iris/demo/flowers/");
    script.env("PUT_OBJECT", format!("{} store put --name {name}", tool.display()));
    let access = Connection::open(&cluster, store::NAMESPACE, &access)?;
    // What an earlier demo has left would be data, too.
    for key in access.list(BUCKET, "demo/flowers/")? {
        access.delete(BUCKET, &key)?;
    }
    match script.status().map_err(Error::Start)?.success() {
        true => Ok(()),
        false => Err(Error::Gitops),
    }
}

/// The store of pipelines that name none, as a value of the chart: the store in the cluster, entered with a Secret `store`.
#[must_use]
pub fn default_store() -> String {
    let endpoint = store::access(store::NAMESPACE).endpoint;
    format!(
        r#"defaultStore={{"uri":"s3://{}/artifacts","s3":{{"endpoint":"{endpoint}","region":"{}"}},"credentials":{{"secretName":"store"}}}}"#,
        store::BUCKET,
        store::REGION,
    )
}

/// A namespace that enforces the restricted profile, with the credentials of the store.
pub fn namespace(cluster: &Cluster, namespace: &str, access: &Access) -> Result<(), command::Error> {
    let objects = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: store, namespace: {namespace}}}\n\
         stringData: {{AWS_ACCESS_KEY_ID: {}, AWS_SECRET_ACCESS_KEY: {}}}\n",
        access.access_key, access.secret_key,
    );
    command::input(cluster.kubectl().args(["apply", "--filename", "-"]), &objects).map(|_| ())
}

fn apply_folder(cluster: &Cluster, namespace: &str, folder: &str) -> Result<(), command::Error> {
    let path = paths::repository().join(folder);
    command::run(cluster.kubectl().args(["--namespace", namespace, "apply", "--kustomize"]).arg(path)).map(|_| ())
}

/// Runs the example and prints what became of it.
pub fn run(name: &str) -> Result<(), Error> {
    let started = Instant::now();
    let cluster = prepare(name)?;
    let manifest = paths::repository().join("examples/iris/run.yaml");
    let kubectl = |arguments: &[&str]| {
        let mut kubectl = cluster.kubectl();
        kubectl.args(["--namespace", NAMESPACE]).args(arguments);
        kubectl
    };
    let created = command::run(kubectl(&["create", "--output", "name", "--filename"]).arg(manifest))?;
    let run = created.trim().rsplit('/').next().unwrap_or_default().to_owned();
    progress::line(&format!("kubectl --namespace {NAMESPACE} get plr {run} -w"));
    let mut watch = kubectl(&["get", "plr", &run, "--watch"]).stdout(Stdio::inherit()).spawn().map_err(Error::Start)?;
    let waited = command::run(&mut kubectl(&[
        "wait",
        "--for=condition=Finished",
        &format!("--timeout={LIMIT}"),
        &format!("plr/{run}"),
    ]));
    watch.kill().ok();
    watch.wait().ok();
    waited?;
    let object: Value = serde_json::from_str(&command::run(&mut kubectl(&["get", "plr", &run, "--output", "json"]))?)?;
    print!("{}", summary(&object));
    let phase = text(&object["status"]["phase"]);
    if phase != "Succeeded" {
        return Err(Error::Run { run, phase });
    }
    println!(
        "\nAll of it took {} s. Look around:\n  eval \"$(cargo run --quiet --package trainyard-e2e -- cluster env)\"\n  \
         kubectl --namespace {NAMESPACE} describe plr {run}\n  kubectl explain pipeline.spec.stages\nand `make cluster-down` when you have seen enough.",
        started.elapsed().as_secs(),
    );
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The stages, the metrics and the artifacts of a run, as tables.
fn summary(run: &Value) -> String {
    let status = &run["status"];
    let stages = status["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut stage_rows = vec![["STAGE", "PHASE", "ATTEMPT", "REASON", "RESULTS"].map(str::to_owned).to_vec()];
    let mut metric_rows = vec![["METRIC", "VALUE", "STAGE"].map(str::to_owned).to_vec()];
    let mut artifact_rows = vec![["ARTIFACT", "BYTES", "URI"].map(str::to_owned).to_vec()];
    for stage in stages {
        let name = text(&stage["name"]);
        let results: Vec<String> = stage["results"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", text(value)))
            .collect();
        stage_rows.push(vec![
            name.clone(),
            text(&stage["phase"]),
            text(&stage["attempt"]),
            text(&stage["reason"]),
            results.join(" "),
        ]);
        for (metric, value) in stage["metrics"].as_object().into_iter().flatten() {
            let value = value.as_f64().map_or_else(|| text(value), |number| format!("{number:.4}"));
            metric_rows.push(vec![metric.clone(), value, name.clone()]);
        }
        for output in stage["outputs"].as_array().into_iter().flatten() {
            artifact_rows.push(vec![
                format!("{name}.{}", text(&output["name"])),
                text(&output["bytes"]),
                text(&output["uri"]),
            ]);
        }
    }
    let head = format!(
        "\n{} {} after {}: {}\n",
        text(&run["metadata"]["name"]),
        text(&status["phase"]),
        text(&status["duration"]),
        text(&status["message"])
    );
    [head, table(&stage_rows), table(&metric_rows), table(&artifact_rows)].join("\n")
}

/// Columns as wide as their widest cell, as kubectl prints them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(line.join("   ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_summary_says_what_ran_how_good_it_is_and_where_it_lies() {
        let run = json!({
            "metadata": {"name": "iris-1"},
            "status": {"phase": "Succeeded", "duration": "12s", "message": "2 of 2 stages succeeded", "stages": [
                {"name": "collect", "phase": "Succeeded", "attempt": 1, "results": {"rows": 151},
                 "outputs": [{"name": "table", "bytes": 4096, "uri": "s3://iris/trainyard/x/collect/1/table/"}]},
                {"name": "evaluate", "phase": "Succeeded", "attempt": 2, "metrics": {"accuracy": 0.972_97}},
            ]},
        });
        assert_eq!(
            summary(&run),
            "\niris-1 Succeeded after 12s: 2 of 2 stages succeeded\n\n\
             STAGE      PHASE       ATTEMPT   REASON   RESULTS\n\
             collect    Succeeded   1                  rows=151\n\
             evaluate   Succeeded   2\n\n\
             METRIC     VALUE    STAGE\n\
             accuracy   0.9730   evaluate\n\n\
             ARTIFACT        BYTES   URI\n\
             collect.table   4096    s3://iris/trainyard/x/collect/1/table/\n"
        );
    }
}
