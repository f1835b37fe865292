//! M1: a model that is published is one version and one promotion, in the store and in the status, whatever happened.

use super::artifacts::rows;
use super::{Evidence, Violation};
use crate::faults::history::{Change, Kind};
use serde_json::{Value, json};
use step_protocol::paths;

/// M1.
pub(super) fn one_version_and_one_promotion(evidence: Evidence<'_>) -> Vec<Violation> {
    if !evidence.workload.publishes() {
        return Vec::new();
    }
    let run = evidence.history.versions(Kind::Run).into_iter().rfind(|run| run.change != Change::Deleted);
    let published = run.is_some_and(|run| {
        rows(&run.object).iter().any(|row| row["phase"] == "Succeeded" && row["results"]["sequence"].is_u64())
    });
    let named = |part: &str| -> Vec<&Value> {
        evidence.files.registry.iter().filter(|(key, _)| key.contains(part)).map(|(_, record)| record).collect()
    };
    let (versions, promotions) = (named(paths::MODEL), named(&format!("/{}/", paths::PROMOTIONS)));
    let mut found = Vec::new();
    for (what, records) in [("versions", &versions), ("promotions", &promotions)] {
        if records.len() > 1 || (published && records.is_empty()) {
            found.push(Violation::new("M1", format!("one run has left {} {what}", records.len())));
        }
    }
    if !published {
        return found;
    }
    let champion: Vec<&Value> = named(paths::CHAMPION).iter().map(|alias| &alias["version"]).collect();
    if champion != [&json!(1)] {
        found.push(Violation::new("M1", format!("the store's champion is {champion:?}")));
    }
    let pipelines = evidence.history.versions(Kind::Pipeline);
    let models = pipelines.last().map(|pipeline| &pipeline.object["status"]["models"]).unwrap_or(&Value::Null);
    let told = json!([models[0]["champion"], models[0]["sequence"], models[0]["versions"].as_array().map(Vec::len)]);
    if told != json!([1, 1, 1]) {
        found.push(Violation::new("M1", format!("champion, promotion and versions in the status are {told}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, one};
    use crate::faults::workload::Workload;
    use serde_json::json;

    /// A run that has published, as the store and the status should say it.
    fn world() -> World {
        let mut world = World::chain();
        world.workload = Workload::named("published").unwrap();
        let mut status = world.last_run()["status"].clone();
        status["stages"][0]["results"] = json!({"version": 1, "sequence": 1});
        world.run(status);
        world.pipeline(json!({"models": [{"champion": 1, "sequence": 1, "versions": [{"version": 1}]}]}));
        let records = [
            ("1/model.json", json!({})),
            ("promotions/00000001.json", json!({})),
            ("champion.json", json!({"version": 1})),
        ];
        world.files.registry =
            records.into_iter().map(|(key, record)| (format!("n/p/models/text/{key}"), record)).collect();
        world
    }

    #[test]
    fn one_of_each_is_in_order() {
        assert!(world().check().iter().all(|violation| violation.invariant != "M1"));
    }

    #[test]
    fn a_second_one_and_a_champion_that_nobody_knows_are_seen() {
        let mut twice = world();
        twice.files.registry.insert("n/p/models/text/2/model.json".into(), json!({}));
        assert_eq!(one(&twice.check(), "M1"), "one run has left 2 versions");
        let mut twice = world();
        twice.files.registry.insert("n/p/models/text/promotions/00000002.json".into(), json!({}));
        assert_eq!(one(&twice.check(), "M1"), "one run has left 2 promotions");
        let mut without = world();
        without.files.registry.retain(|key, _| !key.ends_with("champion.json"));
        assert_eq!(one(&without.check(), "M1"), "the store's champion is []");
        let mut untold = world();
        untold.pipeline(json!({}));
        assert!(one(&untold.check(), "M1").starts_with("champion, promotion and versions in the status are"));
    }
}
