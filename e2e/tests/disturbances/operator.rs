//! The operator: killed, away, upgraded, rolled back, uninstalled, and before an object that it cannot read.

use std::time::Duration;

use crate::machine::alone;
use crate::world::{HELD, Story, busybox, cluster, kubectl, script, stage};
use e2e::paths::Directories;
use e2e::{command, demo, image, install};
use serde_json::{Value, json};

/// What kubectl is told of the operator's namespace.
fn system(arguments: &[&str]) -> String {
    let mut all = vec!["--namespace", install::NAMESPACE];
    all.extend(arguments);
    kubectl(&all)
}

fn held(name: &str, more: &str) -> String {
    let lines = format!("{HELD}\necho $TRAINYARD_ATTEMPT > $TRAINYARD_OUT_TEXT");
    format!("- name: {name}\n  container: {{script: {}}}\n  outputs: [{{name: text}}]\n{more}", script(&lines))
}

/// Every stage ran once, and none was repeated.
fn once(story: &Story, run: &Value, stages: &[&str]) {
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    for name in stages {
        assert_eq!((&stage(run, name)["attempt"], &stage(run, name)["failures"]), (&json!(1), &Value::Null), "{run:#}");
    }
    let pods = story.kubectl(&["get", "pods", "--output", "name"]);
    assert_eq!(pods.lines().count(), stages.len(), "{pods}");
}

#[test]
fn deleting_the_operator_in_the_middle_changes_nothing() {
    let _alone = alone();
    let story = Story::new("operator-killed");
    story.run(
        "chain",
        &format!(
            "stages:\n{}- {{name: after, dependsOn: [held], container: {{command: [\"true\"]}}}}\n",
            held("held", "")
        ),
    );
    let before = story.stage_until("chain", "held", "Running");
    system(&["delete", "pod", "--selector", "app.kubernetes.io/name=trainyard", "--grace-period=0", "--force"]);
    system(&["rollout", "status", "deployment/trainyard", "--timeout=120s"]);
    story.release("chain", "held");
    let run = story.finished("chain");
    assert_eq!(stage(&run, "held")["pod"], stage(&before, "held")["pod"]);
    once(&story, &run, &["held", "after"]);
}

#[test]
fn a_change_of_a_pipeline_while_the_operator_is_killed_ten_times_is_one_run() {
    let _alone = alone();
    let story = Story::fresh("operator-killed-often");
    let pipeline = format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: git}}\nspec:\n  \
         triggers: [{{name: git, specChange: {{}}}}]\n  \
         stages:\n  - {{name: train, container: {{image: \"{}\", script: {}}}, outputs: [{{name: text}}]}}\n",
        busybox(),
        script("sleep 5\necho x > $TRAINYARD_OUT_TEXT")
    );
    let kill =
        || system(&["delete", "pod", "--selector", "app.kubernetes.io/name=trainyard", "--grace-period=0", "--force"]);
    kill();
    story.apply(&pipeline);
    for _ in 1..10 {
        kill();
        // So that each of them gets somewhere.
        system(&["rollout", "status", "deployment/trainyard", "--timeout=120s"]);
    }
    let git = story.until("pl/git", "the end of a run", |git| git["status"]["revisions"][0]["phase"] == "Succeeded");
    assert_eq!(git["status"]["revisions"].as_array().unwrap().len(), 1, "{git:#}");
    let runs = story.kubectl(&["get", "plr", "--output", "name"]);
    assert_eq!(
        runs.trim(),
        format!("pipelinerun.trainyard.dev/{}", git["status"]["revisions"][0]["run"].as_str().unwrap())
    );
    let pods = story.kubectl(&["get", "pods", "--output", "name"]);
    assert_eq!(pods.lines().count(), 1, "{pods}");
}

#[test]
fn an_operator_that_was_away_tells_when_stages_ended_and_adopts_what_is_gone() {
    let _alone = alone();
    let story = Story::new("operator-away");
    story.run("away", &format!("stages:\n{}{}", held("stays", ""), held("vanishes", "")));
    for name in ["stays", "vanishes"] {
        story.stage_until("away", name, "Running");
    }
    let pods = ["stays", "vanishes"].map(|name| story.pod("away", name));
    system(&["scale", "deployment/trainyard", "--replicas=0"]);
    system(&["wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=trainyard", "--timeout=60s"]);
    for (name, pod) in ["stays", "vanishes"].iter().zip(&pods) {
        story.release("away", name);
        story.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", &format!("pod/{pod}"), "--timeout=60s"]);
    }
    story.kubectl(&["delete", "pod", &pods[1]]);
    let ended = story.get(&format!("pod/{}", pods[0])).unwrap();
    let ended =
        ended["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"].as_str().unwrap().to_owned();
    // What comes after is told from what the stage did.
    let now = command::run(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).unwrap();
    system(&["scale", "deployment/trainyard", "--replicas=1"]);
    story.until_within(Duration::from_secs(60), "plr/away", "the end", |run| {
        run["status"]["completionTime"].is_string()
    });
    let run = story.finished("away");
    let (stays, vanished) = (stage(&run, "stays"), stage(&run, "vanishes"));
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    // RFC 3339 of one zone and of whole seconds: texts compare as times do. The runner's end is just before the container's.
    let end = stays["end"].as_str().unwrap();
    assert!(end <= ended.as_str() && end < now.trim(), "{end} is after {ended} or {now}");
    assert_eq!((&stays["attempt"], &vanished["attempt"]), (&json!(1), &json!(2)), "{run:#}");
    let log = story.kubectl(&["logs", vanished["pod"].as_str().unwrap()]);
    assert!(log.contains("attempt 1 has committed this stage"), "{log}");
    assert_eq!(story.artifact(&run, "vanishes", "text", "text"), "1\n");
}

/// Trainyard as it was before, when this value goes.
pub(crate) struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        if let Err(error) = install::up(cluster(), &[&demo::default_store()]) {
            eprintln!("Trainyard is not installed again: {error}");
        }
    }
}

