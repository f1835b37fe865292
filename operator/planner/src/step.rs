//! A stage of a run as a step: references replaced, inputs resolved to commit records.

use std::collections::BTreeMap;

use serde_json::Value;
use step_protocol::{
    EnvVar, Identity, InputSource, InputSpec, LedgerSpec, OutputSpec, ReportSpec, ResultSpec, S3Spec, Segment,
    StepSpec, StoreSpec, Text, ValueType as StepType, paths,
};
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Container, RunPhase, StageKind, StagePhase, StageStatus, Store, ValueType};

use crate::graph::{Graph, Node, Section};
use crate::publish::publish_spec;
use crate::schedule::{Origin, Run};
use crate::status;
use crate::template::{Part, Reference, RunField, Template};

/// What a step needs beyond the run.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'a> {
    /// Where success is reported early.
    pub report_url: Option<&'a str>,
    /// Seconds that an attempt may take where the pipeline says nothing.
    pub default_timeout: Option<u64>,
}

/// Why a step cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepProblem {
    /// A stage that it needs has no row, or has not succeeded: a bug.
    #[error("stage {0} is needed and has not succeeded")]
    NotReady(String),
    /// The stages in the status are not those of the graph, or the stage has no Pod of its own: a bug.
    #[error("there is no stage {0}")]
    Unknown(usize),
    /// A training's command or variable needs a result that is in the stage's commit record only.
    #[error(
        "$(stages.{stage}.results.{result}) is too large for the report of stage {stage}, and a training takes it from there: write it \
         as an output, or write a smaller one"
    )]
    ResultTooLarge {
        /// The stage that wrote it.
        stage: String,
        /// Its name.
        result: String,
    },
}

impl StepProblem {
    /// The reason in the status.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotReady(_) | Self::Unknown(_) => Reason::InternalError,
            Self::ResultTooLarge { .. } => Reason::ResultTooLarge,
        }
    }
}

/// Where the files of an output lie, as a URI that people can open.
#[must_use]
pub fn artifact_uri(store: &Store, run: &Run<'_>, stage: &str, attempt: u32, output: &str) -> String {
    let prefix = paths::stage_prefix(run.namespace, run.pipeline, run.name, run.uid, stage);
    format!("{}/{}/", store_uri(store), paths::output_prefix(&prefix, attempt, output))
}

/// A store as people name it.
pub(crate) fn store_uri(store: &Store) -> String {
    match (&store.uri, &store.volume) {
        (Some(uri), _) => uri.trim_end_matches('/').to_owned(),
        (None, Some(volume)) => match &volume.sub_path {
            Some(path) => format!("volume:{}/{}", volume.claim_name, path.trim_matches('/')),
            None => format!("volume:{}", volume.claim_name),
        },
        (None, None) => String::new(),
    }
}

/// The step of one attempt.
///
/// `rows` are the stages' rows with every change of the plan that launches the attempt.
///
/// # Errors
/// See [`StepProblem`]; a program that runs in one Pod meets none of them, whatever its user writes.
pub fn step_spec(
    graph: &Graph,
    run: &Run<'_>,
    rows: &[StageStatus],
    node: usize,
    attempt: u32,
    context: StepContext<'_>,
) -> Result<StepSpec, StepProblem> {
    let current = graph.nodes().get(node).ok_or(StepProblem::Unknown(node))?;
    let maker = Maker { graph, run, rows, node: current };
    let stage = current.stage();
    let none = Container::default();
    let (container, program, publish) = match (&stage.kind, current.programs.as_slice()) {
        (StageKind::Container(container), [program]) => (container, Some(program), None),
        (StageKind::Publish(publish), _) => (&none, None, Some(publish_spec(&maker, publish)?)),
        _ => return Err(StepProblem::Unknown(node)),
    };
    let (commands, variables) = program.map_or((&[][..], &[][..]), |program| (&program.command, &program.env));
    let mut env = Vec::with_capacity(variables.len());
    for (name, template) in variables {
        env.push(EnvVar { name: name.clone(), value: maker.text(template)? });
    }
    Ok(StepSpec {
        version: step_protocol::VERSION,
        identity: Identity {
            namespace: run.namespace.to_owned(),
            pipeline: run.pipeline.to_owned(),
            run: run.name.to_owned(),
            run_uid: run.uid.to_owned(),
            stage: stage.name.clone(),
            attempt,
        },
        root: paths::ROOT.to_owned(),
        command: commands.iter().map(|template| maker.text(template)).collect::<Result<_, _>>()?,
        script: container.script.clone(),
        working_dir: working_dir(graph, container),
        env,
        params: run.params.clone(),
        store: store_spec(graph.store()),
        prefix: maker.prefix(&stage.name),
        inputs: maker.inputs()?,
        outputs: stage
            .outputs
            .iter()
            .map(|output| OutputSpec { name: output.name.clone(), kind: output.kind.clone() })
            .collect(),
        results: stage
            .results
            .iter()
            .map(|result| ResultSpec { name: result.name.clone(), kind: step_type(result.kind.unwrap_or_default()) })
            .collect(),
        metrics: stage.metrics.clone(),
        timeout_seconds: current.timeout.or(context.default_timeout),
        grace_seconds: current.grace,
        report: context.report_url.map(|url| ReportSpec { url: url.to_owned() }),
        rank: None,
        checkpoint: None,
        publish,
        ledger: ledger(run, current),
    })
}

