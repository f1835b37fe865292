//! Random pipelines with random outcomes, and by a few lines that share nothing with the planner how each must end.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use trainyard_crds::v1alpha1::{PipelineSpec, RunPhase, StagePhase};
use trainyard_planner::{Class, Ended};

use crate::world::{Key, Outcome, World};

/// How a stage uses one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    No,
    DependsOn,
    Input,
    OptionalInput,
    InputWithDefault,
    AfterFailed,
    AfterSkipped,
    AfterSucceededOrFailed,
    AfterAny,
    /// `when: stages.X.phase == 'Succeeded'`
    WhenSucceeded,
    /// `when: stages.X.metrics.m > 0.5`
    WhenMetric,
}

const USES: [Use; 11] = [
    Use::No,
    Use::DependsOn,
    Use::Input,
    Use::OptionalInput,
    Use::InputWithDefault,
    Use::AfterFailed,
    Use::AfterSkipped,
    Use::AfterSucceededOrFailed,
    Use::AfterAny,
    Use::WhenSucceeded,
    Use::WhenMetric,
];

/// One stage.
#[derive(Clone, Debug)]
pub struct StageCase {
    /// How it uses each of the stages before it.
    pub uses: Vec<Use>,
    /// A `when` over a parameter alone.
    pub when: Option<bool>,
    pub limit: u32,
    pub infra_limit: u32,
    pub allow_failure: bool,
    /// Whether it trains, by a job of its own.
    pub trains: bool,
    /// Whether it is a gate: the metric of every other stage that it depends on must be 0.5.
    pub gate: bool,
    /// How its first attempts end; later ones succeed.
    pub outcomes: Vec<Outcome>,
}

/// A pipeline and how its attempts end.
#[derive(Clone, Debug)]
pub struct Case {
    pub stages: Vec<StageCase>,
    pub finally: Vec<StageCase>,
    pub parallel: Option<u32>,
    /// What the stages are called, for this decides which of two Pods is heard of first.
    pub labels: Vec<usize>,
}

impl StageCase {
    pub fn plain(uses: Vec<Use>) -> Self {
        Self {
            uses,
            when: None,
            limit: 0,
            infra_limit: 5,
            allow_failure: false,
            trains: false,
            gate: false,
            outcomes: Vec::new(),
        }
    }

    /// The same as a stage that trains: what its job says of its end is the last word, and only one that is deleted has a successor.
    fn training(self) -> Self {
        let last_word = |outcome| match outcome {
            Outcome::Succeeds { metric, .. } => Outcome::Succeeds { metric, early: false },
            Outcome::Fails(ended) => Outcome::Fails(Ended { class: Class::Fatal, ..ended }),
            Outcome::NeverStarts(_) => Outcome::fails(Class::Fatal, "Timeout", "not all ranks have started"),
            outcome @ (Outcome::Vanishes | Outcome::VanishesCommitted { .. }) => outcome,
        };
        let outcomes = self.outcomes.into_iter().map(last_word).collect();
        Self { trains: true, limit: 0, infra_limit: 5, outcomes, ..self }
    }

    /// How attempt k ends. A Pod that vanishes after its commit needs another attempt that adopts it: that one starts, and where the
    /// budget has no room for it, the first does not vanish.
    fn outcome(&self, attempt: u32) -> Outcome {
        let at = |number: u32| self.outcomes.get(number as usize - 1).cloned().unwrap_or_default();
        if (1..attempt).any(|number| class(&at(number)).is_none()) {
            return Outcome::default();
        }
        let infra =
            (1..attempt).filter(|number| class(&at(*number)).is_some_and(|(class, _)| class == Class::Infra)).count();
        match at(attempt) {
            Outcome::VanishesCommitted { metric } if infra >= self.infra_limit as usize => {
                Outcome::Succeeds { metric, early: false }
            }
            outcome => outcome,
        }
    }

