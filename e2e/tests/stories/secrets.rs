//! Secrets are planted, and looked for wherever somebody without a right to read Secrets could look.

use crate::world::{Story, bucket_of_all, kubectl, script};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use e2e::store;

/// The value of a Secret that a program is given as a variable.
const PLANTED: &str = "planted-3f9c1b7e-of-the-user";
/// What is in the run's parameters, and comes from there to everywhere else: what is searched is not empty.
const MARKER: &str = "marker-5d2a7c40";

const PIPELINE: &str = r###"
params: [{name: marker, default: VALUE}]
stages:
- name: works
  container:
    script: SCRIPT
    env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: planted, key: token}}}]
  outputs: [{name: loot}]
  results: [{name: length, type: integer}]
- name: breaks
  container:
    command: [sh, -c, 'env | grep -c TRAINYARD; echo $(params.marker); exit 3']
    env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: planted, key: token}}}]
- name: reads-nothing
  container: {command: [cat, $(params.marker)]}
  inputs: [{name: absent, uri: 's3://trainyard/absent-VALUE'}]
"###;

#[test]
fn a_planted_secret_stands_in_no_status_event_pod_log_or_artifact() {
    let story = Story::new("planted");
    story.kubectl(&["create", "secret", "generic", "planted", &format!("--from-literal=token={PLANTED}")]);
    let lines = "test ${#TOKEN} -gt 9\necho $TRAINYARD_PARAM_MARKER\n\
                 { env | grep -v ^TOKEN=; cat /proc/1/environ /proc/1/cmdline; ls -l /proc/1/fd; } > $TRAINYARD_OUT_LOOT 2>&1\n\
                 echo ${#TOKEN} > $TRAINYARD_ROOT/results/length";
    story.run("planted", &PIPELINE.replace("SCRIPT", &script(lines)).replace("VALUE", MARKER));
    let run = story.finished("planted");
    let mut places = vec![("objects".to_owned(), objects(&story)), ("the operator's log".to_owned(), operator_log())];
    for row in run["status"]["stages"].as_array().unwrap() {
        let pod = row["pod"].as_str().unwrap();
        places.push((format!("the log of {pod}"), story.kubectl(&["logs", pod, "--all-containers"])));
    }
    places.push(("artifacts".to_owned(), artifacts(&story)));
    let expected = [
        ("objects", MARKER, 1),
        ("the operator's log", story.namespace(), 1),
        ("the log of", MARKER, 3),
        ("artifacts", MARKER, 1),
    ];
    for (place, word, count) in expected {
        let found = places.iter().filter(|(name, text)| name.starts_with(place) && text.contains(word)).count();
        assert_eq!(found, count, "{word} in {place}: {places:#?}");
    }
    for secret in [PLANTED, store::SECRET_KEY] {
        for form in [secret.to_owned(), STANDARD_NO_PAD.encode(secret)] {
            for (place, text) in &places {
                assert!(!text.contains(&form), "{form} stands in {place}:\n{text}");
            }
        }
    }
}

/// All that `edit` may read in a namespace, without its Secrets.
fn objects(story: &Story) -> String {
    let kinds = "plr,pl,pods,events,controllerrevisions,configmaps,serviceaccounts";
    story.kubectl(&["get", kinds, "--output", "yaml", "--show-managed-fields"])
}

fn operator_log() -> String {
    let selector = ["--selector", "app.kubernetes.io/name=trainyard", "--tail=-1"];
    let mut arguments = vec!["--namespace", e2e::install::NAMESPACE, "logs"];
    arguments.extend(selector);
    kubectl(&arguments)
}

/// Every object of the bucket that belongs to this namespace: artifacts, manifests, logs, commit records.
fn artifacts(story: &Story) -> String {
    let bucket = bucket_of_all();
    let keys = bucket.list(store::BUCKET, &format!("artifacts/{}/", story.namespace())).unwrap();
    assert!(keys.iter().any(|key| key.ends_with("/COMMIT")), "{keys:?}");
    let texts = keys.iter().map(|key| String::from_utf8_lossy(&bucket.get(store::BUCKET, key).unwrap()).into_owned());
    keys.iter().cloned().chain(texts).collect::<Vec<_>>().join("\n")
}