fn ledger(run: &Run<'_>, node: &Node) -> Option<LedgerSpec> {
    let origin = asks_ledger(run, node)?;
    Some(LedgerSpec { key: paths::ledger_key(run.namespace, run.pipeline, origin.key, origin.retries) })
}

/// The revision that a stage asks for in the store's ledger: of the first stages of a run that a trigger started, so that no other run has
/// trained the same, of which nothing in the cluster may tell any more. A run that trains nothing asks nothing.
#[must_use]
pub fn asks_ledger<'a>(run: &Run<'a>, node: &Node) -> Option<Origin<'a>> {
    let first = node.needs.is_empty() && node.section() == Section::Main && node.publishes().is_none();
    run.origin.filter(|_| first)
}

fn working_dir(graph: &Graph, container: &Container) -> Option<String> {
    container.working_dir.clone().or_else(|| graph.code().map(|_| format!("{}/{}", paths::ROOT, paths::CODE)))
}

/// A store as the runner is told of it.
#[must_use]
pub fn store_spec(store: &Store) -> StoreSpec {
    match &store.uri {
        Some(uri) => StoreSpec {
            uri: uri.clone(),
            s3: store.s3.as_ref().map(|s3| S3Spec {
                endpoint: s3.endpoint.clone(),
                region: s3.region.clone(),
                virtual_hosted_style: s3.virtual_hosted_style.unwrap_or(false),
            }),
        },
        None => StoreSpec { uri: format!("file://{}", paths::STORE_MOUNT), s3: None },
    }
}

pub(crate) fn step_type(kind: ValueType) -> StepType {
    match kind {
        ValueType::String => StepType::String,
        ValueType::Integer => StepType::Integer,
        ValueType::Number => StepType::Number,
        ValueType::Boolean => StepType::Boolean,
        ValueType::List => StepType::List,
        ValueType::Object => StepType::Object,
    }
}

/// The fields of `run` in expressions.
pub(crate) fn run_fields(run: &Run<'_>, phase: RunPhase) -> BTreeMap<String, Value> {
    [
        ("name", run.name),
        ("namespace", run.namespace),
        ("uid", run.uid),
        ("pipeline", run.pipeline),
        ("phase", phase.as_str()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Value::from(value)))
    .collect()
}

/// What replaces the references of a stage.
pub(crate) struct Maker<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) run: &'a Run<'a>,
    pub(crate) rows: &'a [StageStatus],
    pub(crate) node: &'a Node,
}

