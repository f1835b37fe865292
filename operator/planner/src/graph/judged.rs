//! Stages without a program, checked against those before them: what a gate compares, and what an approval waits for.

use serde_json::Value;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{Approval, Check, Gate, Goal, NoBaseline, Param, StageKind, ValueType};

use super::needs::{Branches, Needs};
use super::scope::{Scope, listed};
use crate::SpecProblem;
use crate::template::{Part, Reference, Template};

/// A stage whose end follows from what is known, or from a person's word.
#[derive(Debug)]
pub(crate) enum Judged {
    /// All of these must hold.
    Gate(Vec<GateCheck>),
    /// Somebody must approve, within so many seconds.
    Approval { timeout: Option<u64> },
}

/// One check of a gate.
#[derive(Debug)]
pub(crate) struct GateCheck {
    /// As the user wrote it: `STAGE.NAME`.
    pub(crate) name: String,
    /// Index of the stage that has the value.
    pub(crate) node: usize,
    /// What kind of value it is.
    pub(crate) subject: Subject,
    /// Name of the value there.
    pub(crate) value: String,
    pub(crate) min: Option<Bound>,
    pub(crate) max: Option<Bound>,
    pub(crate) improvement: Option<Improvement>,
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Metric,
    Result,
}

/// A bound of a check.
#[derive(Debug)]
pub(crate) enum Bound {
    Number(f64),
    Param(String),
}

/// By how much a value must be better than the champion's.
#[derive(Debug)]
pub(crate) struct Improvement {
    pub(crate) by: Bound,
    pub(crate) goal: Goal,
    pub(crate) without: NoBaseline,
    pub(crate) model: String,
}

impl Judged {
    /// Whether it compares with a champion.
    pub(crate) fn compares(&self) -> bool {
        matches!(self, Self::Gate(checks) if checks.iter().any(|check| check.improvement.is_some()))
    }
}

impl Scope<'_> {
    /// What a stage without a program does, if all that it names is there.
    pub(super) fn judged(&self, kind: &StageKind, needs: &mut Needs) -> Result<Option<Judged>, SpecProblem> {
        Ok(match kind {
            StageKind::Container(_) | StageKind::TrainingJob(_) | StageKind::Publish(_) => None,
            StageKind::Gate(gate) => Some(Judged::Gate(self.gate(gate, needs)?)),
            StageKind::Approval(Approval { timeout, message: _ }) => {
                Some(Judged::Approval { timeout: self.seconds(timeout.as_ref(), "approval.timeout", 1)? })
            }
        })
    }

    fn gate(&self, gate: &Gate, needs: &mut Needs) -> Result<Vec<GateCheck>, SpecProblem> {
        let mut checks = Vec::with_capacity(gate.checks.len());
        for (i, check) in gate.checks.iter().enumerate() {
            checks.push(self.check(gate, check, &format!("{}.gate.checks[{i}]", self.path), needs)?);
        }
        Ok(checks)
    }

    fn check(&self, gate: &Gate, check: &Check, path: &str, needs: &mut Needs) -> Result<GateCheck, SpecProblem> {
        let (subject, field, name) = match (&check.metric, &check.result) {
            (Some(name), None) => (Subject::Metric, "metric", name),
            (None, Some(name)) => (Subject::Result, "result", name),
            (Some(_), Some(_)) | (None, None) => {
                return Err(invalid(path, "exactly one of metric and result is required"));
            }
        };
        let field = format!("{path}.{field}");
        let (stage, value) = name.split_once('.').unwrap_or((name, ""));
        let node = self.upstream(stage, &field)?;
        let declared = self.nodes[node].stage();
        match subject {
            Subject::Metric if declared.metrics.iter().any(|metric| metric == value) => {}
            Subject::Metric => {
                let message = format!("add {value} to metrics of stage {stage}: a gate may rely on those listed there");
                return Err(SpecProblem::new(Reason::UnknownReference, field, message));
            }
            Subject::Result => {
                let Some(result) = declared.results.iter().find(|result| result.name == value) else {
                    let known: Vec<&str> = declared.results.iter().map(|result| result.name.as_str()).collect();
                    let message = format!("stage {stage} declares no result {value}; it has: {}", listed(&known));
                    return Err(SpecProblem::new(Reason::UnknownReference, field, message));
                };
                if !matches!(result.kind.unwrap_or_default(), ValueType::Number | ValueType::Integer) {
                    return Err(invalid(field, format!("result {value} of stage {stage} is no number or integer")));
                }
            }
        }
        needs.add(node, Branches::SUCCEEDED);
        let bound = |value: Option<&Value>, field: &str| {
            value.map(|value| self.bound(value, &format!("{path}.{field}"))).transpose()
        };
        let improvement = match bound(check.min_improvement.as_ref(), "minImprovement")? {
            Some(by) => Some(Improvement {
                by,
                goal: check.goal.unwrap_or_default(),
                without: check.no_baseline.unwrap_or_default(),
                model: self.compared(gate, path)?,
            }),
            None => None,
        };
        if improvement.is_some() && subject == Subject::Result {
            return Err(invalid(
                format!("{path}.minImprovement"),
                "goes with metric: versions of a model are kept with their metrics",
            ));
        }
        let only_compared = check.goal.is_some() || check.baseline.is_some() || check.no_baseline.is_some();
        if only_compared && improvement.is_none() {
            return Err(invalid(path, "goal, baseline and noBaseline go with minImprovement"));
        }
        let (min, max) = (bound(check.min.as_ref(), "min")?, bound(check.max.as_ref(), "max")?);
        if min.is_none() && max.is_none() && improvement.is_none() {
            return Err(invalid(path, "a check needs a bound: min, max or minImprovement"));
        }
        Ok(GateCheck { name: name.clone(), node, subject, value: value.to_owned(), min, max, improvement })
    }

    /// The model whose champion a gate compares with.
    fn compared(&self, gate: &Gate, path: &str) -> Result<String, SpecProblem> {
        if let Some(model) = &gate.model {
            return Ok(model.clone());
        }
        let models = super::models(self.spec);
        match models.as_slice() {
            [model] => Ok((*model).to_owned()),
            [] => Err(invalid(
                format!("{path}.minImprovement"),
                "compares with the champion of a model, and no stage publishes one: add a publish stage, or set gate.model",
            )),
            several => Err(invalid(
                format!("{path}.minImprovement"),
                format!("the pipeline publishes several models: set gate.model to one of {}", several.join(", ")),
            )),
        }
    }

    /// A number, or a parameter that is one.
    fn bound(&self, value: &Value, path: &str) -> Result<Bound, SpecProblem> {
        let wrong = || invalid(path, format!("{value} is neither a number nor $(params.NAME)"));
        if let Some(number) = value.as_f64() {
            return Ok(Bound::Number(number));
        }
        let template = Template::parse(value.as_str().ok_or_else(wrong)?, path)?;
        let [Part::Reference(Reference::Param(name))] = template.parts.as_slice() else { return Err(wrong()) };
        self.param(name, path)?;
        let numeric = |param: &&Param| matches!(param.kind.unwrap_or_default(), ValueType::Number | ValueType::Integer);
        match self.spec.params.iter().filter(|param| param.name == *name).find(numeric) {
            Some(_) => Ok(Bound::Param(name.clone())),
            None => Err(invalid(path, format!("parameter {name} is no number or integer"))),
        }
    }
}

fn invalid(path: impl Into<String>, message: impl Into<String>) -> SpecProblem {
    SpecProblem::new(Reason::InvalidPipeline, path, message)
}