    /// How its attempts end, all in all, and the metric of the one that commits.
    fn attempts(&self) -> (StagePhase, String, f64) {
        let (mut user, mut infra) = (0, 0);
        for attempt in 1.. {
            match self.outcome(attempt) {
                Outcome::Succeeds { metric, .. } | Outcome::VanishesCommitted { metric } => {
                    return (StagePhase::Succeeded, String::new(), metric);
                }
                outcome => {
                    let Some((class, reason)) = class(&outcome) else { unreachable!() };
                    let (count, limit) = match class {
                        Class::User => (&mut user, self.limit),
                        Class::Infra => (&mut infra, self.infra_limit),
                        Class::Fatal => return (StagePhase::Failed, reason, 0.0),
                    };
                    if *count >= limit {
                        return (StagePhase::Failed, reason, 0.0);
                    }
                    *count += 1;
                }
            }
        }
        unreachable!()
    }
}

fn class(outcome: &Outcome) -> Option<(Class, String)> {
    match outcome {
        Outcome::Succeeds { .. } | Outcome::VanishesCommitted { .. } => None,
        Outcome::Fails(ended) => Some((ended.class, ended.reason.clone())),
        Outcome::Vanishes => Some((Class::Infra, "Disrupted".into())),
        Outcome::NeverStarts(verdict) => {
            let class = if verdict.reason.as_str() == "ImagePullFailed" { Class::Fatal } else { Class::Infra };
            Some((class, verdict.reason.as_str().into()))
        }
    }
}

impl Case {
    fn all(&self) -> impl Iterator<Item = (String, &StageCase)> {
        let finally = self.finally.iter().enumerate().map(|(index, stage)| (format!("f{index}"), stage));
        self.stages.iter().enumerate().map(|(index, stage)| (self.name(index), stage)).chain(finally)
    }

    /// Whether a gate has a check of this stage before it.
    fn is_checked(&self, gate: &StageCase, before: usize) -> bool {
        gate.uses[before] == Use::DependsOn && !self.stages[before].gate
    }

    /// What is drawn as a gate is one if it has something to check, and has nothing that gates have not; nobody reads what gates do not
    /// write.
    fn with_gates(mut self) -> Self {
        for index in 0..self.stages.len() {
            let (before, rest) = self.stages.split_at_mut(index);
            make_gate(&mut rest[0], before);
        }
        for stage in &mut self.finally {
            stage.gate = false;
            make_gate(stage, &self.stages);
        }
        self
    }

    fn name(&self, index: usize) -> String {
        format!("s{}", self.labels[index])
    }

    pub fn spec(&self) -> PipelineSpec {
        let count = self.stages.len();
        let stages: Vec<Value> = self.all().map(|(name, stage)| self.json(&name, stage)).collect();
        let (main, finally) = stages.split_at(count);
        let mut spec = json!({
            "params": [{ "name": "yes", "type": "boolean", "default": true }],
            "store": { "uri": "s3://bucket" },
            "stages": main,
            "finally": finally,
        });
        if let Some(parallel) = self.parallel {
            spec["parallel"] = json!(parallel);
        }
        serde_json::from_value(spec).unwrap()
    }

    pub fn world(&self) -> World {
        let mut world = World::new(self.spec());
        world.script = self.script();
        world
    }

    pub fn script(&self) -> BTreeMap<Key, Outcome> {
        let attempts = |stage: &StageCase| u32::try_from(stage.outcomes.len()).unwrap();
        self.all()
            .flat_map(|(name, stage)| (1..=attempts(stage)).map(move |k| ((name.clone(), k), stage.outcome(k))))
            .collect()
    }

