//! What the child sees and what it can reach: its contract, and nothing of the runner's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use common::World;
use rustix::process::Pid;
use serde_json::json;
use step_protocol::{EnvVar, Outcome, Text};

const SECRET: &str = "do-not-leak-me";
const KEY: &str = "00112233445566778899aabbccddeeff";

#[test]
fn parameters_arrive_byte_for_byte() {
    let world = World::new();
    let nasty = "a b'\"`$(rm -rf /)${HOME};|&\\\n\t$(params.x) {{x}} %s é 🚂 $$";
    let script = r#"import os, sys, json
root = os.environ["TRAINYARD_ROOT"]
params = json.load(open(root + "/params.json"))
json.dump([sys.argv[1:], params, {k: v for k, v in os.environ.items()}], open(os.environ["TRAINYARD_OUT_SEEN"], "w"))
"#;
    let mut step = world
        .command("s", 1, &[])
        .outputs(&["seen"])
        .param("min-accuracy", 0.5)
        .param("text", nasty)
        .param("list", json!([1, "a"]))
        .param("flag", true)
        .variable("PATH", "/usr/bin:/bin")
        .variable("FROM_IMAGE", "kept");
    step.spec.script = Some(format!("#!/usr/bin/env python3\n{script}"));
    step.spec.command = vec![nasty.into(), "".into(), "--flag".into()];
    step.spec.env = vec![
        EnvVar { name: "MINE".into(), value: nasty.into() },
        EnvVar { name: "HOME".into(), value: "/mine".into() },
    ];
    let root = step.spec.root.clone();
    step.run().ended(Outcome::Succeeded);
    let (arguments, params, env): (Vec<String>, serde_json::Value, std::collections::BTreeMap<String, String>) =
        serde_json::from_slice(&world.objects("s")["1/seen/seen"]).unwrap();
    assert_eq!(arguments, [nasty, "", "--flag"]);
    assert_eq!(params, json!({"min-accuracy": 0.5, "text": nasty, "list": [1, "a"], "flag": true}));
    let expected = [
        ("MINE", nasty),
        ("TRAINYARD_PARAM_TEXT", nasty),
        ("TRAINYARD_PARAM_MIN_ACCURACY", "0.5"),
        ("TRAINYARD_PARAM_LIST", "[1,\"a\"]"),
        ("TRAINYARD_PARAM_FLAG", "true"),
        ("TRAINYARD_RUN", "iris-1"),
        ("TRAINYARD_PIPELINE", "iris"),
        ("TRAINYARD_STAGE", "s"),
        ("TRAINYARD_ATTEMPT", "1"),
        ("TRAINYARD_NAMESPACE", "team"),
        ("TRAINYARD_ROOT", &root),
        ("TMPDIR", &format!("{root}/tmp")),
        ("HOME", "/mine"),
        ("FROM_IMAGE", "kept"),
    ];
    for (name, value) in expected {
        assert_eq!(env[name], value, "{name}");
    }
    assert!(env.keys().all(|name| !name.starts_with("TRAINYARD_SPEC") && name != "TRAINYARD_TERMINATION_LOG"));
}

#[test]
fn texts_take_results_of_other_stages_once() {
    let world = World::new();
    world
        .shell("a", 1, "printf '$(id) $(stages.a.results.n)\\n' > $TRAINYARD_ROOT/results/text; echo 7 > $TRAINYARD_ROOT/results/n")
        .result("text", step_protocol::ValueType::String)
        .result("n", step_protocol::ValueType::Integer)
        .run()
        .ended(Outcome::Succeeded);
    let result = |name: &str| step_protocol::Segment::Result {
        commit: step_protocol::paths::commit_key(&common::prefix("a")),
        stage: "a".into(),
        name: name.into(),
    };
    let mut step = world.command("b", 1, &["/bin/sh", "-c", "echo \"$0\" \"$N\""]);
    step.spec.command.push(Text::Segments(vec![step_protocol::Segment::Literal("got $(n)=".into()), result("text")]));
    step.spec.env.push(EnvVar { name: "N".into(), value: Text::Segments(vec![result("n")]) });
    let done = step.run().ended(Outcome::Succeeded);
    assert_eq!(done.stdout, "got $(n)=$(id) $(stages.a.results.n) 7\n");
    let mut step = world.shell("c", 1, "true");
    step.spec.command.push(Text::Segments(vec![result("nope")]));
    step.run().ended(Outcome::InputMissing).says("\"nope\" of the stage \"a\"");
}

