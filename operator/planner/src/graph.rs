//! A pipeline as a graph that has been checked: later code cannot see one that has not.

use std::collections::HashMap;

use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{PipelineSpec, Publish, Stage, StageKind, Store};

use crate::SpecProblem;
use crate::expression::Expression;
use crate::params::check_declarations;
use crate::retry::Policy;
use crate::template::Template;

mod defaults;
mod judged;
mod needs;
mod scope;

pub(crate) use judged::{Bound, GateCheck, Improvement, Judged, Subject};
pub(crate) use needs::Need;
use scope::Scope;

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
    /// The stage's program; of a training one a role, in their order; none where the stage has no program.
    pub(crate) programs: Vec<Program>,
    /// Of each input the address that it has where no stage writes it: its `uri`, or its `default`.
    pub(crate) addresses: Vec<Option<Template>>,
    /// What it is, if it has no Pod.
    pub(crate) judged: Option<Judged>,
    pub(crate) timeout: Option<u64>,
    pub(crate) grace: u64,
    hash: String,
}

/// A program whose references all lead somewhere.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its command and arguments.
    pub(crate) command: Vec<Template>,
    /// Its variables that have a value.
    pub(crate) env: Vec<(String, Template)>,
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

    /// Whether it trains: its attempts are TrainingJobs and not Pods.
    #[must_use]
    pub fn trains(&self) -> bool {
        matches!(self.stage.kind, StageKind::TrainingJob(_))
    }

    /// Whether it is a gate or an approval, which have no Pod: nothing that is seen in the cluster is an attempt of it.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.judged.is_some()
    }

    pub(crate) fn is_approval(&self) -> bool {
        matches!(self.judged, Some(Judged::Approval { .. }))
    }

    /// The model that it publishes, if it does.
    #[must_use]
    pub fn publishes(&self) -> Option<&Publish> {
        match &self.stage.kind {
            StageKind::Publish(publish) => Some(publish),
            _ => None,
        }
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

/// The models that a pipeline publishes, each once.
fn models(spec: &PipelineSpec) -> Vec<&str> {
    let mut models: Vec<&str> = Vec::new();
    for stage in spec.stages.iter().chain(&spec.finally) {
        if let StageKind::Publish(publish) = &stage.kind
            && !models.contains(&publish.model.as_str())
        {
            models.push(&publish.model);
        }
    }
    models
}

/// Most models of one pipeline: its status has a list of them.
const MODELS: usize = 16;

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
        let models = models(spec).len();
        if models > MODELS {
            let message = format!("publishes {models} models, and a pipeline may have {MODELS}");
            return Err(SpecProblem::new(Reason::InvalidPipeline, "spec.stages", message));
        }
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
        let parallel = spec.parallel.map(|limit| match usize::try_from(limit) {
            Ok(limit) if limit > 0 => Ok(limit),
            _ => {
                let message = format!("{limit} stages at a time are none: at least 1, or leave it out for no limit");
                Err(SpecProblem::new(Reason::InvalidPipeline, "spec.parallel", message))
            }
        });
        let code = spec.code.as_ref().map(|code| code.config_map_name.clone());
        Ok(Self { nodes, index, main, parallel: parallel.transpose()?, store, code })
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

#[cfg(test)]
mod tests;
