//! The store refuses, loses, changes or stays away: what a run says, and what it does not do.

use crate::world::{HELD, Story, bucket_of_all, kubectl, place, script, stage};
use serde_json::json;

#[test]
fn credentials_that_are_refused_are_told_and_not_shown() {
    let story = Story::new("denied");
    let wrong = "a-secret-key-that-is-wrong";
    story.kubectl(&[
        "patch",
        "secret",
        "store",
        "--patch",
        &json!({"stringData": {"AWS_SECRET_ACCESS_KEY": wrong}}).to_string(),
    ]);
    story.run("denied", "stages:\n- {name: a, retry: {limit: 2}, container: {command: [\"true\"]}}\n");
    let run = story.finished("denied");
    let row = stage(&run, "a");
    assert_eq!(
        (&run["status"]["reason"], &row["attempt"]),
        (&json!("StoreAccessDenied"), &json!(1)),
        "not repeated: {run:#}"
    );
    assert!(run["status"]["message"].as_str().unwrap().contains("s3://trainyard"), "{run:#}");
    let log = story.kubectl(&["logs", &story.pod("denied", "a")]);
    let pods = story.kubectl(&["get", "pods", "--output", "yaml"]);
    for text in [&run.to_string(), &story.events("denied"), &log, &pods] {
        assert!(!text.contains(wrong), "{text}");
    }
}

#[test]
fn an_artifact_that_was_deleted_or_changed_never_reaches_a_program() {
    let story = Story::new("artifacts");
    let read = |output: &str| {
        let script = script("echo it ran");
        format!(
            "- name: use-{output}\n  dependsOn: [hold]\n  container: {{script: {script}}}\n  inputs: [{{name: x, from: make.{output}}}]\n"
        )
    };
    story.run(
        "broken",
        &format!(
            "stages:\n- name: make\n  container: {{script: {}}}\n  outputs: [{{name: gone}}, {{name: changed}}]\n\
             - name: hold\n  dependsOn: [make]\n  container: {{script: {}}}\n{}{}",
            script("echo 1 > $TRAINYARD_OUT_GONE\necho 1 > $TRAINYARD_OUT_CHANGED"),
            script(HELD),
            read("gone"),
            read("changed"),
        ),
    );
    let run = story.stage_until("broken", "hold", "Running");
    let store = bucket_of_all();
    let (bucket, gone) = place(&run, "make", "gone");
    for key in store.list(&bucket, &gone).unwrap() {
        store.delete(&bucket, &key).unwrap();
    }
    let (bucket, changed) = place(&run, "make", "changed");
    store.put(&bucket, &format!("{changed}changed"), b"2\n".to_vec()).unwrap();
    story.release("broken", "hold");
    let run = story.finished("broken");
    let (missing, corrupt) = (stage(&run, "use-gone"), stage(&run, "use-changed"));
    assert_eq!((&missing["reason"], &missing["attempt"]), (&json!("InputMissing"), &json!(1)), "{run:#}");
    assert!(missing["message"].as_str().unwrap().contains(&gone), "{missing:#}");
    assert_eq!(corrupt["reason"], "ArtifactCorrupt", "{run:#}");
    let message = corrupt["message"].as_str().unwrap();
    let digests = message.matches("sha256:").count();
    assert!(message.contains(&format!("{changed}changed")) && digests == 2, "object and both digests: {message}");
    for row in [missing, corrupt] {
        let log = story.kubectl(&["logs", row["pod"].as_str().unwrap()]);
        assert!(!log.contains("it ran"), "{log}");
    }
}

/// What an attempt writes once somebody lets it go on.
fn held(name: &str, more: &str) -> String {
    let lines =
        format!("echo program of attempt $TRAINYARD_ATTEMPT\n{HELD}\necho $TRAINYARD_ATTEMPT > $TRAINYARD_OUT_TEXT");
    format!("- name: {name}\n  container: {{script: {}}}\n  outputs: [{{name: text}}]\n{more}", script(&lines))
}

#[test]
fn an_upload_outlasts_a_store_that_is_away_and_the_program_runs_once() {
    let story = Story::new("away");
    let store = story.own_store();
    story.run("away", &format!("{store}stages:\n{}", held("work", "")));
    story.stage_until("away", "work", "Running");
    let pod = story.pod("away", "work");
    story.log_until(&pod, "program of attempt 1");
    story.stop_store();
    story.release("away", "work");
    // The count doubles from line to line.
    story.log_until(&pod, "(4 so far)");
    story.start_store();
    let run = story.finished("away");
    assert_eq!((&run["status"]["phase"], &stage(&run, "work")["attempt"]), (&json!("Succeeded"), &json!(1)), "{run:#}");
    let log = story.kubectl(&["logs", &pod]);
    assert_eq!(log.matches("program of attempt").count(), 1, "{log}");
    assert!(log.contains("the store at ") && log.contains("trying again"), "{log}");
}

#[test]
fn a_pod_that_is_asked_to_stop_while_it_fetches_or_uploads_leaves_no_part_of_anything() {
    let story = Story::new("term-store");
    let store = story.own_store();
    story.stop_store();
    let input = "  gracePeriod: 1s\n  inputs: [{name: data, uri: 's3://trainyard/data'}]\n";
    story.run("moved", &format!("{store}stages:\n{}", held("work", input)));
    story.stage_until("moved", "work", "Running");
    let first = story.pod("moved", "work");
    story.log_until(&first, "trying again");
    story.kubectl(&["delete", "pod", &first, "--wait=false"]);
    let run = story.until("plr/moved", "attempt 2", |run| stage(run, "work")["attempt"] == 2);
    let failed = &stage(&run, "work")["failedAttempts"][0];
    assert_eq!(failed["reason"], "Disrupted", "{run:#}");
    // The second attempt gets its input, and its store is gone again when it has something to upload.
    story.start_store();
    story.own_bucket().put("trainyard", "data", b"data".to_vec()).unwrap();
    story.stage_until("moved", "work", "Running");
    let second = story.pod("moved", "work");
    story.log_until(&second, "program of attempt 2");
    story.stop_store();
    story.release("moved", "work");
    story.log_until(&second, "(4 so far)");
    story.kubectl(&["delete", "pod", &second, "--wait=false"]);
    story.until("plr/moved", "attempt 3", |run| stage(run, "work")["attempt"] == 3);
    story.start_store();
    story.own_bucket().put("trainyard", "data", b"data".to_vec()).unwrap();
    let third = story.pod("moved", "work");
    story.stage_until("moved", "work", "Running");
    story.log_until(&third, "program of attempt 3");
    story.release("moved", "work");
    let run = story.finished("moved");
    let row = stage(&run, "work");
    assert_eq!((&run["status"]["phase"], &row["attempt"]), (&json!("Succeeded"), &json!(3)), "{run:#}");
    assert_eq!((&row["failures"]["infra"], &row["failures"]["user"]), (&json!(2), &json!(0)), "{run:#}");
    let (bucket, prefix) = place(&run, "work", "text");
    let below = prefix.strip_suffix("3/text/").unwrap();
    let connection = story.own_bucket();
    let keys = connection.list(&bucket, below).unwrap();
    assert!(keys.iter().any(|key| key.ends_with("/COMMIT")), "{keys:?}");
    assert!(keys.iter().all(|key| !key.contains("/1/") && !key.contains("/2/")), "{keys:?}");
    assert_eq!(connection.get(&bucket, &format!("{prefix}text")).unwrap(), b"3\n");
    kubectl(&["--namespace", story.namespace(), "get", "plr"]);
}
