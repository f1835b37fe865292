//! The documentation, held to what is true: README.md and everything below docs.
//!
//! * Every ```` ```yaml ```` block is applied to a real API server as a dry run; one marked `yaml fragment` is only parsed.
//! * Every command of a ```` ```sh ```` block is run here, or [`ELSEWHERE`] says where the same is done.
//! * Every link leads somewhere, and a link to a test names a test that exists.
//!
//! The tutorials' commands are run one after the other by `tutorial.rs`, which needs a node.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "api/server.rs"]
#[expect(dead_code, reason = "shared with the tests of the API, which use all of it")]
mod server;

mod documents;

use std::path::Path;

use documents::{blocks, documents, shown};
use e2e::{command, paths};
use serde_json::Value;

/// Beginnings of commands that are not run here, with a file and a text in it that show where the same is done.
const ELSEWHERE: [(&str, &str, &str); 11] = [
    ("kubectl wait --for=condition=Finished", "e2e/tests/stories/world.rs", "--for=condition=Finished"),
    ("kubectl annotate pl iris", "e2e/tests/stories/retraining.rs", "\"annotate\", \"pl\""),
    ("kubectl logs POD", "e2e/tests/stories/failure.rs", "story.kubectl(&[\"logs\""),
    ("kubectl logs --selector", "docs/tutorial.md", "logs --selector"),
    ("docker build --file deploy/", "e2e/tests/images.rs", "fn our_programs_are_packed_alike("),
    ("kubectl apply -k deploy/kustomize/base", "charts/test.sh", "kustomize builds"),
    ("helm install trainyard charts/trainyard", "charts/test-live.sh", "case_of 'helm install'"),
    ("helm upgrade trainyard charts/trainyard", "charts/test-live.sh", "case_of 'upgrade: two replicas'"),
    ("helm uninstall trainyard", "charts/test-live.sh", "uninstall"),
    ("kubectl --namespace trainyard-system rollout status", "charts/test-live.sh", "deployed"),
    ("kubectl delete crd pipelines.trainyard.dev", "charts/test-live.sh", "delete crd"),
];

/// Beginnings of commands that are run here. `RUN` in them is a run that exists.
const HERE: [&str; 8] = [
    "kubectl get plr",
    "kubectl describe plr RUN",
    "kubectl patch plr RUN",
    "kubectl delete plr RUN",
    "kubectl get pl",
    "kubectl explain",
    "kubectl kustomize",
    "helm template",
];

/// The commands of a shell block, and the texts that they are given by `<<'EOF'`.
fn commands(text: &str) -> (Vec<String>, Vec<String>) {
    let joined = text.replace("\\\n", " ");
    let (mut commands, mut inputs) = (Vec::new(), Vec::new());
    let mut lines = joined.lines();
    while let Some(line) = lines.next() {
        let line = line.split("    #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        commands.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        if line.ends_with("<<'EOF'") {
            inputs.push(lines.by_ref().take_while(|line| *line != "EOF").map(|line| format!("{line}\n")).collect());
        }
    }
    (commands, inputs)
}

/// What the API server says to these objects; `None` if it takes them.
fn refused(yaml: &str) -> Option<String> {
    let server = server::server();
    let mut kubectl = server.cluster.kubectl();
    kubectl.args(["--namespace", &server.namespace, "apply", "--dry-run=server", "--filename", "-"]);
    command::input(&mut kubectl, yaml).err().map(|error| error.to_string())
}