    fn json(&self, name: &str, stage: &StageCase) -> Value {
        let (mut depends, mut after, mut inputs, mut when) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, how) in stage.uses.iter().enumerate() {
            let other = self.name(index);
            let input = |more: Value| {
                let mut input = json!({ "name": format!("in-{index}"), "from": format!("{other}.o") });
                input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                input
            };
            match how {
                Use::No => {}
                Use::DependsOn => depends.push(json!(other)),
                Use::Input => inputs.push(input(json!({}))),
                Use::OptionalInput => inputs.push(input(json!({ "optional": true }))),
                Use::InputWithDefault => inputs.push(input(json!({ "default": "s3://bucket/x" }))),
                Use::AfterFailed => after.push(json!({ "stage": other, "phases": ["Failed"] })),
                Use::AfterSkipped => after.push(json!({ "stage": other, "phases": ["Skipped"] })),
                Use::AfterSucceededOrFailed => after.push(json!({ "stage": other, "phases": ["Succeeded", "Failed"] })),
                Use::AfterAny => after.push(json!({ "stage": other })),
                Use::WhenSucceeded => when.push(format!("stages.{other}.phase == 'Succeeded'")),
                Use::WhenMetric => when.push(format!("stages.{other}.metrics.m > 0.5")),
            }
        }
        if let Some(value) = stage.when {
            when.push(format!("params.yes == {value}"));
        }
        let mut json = json!({
            "name": name,
            "container": { "image": "python:3.13", "command": ["python3", "x.py"] },
            "outputs": [{ "name": "o" }],
            "results": [{ "name": "rows", "type": "integer" }],
            "metrics": ["m"],
            "dependsOn": depends,
            "after": after,
            "inputs": inputs,
            "retry": { "limit": stage.limit, "infraLimit": stage.infra_limit },
            "allowFailure": stage.allow_failure,
        });
        if stage.gate {
            let checks: Vec<Value> = (0..stage.uses.len())
                .filter(|index| self.is_checked(stage, *index))
                .map(|index| json!({ "metric": format!("{}.m", self.name(index)), "min": 0.5 }))
                .collect();
            let fields = json.as_object_mut().unwrap();
            let of_programs = ["container", "outputs", "results", "metrics", "inputs", "retry"];
            fields.retain(|name, _| !of_programs.contains(&name.as_str()));
            fields.insert("gate".into(), json!({ "checks": checks }));
        }
        if stage.trains {
            let container = json!({ "image": "python:3.13", "command": ["python3", "x.py"] });
            let roles = json!([{ "name": "worker", "replicas": 2, "container": container }]);
            let fields = json.as_object_mut().unwrap();
            fields.retain(|name, _| name != "container" && name != "retry");
            fields.insert("trainingJob".into(), json!({ "framework": "None", "roles": roles }));
        }
        if !when.is_empty() {
            json["when"] = json!(when.join(" && "));
        }
        json
    }

    /// How each stage must end, and why.
    pub fn expected(&self) -> Vec<(StagePhase, String)> {
        let mut ends: Vec<(StagePhase, String, f64)> = Vec::new();
        for (_, stage) in self.all() {
            let checked = ends.iter().enumerate().filter(|(index, _)| stage.gate && self.is_checked(stage, *index));
            let fails = checked.map(|(_, end)| end.2).any(|metric| metric < 0.5);
            ends.push(end(stage, &ends, fails));
        }
        ends.into_iter().map(|(phase, reason, _)| (phase, reason)).collect()
    }

    /// How the run must end.
    pub fn expected_phase(&self) -> RunPhase {
        let failed = self
            .expected()
            .iter()
            .zip(self.all())
            .any(|((phase, _), (_, stage))| *phase == StagePhase::Failed && !stage.allow_failure);
        if failed { RunPhase::Failed } else { RunPhase::Succeeded }
    }
}

/// How a stage ends after those before it have.
fn end(stage: &StageCase, before: &[(StagePhase, String, f64)], gate_fails: bool) -> (StagePhase, String, f64) {
    use StagePhase::{Failed, Skipped, Succeeded};
    let skipped = |reason: &str| (Skipped, reason.to_owned(), 0.0);
    // In the order in which the spec lists its needs: dependsOn, after, inputs.
    let kinds: [&[Use]; 3] = [
        &[Use::DependsOn],
        &[Use::AfterFailed, Use::AfterSkipped, Use::AfterSucceededOrFailed, Use::AfterAny],
        &[Use::Input, Use::OptionalInput, Use::InputWithDefault],
    ];
    let mut reasons = Vec::new();
    for kind in kinds {
        for (index, how) in stage.uses.iter().enumerate().filter(|(_, how)| kind.contains(how)) {
            let phase = before[index].0;
            match (how, phase) {
                (Use::DependsOn | Use::Input, Failed) => reasons.push((false, "DependencyFailed")),
                (Use::DependsOn | Use::Input, Skipped) => reasons.push((true, "DependencySkipped")),
                (Use::AfterFailed, Succeeded | Skipped)
                | (Use::AfterSkipped, Succeeded | Failed)
                | (Use::AfterSucceededOrFailed, Skipped) => reasons.push((phase == Skipped, "BranchNotTaken")),
                _ => {}
            }
        }
    }
    // A failure explains more than a skip.
    if let Some((_, reason)) = reasons.into_iter().min_by_key(|(skip, _)| *skip) {
        return skipped(reason);
    }
    let conditions = stage.uses.iter().enumerate().all(|(index, how)| match how {
        Use::WhenSucceeded => before[index].0 == Succeeded,
        Use::WhenMetric => before[index].0 == Succeeded && before[index].2 > 0.5,
        _ => true,
    });
    if !conditions || stage.when == Some(false) {
        return skipped("WhenFalse");
    }
    match (stage.gate, gate_fails) {
        (true, true) => (Failed, "GateFailed".to_owned(), 0.0),
        (true, false) => (Succeeded, String::new(), 0.0),
        (false, _) => stage.attempts(),
    }
}

