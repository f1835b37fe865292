//! Runs that start without hands: by a change of the Pipeline, by the clock, by an annotation.

use serde_json::{Value, json};

use crate::world::{Story, busybox, script};

/// A Pipeline of one stage that writes its rate, with these fields more.
fn pipeline(story: &Story, rate: &str, labels: &str, more: &str) {
    let text = script("echo \"$TRAINYARD_PARAM_RATE\" > \"$TRAINYARD_OUT_MODEL\"");
    story.apply(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: rates, labels: {{{labels}}}}}\nspec:\n  \
         params: [{{name: rate, type: number, default: {rate}}}]\n  \
         stages:\n  - {{name: train, container: {{image: \"{}\", script: {text}}}, outputs: [{{name: model, type: Model}}]}}\n{more}",
        busybox()
    ));
}

const GIT: &str = "  triggers: [{name: git, specChange: {}}]\n";

fn entries(pipeline: &Value) -> &[Value] {
    pipeline["status"]["revisions"].as_array().map_or(&[], Vec::as_slice)
}

/// Waits until the ledger has so many entries, all of them ended.
fn ledger(story: &Story, count: usize) -> Value {
    story.until("pl/rates", &format!("{count} entries that have ended"), |pipeline| {
        entries(pipeline).len() == count && entries(pipeline).iter().all(|entry| !entry["completed"].is_null())
    })
}

/// Waits until the Pipeline was looked at as it is now.
fn observed(story: &Story) -> Value {
    story.until("pl/rates", "the change to be seen", |pipeline| {
        pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"]
    })
}

fn runs(story: &Story) -> usize {
    story.kubectl(&["get", "plr", "--output", "name"]).lines().count()
}

#[test]
fn a_change_of_the_spec_is_one_run_a_comment_none_and_a_return_none() {
    let story = Story::fresh("retrain-spec");
    pipeline(&story, "0.1", "argocd.argoproj.io/instance: apps, helm.sh/chart: a-1", GIT);
    let first = ledger(&story, 1);
    let name = entries(&first)[0]["run"].as_str().unwrap();
    let run = story.get(&format!("plr/{name}")).unwrap();
    assert_eq!((&run["status"]["phase"], &entries(&first)[0]["phase"]), (&json!("Succeeded"), &json!("Succeeded")));
    assert_eq!(story.artifact(&run, "train", "model", "model"), "0.1\n");
    let meta = &run["metadata"];
    let labels = json!({"app.kubernetes.io/managed-by": "trainyard", "trainyard.dev/pipeline": "rates", "trainyard.dev/trigger": "git"});
    let mut seen = meta["labels"].clone();
    // What says that it needs no more work may be there already.
    seen.as_object_mut().unwrap().remove("trainyard.dev/finished");
    assert_eq!(seen, labels, "nothing of the tool that applied the Pipeline");
    assert_eq!(meta["ownerReferences"][0]["kind"], "Pipeline");
    assert_eq!(meta["annotations"]["trainyard.dev/run-key"], entries(&first)[0]["key"]);

    // What cannot change a result: a label, a comment, another retry and limits.
    pipeline(
        &story,
        "0.1",
        "other: label",
        &format!("{GIT}  description: another\n  parallel: 3\n  defaults: {{retry: {{limit: 2}}, timeout: 10m}}\n"),
    );
    let same = observed(&story);
    assert_eq!((entries(&same), runs(&story)), (entries(&first), 1));

    pipeline(&story, "0.2", "", GIT);
    let second = ledger(&story, 2);
    let newest = story.get(&format!("plr/{}", entries(&second)[0]["run"].as_str().unwrap())).unwrap();
    assert_eq!(story.artifact(&newest, "train", "model", "model"), "0.2\n");

    // Back: what has been trained is not trained again, also when its run is gone.
    story.kubectl(&["delete", "plr", name]);
    pipeline(&story, "0.1", "", GIT);
    let back = story.until("pl/rates", "the return to be told", |pipeline| {
        pipeline["status"]["triggers"][0]["reason"] == "AlreadyRun"
    });
    let message = back["status"]["triggers"][0]["message"].as_str().unwrap();
    assert_eq!(message, format!("this revision has succeeded as run {name}: nothing is left to train"));
    assert_eq!((entries(&back).len(), runs(&story)), (2, 1));

    // Unless it is asked for.
    pipeline(&story, "0.1", "", &format!("{GIT}  rerunToken: again\n"));
    ledger(&story, 3);
    assert_eq!(runs(&story), 2);
}

#[test]
fn an_annotation_asks_for_one_run() {
    let story = Story::fresh("retrain-request");
    pipeline(&story, "0.1", "", "");
    observed(&story);
    assert_eq!(runs(&story), 0, "nothing starts it");
    story.kubectl(&["annotate", "pl", "rates", "trainyard.dev/rerun-requested-at=2026-11-29"]);
    let asked = ledger(&story, 1);
    assert_eq!(entries(&asked)[0]["cause"], json!({"request": {"value": "2026-11-29"}}));
    assert_eq!(asked["status"]["rerunRequestedAt"], "2026-11-29");
    story.kubectl(&["annotate", "pl", "rates", "trainyard.dev/rerun-requested-at-"]);
    story.kubectl(&["annotate", "pl", "rates", "trainyard.dev/rerun-requested-at=2026-11-30"]);
    ledger(&story, 2);
    assert_eq!(runs(&story), 2);
}

#[test]
fn a_clock_starts_a_run_a_minute_until_it_is_suspended() {
    let story = Story::fresh("retrain-clock");
    pipeline(
        &story,
        "0.1",
        "",
        "  triggers: [{name: often, schedule: {cron: \"* * * * *\", timeZone: Europe/Berlin}}]\n",
    );
    let started = ledger(&story, 1);
    let entry = &entries(&started)[0];
    let instant = entry["cause"]["schedule"]["instant"].as_str().unwrap();
    assert!(instant.ends_with(":00Z"), "{instant}");
    assert_eq!((&entry["trigger"], &entry["phase"]), (&json!("often"), &json!("Succeeded")));
    let table = story.kubectl(&["get", "pl", "rates"]);
    assert!(table.lines().next().unwrap().contains("NEXT"), "{table}");
    assert!(table.contains(started["status"]["nextRun"].as_str().unwrap()), "{table}");
    story.kubectl(&["patch", "pl", "rates", "--type=merge", "--patch", "{\"spec\": {\"suspend\": true}}"]);
    let held = story
        .until("pl/rates", "the suspension", |pipeline| pipeline["status"]["triggers"][0]["reason"] == "Suspended");
    assert_eq!(held["status"]["nextRun"], Value::Null, "{held:#}");
}

#[test]
fn a_schedule_that_cannot_be_followed_is_told_at_once() {
    let story = Story::fresh("retrain-wrong");
    pipeline(
        &story,
        "0.1",
        "",
        "  triggers: [{name: nightly, schedule: {cron: \"0 3 * * *\", timeZone: Europe/Atlantis}}]\n",
    );
    let wrong = story.until("pl/rates", "the answer", |pipeline| !pipeline["status"]["conditions"].is_null());
    let conditions = wrong["status"]["conditions"].as_array().unwrap();
    let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted").unwrap();
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("UnknownTimeZone")));
    let message = "spec.triggers[0].schedule: there is no time zone \"Europe/Atlantis\": use a name of the IANA database, such as Europe/Berlin";
    assert_eq!(accepted["message"], message);
}
