//! Every way in which a stage fails: the class, the sentence, the log, and that nothing is committed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::io::{BufRead as _, BufReader};

use common::{Done, Step, World};
use rustix::process::{Pid, Signal};
use step_protocol::{Outcome, ValueType, paths};

/// Runs, waits for the line `ready`, sends the signal, and waits for the end.
fn signalled(mut step: Step, signal: Signal) -> Done {
    let mut child = step.start();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
    step.wait(child)
}

fn no_commit(world: &World, stage: &str) {
    assert!(world.record(stage).is_none());
}

#[test]
fn an_exit_code_is_reported_with_the_last_lines() {
    let world = World::new();
    let done = world
        .shell("s", 1, "seq 1 2000 >&2; echo 'the reason' >&2; exit 7")
        .run()
        .ended(Outcome::UserError)
        .says("exit code 7");
    assert_eq!(done.report.exit_code, Some(7));
    assert!(done.report.last_lines.ends_with("the reason\n") && done.report.last_lines.len() <= 2048);
    assert!(done.report.last_lines.starts_with(|c: char| c.is_ascii_digit()), "begins at a line");
    let log = String::from_utf8(world.objects("s")["1/log.txt"].clone()).unwrap();
    assert!(log.starts_with("1\n2\n") && log.contains("the reason"), "the whole log is kept");
    no_commit(&world, "s");
}

#[test]
fn a_signal_of_its_own_is_a_user_error() {
    let world = World::new();
    let done = world.shell("s", 1, "kill -SEGV $$").run().ended(Outcome::UserError).says("SIGSEGV");
    assert_eq!((done.report.signal, done.report.exit_code), (Some(11), None));
    let done = world.shell("s", 2, "kill -KILL $$").run().ended(Outcome::UserError).says("SIGKILL");
    assert_eq!(done.report.signal, Some(9), "no kill for memory was counted");
}

#[test]
fn a_timeout_ends_the_whole_group() {
    let world = World::new();
    let mut step =
        world.shell("s", 1, "trap '' TERM; sleep 1000 & echo $! > $TRAINYARD_ROOT/pid; wait; sleep 1000").grace(0);
    step.spec.timeout_seconds = Some(1);
    let done = step.run().ended(Outcome::Timeout).says("timeout of 1 s");
    let pid: i32 = std::fs::read_to_string(done.root.join("pid")).unwrap().trim().parse().unwrap();
    assert!(rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_err());
    no_commit(&world, "s");
}

#[test]
fn term_is_passed_on_and_means_disrupted() {
    let world = World::new();
    let done = signalled(world.shell("s", 1, "echo ready; sleep 1000"), Signal::TERM).ended(Outcome::Disrupted);
    assert_eq!(done.report.signal, Some(15));
    assert_eq!(world.objects("s")["1/log.txt"], b"ready\n");
    let step =
        world.shell("s", 2, "trap 'echo stopping; exit 3' INT TERM; echo ready; while :; do sleep 1000 & wait; done");
    let done = signalled(step, Signal::INT).ended(Outcome::Disrupted);
    assert_eq!(done.report.exit_code, Some(3));
    no_commit(&world, "s");
}

#[test]
fn a_program_that_ignores_term_is_killed_after_its_grace() {
    let world = World::new();
    let step = world.shell("s", 1, "trap '' TERM; echo ready; sleep 1000").grace(1);
    let done = signalled(step, Signal::TERM).ended(Outcome::Disrupted);
    assert_eq!(done.report.signal, Some(9));
}

#[test]
fn a_program_that_ends_well_in_its_grace_is_committed() {
    let world = World::new();
    let step = world
        .shell(
            "s",
            1,
            "trap 'echo whole > $TRAINYARD_OUT_O; exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done",
        )
        .outputs(&["o"]);
    signalled(step, Signal::TERM).ended(Outcome::Succeeded);
    assert_eq!(world.objects("s")["1/o/o"], b"whole\n");
}

#[test]
fn programs_that_cannot_start_say_why() {
    let world = World::new();
    world
        .command("s", 1, &["no-such-program"])
        .variable("PATH", "/bin:/usr/bin")
        .run()
        .ended(Outcome::StartError)
        .says("\"no-such-program\" was not found in PATH=/bin:/usr/bin");
    world.command("s", 1, &["./train.py"]).run().ended(Outcome::StartError).says("does not exist in the image");
    world.command("s", 1, &["/etc/passwd"]).run().ended(Outcome::StartError).says("is not executable");
    world.command("s", 1, &[]).run().ended(Outcome::StartError).says("neither a command nor a script");
    let mut step = world.command("s", 1, &[]);
    step.spec.script = Some("echo no shebang".into());
    step.run().ended(Outcome::StartError).says("#!/bin/sh");
    let mut step = world.command("s", 1, &[]);
    step.spec.script = Some("#!/no/such/interpreter\n".into());
    step.run().ended(Outcome::StartError).says("interpreter");
    let mut step = world.shell("s", 1, "true");
    step.spec.working_dir = Some("/nonexistent".into());
    step.run().ended(Outcome::StartError).says("/nonexistent");
    no_commit(&world, "s");
}