#[test]
fn every_yaml_block_is_accepted() {
    let (mut wrong, mut applied) = (Vec::new(), 0);
    for block in documents().iter().flat_map(|path| blocks(path)) {
        let problem = match block.mark.as_str() {
            "yaml" => {
                applied += 1;
                refused(&block.text)
            }
            "yaml fragment" => serde_saphyr::from_str::<Value>(&block.text).err().map(|error| error.to_string()),
            // The tutorial hands its objects to kubectl.
            "sh" => commands(&block.text).1.iter().find_map(|input| {
                applied += 1;
                refused(input)
            }),
            _ => None,
        };
        wrong.extend(problem.map(|problem| format!("{}: {problem}", block.place)));
    }
    assert!(applied >= 10, "only {applied} blocks");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs a command of the documentation with a run that exists; what is wrong with it.
fn run_here(text: &str, number: usize) -> Option<String> {
    let server = server::server();
    let run = format!("docs-{number}");
    if text.contains("RUN") {
        let stages = serde_json::json!([{"name": "a", "container": {"image": "i", "command": ["c"]}}]);
        server.create(server::Kind::PipelineRun, &run, &serde_json::json!({"pipeline": {"stages": stages}}));
    }
    let script = text.replace("RUN", &run);
    let mut shell = server.cluster.command("bash");
    let namespace = &server.namespace;
    let prelude = format!("set -euo pipefail\nkubectl() {{ command kubectl --namespace {namespace} \"$@\"; }}\n");
    shell.current_dir(paths::repository()).args(["-c", &format!("{prelude}{script}")]);
    command::run(&mut shell).err().map(|error| error.to_string())
}

#[test]
fn every_command_is_run_somewhere() {
    let makefile = std::fs::read_to_string(paths::repository().join("Makefile")).unwrap();
    let (mut wrong, mut number) = (Vec::new(), 0);
    let tutorials = ["docs/tutorial.md", "docs/tutorial-training.md", "docs/tutorial-gitops.md"];
    for path in documents().iter().filter(|path| !tutorials.iter().any(|tutorial| path.ends_with(tutorial))) {
        for block in blocks(path).iter().filter(|block| block.mark == "sh") {
            for text in commands(&block.text).0 {
                number += 1;
                let elsewhere = ELSEWHERE.iter().find(|(begin, ..)| text.starts_with(begin));
                let problem = if let Some(target) = text.strip_prefix("make ") {
                    let known = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
                    (!known).then(|| "the Makefile has no such target".to_owned())
                } else if let Some((_, file, needle)) = elsewhere {
                    let there = std::fs::read_to_string(paths::repository().join(file)).unwrap();
                    (!there.contains(needle)).then(|| format!("{file} no longer has {needle}"))
                } else if HERE.iter().any(|begin| text.starts_with(begin)) {
                    run_here(&text, number)
                } else {
                    Some("it is neither run by this test nor listed in ELSEWHERE".to_owned())
                };
                wrong.extend(problem.map(|problem| format!("{}: `{text}`: {problem}", block.place)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The anchors of a document: its headings as GitHub writes them, and those that it sets itself.
fn anchors(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let slug = |title: &str| {
        let kept = title.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect::<String>()
    };
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#').trim()));
    let set = text.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
    headings.chain(set).collect()
}

/// The links of a document, each as its text and its target; those in code are none.
fn links(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut prose = String::new();
    let mut code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
        } else if !code {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    let found = prose.split("](").collect::<Vec<_>>();
    found
        .windows(2)
        .filter_map(|pair| {
            let text = pair[0].rsplit_once('[')?.1;
            Some((text.to_owned(), pair[1].split_once(')')?.0.to_owned()))
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        for (text, link) in links(&document) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            let place = format!("{}: [{text}]({link})", shown(&document));
            if !target.exists() {
                wrong.push(format!("{place}: there is no such file"));
                continue;
            }
            if !anchor.is_empty() && !anchors(&target).iter().any(|known| known == anchor) {
                wrong.push(format!("{place}: there is no such heading"));
            }
            // `[name_of_a_test](file.rs)`
            let names_a_test = target.extension().is_some_and(|extension| extension == "rs");
            if names_a_test && !std::fs::read_to_string(&target).unwrap().contains(&format!("fn {text}(")) {
                wrong.push(format!("{place}: there is no such test"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a user can rely on is shown by a test, in every row; a link to one that does not exist fails above.
#[test]
fn every_fault_names_the_test_that_shows_it() {
    let text = std::fs::read_to_string(paths::repository().join("docs/failures.md")).unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let (mut rows, mut wrong, mut shown_by) = (0, Vec::new(), false);
    for line in text.lines() {
        if !line.starts_with('|') {
            shown_by = false;
        } else if line.ends_with("| shown by |") {
            shown_by = true;
        } else if shown_by && !line.starts_with("|---") {
            rows += 1;
            let cells = cells(line);
            if cells.len() != 4 || !cells[3].contains(".rs)") {
                wrong.push(line);
            }
        }
    }
    assert!(rows >= 50, "only {rows} rows");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
