//! A pipeline as a graph that has been checked: later code cannot see one that has not.

use std::collections::HashMap;

use trainyard_crds::condition::Reason;
use trainyard_crds::names;
use trainyard_crds::v1alpha1::{
    Branch, Defaults, PipelineSpec, Retry, Stage, StageKind, StagePhase, Store, duration_seconds,
};

use crate::SpecProblem;
use crate::expression::Expression;
use crate::params::check_declarations;
use crate::retry::Policy;
use crate::template::{Reference, RunField, Template};

/// Seconds between TERM and KILL where the stage says nothing.
const GRACE_SECONDS: u64 = 30;

/// A pipeline whose references all lead somewhere, whose order is one that can be run, and whose defaults are filled in.
#[derive(Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    index: HashMap<String, usize>,
    main: usize,
    parallel: Option<usize>,
    store: Store,
    code: Option<String>,
}

/// Which part of the pipeline a stage belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `spec.stages`.
    Main,
    /// `spec.finally`.
    Finally,
}

/// One stage of the graph.
#[derive(Debug)]
pub struct Node {
    stage: Stage,
    section: Section,
    pub(crate) needs: Vec<Need>,
    pub(crate) when: Option<Expression>,
    pub(crate) policy: Policy,
    pub(crate) command: Vec<Template>,
    pub(crate) env: Vec<(String, Template)>,
    pub(crate) timeout: Option<u64>,
    pub(crate) grace: u64,
    hash: String,
}

/// Something that must have ended before a stage starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Index of the stage.
    pub(crate) node: usize,
    /// The ways in which it may have ended.
    pub(crate) on: Branches,
}

/// A set of [`Branch`]es.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Branches(u8);

impl Branches {
    pub(crate) const SUCCEEDED: Self = Self(1);
    pub(crate) const ANY: Self = Self(7);

    fn of(branches: &[Branch]) -> Self {
        let set = branches.iter().fold(0, |set, branch| {
            set | match branch {
                Branch::Succeeded => 1,
                Branch::Failed => 2,
                Branch::Skipped => 4,
            }
        });
        if set == 0 { Self::ANY } else { Self(set) }
    }

    /// Whether an ended stage is in the set. A cancelled one did not succeed.
    pub(crate) fn allows(self, phase: StagePhase) -> bool {
        let bit = match phase {
            StagePhase::Succeeded => 1,
            StagePhase::Failed | StagePhase::Cancelled => 2,
            StagePhase::Skipped => 4,
            StagePhase::Waiting | StagePhase::Pending | StagePhase::Running | StagePhase::Retrying => 0,
        };
        self.0 & bit != 0
    }

    /// Whether only success will do.
    pub(crate) fn only_success(self) -> bool {
        self == Self::SUCCEEDED
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl std::fmt::Display for Branches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [(1, "Succeeded"), (2, "Failed"), (4, "Skipped")];
        let mut separator = "";
        for (_, word) in words.into_iter().filter(|(bit, _)| self.0 & bit != 0) {
            write!(f, "{separator}{word}")?;
            separator = " or ";
        }
        Ok(())
    }
}

impl Node {
    /// The stage with every default filled in.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.stage.name
    }

    /// Which part of the pipeline it belongs to.
    #[must_use]
    pub fn section(&self) -> Section {
        self.section
    }

    /// A hash over its definition: an attempt of another definition is not this stage's.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether a failure of it leaves the run's success alone.
    #[must_use]
    pub fn allows_failure(&self) -> bool {
        self.stage.allow_failure.unwrap_or(false)
    }
}

