//! What upstream triggers watch: an output of the newest run of another Pipeline that has succeeded.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Pipeline, PipelineRun, PipelineStatus, TriggerKind, Upstream};
use trainyard_planner::retrain::{FoundOutput, SeenUpstream, Watched, watched};

use super::Guarded;
use crate::apply::{WriteError, Writer};

/// What is seen of the outputs that a Pipeline's triggers watch. A run is read when it is another one than before.
pub(super) async fn see(
    writer: &Writer,
    pipeline: &Pipeline,
    status: &PipelineStatus,
    pipelines: &Store<Guarded>,
) -> Result<BTreeMap<String, SeenUpstream>, WriteError> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let mut seen = BTreeMap::new();
    for known in watched(&pipeline.spec, status) {
        seen.insert(known.trigger.to_owned(), look(writer, &namespace, known, pipelines).await?);
    }
    Ok(seen)
}

async fn look(
    writer: &Writer,
    namespace: &str,
    known: Watched<'_>,
    pipelines: &Store<Guarded>,
) -> Result<SeenUpstream, WriteError> {
    let name = known.upstream.pipeline.as_str();
    let other = pipelines.get(&ObjectRef::new(name).within(namespace));
    let Some(other) = other.as_ref().and_then(|other| other.0.as_ref().ok()) else {
        let message = format!("there is no Pipeline {name} in namespace {namespace} that can be read");
        let found = Err((Reason::UpstreamNotFound, message));
        return Ok(SeenUpstream { run: String::new(), created: None, found });
    };
    let last = other.status.as_ref().and_then(|status| status.last_succeeded.as_ref());
    let Some(last) = last.filter(|last| known.run != Some((&last.name, Some(last.created.0)))) else {
        let (run, created) = known.run.unwrap_or_default();
        return Ok(SeenUpstream { run: run.to_owned(), created, found: Ok(None) });
    };
    let run = writer.read_run(namespace, &last.name).await?;
    let found = output(&last.name, run.as_ref(), known.upstream).map(Some);
    Ok(SeenUpstream { run: last.name.clone(), created: Some(last.created.0), found })
}

/// The output of a run.
fn output(name: &str, run: Option<&PipelineRun>, upstream: &Upstream) -> Result<FoundOutput, (Reason, String)> {
    let missing = |message: String| Err((Reason::OutputMissing, message));
    let Some(status) = run.and_then(|run| run.status.as_ref()) else {
        return missing(format!(
            "run {name} of pipeline {} is gone, and what it has written is not known",
            upstream.pipeline
        ));
    };
    let outputs = || {
        let named = |stage: &str, output: &str| format!("{stage}.{output}");
        status
            .stages
            .iter()
            .flat_map(move |row| row.outputs.iter().map(move |output| (named(&row.name, &output.name), output)))
    };
    if let Some((_, output)) = outputs().find(|(name, _)| *name == upstream.output) {
        return Ok(FoundOutput { digest: output.digest.clone(), uri: output.uri.clone() });
    }
    let known: Vec<String> = outputs().map(|(name, _)| name).take(20).collect();
    let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
    missing(format!(
        "run {name} of pipeline {} has not written {}; it has written {known}",
        upstream.pipeline, upstream.output
    ))
}

/// Who is to look again since a Pipeline is new, or has another run that has succeeded.
#[derive(Default)]
pub(super) struct Downstream {
    /// That run and when it was created, by namespace and name of the Pipeline; `None` if there is none.
    known: HashMap<(String, String), Option<(String, Timestamp)>>,
}

impl Downstream {
    /// Takes in a Pipeline as the watch shows it. Returns those whose triggers watch it, if there is news for them.
    pub(super) fn of(&mut self, pipeline: &Pipeline, pipelines: &Store<Guarded>) -> Vec<ObjectRef<Pipeline>> {
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        let last = pipeline.status.as_ref().and_then(|status| status.last_succeeded.as_ref());
        let last = last.map(|run| (run.name.clone(), run.created.0));
        if self.known.len() > 2 * pipelines.len() + 100 {
            let there = |key: &(String, String)| pipelines.get(&ObjectRef::new(&key.1).within(&key.0)).is_some();
            self.known.retain(|key, _| there(key));
        }
        let before = self.known.insert((namespace.clone(), name.clone()), last.clone());
        if before.as_ref() == Some(&last) {
            return Vec::new();
        }
        let watches = |other: &Pipeline| {
            let mut triggers = other.spec.triggers.iter();
            let of_it =
                |kind: &TriggerKind| matches!(kind, TriggerKind::Upstream(upstream) if upstream.pipeline == name);
            other.namespace().as_deref() == Some(&*namespace) && triggers.any(|trigger| of_it(&trigger.kind))
        };
        let all = pipelines.state();
        let readable = all.iter().filter_map(|other| other.0.as_ref().ok());
        readable.filter(|other| watches(other)).map(|other| ObjectRef::from_obj(&**other)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn upstream(output: &str) -> Upstream {
        Upstream { pipeline: "clean".into(), output: output.into() }
    }

    fn run(stages: Value) -> PipelineRun {
        let run = json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "PipelineRun", "metadata": {"name": "clean-1"},
            "spec": {}, "status": {"phase": "Succeeded", "stages": stages}});
        serde_json::from_value(run).unwrap()
    }

    #[test]
    fn an_output_is_found_by_stage_and_name_or_it_is_said_what_there_is() {
        let written = |name: &str| json!({"name": name, "uri": format!("s3://b/{name}/"), "digest": format!("sha256:{name}"), "bytes": 1});
        let run = run(json!([
            {"name": "load", "phase": "Skipped"},
            {"name": "clean", "phase": "Succeeded", "outputs": [written("table"), written("report")]},
        ]));
        let found = output("clean-1", Some(&run), &upstream("clean.table")).unwrap();
        assert_eq!(found, FoundOutput { digest: "sha256:table".into(), uri: "s3://b/table/".into() });
        let problem = |run: Option<&PipelineRun>, name: &str| output("clean-1", run, &upstream(name)).unwrap_err();
        assert_eq!(
            problem(Some(&run), "load.raw"),
            (
                Reason::OutputMissing,
                "run clean-1 of pipeline clean has not written load.raw; it has written clean.table, clean.report"
                    .into()
            )
        );
        assert_eq!(
            problem(None, "clean.table"),
            (
                Reason::OutputMissing,
                "run clean-1 of pipeline clean is gone, and what it has written is not known".into()
            )
        );
    }
}