/// Helm with the arguments, in the operator's namespace.
fn helm(arguments: &[&str]) {
    let mut helm = cluster().helm();
    helm.args(arguments).args(["--namespace", install::NAMESPACE, "--timeout", "120s"]);
    command::run(&mut helm).unwrap();
}

#[test]
fn an_upgrade_and_a_rollback_leave_runs_as_they_were() {
    let _alone = alone();
    let story = Story::new("upgrade");
    let pipeline = |last: &str| {
        format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: steps}}\nspec:\n  defaults: {{container: {{image: \"{}\"}}}}\n  stages:\n{}",
            busybox(),
            [
                held("first", ""),
                held("second", "  inputs: [{name: text, from: first.text}]\n"),
                format!(
                    "- name: third\n  dependsOn: [second]\n  results: [{{name: word}}]\n  container: {{script: {}}}\n",
                    script(&format!("echo {last} > $TRAINYARD_ROOT/results/word"))
                ),
            ]
            .concat()
            .lines()
            .map(|line| format!("  {line}\n"))
            .collect::<String>(),
        )
    };
    story.apply(&pipeline("frozen"));
    story.apply("apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {name: live}\nspec: {pipelineRef: {name: steps}}\n");
    story.stage_until("live", "first", "Running");

    // The same program under another tag is an upgrade to Helm, Kubernetes and the operator's state alike.
    let mut recipe = image::recipe("trainyard-operator").unwrap();
    recipe.tag = format!("{}-next", recipe.tag);
    let next = image::build_recipe(&Directories::from_env(), &recipe).unwrap();
    let next = image::load(cluster(), &next).unwrap();
    let (_, tag) = next.rsplit_once(':').unwrap();
    let _installed = Installed;
    let chart = e2e::paths::repository().join("charts/trainyard");
    let chart = chart.to_str().unwrap();
    helm(&[
        "upgrade",
        install::RELEASE,
        chart,
        "--reuse-values",
        "--set",
        &format!("image.operator.tag={tag}"),
        "--wait",
    ]);
    let image = || {
        system(&[
            "get",
            "pods",
            "--selector=app.kubernetes.io/name=trainyard",
            "--output",
            "jsonpath={.items[*].spec.containers[0].image}",
        ])
    };
    assert!(image().ends_with(tag), "{}", image());
    // What the Pipeline says by now is for the next run.
    story.apply(&pipeline("edited"));
    story.release("live", "first");
    story.stage_until("live", "second", "Running");

    helm(&["rollback", install::RELEASE, "--wait"]);
    assert!(!image().ends_with(tag), "{}", image());
    story.kubectl(&["delete", "pipeline", "steps"]);
    story.release("live", "second");
    let run = story.finished("live");
    once(&story, &run, &["first", "second", "third"]);
    assert_eq!(stage(&run, "third")["results"]["word"], "frozen", "{run:#}");
}

/// A definition as an earlier release had it: without these fields of spec and status, and the rules that speak of them.
fn earlier(plural: &str, fields: &[&str]) {
    let name = format!("{plural}.trainyard.dev");
    let mut definition: Value = serde_json::from_str(&kubectl(&["get", "crd", &name, "--output=json"])).unwrap();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    for path in fields {
        let (parent, field) = path.rsplit_once('/').unwrap();
        let parent = schema.pointer_mut(parent).unwrap();
        assert!(parent["properties"].as_object_mut().unwrap().remove(field).is_some(), "{path}");
        let speaks = |rule: &Value| rule.to_string().contains(&format!("elf.{field}"));
        for list in ["x-kubernetes-validations", "oneOf"] {
            let Some(rules) = parent.get_mut(list).and_then(Value::as_array_mut) else { continue };
            rules.retain(|rule| !speaks(rule) && rule["required"][0] != *field);
        }
    }
    command::input(cluster().kubectl().args(["replace", "--filename", "-"]), &definition.to_string()).unwrap();
}

#[test]
fn definitions_of_an_earlier_release_are_upgraded_while_a_run_is_active() {
    let _alone = alone();
    let story = Story::fresh("definitions");
    let pipeline = |more: &str| {
        story.apply(&format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: steps}}\nspec:\n  defaults: {{container: {{image: \"{}\"}}}}\n  \
             triggers:\n  - {{name: git, specChange: {{}}}}\n{more}  stages:\n{}  - {{name: last, dependsOn: [held], container: {{command: [\"true\"]}}}}\n",
            busybox(),
            held("held", "").lines().map(|line| format!("  {line}\n")).collect::<String>(),
        ));
    };
    pipeline("");
    let started =
        story.until("pl/steps", "its run", |pipeline| pipeline["status"]["revisions"][0]["phase"] == "Running");
    let run = started["status"]["revisions"][0]["run"].as_str().unwrap().to_owned();
    story.stage_until(&run, "held", "Running");

    // What is stored is shown as that release would have written it.
    let _installed = Installed;
    system(&["scale", "deployment/trainyard", "--replicas=0"]);
    system(&["wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=trainyard", "--timeout=60s"]);
    let triggers =
        ["params", "data", "upstream", "backfill"].map(|field| format!("/spec/properties/triggers/items/{field}"));
    let mut fields: Vec<&str> = triggers.iter().map(String::as_str).collect();
    fields.extend([
        "/spec/retention",
        "/spec/deletionPolicy",
        "/status/models",
        "/status/artifacts",
        "/status/lastSucceeded",
    ]);
    earlier("pipelines", &fields);
    earlier("pipelineruns", &["/spec/promote", "/spec/approvals"]);
    let backfill = "  - {name: days, backfill: {cron: \"0 0 * * *\", from: \"2026-01-01T00:00:00Z\", until: \"2026-01-03T00:00:00Z\"}}\n";
    let unknown = story.refuses(&format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: other}}\nspec:\n  triggers:\n{backfill}  stages: [{{name: a, container: {{image: i, command: [c]}}}}]\n"
    ));
    assert!(unknown, "it does not know what is new");

    let chart = e2e::paths::repository().join("charts/trainyard");
    helm(&["upgrade", install::RELEASE, chart.to_str().unwrap(), "--reuse-values", "--wait"]);
    story.release(&run, "held");
    let finished = story.finished(&run);
    once(&story, &finished, &["held", "last"]);
    story.until("pl/steps", "the end of the run", |pipeline| pipeline["status"]["lastSucceeded"]["name"] == *run);

    // What is new is there, and what was run is not run again.
    pipeline(&format!("{backfill}  retention: {{succeeded: 9}}\n"));
    let days = story.until("pl/steps", "the days to begin", |pipeline| {
        pipeline["status"]["triggers"][1]["backfill"]["instants"] == 2
            && pipeline["status"]["revisions"].as_array().is_some_and(|entries| entries.len() == 2)
    });
    assert_eq!(days["status"]["revisions"][1]["run"], *run, "{days:#}");
}

