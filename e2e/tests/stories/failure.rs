//! Runs that fail, and what they say.

use crate::world::{Story, stage};

#[test]
fn a_failing_stage_shows_reason_exit_code_and_last_lines() {
    let story = Story::new("failure");
    story.run(
        "bad",
        r###"
stages:
- name: load
  container: {script: "#!/bin/sh\necho reading table\necho no such column: petal >&2\nexit 3\n"}
- name: train
  container: {command: ["true"]}
  dependsOn: [load]
finally:
- name: report
  container: {command: [sh, -c, 'echo "$0" > $TRAINYARD_ROOT/results/phase', $(run.phase)]}
  results: [{name: phase}]
"###,
    );
    let run = story.finished("bad");
    assert_eq!(run["status"]["phase"], "Failed", "{run:#}");
    assert_eq!((&run["status"]["stage"], &run["status"]["reason"]), (&"load".into(), &"UserError".into()));
    assert_eq!(stage(&run, "load")["exitCode"], 3);
    assert!(stage(&run, "load")["lastLines"].as_str().unwrap().contains("no such column: petal"));
    assert_eq!(stage(&run, "train")["phase"], "Skipped");
    assert_eq!(stage(&run, "report")["results"]["phase"], "Failed");
    let description = story.kubectl(&["describe", "plr", "bad"]);
    for word in ["no such column: petal", "UserError", "exit code 3", "kubectl logs"] {
        assert!(description.contains(word), "no {word} in:\n{description}");
    }
    let log = story.kubectl(&["logs", stage(&run, "load")["pod"].as_str().unwrap()]);
    assert!(log.contains("reading table") && log.contains("no such column: petal"), "{log}");
}

#[test]
fn a_program_that_a_signal_ends_says_which() {
    let story = Story::new("signal");
    story.run("signal", "stages:\n- {name: a, container: {command: [sh, -c, 'echo before; kill -SEGV $$']}}\n");
    let run = story.finished("signal");
    assert_eq!((&run["status"]["reason"], &stage(&run, "a")["attempt"]), (&"UserError".into(), &1.into()), "{run:#}");
    assert!(run["status"]["message"].as_str().unwrap().contains("SIGSEGV"), "{run:#}");
    assert_eq!(stage(&run, "a")["lastLines"].as_str().unwrap().trim(), "before", "{run:#}");
}

#[test]
fn a_stage_is_repeated_within_its_budget() {
    let story = Story::new("retry");
    story.run(
        "flaky",
        r###"
stages:
- name: flaky
  container: {command: [sh, -c, 'test "$TRAINYARD_ATTEMPT" -ge 3']}
  retry: {limit: 2, backoff: {initial: 1s}}
"###,
    );
    let run = story.finished("flaky");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    assert_eq!(stage(&run, "flaky")["attempt"], 3);
    assert_eq!(stage(&run, "flaky")["failures"]["user"], 2);
}

#[test]
fn out_of_memory_says_so_for_the_program_and_for_its_children() {
    let story = Story::new("memory");
    let eat = "exec awk 'BEGIN { while (1) { s = s sprintf(\"%1048576s\", \"x\") } }'";
    let stages: String = [("parent", eat.to_owned()), ("child", format!("({eat}) || echo survived"))]
        .iter()
        .map(|(name, script)| {
            format!(
                "- name: {name}\n  container: {{script: {}, resources: {{limits: {{memory: 64Mi}}}}}}\n",
                serde_json::to_string(&format!("#!/bin/sh\n{script}\n")).unwrap()
            )
        })
        .collect();
    story.run("hungry", &format!("stages:\n{stages}"));
    let run = story.finished("hungry");
    for name in ["parent", "child"] {
        assert_eq!(
            (&stage(&run, name)["phase"], &stage(&run, name)["reason"]),
            (&"Failed".into(), &"OOMKilled".into()),
            "{run:#}"
        );
        let message = stage(&run, name)["message"].as_str().unwrap();
        assert!(message.contains("limit 64 MiB, peak 6") && message.contains("resources.limits.memory"), "{message}");
    }
}

#[test]
fn an_output_that_was_promised_must_be_there() {
    let story = Story::new("output");
    story.run(
        "empty",
        r###"
stages:
- name: missing
  container: {command: ["true"]}
  outputs: [{name: model}]
- name: link
  container: {script: "#!/bin/sh\nln -s /etc/passwd $TRAINYARD_OUT_MODEL\n"}
  outputs: [{name: model}]
- name: fifo
  container: {script: "#!/bin/sh\nmkfifo $TRAINYARD_OUT_MODEL\n"}
  outputs: [{name: model}]
- name: folder
  container: {script: "#!/bin/sh\nmkdir $TRAINYARD_OUT_MODEL && ln -s /proc/1/environ $TRAINYARD_OUT_MODEL/environ\n"}
  outputs: [{name: model}]
"###,
    );
    let run = story.finished("empty");
    assert_eq!(stage(&run, "missing")["reason"], "OutputMissing", "{run:#}");
    for name in ["link", "fifo", "folder"] {
        let row = stage(&run, name);
        assert_eq!((row["reason"].as_str(), row["attempt"].as_u64()), (Some("OutputUnsafe"), Some(1)), "{row:#}");
        assert!(row["message"].as_str().unwrap().contains("model"), "{row:#}");
    }
}