impl Maker<'_> {
    fn prefix(&self, stage: &str) -> String {
        paths::stage_prefix(self.run.namespace, self.run.pipeline, self.run.name, self.run.uid, stage)
    }

    fn row(&self, stage: &str) -> Result<&StageStatus, StepProblem> {
        let node = self.graph.position(stage);
        node.and_then(|node| self.rows.get(node)).ok_or_else(|| StepProblem::NotReady(stage.to_owned()))
    }

    /// Where a stage's commit record lies: with the run that it was taken over from, if it was.
    fn commit(&self, row: &StageStatus) -> String {
        paths::commit_key(&match &row.cached_from {
            Some(from) => paths::stage_prefix(self.run.namespace, &from.pipeline, &from.run, &from.uid, &row.name),
            None => self.prefix(&row.name),
        })
    }

    /// An output of a stage that has succeeded.
    pub(crate) fn artifact(&self, stage: &str, output: &str) -> Result<InputSource, StepProblem> {
        let row = self.row(stage)?;
        if row.phase != StagePhase::Succeeded {
            return Err(StepProblem::NotReady(stage.to_owned()));
        }
        let known = row.outputs.iter().find(|known| known.name == output);
        let digest = known.map(|known| known.digest.clone());
        Ok(InputSource::Stage { commit: self.commit(row), output: output.to_owned(), digest })
    }

    pub(crate) fn inputs(&self) -> Result<Vec<InputSpec>, StepProblem> {
        let inputs = self.node.stage().inputs.iter().enumerate().map(|(index, input)| {
            let address = || -> Result<InputSource, StepProblem> {
                match self.node.addresses.get(index) {
                    Some(Some(template)) => Ok(InputSource::Uri(self.address(template)?)),
                    _ => Ok(InputSource::Absent),
                }
            };
            let optional = input.optional.unwrap_or(false);
            let source = match (&input.from, &input.uri) {
                (Some(from), _) => {
                    let (stage, output) = from.split_once('.').unwrap_or((from, ""));
                    match (self.row(stage)?.phase, &input.default) {
                        (StagePhase::Succeeded, _) => self.artifact(stage, output)?,
                        (_, Some(_)) => address()?,
                        (_, None) if optional => InputSource::Absent,
                        (_, None) => return Err(StepProblem::NotReady(stage.to_owned())),
                    }
                }
                (None, _) => address()?,
            };
            Ok(InputSpec { name: input.name.clone(), source, optional })
        });
        inputs.collect()
    }

    pub(crate) fn text(&self, template: &Template) -> Result<Text, StepProblem> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut literal = String::new();
        for part in &template.parts {
            match part {
                Part::Literal(text) => literal.push_str(text),
                Part::Reference(Reference::StageResult { stage, result }) => {
                    let row = self.row(stage)?;
                    if let Some(value) = row.results.get(result) {
                        literal.push_str(&as_text(value));
                    } else if row.phase == StagePhase::Succeeded {
                        if !literal.is_empty() {
                            segments.push(Segment::Literal(std::mem::take(&mut literal)));
                        }
                        let (commit, stage, name) = (self.commit(row), stage.clone(), result.clone());
                        segments.push(Segment::Result { commit, stage, name });
                    } else {
                        return Err(StepProblem::NotReady(stage.clone()));
                    }
                }
                Part::Reference(reference) => literal.push_str(&self.known(reference)?),
            }
        }
        if segments.is_empty() {
            return Ok(Text::Known(literal));
        }
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Ok(Text::Segments(segments))
    }

    /// An address: its references are known from the start. What lies on the volume that is the store is named as the Pod sees it.
    fn address(&self, template: &Template) -> Result<String, StepProblem> {
        let part = |part: &Part| match part {
            Part::Literal(text) => Ok(text.clone()),
            Part::Reference(reference) => self.known(reference),
        };
        let address: String = template.parts.iter().map(part).collect::<Result<_, _>>()?;
        let store = self.graph.store();
        let below = store.volume.as_ref().and_then(|_| address.strip_prefix(&store_uri(store))?.strip_prefix('/'));
        Ok(below.map(|path| format!("file://{}/{path}", paths::STORE_MOUNT)).unwrap_or(address))
    }

    fn known(&self, reference: &Reference) -> Result<String, StepProblem> {
        Ok(match reference {
            Reference::Param(name) => self.run.params.get(name).map(as_text).unwrap_or_default(),
            Reference::InputPath(name) => format!("{}/{}/{name}", paths::ROOT, paths::IN),
            Reference::OutputPath(name) => format!("{}/{}/{name}", paths::ROOT, paths::OUT),
            Reference::StagePhase(stage) => self.row(stage)?.phase.as_str().to_owned(),
            Reference::Run(RunField::Name) => self.run.name.to_owned(),
            Reference::Run(RunField::Namespace) => self.run.namespace.to_owned(),
            Reference::Run(RunField::Uid) => self.run.uid.to_owned(),
            Reference::Run(RunField::Pipeline) => self.run.pipeline.to_owned(),
            Reference::Run(RunField::Phase) => {
                let phases: Vec<StagePhase> = self.rows.iter().take(self.graph.main()).map(|row| row.phase).collect();
                debug_assert_eq!(self.node.section(), Section::Finally);
                status::outcome(self.graph, &phases).as_str().to_owned()
            }
            Reference::StageResult { stage, .. } => return Err(StepProblem::NotReady(stage.clone())),
        })
    }
}

/// A value as text: a string as it is, anything else as JSON.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