fn make_gate(stage: &mut StageCase, before: &[StageCase]) {
    stage.gate &= stage.uses.iter().zip(before).any(|(how, other)| *how == Use::DependsOn && !other.gate);
    if stage.gate {
        (stage.limit, stage.infra_limit, stage.trains) = (0, 5, false);
        stage.outcomes.clear();
    }
    for (how, other) in stage.uses.iter_mut().zip(before) {
        *how = match *how {
            Use::Input if stage.gate || other.gate => Use::DependsOn,
            Use::OptionalInput | Use::InputWithDefault if stage.gate || other.gate => Use::AfterAny,
            Use::WhenMetric if other.gate => Use::WhenSucceeded,
            how => how,
        };
    }
}

/// An outcome; shrinks to success.
fn outcome() -> impl Strategy<Value = Outcome> {
    let metric = || prop_oneof![Just(1.0), Just(0.0)];
    prop_oneof![
        3 => metric().prop_map(|metric| Outcome::Succeeds { metric, early: false }),
        2 => metric().prop_map(|metric| Outcome::Succeeds { metric, early: true }),
        3 => Just(Outcome::exits(1)),
        1 => Just(Outcome::fails(Class::Infra, "NoCommit", "no commit")),
        1 => Just(Outcome::fails(Class::Fatal, "InputMissing", "gone")),
        2 => Just(Outcome::Vanishes),
        2 => metric().prop_map(|metric| Outcome::VanishesCommitted { metric }),
        1 => Just(Outcome::image_missing()),
        1 => Just(Outcome::start_fails()),
    ]
}

fn stage(before: usize, uses: &'static [Use]) -> impl Strategy<Value = StageCase> {
    let one = prop_oneof![5 => Just(Use::No), 6 => proptest::sample::select(uses)];
    let when = prop_oneof![8 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
    let limits = (0..3_u32, prop_oneof![2 => Just(5_u32), 1 => 0..3_u32]);
    (
        proptest::collection::vec(one, before),
        when,
        limits,
        prop::bool::weighted(0.2),
        proptest::collection::vec(outcome(), 0..4),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(uses, when, (limit, infra_limit), allow_failure, outcomes, trains, gate)| {
            let plain = StageCase { uses, when, limit, infra_limit, allow_failure, trains: false, gate, outcomes };
            if trains && !gate { plain.training() } else { plain }
        })
}

/// Pipelines of 1 to 8 stages.
pub fn cases() -> impl Strategy<Value = Case> {
    let parallel = prop_oneof![2 => Just(None), 1 => (1..4_u32).prop_map(Some)];
    (1..=8_usize).prop_flat_map(move |count| {
        let main: Vec<_> = (0..count).map(|before| stage(before, &USES)).collect();
        // Stages of finally read nothing but what may be absent, or they would be skipped.
        let finally = proptest::collection::vec(stage(count, &[Use::OptionalInput, Use::InputWithDefault]), 0..3);
        (main, finally, parallel.clone())
            .prop_map(|(stages, finally, parallel)| Case {
                labels: (0..stages.len()).collect(),
                stages,
                finally,
                parallel,
            })
            .prop_map(Case::with_gates)
    })
}
