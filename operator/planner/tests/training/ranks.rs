//! What a rank's runner is told to do.

use crate::world::World;

#[test]
fn rank_0_alone_asks_whether_another_run_has_trained_the_same() {
    let mut world = World::of(3, "");
    assert!((0..3).all(|rank| world.step(3, rank).ledger.is_none()), "a job that no trigger started asks nothing");
    world.origin.ledger = Some("team/iris/ledger/key-0.json".into());
    let asked: Vec<Option<String>> = (0..3).map(|rank| world.step(3, rank).ledger.map(|ledger| ledger.key)).collect();
    assert_eq!(asked, [Some("team/iris/ledger/key-0.json".to_owned()), None, None]);
}