#[test]
fn a_timeout_ends_the_stage_and_keeps_its_log() {
    let story = Story::new("timeout");
    story.run("slow", "stages:\n- {name: slow, timeout: 2s, gracePeriod: 1s, container: {command: [sh, -c, 'echo started; sleep 600']}}\n");
    let run = story.finished("slow");
    assert_eq!(stage(&run, "slow")["reason"], "Timeout", "{run:#}");
    assert!(stage(&run, "slow")["lastLines"].as_str().unwrap().contains("started"));
}

#[test]
fn what_keeps_a_pod_waiting_reaches_the_run() {
    let story = Story::new("waiting");
    story.run(
        "greedy",
        "stages:\n- {name: greedy, container: {command: [\"true\"], resources: {requests: {cpu: '9999'}}}}\n",
    );
    let run = story.until("plr/greedy", "Unschedulable", |run| run["status"]["reason"] == "Unschedulable");
    assert_eq!(run["status"]["phase"], "Running");
    assert!(run["status"]["message"].as_str().unwrap().contains("Insufficient cpu"), "{run:#}");
    story.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: '1'}}\n");
    story.until("resourcequota/none", "the quota's count", |quota| quota["status"]["used"]["pods"].is_string());
    story.run("over", "stages:\n- {name: over, container: {command: [\"true\"]}}\n");
    let run = story.until("plr/over", "QuotaExceeded", |run| run["status"]["reason"] == "QuotaExceeded");
    assert!(run["status"]["message"].as_str().unwrap().contains("exceeded quota"), "{run:#}");
    // Room comes, and the stage starts.
    story.kubectl(&["delete", "resourcequota", "none"]);
    assert_eq!(story.finished("over")["status"]["phase"], "Succeeded");
    story.kubectl(&["patch", "plr", "greedy", "--type=merge", "--patch", r###"{"spec": {"state": "Terminated"}}"###]);
    assert_eq!(story.finished("greedy")["status"]["phase"], "Cancelled");
}

#[test]
fn an_image_that_cannot_be_pulled_says_so_and_never_starts_later() {
    let story = Story::new("image");
    story.run(
        "impossible",
        "stages:\n- {name: a, container: {image: 'localhost/trainyard/No-Such-Name:1', command: [\"true\"]}}\n",
    );
    let run = story.finished("impossible");
    assert_eq!(stage(&run, "a")["reason"], "ImagePullFailed", "{run:#}");
    assert!(run["status"]["message"].as_str().unwrap().contains("No-Such-Name"), "{run:#}");
    assert_eq!(story.kubectl(&["get", "pods", "--output", "name"]), "", "the Pod is gone");
    // A registry that does not answer may come back: this is waited for, with the reason in sight.
    story.run(
        "unreachable",
        "stages:\n- {name: a, gracePeriod: 1s, container: {image: 'localhost/trainyard/nobody-made-this:1', command: [\"true\"]}}\n",
    );
    let waiting = story.until("plr/unreachable", "ImagePull", |run| run["status"]["reason"] == "ImagePull");
    assert_eq!(waiting["status"]["phase"], "Running");
    assert!(waiting["status"]["message"].as_str().unwrap().contains("nobody-made-this"), "{waiting:#}");
    story.kubectl(&["patch", "plr", "unreachable", "--type=merge", "--patch", r#"{"spec": {"state": "Terminated"}}"#]);
    assert_eq!(story.finished("unreachable")["status"]["phase"], "Cancelled");
}

#[test]
fn a_wrong_run_is_refused_with_a_reason_and_waits_for_nobody() {
    let story = Story::new("wrong");
    let table = [
        ("unknown-reference", "stages: [{name: a, container: {command: [\"$(params.x)\"]}}]", "UnknownReference"),
        ("no-value", "params: [{name: x}]\nstages: [{name: a, container: {command: [x]}}]", "ParameterMissing"),
        ("bad-when", "stages: [{name: a, when: '1 +', container: {command: [x]}}]", "InvalidExpression"),
    ];
    for (name, pipeline, reason) in table {
        story.run(name, pipeline);
        let run = story.finished(name);
        assert_eq!((&run["status"]["phase"], &run["status"]["reason"]), (&"Failed".into(), &reason.into()), "{run:#}");
    }
    story.apply("apiVersion: trainyard.dev/v1alpha1\nkind: PipelineRun\nmetadata: {name: orphan}\nspec: {pipelineRef: {name: nobody}}\n");
    assert_eq!(story.finished("orphan")["status"]["reason"], "PipelineNotFound");
    assert_eq!(story.kubectl(&["get", "pods", "--output", "name"]), "");
}

#[test]
fn user_code_cannot_read_what_the_runner_knows() {
    let story = Story::new("secrets");
    story.run(
        "spy",
        r###"
stages:
- name: spy
  container:
    script: |
      #!/bin/sh
      { env; cat /proc/1/environ; cat /proc/1/mem; ls -l /proc/self/fd /proc/1/fd; cat /proc/1/task/1/environ; } > "$TRAINYARD_OUT_LOOT" 2>&1
      exit 0
  outputs: [{name: loot}]
"###,
    );
    let run = story.finished("spy");
    assert_eq!(run["status"]["phase"], "Succeeded", "{run:#}");
    let loot = story.artifact(&run, "spy", "loot", "loot");
    for secret in [e2e::store::SECRET_KEY, "TRAINYARD_STORE_", "TRAINYARD_REPORT_KEY=", "TRAINYARD_SPEC="] {
        assert!(!loot.contains(secret), "{secret} in:\n{loot}");
    }
    assert!(loot.contains("Permission denied"), "{loot}");
}
