//! Every labelled graph of up to four stages, and every pipeline of up to three by how its stages use each other; every way in which
//! their first attempts end; and a crash at every effect.

use std::collections::HashMap;

use jiff::Timestamp;
use trainyard_crds::v1alpha1::StageStatus;

use crate::case::{Case, StageCase, Use};
use crate::laws::assert_as_expected;
use crate::world::{Outcome, World};

/// The first of these for three stages, all for two.
const USES: [Use; 5] = [Use::No, Use::DependsOn, Use::AfterFailed, Use::OptionalInput, Use::AfterSkipped];

fn outcomes() -> [Outcome; 3] {
    [Outcome::Succeeds { metric: 1.0, early: true }, Outcome::exits(1), Outcome::VanishesCommitted { metric: 1.0 }]
}

/// All lists of so many elements.
fn lists<T: Clone>(elements: &[T], length: usize) -> Vec<Vec<T>> {
    (0..length).fold(vec![Vec::new()], |lists, _| {
        let longer = |list: &Vec<T>, element: &T| list.iter().chain([element]).cloned().collect();
        lists.iter().flat_map(|list| elements.iter().map(move |element| longer(list, element))).collect()
    })
}

/// A pipeline by how each of its stages uses those before it, with so many stages in `finally`.
fn pipeline(labels: Vec<usize>, finally: usize, uses: impl Fn(usize, usize) -> Use) -> Case {
    let count = labels.len();
    let stage = |index: usize| StageCase::plain((0..index).map(|before| uses(before, index)).collect());
    let finally = vec![StageCase::plain(vec![Use::No; count]); finally];
    Case { stages: (0..count).map(stage).collect(), finally, parallel: None, labels }
}

/// All pipelines of so many stages, by the uses of their pairs.
fn pipelines(count: usize) -> Vec<Case> {
    let pairs = count * (count - 1) / 2;
    let uses = if count > 2 { &USES[..3] } else { &USES };
    let one =
        |uses: Vec<Use>| pipeline((0..count).collect(), 1, |before, stage| uses[stage * (stage - 1) / 2 + before]);
    lists(uses, pairs).into_iter().map(one).collect()
}

/// All graphs without a cycle over so many labels, as pipelines whose stages stand in an order that the graph allows.
fn labelled(count: usize) -> Vec<Case> {
    let graphs = lists(&[false, true], count * (count - 1)).into_iter();
    let case = |needs: Vec<bool>| {
        let needs = |stage: usize, other: usize| {
            other != stage && needs[stage * (count - 1) + other - usize::from(other > stage)]
        };
        let mut labels: Vec<usize> = Vec::new();
        while labels.len() < count {
            let ready = |stage: &usize| {
                !labels.contains(stage) && (0..count).all(|other| !needs(*stage, other) || labels.contains(&other))
            };
            labels.push((0..count).find(ready)?);
        }
        let uses = |before: usize, stage: usize| {
            if needs(labels[stage], labels[before]) { Use::DependsOn } else { Use::No }
        };
        Some(pipeline(labels.clone(), 0, uses))
    };
    graphs.filter_map(case).collect()
}

/// What is quick to compare of where a run stands.
type Place = (Timestamp, Vec<Option<usize>>, Vec<&'static str>);

/// All runs of one pipeline, as a tree. It branches where an attempt comes to its end, which may be any of the outcomes, and at every
/// effect, at which the operator may crash, once. (How a stage would end that never begins makes no difference: nobody asks.) Where
/// a run stands just as another one stood it goes on like that one, which is followed to its end anyway. None meets itself: between
/// two steps of time there is less and less that the operator has not heard of.
struct Runs {
    case: Case,
    outcomes: [Outcome; 3],
    stood: HashMap<Place, Vec<World>>,
    /// Pairs of how all attempts end and where the operator crashes.
    count: usize,
}

impl Runs {
    fn of(case: Case) -> Self {
        let mut first = case.world();
        first.forks = Some(Vec::new());
        let mut runs = Self { case, outcomes: outcomes(), stood: HashMap::new(), count: 0 };
        let mut open = vec![first];
        while let Some(world) = open.pop() {
            runs.step(world, &mut open);
        }
        runs
    }

    /// Lets the operator do what there is to do, and something else happen; what can come of it is left open.
    fn step(&mut self, mut world: World, open: &mut Vec<World>) {
        world.settle();
        (world.done, world.notes) = (Vec::new(), Vec::new());
        let stood = self.stood.entry(place(&self.outcomes, &world)).or_default();
        if let Some(forks) = &mut world.forks {
            open.append(forks);
        } else if stood.iter().any(|other| other.goes_on_like(&world)) {
            return;
        }
        stood.push(world.clone());
        let mut ways = vec![world];
        while let Some(key) = ways[0].undecided() {
            let decided = |world: &World| self.outcomes.clone().map(|outcome| world.decided(&key, outcome));
            ways = ways.iter().flat_map(decided).collect();
        }
        for mut world in ways {
            if world.advance() {
                open.push(world);
            } else {
                self.ended(&world);
            }
        }
    }

    fn ended(&mut self, world: &World) {
        assert!(world.ended(), "the run is stuck: {:?}", world.status);
        for (stage, row) in self.case.stages.iter_mut().zip(&world.status.stages) {
            stage.outcomes = world.script.get(&(row.name.clone(), 1)).cloned().into_iter().collect();
        }
        assert_as_expected(&self.case, world);
        if world.forks.is_some() {
            self.count += world.effects;
        }
    }
}

fn place(outcomes: &[Outcome], world: &World) -> Place {
    let decided = |row: &StageStatus| {
        let outcome = world.script.get(&(row.name.clone(), 1))?;
        outcomes.iter().position(|other| other == outcome)
    };
    let rows = &world.status.stages;
    (world.now, rows.iter().map(decided).collect(), rows.iter().map(|row| row.phase.as_str()).collect())
}

fn runs(cases: Vec<Case>) -> usize {
    cases.into_iter().map(|case| Runs::of(case).count).sum()
}

fn needs(case: &Case) -> usize {
    case.stages.iter().flat_map(|stage| &stage.uses).filter(|how| **how == Use::DependsOn).count()
}

#[test]
fn every_small_pipeline_survives_every_crash() {
    let runs = runs((1..=3).flat_map(pipelines).collect());
    assert!(runs > 5_000, "{runs} runs");
}

#[test]
fn every_labelled_graph_of_few_needs_survives_every_crash() {
    let graphs: Vec<Case> = (1..=4).flat_map(labelled).filter(|case| needs(case) <= 3).collect();
    assert_eq!(graphs.len(), 1 + 3 + 25 + 225);
    let runs = runs(graphs);
    assert!(runs > 150_000, "{runs} runs");
}

#[test]
fn every_labelled_graph_of_many_needs_survives_every_crash() {
    let graphs: Vec<Case> = (1..=4).flat_map(labelled).filter(|case| needs(case) > 3).collect();
    assert_eq!(graphs.len(), 543 - 225);
    let runs = runs(graphs);
    assert!(runs > 200_000, "{runs} runs");
}
