//! The ranks of a training meet: who waits for whom, what the programs find, and what a stranger or a missing rank does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use common::World;
use common::gang::{Gang, Running};
use rustix::process::{Pid, Signal};
use step_protocol::{Framework, Outcome};

/// Takes one connection of each other rank and prints what they say, as soon as a line comes from the FIFO.
const LEADER: &str = r#"echo started; read word < $GATE; exec python3 -c '
import os, socket
size = int(os.environ["TRAINYARD_WORLD_SIZE"])
server = socket.create_server((os.environ["TRAINYARD_RANK0_HOST"], int(os.environ["TRAINYARD_RANK0_PORT"])))
said = []
for _ in range(size - 1):
    peer, _ = server.accept()
    said.append(peer.makefile().readline().strip())
print(" ".join(sorted(said)))
'"#;

/// Says its rank to rank 0's program, at once and only once.
const WORKER: &str = r#"exec python3 -c '
import os, socket
peer = socket.create_connection((os.environ["TRAINYARD_RANK0_HOST"], int(os.environ["TRAINYARD_RANK0_PORT"])))
peer.sendall((os.environ["TRAINYARD_RANK"] + "\n").encode())
'"#;

fn fifo(world: &World, name: &str) -> String {
    let path = world.dir.path().join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn programs_start_when_all_ranks_are_there_and_rank_0_listens() {
    let world = World::new();
    let gang = Gang::new(Framework::JAX, 3);
    let gate = fifo(&world, "gate");
    // In any order: rank 0 last.
    let mut others: Vec<_> = [2, 1].map(|rank| Running::start(gang.shell(&world, rank, WORKER))).into();
    let mut first = Running::start(gang.shell(&world, 0, LEADER).variable("GATE", gate.clone()));
    assert_eq!(first.line(), "started");
    // Its program runs and does not listen: nothing may have come to it, and the others wait.
    for other in &mut others {
        assert!(other.child.try_wait().unwrap().is_none());
    }
    std::fs::write(gate, "go\n").unwrap();
    for other in others {
        other.end().ended(Outcome::Succeeded);
    }
    let done = first.end().ended(Outcome::Succeeded);
    assert_eq!(done.stdout, "1 2\n", "one connection of each rank, and none of a runner");
    // Rank 0's record is the job's; each other rank has one of this execution.
    let keys: Vec<_> = world.objects("train").into_keys().filter(|key| key.ends_with("COMMIT")).collect();
    assert_eq!(keys, ["COMMIT", "ranks/1/worker-1/COMMIT", "ranks/1/worker-2/COMMIT"]);
}

#[test]
fn a_job_that_has_committed_is_adopted_without_the_other_ranks() {
    let world = World::new();
    let mut gang = Gang::new(Framework::XGBoost, 1);
    gang.shell(&world, 0, "printf 1 > $TRAINYARD_OUT_O").outputs(&["o"]).run().ended(Outcome::Succeeded);
    gang = Gang::new(Framework::XGBoost, 2);
    gang.again();
    let done = gang.shell(&world, 0, "echo ran").outputs(&["o"]).run().ended(Outcome::Succeeded);
    assert_eq!((done.stdout.as_str(), done.report.winner), ("", Some(1)));
}

#[test]
fn a_missing_rank_is_named() {
    let world = World::new();
    let mut gang = Gang::new(Framework::JAX, 4);
    gang.start_timeout = 3;
    // It waits longer, so that it is there when rank 0 gives up.
    let mut other = gang.shell(&world, 2, "echo ran");
    other.spec.rank.as_mut().unwrap().start_timeout_seconds = 600;
    let other = Running::start(other);
    let first = Running::start(gang.shell(&world, 0, "echo ran"));
    let done = first.end().ended(Outcome::GangTimeout);
    assert_eq!(done.stdout, "");
    let missing = format!("nothing was heard of worker-1 ({}), worker-3 ({})", gang.hosts[1], gang.hosts[3]);
    done.says("within 3 s (`startTimeout`)").says(&missing);
    rustix::process::kill_process(Pid::from_child(&other.child), Signal::TERM).unwrap();
    assert_eq!(other.end().ended(Outcome::Disrupted).stdout, "");
    let done = gang.shell(&world, 1, "echo ran").run().ended(Outcome::GangTimeout).says("rank 0 (worker-0 at ");
    assert_eq!(done.stdout, "");
}

#[test]
fn a_program_of_rank_0_that_does_not_listen_ends_the_attempt() {
    let world = World::new();
    let mut gang = Gang::new(Framework::Torch, 2);
    gang.start_timeout = 3;
    let other = Running::start(gang.shell(&world, 1, "echo ran"));
    let first = Running::start(gang.shell(&world, 0, "exec sleep 1000"));
    first.end().ended(Outcome::GangTimeout).says(&format!("does not listen on port {}", gang.port));
    let done = other.end().ended(Outcome::GangTimeout).says("waits for the others or for its program to listen");
    assert_eq!(done.stdout, "");
}

#[test]
fn frameworks_whose_rank_0_listens_nowhere_start_at_once() {
    for framework in [Framework::LightGBM, Framework::TensorFlow, Framework::None] {
        let world = World::new();
        let gang = Gang::new(framework, 2);
        let ranks = [1, 0].map(|rank| Running::start(gang.shell(&world, rank, "cat $TRAINYARD_MACHINES < /dev/null")));
        for rank in ranks {
            let done = rank.end().ended(Outcome::Succeeded);
            if framework == Framework::LightGBM {
                let machines: String = gang.hosts.iter().map(|host| format!("{host} {}\n", gang.port)).collect();
                assert_eq!(done.stdout, machines);
            }
        }
    }
}

#[test]
fn a_rank_of_another_attempt_is_no_peer() {
    let world = World::new();
    let mut gang = Gang::new(Framework::None, 2);
    gang.start_timeout = 3;
    let first = Running::start(gang.shell(&world, 0, "echo ran"));
    // Its key is of another attempt; and one with the key of this attempt says that it is of another.
    let stale = gang.shell(&world, 1, "echo ran").variable("TRAINYARD_GANG_KEY", "00".repeat(32));
    let mut other = gang.shell(&world, 1, "echo ran");
    other.spec.rank.as_mut().unwrap().rendezvous_id = "uid-1-0".into();
    for done in [stale, other].map(Running::start).map(Running::end) {
        assert_eq!(done.ended(Outcome::GangTimeout).stdout, "");
    }
    first.end().ended(Outcome::GangTimeout).says("nothing was heard of worker-1");
}

#[test]
fn a_second_pod_of_a_rank_that_has_begun_is_refused() {
    for framework in [Framework::None, Framework::MPI] {
        let world = World::new();
        let gang = Gang::new(framework, 2);
        let gate = fifo(&world, "gate");
        // The other rank has begun: with its own program, or with one that rank 0 has asked for.
        let asked = match framework {
            Framework::MPI => format!("$TRAINYARD_ROOT/launch-agent {} true;", gang.hosts[1]),
            _ => String::new(),
        };
        let leader = format!("{asked} echo started; read word < $GATE");
        let mut first = Running::start(gang.shell(&world, 0, &leader).variable("GATE", gate.clone()));
        let script = "echo started; exec sleep 1000";
        let mut other = Running::start(gang.shell(&world, 1, script));
        if framework == Framework::None {
            assert_eq!(other.line(), "started");
        }
        assert_eq!(first.line(), "started");
        other.kill();
        let again = gang.shell(&world, 1, script).run();
        again.ended(Outcome::Disrupted).says("the others have begun with another Pod of worker-1");
        std::fs::write(gate, "go\n").unwrap();
        first.end().ended(Outcome::Succeeded);
    }
}

#[test]
fn a_second_pod_of_a_rank_that_has_not_begun_takes_its_place() {
    let world = World::new();
    let gang = Gang::new(Framework::None, 3);
    let first = Running::start(gang.shell(&world, 0, "echo ran"));
    let mut lost = Running::start(gang.shell(&world, 1, "echo ran"));
    // Made after it listens to signals, and before it waits for the others.
    while !lost.step.root().join("tmp").exists() {
        std::thread::yield_now();
    }
    lost.kill();
    let ranks = [1, 2].map(|rank| Running::start(gang.shell(&world, rank, "echo ran")));
    for rank in ranks.into_iter().chain([first]) {
        assert_eq!(rank.end().ended(Outcome::Succeeded).stdout, "ran\n");
    }
}

#[test]
fn strangers_at_the_gate_hold_up_nobody() {
    let world = World::new();
    let gang = Gang::new(Framework::None, 2);
    let first = Running::start(gang.shell(&world, 0, "echo ran"));
    let gate = (gang.hosts[0].as_str(), gang.gate_port);
    let mut silent = loop {
        if let Ok(stream) = TcpStream::connect(gate) {
            break vec![stream];
        }
        std::thread::yield_now();
    };
    // Some say nothing, some say nonsense, some do not stop.
    silent.extend((0..40).map(|_| TcpStream::connect(gate).unwrap()));
    for nonsense in ["GET / HTTP/1.1\r\n\r\n".to_owned(), "x".repeat(1 << 20), "trainyard-gate 1 00\n{}\n".repeat(99)] {
        let mut stream = TcpStream::connect(gate).unwrap();
        let _ = stream.write_all(nonsense.as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let other = Running::start(gang.shell(&world, 1, "echo ran"));
    assert_eq!(other.end().ended(Outcome::Succeeded).stdout, "ran\n");
    assert_eq!(first.end().ended(Outcome::Succeeded).stdout, "ran\n");
    drop(silent);
}

#[test]
fn a_rank_that_waits_obeys_term() {
    let world = World::new();
    let gang = Gang::new(Framework::None, 2);
    for rank in [0, 1] {
        let mut step = gang.shell(&world, rank, "echo ran");
        // Made after it listens to signals.
        let ready = step.root().join("tmp");
        let child = step.start();
        while !ready.exists() {
            std::thread::yield_now();
        }
        rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let done = step.wait(child);
        assert_eq!(done.ended(Outcome::Disrupted).stdout, "");
    }
}

#[test]
fn a_port_that_is_taken_is_said() {
    let world = World::new();
    let gang = Gang::new(Framework::None, 2);
    let _taken = TcpListener::bind((gang.hosts[0].as_str(), gang.gate_port)).unwrap();
    gang.shell(&world, 0, "echo ran").run().ended(Outcome::StartError).says("the start gate cannot listen on port");
}

#[test]
fn no_rank_sees_the_key() {
    let world = World::new();
    let gang = Gang::new(Framework::None, 2);
    let script = "env; cat /proc/$PPID/environ; cat $TRAINYARD_ROOT/hosts";
    let ranks = [0, 1].map(|rank| Running::start(gang.shell(&world, rank, script)));
    for rank in ranks {
        let done = rank.end();
        assert!(!done.stdout.contains("6b65796b65") && done.stdout.contains("TRAINYARD_RANK="), "{done:?}");
    }
}

#[test]
fn without_a_key_nobody_waits() {
    let world = World::new();
    let mut step = Gang::new(Framework::None, 2).shell(&world, 1, "echo ran");
    step.env.retain(|(name, _)| name != "TRAINYARD_GANG_KEY");
    step.run().ended(Outcome::ConfigError).says("TRAINYARD_GANG_KEY is not set");
    let step = Gang::new(Framework::None, 2).shell(&world, 1, "echo ran").variable("TRAINYARD_GANG_KEY", "no hex");
    step.run().ended(Outcome::ConfigError).says("TRAINYARD_GANG_KEY is not hex");
}

#[test]
fn shards_know_nothing_of_each_other_and_count_once() {
    let world = World::new();
    let mut gang = Gang::new(Framework::None, 3);
    gang.scatter = true;
    let script = "echo shard $TRAINYARD_INDEX of $TRAINYARD_WORLD_SIZE";
    let done = gang.shell(&world, 1, script).run().ended(Outcome::Succeeded);
    assert_eq!(done.stdout, "shard 1 of 3\n");
    gang.shell(&world, 2, "exit 1").run().ended(Outcome::UserError);
    gang.again();
    let done = gang.shell(&world, 1, script).run().ended(Outcome::Succeeded);
    assert_eq!((done.stdout.as_str(), done.report.winner), ("", Some(1)), "what has committed is not run again");
    assert_eq!(gang.shell(&world, 2, script).run().ended(Outcome::Succeeded).stdout, "shard 2 of 3\n");
}

#[test]
fn a_program_that_is_stopped_is_killed_as_stalled() {
    let world = World::new();
    let mut gang = Gang::new(Framework::None, 2);
    gang.stall_timeout = Some(2);
    // Rank 0 goes on printing; rank 1 is frozen in the middle of its work.
    let first = Running::start(gang.shell(&world, 0, "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.5; done"));
    let second = Running::start(gang.shell(&world, 1, "echo begun; kill -STOP $$; echo never"));
    let done = second.end().ended(Outcome::Stalled).says("no sign of progress for 2 s (`stallTimeout`)");
    assert_eq!((done.stdout.as_str(), done.report.signal), ("begun\n", Some(9)));
    first.end().ended(Outcome::Succeeded);
}