impl Graph {
    /// Checks a pipeline and fills in its defaults.
    ///
    /// `default_store` is the installation's, for a pipeline that names none.
    ///
    /// # Errors
    /// The first problem, with the path of its field.
    pub fn new(spec: &PipelineSpec, default_store: Option<&Store>) -> Result<Self, SpecProblem> {
        check_declarations(&spec.params)?;
        let store = spec.store.as_ref().or(default_store).cloned().ok_or_else(|| {
            SpecProblem::new(
                Reason::StoreMissing,
                "spec.store",
                "neither the pipeline nor the installation says where artifacts live: set spec.store, or defaultStore in the chart",
            )
        })?;
        let main = spec.stages.len();
        let mut index = HashMap::with_capacity(main + spec.finally.len());
        let sections =
            [(Section::Main, "spec.stages", &spec.stages), (Section::Finally, "spec.finally", &spec.finally)];
        let mut nodes = Vec::with_capacity(main + spec.finally.len());
        for (section, field, stages) in sections {
            for (position, stage) in stages.iter().enumerate() {
                let path = format!("{field}[{position}]");
                let scope = Scope { spec, nodes: &nodes, index: &index, main, section, path: &path };
                let node = scope.node(stage)?;
                if index.insert(stage.name.clone(), nodes.len()).is_some() {
                    let message = format!("there is another stage {}: names are unique", stage.name);
                    return Err(SpecProblem::new(Reason::InvalidPipeline, format!("{path}.name"), message));
                }
                nodes.push(node);
            }
        }
        let parallel = spec.parallel.and_then(|limit| usize::try_from(limit).ok());
        let code = spec.code.as_ref().map(|code| code.config_map_name.clone());
        Ok(Self { nodes, index, main, parallel, store, code })
    }

    /// Every stage: those of `stages` in their order, then those of `finally`.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many of the nodes belong to `stages`.
    #[must_use]
    pub fn main(&self) -> usize {
        self.main
    }

    /// A stage's index by its name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Most stages alive at once.
    #[must_use]
    pub fn parallel(&self) -> Option<usize> {
        self.parallel
    }

    /// Where artifacts live.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The ConfigMap with the stages' code.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

/// What a stage may refer to while the graph is being built.
struct Scope<'a> {
    spec: &'a PipelineSpec,
    nodes: &'a [Node],
    index: &'a HashMap<String, usize>,
    main: usize,
    section: Section,
    path: &'a str,
}