#[test]
fn without_the_operator_programs_go_on_and_everything_can_be_deleted() {
    let _alone = alone();
    let (kept, gone) = (Story::new("uninstalled-kept"), Story::new("uninstalled-gone"));
    for story in [&kept, &gone] {
        story.run(
            "orphan",
            &format!(
                "stages:\n{}- {{name: after, dependsOn: [held], container: {{command: [\"true\"]}}}}\n",
                held("held", "")
            ),
        );
        story.stage_until("orphan", "held", "Running");
    }
    let installed = Installed;
    helm(&["uninstall", install::RELEASE, "--wait"]);
    // The definitions stay, and so do the runs; what runs goes on to its end.
    let pod = kept.pod("orphan", "held");
    kept.release("orphan", "held");
    kept.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", &format!("pod/{pod}"), "--timeout=60s"]);
    // A run takes its Pods along, and a namespace goes: nothing of ours waits for the operator.
    let pod = gone.pod("orphan", "held");
    for object in ["plr/orphan".to_owned(), format!("pod/{pod}")] {
        assert_eq!(gone.get(&object).unwrap()["metadata"]["finalizers"], Value::Null, "{object}");
    }
    gone.kubectl(&["delete", "plr", "orphan", "--timeout=60s"]);
    gone.kubectl(&["wait", "--for=delete", &format!("pod/{pod}"), "--timeout=60s"]);
    kubectl(&["delete", "namespace", gone.namespace(), "--timeout=90s"]);
    // Installed again, the operator finds what was committed without it.
    drop(installed);
    let run = kept.finished("orphan");
    once(&kept, &run, &["held", "after"]);
}