#[test]
fn secrets_are_neither_inherited_nor_left_in_the_runners_environment() {
    let world = World::new();
    let done = world
        .shell("s", 1, "env; tr '\\0' '\\n' < /proc/$PPID/environ || true")
        .variable("TRAINYARD_STORE_AWS_SECRET_ACCESS_KEY", SECRET)
        .variable("TRAINYARD_REPORT_KEY", KEY)
        .run()
        .ended(Outcome::Succeeded);
    let everything =
        format!("{}{}{}", done.stdout, done.stderr, String::from_utf8_lossy(&world.objects("s")["1/log.txt"]));
    assert!(!everything.contains(SECRET) && !everything.contains(KEY), "{everything}");
}

#[test]
fn a_child_of_the_same_user_cannot_look_into_the_runner() {
    if !common::is_root() {
        eprintln!("not run: needs root to become another user");
        return;
    }
    let world = World::new();
    std::fs::set_permissions(world.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let script = r#"id -u
for f in environ mem maps fd/0 cwd/x; do if cat /proc/$PPID/$f > /dev/null 2>&1; then echo "READ $f"; fi; done
ls /proc/$PPID/fd > /dev/null 2>&1 && echo "READ fd"
python3 - $PPID <<'P'
import ctypes, sys
print("TRACED" if ctypes.CDLL(None).ptrace(16, int(sys.argv[1]), 0, 0) == 0 else "no trace")
P
"#;
    // The binary and the store must be reachable for that user, wherever the sources are.
    let runner = world.dir.path().join("step-runner");
    std::fs::copy(env!("CARGO_BIN_EXE_step-runner"), &runner).unwrap();
    let mut step = world.command("s", 1, &["/bin/sh", "-c", "exec /bin/sh \"$TRAINYARD_ROOT/script.sh\""]);
    step.env.push(("PATH".into(), "/usr/bin:/bin".into()));
    step.env.push(("TRAINYARD_STORE_AWS_SECRET_ACCESS_KEY".into(), SECRET.into()));
    std::fs::create_dir(step.root()).unwrap();
    std::fs::write(step.root().join("script.sh"), script).unwrap();
    for path in [step.root(), &step.termination] {
        std::os::unix::fs::chown(path, Some(65532), Some(65532)).unwrap();
    }
    step.wrapper = [
        "setpriv",
        "--reuid=65532",
        "--regid=65532",
        "--clear-groups",
        "/bin/sh",
        "-c",
        "shift; exec \"$0\" \"$@\"",
        runner.to_str().unwrap(),
    ]
    .map(Into::into)
    .to_vec();
    let done = step.run().ended(Outcome::Succeeded);
    assert_eq!(done.stdout, "65532\nno trace\n", "{}", done.stderr);
}

#[test]
fn descriptors_of_whoever_started_the_runner_are_closed() {
    let world = World::new();
    let mut step = world.shell("s", 1, "echo /proc/self/fd/*; readlink /proc/self/fd/0");
    step.wrapper = ["/bin/sh", "-c", "exec 7</etc/passwd 9>/dev/null; exec \"$@\"", "sh"].map(Into::into).to_vec();
    let done = step.run().ended(Outcome::Succeeded);
    // The shell's glob opens one descriptor of its own, the directory.
    assert_eq!(done.stdout, "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n/dev/null\n");
}

#[test]
fn orphans_are_reaped_while_the_program_runs() {
    let world = World::new();
    // Ends only when no zombie of the runner is left; the runner's own child is the shell.
    let script = r#"for i in 1 2 3 4 5 6 7 8; do ( ( exit 0 ) & ) ; done
for try in $(seq 1 10000); do
  z=0
  for p in $(cat /proc/$PPID/task/*/children 2>/dev/null); do
    case "$(cat /proc/$p/stat 2>/dev/null)" in *") Z "*) z=1;; esac
  done
  [ $z = 0 ] && exit 0
done
exit 9"#;
    world.shell("s", 1, script).run().ended(Outcome::Succeeded);
}

#[test]
fn nothing_in_the_background_survives_or_changes_an_output() {
    let world = World::new();
    let script = r#"setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo $! > $TRAINYARD_ROOT/pid
setsid sh -c 'while :; do echo more >> "$TRAINYARD_OUT_O"; done' &
while [ ! -s "$TRAINYARD_OUT_O" ]; do :; done"#;
    let done = world.shell("s", 1, script).outputs(&["o"]).run().ended(Outcome::Succeeded);
    let pid: i32 = std::fs::read_to_string(done.root.join("pid")).unwrap().trim().parse().unwrap();
    assert!(rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_err());
    assert_eq!(std::fs::read(done.root.join("out/o")).unwrap(), world.objects("s")["1/o/o"]);
}

#[test]
fn code_is_the_working_directory() {
    let world = World::new();
    let step = world.shell("s", 1, "pwd; cat main.txt");
    std::fs::create_dir_all(step.root().join("code")).unwrap();
    std::fs::write(step.root().join("code/main.txt"), "code").unwrap();
    let root = step.spec.root.clone();
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, format!("{root}/code\ncode"));
}
