//! The API server is away.

use crate::machine::{Machine, alone, pod_uid};
use crate::world::{HELD, Story, kubectl, script, stage, wait_for};
use e2e::bucket::Connection;
use e2e::store;
use serde_json::{Value, json};

#[test]
fn an_api_server_that_is_away_stops_no_program_and_counts_no_failure() {
    let _alone = alone();
    let Some(machine) = Machine::of_ours("an_api_server_that_is_away_...") else { return };
    let story = Story::new("api-server");
    let held =
        |name: &str| format!("- name: {name}\n  container: {{script: {}}}\n", script(&format!("{HELD}\necho done")));
    story.run(
        "frozen",
        &format!(
            "stages:\n{}{}- {{name: after, dependsOn: [ends], container: {{command: [\"true\"]}}}}\n",
            held("ends"),
            held("goes-on")
        ),
    );
    for name in ["ends", "goes-on"] {
        story.stage_until("frozen", name, "Running");
    }
    let (ends, goes_on) = (pod_uid(&story, "frozen", "ends"), pod_uid(&story, "frozen", "goes-on"));
    // Past the API server: the store as this machine reaches it.
    let service =
        ["--namespace", store::NAMESPACE, "get", "service", "store", "--output", "jsonpath={.spec.clusterIP}"];
    let bucket =
        Connection::direct(&format!("http://{}:9000", kubectl(&service)), &store::access(store::NAMESPACE)).unwrap();
    let uid = story.get("plr/frozen").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let prefix = format!("artifacts/{}/frozen/frozen.{uid}/ends/", story.namespace());
    machine.kill("kube-apiserver");
    machine.release(&ends);
    wait_for("the commit of a stage while the API server is away", || {
        bucket.list(store::BUCKET, &prefix).is_ok_and(|keys| keys.iter().any(|key| key.ends_with("/COMMIT")))
    });
    machine.mend();
    machine.release(&goes_on);
    let run = story.finished("frozen");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    for name in ["ends", "goes-on", "after"] {
        assert_eq!(
            (&stage(&run, name)["attempt"], &stage(&run, name)["failures"]),
            (&json!(1), &Value::Null),
            "{run:#}"
        );
    }
}
