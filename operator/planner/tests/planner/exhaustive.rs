//! Every pipeline of up to three stages, every way in which their first attempts end, and a crash at every effect.

use crate::case::{Case, StageCase, Use};
use crate::laws::assert_as_expected;
use crate::world::Outcome;

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

/// All pipelines of so many stages, by the uses of their pairs.
fn pipelines(count: usize) -> Vec<Case> {
    let pairs = count * (count - 1) / 2;
    let plain = |mut uses: Vec<Use>| {
        let stages = (0..count).map(|before| StageCase::plain(uses.drain(..before).collect())).collect();
        Case { stages, finally: vec![StageCase::plain(vec![Use::No; count])], parallel: None }
    };
    let uses = if count > 2 { &USES[..3] } else { &USES };
    lists(uses, pairs).into_iter().map(plain).collect()
}

#[test]
fn every_small_pipeline_survives_every_crash() {
    let mut runs = 0;
    for count in 1..=3 {
        for mut case in pipelines(count) {
            let fresh = case.world();
            for ends in lists(&outcomes(), count) {
                for (stage, outcome) in case.stages.iter_mut().zip(ends) {
                    stage.outcomes = vec![outcome];
                }
                let mut world = fresh.again();
                world.script = case.script();
                let first = world.again();
                world.finish();
                assert_as_expected(&case, &world);
                for effect in 0..world.effects {
                    let mut world = first.again();
                    world.crash_before = Some(effect);
                    world.finish();
                    assert_as_expected(&case, &world);
                    runs += 1;
                }
            }
        }
    }
    assert!(runs > 10_000, "{runs} runs");
}
