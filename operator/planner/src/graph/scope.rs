//! One stage, checked against those before it.

use std::collections::HashMap;

use trainyard_crds::condition::Reason;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{Container, Input, PipelineSpec, Stage, StageKind, Training, duration_seconds};

use super::defaults::effective;
use super::needs::{Branches, Needs};
use super::{Node, Program, Section};
use crate::SpecProblem;
use crate::expression::Expression;
use crate::retry::Policy;
use crate::template::{Reference, RunField, Template};

/// Seconds between TERM and KILL where the stage says nothing.
const GRACE_SECONDS: u64 = 30;

/// What a stage may refer to while the graph is being built.
pub(super) struct Scope<'a> {
    pub(super) spec: &'a PipelineSpec,
    pub(super) nodes: &'a [Node],
    pub(super) index: &'a HashMap<String, usize>,
    pub(super) main: usize,
    pub(super) section: Section,
    pub(super) path: &'a str,
}

impl Scope<'_> {
    /// The stage as a node, if all that it names is there.
    pub(super) fn node(&self, stage: &Stage) -> Result<Node, SpecProblem> {
        let stage = effective(stage, self.spec.defaults.as_ref());
        let path = |field: &str| format!("{}.{field}", self.path);
        let programs = match &stage.kind {
            StageKind::Container(container) => vec![(path("container"), container)],
            StageKind::TrainingJob(training) => {
                self.restarts_itself(&stage)?;
                self.volumes(training)?;
                let roles = training.roles.iter().enumerate();
                roles.map(|(i, role)| (path(&format!("trainingJob.roles[{i}].container")), &role.container)).collect()
            }
            StageKind::Gate(_) | StageKind::Approval(_) | StageKind::Publish(_) => {
                self.has_no_program(&stage)?;
                Vec::new()
            }
        };
        let programs: Vec<(String, Program)> = programs
            .into_iter()
            .map(|(path, container)| Ok((path.clone(), program(container, &path)?)))
            .collect::<Result<_, _>>()?;
        let when = stage.when.as_ref().map(|text| Expression::parse(text, &path("when"))).transpose()?;
        let mut needs = Needs::default();
        self.declared_needs(&stage, &mut needs)?;
        let judged = self.judged(&stage.kind, &mut needs)?;
        for (path, Program { command, env }) in &programs {
            for template in command.iter().chain(env.iter().map(|(_, template)| template)) {
                for reference in template.references() {
                    self.reference(reference, &stage, path, &mut needs)?;
                }
            }
        }
        let addresses = self.addresses(&stage)?;
        if let Some(when) = &when {
            self.condition(when, &stage, &mut needs)?;
        }
        if let Some(need) = needs.0.iter().find(|need| need.on.is_empty()) {
            let message = format!(
                "the stage waits for stage {} to end in ways that exclude each other: it could never run",
                self.nodes[need.node].name()
            );
            return Err(SpecProblem::new(Reason::InvalidPipeline, self.path, message));
        }
        self.variables(&stage)?;
        let policy = Policy::new(stage.retry.as_ref());
        let timeout = self.seconds(stage.timeout.as_ref(), "timeout", 1)?;
        let grace = self.seconds(stage.grace_period.as_ref(), "gracePeriod", 0)?.unwrap_or(GRACE_SECONDS);
        let hash = hash(&stage, self.spec)?;
        let programs = programs.into_iter().map(|(_, program)| program).collect();
        Ok(Node {
            stage,
            section: self.section,
            needs: needs.0,
            when,
            policy,
            programs,
            addresses,
            judged,
            timeout,
            grace,
            hash,
        })
    }

    /// A training says itself when it begins again, and its roles what their Pods need. The API server says so first.
    fn restarts_itself(&self, stage: &Stage) -> Result<(), SpecProblem> {
        let fields = [
            (
                stage.retry.is_some(),
                "retry",
                "a training starts all its ranks again by itself: set trainingJob.restart",
            ),
            (stage.pod.is_some(), "pod", "a training has Pods of several roles: set pod in trainingJob.roles"),
        ];
        match fields.into_iter().find(|(said, ..)| *said) {
            Some((_, field, message)) => {
                Err(SpecProblem::new(Reason::InvalidPipeline, format!("{}.{field}", self.path), message))
            }
            None => Ok(()),
        }
    }

    /// What a program reads and writes is not said of a stage that has none. The API server says so first.
    fn has_no_program(&self, stage: &Stage) -> Result<(), SpecProblem> {
        let of_programs = [
            (!stage.inputs.is_empty(), "inputs"),
            (!stage.outputs.is_empty(), "outputs"),
            (!stage.results.is_empty(), "results"),
            (!stage.metrics.is_empty(), "metrics"),
        ];
        match of_programs.into_iter().find(|(said, _)| *said) {
            Some((_, field)) => Err(SpecProblem::new(
                Reason::InvalidPipeline,
                format!("{}.{field}", self.path),
                "is of programs: a gate, an approval or a publish stage has none; use dependsOn for the order",
            )),
            None => Ok(()),
        }
    }

    /// What the API server holds of volumes elsewhere, and of the many roles of trainings cannot.
    fn volumes(&self, training: &Training) -> Result<(), SpecProblem> {
        for (i, role) in training.roles.iter().enumerate() {
            for (j, volume) in role.pod.iter().flat_map(|pod| &pod.volumes).enumerate() {
                let parts = |path: &str| path.split('/').any(|part| part == "." || part == "..");
                let below = |path: &str| !path.starts_with('/') && !path.split('/').any(|part| part == "..");
                let (field, message) = if parts(&volume.mount_path) {
                    ("mountPath", "mountPath must not contain . or .. as a part")
                } else if volume.sub_path.as_deref().is_some_and(|path| !below(path)) {
                    ("subPath", "subPath must be a path below the volume's root: not absolute, without ..")
                } else {
                    continue;
                };
                let path = format!("{}.trainingJob.roles[{i}].pod.volumes[{j}].{field}", self.path);
                return Err(SpecProblem::new(Reason::InvalidPipeline, path, message));
            }
        }
        Ok(())
    }

    fn declared_needs(&self, stage: &Stage, needs: &mut Needs) -> Result<(), SpecProblem> {
        for (i, name) in stage.depends_on.iter().enumerate() {
            let path = format!("{}.dependsOn[{i}]", self.path);
            needs.add(self.upstream(name, &path)?, Branches::SUCCEEDED);
        }
        for (i, after) in stage.after.iter().enumerate() {
            let path = format!("{}.after[{i}]", self.path);
            needs.add(self.upstream(&after.stage, &path)?, Branches::of(&after.phases));
        }
        if let StageKind::Publish(publish) = &stage.kind
            && let Some(from) = &publish.from
        {
            let node = self.output(from, format!("{}.publish.from", self.path))?;
            needs.add(node, Branches::SUCCEEDED);
        }
        for (i, input) in stage.inputs.iter().enumerate() {
            let Some(from) = &input.from else { continue };
            let node = self.output(from, format!("{}.inputs[{i}].from", self.path))?;
            let optional = input.optional.unwrap_or(false) || input.default.is_some();
            needs.add(node, if optional { Branches::ANY } else { Branches::SUCCEEDED });
        }
        Ok(())
    }

    /// The addresses of inputs. What another stage has made says nothing in them: a program must not choose what is read with the store's
    /// credentials.
    fn addresses(&self, stage: &Stage) -> Result<Vec<Option<Template>>, SpecProblem> {
        let address = |(i, input): (usize, &Input)| {
            let (field, text) = match (&input.uri, &input.default) {
                (Some(uri), _) => ("uri", uri),
                (None, Some(default)) => ("default", default),
                (None, None) => return Ok(None),
            };
            let path = format!("{}.inputs[{i}].{field}", self.path);
            let template = Template::parse(text, &path)?;
            for reference in template.references() {
                match reference {
                    Reference::Param(name) => self.param(name, &path)?,
                    Reference::Run(RunField::Name | RunField::Namespace | RunField::Uid | RunField::Pipeline) => {}
                    _ => {
                        let message = "an address may contain $(params.NAME), $(run.name), $(run.namespace), $(run.uid) and \
                                       $(run.pipeline) only; for what another stage has written use from";
                        return Err(SpecProblem::new(Reason::UnknownReference, path, message));
                    }
                }
            }
            Ok(Some(template))
        };
        stage.inputs.iter().enumerate().map(address).collect()
    }

    /// The stage of `STAGE.OUTPUT`.
    fn output(&self, from: &str, path: String) -> Result<usize, SpecProblem> {
        let (name, output) = from.split_once('.').unwrap_or((from, ""));
        let node = self.upstream(name, &path)?;
        let outputs = &self.nodes[node].stage.outputs;
        if outputs.iter().any(|declared| declared.name == output) {
            return Ok(node);
        }
        let known: Vec<&str> = outputs.iter().map(|declared| declared.name.as_str()).collect();
        Err(SpecProblem::new(
            Reason::UnknownReference,
            path,
            format!("stage {name} has no output {output}; it has: {}", listed(&known)),
        ))
    }

    fn reference(
        &self,
        reference: &Reference,
        stage: &Stage,
        path: &str,
        needs: &mut Needs,
    ) -> Result<(), SpecProblem> {
        let unknown = |message: String| Err(SpecProblem::new(Reason::UnknownReference, path, message));
        match reference {
            Reference::Param(name) => self.param(name, path),
            Reference::InputPath(name) if !stage.inputs.iter().any(|input| input.name == *name) => {
                unknown(format!("$(inputs.{name}.path): the stage has no input {name}"))
            }
            Reference::OutputPath(name) if !stage.outputs.iter().any(|output| output.name == *name) => {
                unknown(format!("$(outputs.{name}.path): the stage has no output {name}"))
            }
            Reference::InputPath(_) | Reference::OutputPath(_) => Ok(()),
            Reference::StageResult { stage: name, result } => {
                let node = self.upstream(name, path)?;
                if !self.nodes[node].stage.results.iter().any(|declared| declared.name == *result) {
                    return unknown(format!(
                        "$(stages.{name}.results.{result}): stage {name} declares no result {result}"
                    ));
                }
                needs.add(node, Branches::SUCCEEDED);
                Ok(())
            }
            Reference::StagePhase(_) | Reference::Run(RunField::Phase) if self.section == Section::Main => unknown(
                "$(run.phase) and $(stages.STAGE.phase) are known in finally only; in stages use `when` or `after`"
                    .into(),
            ),
            Reference::StagePhase(name) => {
                needs.add(self.upstream(name, path)?, Branches::ANY);
                Ok(())
            }
            Reference::Run(_) => Ok(()),
        }
    }

    fn condition(&self, when: &Expression, stage: &Stage, needs: &mut Needs) -> Result<(), SpecProblem> {
        let path = format!("{}.when", self.path);
        for name in &when.params {
            self.param(name, &path)?;
        }
        for name in &when.stages {
            if *name == stage.name {
                let message = "a stage's condition cannot read the stage itself";
                return Err(SpecProblem::new(Reason::NotUpstream, path, message));
            }
            needs.add(self.upstream(name, &path)?, Branches::ANY);
        }
        if when.run_phase && self.section == Section::Main {
            let message = "run.phase is known in finally only; in stages read stages.NAME.phase, or use `after`";
            return Err(SpecProblem::new(Reason::UnknownReference, path, message));
        }
        for (name, result) in &when.results {
            let declared = &self.nodes[self.upstream(name, &path)?].stage.results;
            if !declared.iter().any(|declared| declared.name == *result) {
                let known: Vec<&str> = declared.iter().map(|declared| declared.name.as_str()).collect();
                let message = format!("stage {name} declares no result {result}; it has: {}", listed(&known));
                return Err(SpecProblem::new(Reason::UnknownReference, path, message));
            }
        }
        for (name, metric) in &when.metrics {
            let declared = &self.nodes[self.upstream(name, &path)?].stage.metrics;
            if !declared.contains(metric) {
                let message = format!(
                    "add {metric} to metrics of stage {name}: a condition may rely on those that are listed there"
                );
                return Err(SpecProblem::new(Reason::UnknownReference, path, message));
            }
        }
        Ok(())
    }

    pub(super) fn param(&self, name: &str, path: &str) -> Result<(), SpecProblem> {
        if self.spec.params.iter().any(|param| param.name == name) {
            return Ok(());
        }
        let known: Vec<&str> = self.spec.params.iter().map(|param| param.name.as_str()).collect();
        Err(SpecProblem::new(
            Reason::UnknownReference,
            path,
            format!("there is no parameter {name}; there are: {}", listed(&known)),
        ))
    }

    /// The index of a stage that this one may use.
    pub(super) fn upstream(&self, name: &str, path: &str) -> Result<usize, SpecProblem> {
        match self.index.get(name) {
            Some(&node) if self.section == Section::Main || node < self.main => Ok(node),
            Some(_) => Err(SpecProblem::new(
                Reason::NotUpstream,
                path,
                format!("{name} is a finally stage too: these start together"),
            )),
            None if self.spec.stages.iter().chain(&self.spec.finally).any(|stage| stage.name == name) => {
                Err(SpecProblem::new(
                    Reason::NotUpstream,
                    path,
                    format!("stage {name} is not listed before this one: list each stage after those that it uses"),
                ))
            }
            None => {
                let known: Vec<&str> = self.nodes.iter().map(Node::name).take(20).collect();
                Err(SpecProblem::new(
                    Reason::UnknownReference,
                    path,
                    format!("there is no stage {name}; before this one there are: {}", listed(&known)),
                ))
            }
        }
    }

    /// No two inputs or outputs may make the same environment variable.
    fn variables(&self, stage: &Stage) -> Result<(), SpecProblem> {
        let groups = [
            ("inputs", stage.inputs.iter().map(|input| &input.name).collect::<Vec<_>>()),
            ("outputs", stage.outputs.iter().map(|output| &output.name).collect()),
        ];
        for (field, group) in groups {
            let mut seen = HashMap::new();
            for name in group {
                if let Some(other) = seen.insert(step_protocol::paths::env_name(name), name) {
                    return Err(SpecProblem::new(
                        Reason::InvalidPipeline,
                        format!("{}.{field}", self.path),
                        format!("{name} and {other} would be the same environment variable: rename one"),
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn seconds(&self, text: Option<&String>, field: &str, least: u64) -> Result<Option<u64>, SpecProblem> {
        let Some(text) = text else { return Ok(None) };
        match duration_seconds(text) {
            Some(seconds) if seconds >= least => Ok(Some(seconds)),
            _ => Err(SpecProblem::new(
                Reason::InvalidPipeline,
                format!("{}.{field}", self.path),
                format!("{text} is not a time of at least {least}s, such as 90s, 30m or 1h30m"),
            )),
        }
    }
}

/// A container's program, if its image and all that it refers to are said.
fn program(container: &Container, path: &str) -> Result<Program, SpecProblem> {
    if container.image.is_none() {
        let message = "no image: set it here or in spec.defaults.container";
        return Err(SpecProblem::new(Reason::InvalidPipeline, format!("{path}.image"), message));
    }
    let mut command = Vec::new();
    for (field, texts) in [("command", &container.command), ("args", &container.args)] {
        for (i, text) in texts.iter().flatten().enumerate() {
            command.push(Template::parse(text, &format!("{path}.{field}[{i}]"))?);
        }
    }
    let mut env = Vec::new();
    for (i, variable) in container.env.iter().enumerate() {
        if let Some(value) = &variable.value {
            env.push((variable.name.clone(), Template::parse(value, &format!("{path}.env[{i}].value"))?));
        }
    }
    Ok(Program { command, env })
}

fn hash(stage: &Stage, spec: &PipelineSpec) -> Result<String, SpecProblem> {
    let problem = |error: serde_json::Error| SpecProblem::new(Reason::InternalError, "spec.stages", error.to_string());
    let stage = serde_json::to_string(stage).map_err(problem)?;
    let shared = serde_json::to_string(&(&spec.code, &spec.store)).map_err(problem)?;
    Ok(names::hash(&[&stage, &shared]))
}

pub(super) fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