#[test]
fn a_missing_output_names_its_path() {
    let world = World::new();
    let done = world.shell("s", 1, "true").outputs(&["model"]).run().ended(Outcome::OutputMissing);
    let path = done.root.join("out/model");
    done.says(path.to_str().unwrap()).says("TRAINYARD_OUT_MODEL");
    no_commit(&world, "s");
}

#[test]
fn outputs_that_are_not_files_are_refused_by_their_kind() {
    let world = World::new();
    let o = "o=$TRAINYARD_OUT_O; mkdir $o; echo x > $o/fine;";
    for (script, words) in [
        (format!("{o} ln -s /etc/passwd $o/link"), "out/o/link is a symbolic link"),
        (format!("{o} ln -s fine $o/link"), "is a symbolic link"),
        (format!("{o} mkdir $o/d; ln -s .. $o/d/up"), "out/o/d/up is a symbolic link"),
        (format!("{o} mkfifo $o/pipe"), "is a FIFO"),
        ("ln -s /etc/passwd $TRAINYARD_OUT_O".into(), "out/o is a symbolic link"),
        ("mkfifo $TRAINYARD_OUT_O".into(), "is a FIFO"),
        (
            "rmdir $TRAINYARD_ROOT/out; mkdir /tmp/t$$; echo x > /tmp/t$$/o; ln -s /tmp/t$$ $TRAINYARD_ROOT/out".into(),
            "out is a symbolic link",
        ),
        (format!("{o} touch $o/\"$(printf '\\377')\""), "not UTF-8"),
    ] {
        let done = world.shell("s", 1, &script).outputs(&["o"]).run();
        done.ended(Outcome::OutputUnsafe).says(words);
    }
    no_commit(&world, "s");
}

#[test]
fn a_socket_and_a_device_are_refused() {
    let world = World::new();
    let socket = "mkdir $TRAINYARD_OUT_O; python3 -c \"import socket,os; s=socket.socket(socket.AF_UNIX); os.chdir(os.environ['TRAINYARD_OUT_O']); s.bind('s')\"";
    world.shell("s", 1, socket).outputs(&["o"]).run().ended(Outcome::OutputUnsafe).says("is a socket");
    if common::is_root() {
        let device = "mkdir $TRAINYARD_OUT_O; mknod $TRAINYARD_OUT_O/null c 1 3";
        world.shell("s", 2, device).outputs(&["o"]).run().ended(Outcome::OutputUnsafe).says("is a character device");
    }
}

#[test]
fn results_that_do_not_fit_say_why() {
    let world = World::new();
    for (script, kind, words) in [
        ("true", ValueType::String, "did not write it"),
        ("echo many > $R", ValueType::Integer, "\"many\" is not a 64-bit integer"),
        ("echo NaN > $R", ValueType::Number, "is not a finite number"),
        ("head -c 65537 /dev/zero | tr '\\0' a > $R", ValueType::String, "larger than 64 KiB"),
        ("ln -s /etc/passwd $R", ValueType::String, "symbolic link"),
        ("mkfifo $R", ValueType::String, "not a regular file"),
        ("mkdir $R", ValueType::String, "not a regular file"),
        ("printf '\\377' > $R", ValueType::String, "not UTF-8"),
    ] {
        let script = format!("R=$TRAINYARD_ROOT/results/r; {script}");
        world.shell("s", 1, &script).result("r", kind).run().ended(Outcome::ResultInvalid).says(words);
    }
    no_commit(&world, "s");
}

#[test]
fn a_step_that_cannot_be_read_is_a_configuration_error() {
    let world = World::new();
    let mut step = world.shell("s", 1, "true");
    step.spec.version = 99;
    step.run().ended(Outcome::ConfigError).says("protocol version 99");
    let step = world.shell("s", 1, "true").outputs(&["../escape"]);
    step.run().ended(Outcome::ConfigError).says("../escape");
    let mut step = world.shell("s", 1, "true");
    step.spec.store.uri = "ftp://x/y".into();
    step.run().ended(Outcome::ConfigError).says("unknown scheme");
    let step = world.shell("s", 1, "true").variable("TRAINYARD_REPORT_KEY", "not hex");
    step.run().ended(Outcome::ConfigError).says("TRAINYARD_REPORT_KEY");
}

#[test]
fn the_command_line_documents_itself() {
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_step-runner")).args(words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, help, _) = run(&["--help"]);
    assert!(code == Some(0) && help.contains("Examples:") && help.contains("67 OutputMissing"));
    assert_eq!(run(&["--version"]).1, format!("step-runner {}\n", env!("CARGO_PKG_VERSION")));
    let (code, _, error) = run(&["walk"]);
    assert!(code == Some(2) && error.contains("--help"));
    let (code, _, error) = run(&["run"]);
    assert!(code == Some(78) && error.contains("TRAINYARD_SPEC is not set"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(&["install", dir.path().join("bin").to_str().unwrap()]).0, Some(0));
    let installed = dir.path().join("bin").join(paths::RUNNER_BINARY);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&installed).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o555);
    assert!(std::process::Command::new(&installed).arg("--version").status().unwrap().success());
    assert_eq!(run(&["install", "/proc/nowhere"]).0, Some(1));
}