/// The definition of runs, with what a newer release may add to it, as long as this value.
struct NewerDefinition;

impl NewerDefinition {
    const PHASES: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/phase/enum";

    fn new() -> Self {
        let newer = Self;
        newer.patch(&json!([{"op": "add", "path": format!("{}/0", Self::PHASES), "value": "Dreaming"}]));
        newer
    }

    fn patch(&self, patch: &Value) {
        kubectl(&["patch", "crd", "pipelineruns.trainyard.dev", "--type=json", "--patch", &patch.to_string()]);
    }
}

impl Drop for NewerDefinition {
    fn drop(&mut self) {
        let first = format!("{}/0", Self::PHASES);
        self.patch(&json!([{"op": "test", "path": first, "value": "Dreaming"}, {"op": "remove", "path": first}]));
    }
}

#[test]
fn a_run_that_cannot_be_read_is_told_and_holds_up_nobody() {
    let _alone = alone();
    let story = Story::new("unreadable");
    let newer = NewerDefinition::new();
    story.run("strange", &format!("stages:\n{}", held("held", "")));
    story.stage_until("strange", "held", "Running");
    // The API server takes a moment to know the new word.
    let dream = [
        "patch",
        "plr",
        "strange",
        "--subresource=status",
        "--type=merge",
        "--patch",
        r#"{"status": {"phase": "Dreaming"}}"#,
    ];
    crate::world::wait_for("the newer definition", || {
        command::succeeds(cluster().kubectl().args(["--namespace", story.namespace()]).args(dream))
    });
    story.run("plain", "stages:\n- {name: a, container: {command: [\"true\"]}}\n");
    let plain = story.finished("plain");
    assert_eq!(plain["status"]["phase"], "Succeeded", "{plain:#}");
    crate::world::wait_for("the event", || story.events("strange").contains("Unreadable"));
    let events = story.events("strange");
    assert!(events.contains("Dreaming") && events.contains("is left alone"), "{events}");
    story.kubectl(&["delete", "plr", "strange", "--timeout=60s"]);
    drop(newer);
}
