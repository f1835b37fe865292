//! MPI without ssh: rank 0's program starts commands in the other Pods by their runners, and nobody else does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::path::Path;
use std::process::Command;

use common::World;
use common::gang::{Gang, Running};
use rustix::process::{Pid, Signal};
use step_protocol::{Framework, Outcome};

/// Rank 0 runs the script, with the hosts of the others as `$h1` and so on; the others run what it asks for.
fn ranks(world: &World, gang: &Gang, script: &str) -> (Running, Vec<Running>) {
    let hosts: String = gang.hosts.iter().enumerate().map(|(n, host)| format!("h{n}={host}; ")).collect();
    let others = (1..u32::try_from(gang.hosts.len()).unwrap())
        .map(|rank| Running::start(gang.shell(world, rank, "echo the command of rank 0 is not run here")))
        .collect();
    let script = format!("{hosts} a=$TRAINYARD_ROOT/launch-agent; {script}");
    (Running::start(gang.shell(world, 0, &script)), others)
}

#[test]
fn commands_run_in_the_other_pods_as_user_code() {
    let world = World::new();
    let gang = Gang::new(Framework::MPI, 3);
    let script = r#"test "$HYDRA_LAUNCHER_EXEC" = $a || exit 1
$a -x $h1 'echo "on $TRAINYARD_RANK in $(pwd): $0" ; env | grep -c TRAINYARD_GANG_KEY; exit 7'; echo $?
$a $h2 test "$TRAINYARD_RANK" = 0 '&&' test '"$TRAINYARD_RANK"' = 2; echo $?
$a $h2 'kill -9 $$'; echo $?
$a $h0 'echo here'; echo $?
$a 10.9.9.9 true; echo $?"#;
    let (first, others) = ranks(&world, &gang, script);
    let done = first.end().ended(Outcome::Succeeded);
    assert_eq!(done.stdout, "7\n0\n137\nhere\n0\n255\n", "{done:?}");
    assert!(done.stderr.contains("10.9.9.9 is no host of this attempt"), "{}", done.stderr);
    let outputs: Vec<_> = others.into_iter().map(|rank| rank.end().ended(Outcome::Succeeded).stdout).collect();
    let here = std::env::current_dir().unwrap();
    assert_eq!(outputs, [format!("on 1 in {}: /bin/sh\n0\n", here.display()), String::new()]);
}

/// Waits until the file has a process ID in it.
fn pid(path: &Path) -> Pid {
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.ends_with('\n') {
            return Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        }
        std::thread::yield_now();
    }
}

fn gone(pid: Pid) -> bool {
    // A zombie of the runner's counts as gone: it is about to be collected.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_command_ends_with_its_agent() {
    let world = World::new();
    let gang = Gang::new(Framework::MPI, 2);
    let file = world.dir.path().join("pid");
    let script = format!(
        "$a $h1 'echo $$ > {0}; exec sleep 1000' & agent=$!; while [ ! -s {0} ]; do sleep 0.1; done; kill -9 $agent; wait; echo over",
        file.display()
    );
    let (mut first, others) = ranks(&world, &gang, &script);
    let command = pid(&file);
    assert_eq!(first.line(), "over");
    first.end().ended(Outcome::Succeeded);
    for other in others {
        other.end().ended(Outcome::Succeeded);
    }
    assert!(gone(command));
}

#[test]
fn daemons_live_on_until_rank_0_is_done() {
    let world = World::new();
    let gang = Gang::new(Framework::MPI, 2);
    let file = world.dir.path().join("pid");
    let script = format!(
        "$a $h1 'setsid sh -c \"echo \\$\\$ > {0}; exec sleep 1000\" & while [ ! -s {0} ]; do sleep 0.1; done'; echo launched; cat < $GATE",
        file.display()
    );
    let gate = world.dir.path().join("gate");
    Command::new("mkfifo").arg(&gate).status().unwrap();
    let hosts: String = gang.hosts.iter().enumerate().map(|(n, host)| format!("h{n}={host}; ")).collect();
    let other = Running::start(gang.shell(&world, 1, "true"));
    let leader = gang.shell(&world, 0, &format!("{hosts} a=$TRAINYARD_ROOT/launch-agent; {script}"));
    let mut first = Running::start(leader.variable("GATE", gate.to_str().unwrap()));
    let daemon = pid(&file);
    assert_eq!(first.line(), "launched");
    assert!(!gone(daemon));
    drop(std::fs::File::options().write(true).open(&gate).unwrap());
    first.end().ended(Outcome::Succeeded);
    other.end().ended(Outcome::Succeeded);
    assert!(gone(daemon));
}

#[test]
fn ranks_that_serve_obey_term_and_end_what_they_run() {
    let world = World::new();
    let gang = Gang::new(Framework::MPI, 2);
    let file = world.dir.path().join("pid");
    let script = format!("$a $h1 'echo $$ > {}; exec sleep 1000'; exit 9", file.display());
    let (first, mut others) = ranks(&world, &gang, &script);
    let command = pid(&file);
    let other = others.pop().unwrap();
    rustix::process::kill_process(Pid::from_child(&other.child), Signal::TERM).unwrap();
    other.end().ended(Outcome::Disrupted);
    assert!(gone(command));
    let done = first.end().ended(Outcome::UserError);
    assert_eq!(done.report.exit_code, Some(9), "the agent has failed, and so does the launcher");
}

#[test]
fn a_failure_of_rank_0_is_its_own_and_the_others_wait_for_the_operator() {
    let world = World::new();
    let gang = Gang::new(Framework::MPI, 2);
    let (first, mut others) = ranks(&world, &gang, "exit 3");
    first.end().ended(Outcome::UserError);
    let mut other = others.pop().unwrap();
    assert!(other.child.try_wait().unwrap().is_none(), "it is not the first failure");
    rustix::process::kill_process(Pid::from_child(&other.child), Signal::TERM).unwrap();
    other.end().ended(Outcome::Disrupted);
}

#[test]
fn the_agent_says_what_it_needs() {
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_step-runner")).args(words).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&["launch-agent", "host"]);
    assert!(code == Some(255) && error.contains("usage: launch-agent HOST COMMAND"), "{error}");
    let (code, error) = run(&["launch-agent", "host", "true"]);
    assert!(code == Some(255) && error.contains("TRAINYARD_LAUNCH_SOCKET is not set"), "{error}");
}