impl Scope<'_> {
    fn node(&self, stage: &Stage) -> Result<Node, SpecProblem> {
        let stage = effective(stage, self.spec.defaults.as_ref());
        let StageKind::Container(container) = &stage.kind;
        let path = |field: &str| format!("{}.{field}", self.path);
        if container.image.is_none() {
            return Err(SpecProblem::new(
                Reason::InvalidPipeline,
                path("container.image"),
                "no image: set it here or in spec.defaults.container",
            ));
        }
        let mut command = Vec::new();
        for (field, texts) in [("command", &container.command), ("args", &container.args)] {
            for (i, text) in texts.iter().flatten().enumerate() {
                command.push(Template::parse(text, &path(&format!("container.{field}[{i}]")))?);
            }
        }
        let mut env = Vec::new();
        for (i, variable) in container.env.iter().enumerate() {
            if let Some(value) = &variable.value {
                let template = Template::parse(value, &path(&format!("container.env[{i}].value")))?;
                env.push((variable.name.clone(), template));
            }
        }
        let when = stage.when.as_ref().map(|text| Expression::parse(text, &path("when"))).transpose()?;
        let mut needs = Needs::default();
        self.declared_needs(&stage, &mut needs)?;
        for template in command.iter().chain(env.iter().map(|(_, template)| template)) {
            for reference in template.references() {
                self.reference(reference, &stage, &mut needs)?;
            }
        }
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
        let timeout = self.seconds(stage.timeout.as_ref(), "timeout")?;
        let grace = self.seconds(stage.grace_period.as_ref(), "gracePeriod")?.unwrap_or(GRACE_SECONDS);
        let hash = hash(&stage, self.spec)?;
        Ok(Node { stage, section: self.section, needs: needs.0, when, policy, command, env, timeout, grace, hash })
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
        for (i, input) in stage.inputs.iter().enumerate() {
            let Some(from) = &input.from else { continue };
            let path = format!("{}.inputs[{i}].from", self.path);
            let (name, output) = from.split_once('.').unwrap_or((from, ""));
            let node = self.upstream(name, &path)?;
            let outputs = &self.nodes[node].stage.outputs;
            if !outputs.iter().any(|declared| declared.name == output) {
                let known: Vec<&str> = outputs.iter().map(|declared| declared.name.as_str()).collect();
                return Err(SpecProblem::new(
                    Reason::UnknownReference,
                    path,
                    format!("stage {name} has no output {output}; it has: {}", listed(&known)),
                ));
            }
            let optional = input.optional.unwrap_or(false) || input.default.is_some();
            needs.add(node, if optional { Branches::ANY } else { Branches::SUCCEEDED });
        }
        Ok(())
    }

    fn reference(&self, reference: &Reference, stage: &Stage, needs: &mut Needs) -> Result<(), SpecProblem> {
        let path = format!("{}.container", self.path);
        let unknown = |message: String| Err(SpecProblem::new(Reason::UnknownReference, path.clone(), message));
        match reference {
            Reference::Param(name) => self.param(name, &path),
            Reference::InputPath(name) if !stage.inputs.iter().any(|input| input.name == *name) => {
                unknown(format!("$(inputs.{name}.path): the stage has no input {name}"))
            }
            Reference::OutputPath(name) if !stage.outputs.iter().any(|output| output.name == *name) => {
                unknown(format!("$(outputs.{name}.path): the stage has no output {name}"))
            }
            Reference::InputPath(_) | Reference::OutputPath(_) => Ok(()),
            Reference::StageResult { stage: name, result } => {
                let node = self.upstream(name, &path)?;
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
                needs.add(self.upstream(name, &path)?, Branches::ANY);
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

    fn param(&self, name: &str, path: &str) -> Result<(), SpecProblem> {
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
    fn upstream(&self, name: &str, path: &str) -> Result<usize, SpecProblem> {
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

    fn seconds(&self, text: Option<&String>, field: &str) -> Result<Option<u64>, SpecProblem> {
        let Some(text) = text else { return Ok(None) };
        match duration_seconds(text) {
            Some(0) | None => Err(SpecProblem::new(
                Reason::InvalidPipeline,
                format!("{}.{field}", self.path),
                format!("{text} is not a time above zero, such as 90s, 30m or 1h30m"),
            )),
            seconds => Ok(seconds),
        }
    }
}

/// Needs by stage: two on the same stage are one that asks for both.
#[derive(Default)]
struct Needs(Vec<Need>);

impl Needs {
    fn add(&mut self, node: usize, on: Branches) {
        match self.0.iter_mut().find(|need| need.node == node) {
            Some(need) => need.on = need.on.and(on),
            None => self.0.push(Need { node, on }),
        }
    }
}

/// A stage with the pipeline's defaults filled in.
fn effective(stage: &Stage, defaults: Option<&Defaults>) -> Stage {
    let mut stage = stage.clone();
    let Some(defaults) = defaults else { return stage };
    let StageKind::Container(container) = &mut stage.kind;
    if container.image.is_none() {
        container.image = defaults.container.as_ref().and_then(|container| container.image.clone());
    }
    if container.resources.is_none() {
        container.resources.clone_from(&defaults.resources);
    }
    stage.retry = merge(stage.retry.take(), defaults.retry.as_ref());
    if stage.timeout.is_none() {
        stage.timeout.clone_from(&defaults.timeout);
    }
    stage
}

/// A stage's retry policy, each absent field from the defaults.
fn merge(own: Option<Retry>, defaults: Option<&Retry>) -> Option<Retry> {
    let Some(defaults) = defaults else { return own };
    let Some(own) = own else { return Some(defaults.clone()) };
    Some(Retry {
        limit: own.limit.or(defaults.limit),
        infra_limit: own.infra_limit.or(defaults.infra_limit),
        backoff: own.backoff.or_else(|| defaults.backoff.clone()),
        rules: if own.rules.is_empty() { defaults.rules.clone() } else { own.rules },
    })
}

fn hash(stage: &Stage, spec: &PipelineSpec) -> Result<String, SpecProblem> {
    let problem = |error: serde_json::Error| SpecProblem::new(Reason::InternalError, "spec.stages", error.to_string());
    let stage = serde_json::to_string(stage).map_err(problem)?;
    let shared = serde_json::to_string(&(&spec.code, &spec.store)).map_err(problem)?;
    Ok(names::hash(&[&stage, &shared]))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
