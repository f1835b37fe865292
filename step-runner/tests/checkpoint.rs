//! What a program keeps below its checkpoint directory: sent while it runs and when it is asked to stop, brought back at the next
//! execution, never torn, and never the end of a training.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::ChildStderr;
use std::sync::mpsc;

use common::gang::{Gang, Running};
use common::proxy::{self, Fault};
use common::worlds::{on_s3, s3, worlds};
use common::{Done, Step, World};
use rustix::process::{Pid, Signal};
use step_protocol::{CheckpointName, Framework, Outcome, paths};

/// A program that does what the lines of a FIFO say, one after the other, with its checkpoint as working directory.
const OBEDIENT: &str = r#"cd "$TRAINYARD_CHECKPOINT"
trap 'exit 3' TERM
echo restored "$TRAINYARD_RESTORED"
while read -r line; do eval "$line"; echo did; done < $ORDERS"#;

/// One execution of a job of one rank.
struct Job {
    running: Running,
    /// Open for both ends, so that the program always has somebody to read from and an order always has a reader.
    orders: File,
    errors: BufReader<ChildStderr>,
}

fn name(execution: u32, sequence: u32) -> CheckpointName {
    CheckpointName { execution, sequence }
}

fn gang(interval: u64) -> Gang {
    let mut gang = Gang::new(Framework::None, 1);
    gang.checkpoint = Some(interval);
    gang
}

impl Job {
    fn start(world: &World, gang: &Gang) -> Self {
        Self::of(world, gang.shell(world, 0, OBEDIENT))
    }

    fn of(world: &World, step: Step) -> Self {
        let orders = world.dir.path().join(format!("orders-{}", step.root().file_name().unwrap().to_str().unwrap()));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &orders, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let mut running = Running::start(step.variable("ORDERS", orders.to_str().unwrap()));
        let orders = File::options().read(true).write(true).open(orders).unwrap();
        let errors = BufReader::new(running.child.stderr.take().unwrap());
        Self { running, orders, errors }
    }

    /// What the program found.
    fn restored(&mut self) -> String {
        self.running.line().strip_prefix("restored").unwrap().trim().to_owned()
    }

    fn write(&self, line: &str) {
        writeln!(&self.orders, "{line}").unwrap();
    }

    /// Has the program do something; what it prints.
    fn order(&mut self, line: &str) -> String {
        self.write(line);
        let mut said = String::new();
        loop {
            let line = self.running.line();
            if let Some(last) = line.strip_suffix("did") {
                return said + last;
            }
            assert!(!line.is_empty(), "it has ended");
            said += &line;
        }
    }

    /// Has the program end.
    fn exit(self, code: i32) -> Done {
        self.write(&format!("exit {code}"));
        self.running.end()
    }

    /// Waits until the runner says something with these words.
    fn said(&mut self, words: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.errors.read_line(&mut line).unwrap() > 0, "{words:?} was not said: {all}");
            if line.contains(words) {
                return line;
            }
            all.push_str(&line);
        }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.running.child), signal).unwrap();
    }

    fn end(self) -> Done {
        self.running.end()
    }
}

#[test]
fn what_is_kept_is_there_at_the_next_execution() {
    for (kind, world) in worlds() {
        let mut gang = gang(1);
        let mut job = Job::start(&world, &gang);
        assert_eq!(job.restored(), "", "{kind}");
        job.order("mkdir -p a/b; printf weights > a/b/w; printf '#!/bin/sh' > run; chmod +x run; printf half > x.tmp");
        job.said("checkpoint 000001-000001: 2 files, 16 bytes");
        // Nothing has changed: the next one is for the next change.
        job.order("printf more > a/b/w.tmp; mv a/b/w.tmp a/b/w");
        job.said("checkpoint 000001-000002: 2 files");
        job.order("printf never > late");
        let done = job.exit(5).ended(Outcome::UserError);
        assert_eq!((done.report.checkpoint, done.report.restored), (Some(name(1, 2)), None), "{kind}");

        gang.again();
        let mut job = Job::start(&world, &gang);
        assert_eq!(job.restored(), "000001-000002", "{kind}");
        assert_eq!(job.order("cat a/b/w; test -x run && test ! -x a/b/w && ls | tr '\\n' ' '"), "morea run ");
        let done = job.exit(0).ended(Outcome::Succeeded);
        assert_eq!(done.report.restored, Some(name(1, 2)));
        assert_eq!(done.report.checkpoint, None, "what was restored is not sent again");
    }
}

#[test]
fn many_small_files_and_odd_names_come_back_as_they_were() {
    for (kind, world) in worlds() {
        let mut gang = gang(1);
        let mut job = Job::start(&world, &gang);
        job.restored();
        job.order(
            "for i in $(seq 600); do printf $i > f$i; done; : > empty; printf x > 'a b%2F#1'; printf y > manifest.json",
        );
        let sum = "cat f* large empty a* manifest.json | sha256sum";
        let before = job.order(&format!("head -c 300000 /dev/zero > large; {sum}"));
        job.said("604 files");
        job.running.kill();
        gang.again();
        let mut job = Job::start(&world, &gang);
        assert_eq!(job.restored(), "000001-000001", "{kind}");
        assert_eq!(job.order(sum), before, "{kind}");
        job.exit(0).ended(Outcome::Succeeded);
    }
}

#[test]
fn who_is_asked_to_stop_keeps_its_last_state() {
    for (kind, world) in worlds() {
        // No interval would come in this time.
        let mut gang = gang(3600);
        for code in [3, 0] {
            let script = OBEDIENT.replace("exit 3", &format!("printf {code} > state; exit {code}"));
            let mut job = Job::of(&world, gang.shell(&world, 0, &script));
            job.restored();
            job.signal(Signal::TERM);
            // Also one that ends well then has not finished its training.
            let done = job.end().ended(Outcome::Disrupted);
            assert_eq!(done.report.checkpoint, Some(name(gang.execution, 1)), "{kind} {code}");
            assert!(world.record("train").is_none());
            gang.again();
        }
        let mut job = Job::start(&world, &gang);
        assert_eq!(job.restored(), "000002-000001");
        assert_eq!(job.order("cat state; rm state; echo last > end"), "0");
        let done = job.exit(0).ended(Outcome::Succeeded);
        assert_eq!(done.report.checkpoint, None, "after success nothing is sent");
    }
}

#[test]
fn only_the_newest_are_kept() {
    let world = World::new();
    let mut gang = gang(1);
    for execution in 1..=2 {
        let mut job = Job::start(&world, &gang);
        job.restored();
        for sequence in 1..=3 {
            job.order(&format!("echo {execution}{sequence} > w"));
            job.said(&format!("checkpoint {}", name(execution, sequence)));
        }
        // It exits with a record; the next execution is of another job's, for this test.
        job.exit(0).ended(Outcome::Succeeded);
        std::fs::remove_file(world.path(&paths::commit_key(&common::prefix("train")))).unwrap();
        let manifests: Vec<_> =
            world.objects("train").into_keys().filter(|key| key.starts_with("checkpoint/")).collect();
        let expected: Vec<_> = (2..=3)
            .flat_map(|n| ["manifest.json", "w"].map(|file| format!("checkpoint/{}/{file}", name(execution, n))))
            .collect();
        assert_eq!(manifests, expected);
        gang.again();
    }
}

#[test]
fn a_file_that_changes_all_the_time_is_never_kept_and_the_program_goes_on() {
    let world = World::new();
    let gang = gang(1);
    let mut job = Job::start(&world, &gang);
    job.restored();
    job.order("(while [ ! -e ../enough ]; do date +%N >> w; done) & writer=$!");
    let said = job.said("could not be kept, and the program goes on");
    assert!(said.contains("changes all the time: write to a name that ends with .tmp"), "{said}");
    assert!(!world.objects("train").keys().any(|key| key.starts_with("checkpoint/")));
    // Once it is still, it is kept.
    job.order(": > ../enough; wait $writer");
    job.said("checkpoint 000001-000001: 1 files");
    let done = job.exit(0).ended(Outcome::Succeeded);
    assert_eq!((done.report.checkpoint, done.report.checkpoint_error), (Some(name(1, 1)), None));
}

#[test]
fn a_program_that_puts_a_new_one_in_place_all_the_time_is_kept_whole() {
    let world = World::new();
    let mut gang = gang(1);
    let mut job = Job::start(&world, &gang);
    job.restored();
    // Both halves of a file are of one moment, and it is replaced some times in a second.
    job.order(
        "(i=0; while [ ! -e ../enough ]; do i=$((i + 1)); (echo $i; head -c 3000000 /dev/zero; echo $i) > w.tmp; mv w.tmp w; \
         sleep 0.4; done) & writer=$!",
    );
    for sequence in 1..=3 {
        job.said(&format!("checkpoint {}: 1 files", name(1, sequence)));
    }
    job.running.kill();
    gang.again();
    let mut job = Job::start(&world, &gang);
    assert!(job.restored().as_str() >= "000001-000003");
    assert_eq!(job.order("test \"$(head -n 1 w)\" = \"$(tail -n 1 w | tr -d '\\0')\" && echo whole"), "whole");
    job.exit(0).ended(Outcome::Succeeded);
}

#[test]
fn what_is_no_file_is_said_and_the_program_goes_on() {
    let world = World::new();
    let mut job = Job::start(&world, &gang(1));
    job.restored();
    job.order("ln -s /etc/passwd latest");
    job.said("\"latest\" is a symbolic link");
    let done = job.exit(0).ended(Outcome::Succeeded);
    assert!(done.report.checkpoint_error.unwrap().contains("\"latest\" is a symbolic link"));
}

#[test]
fn a_store_that_refuses_costs_checkpoints_and_not_the_training() {
    let world = World::new();
    let prefix = world.path(&paths::checkpoint_prefix(&common::prefix("train")));
    let mut job = Job::start(&world, &gang(1));
    job.restored();
    // A file where the directory of checkpoints would be.
    std::fs::create_dir_all(prefix.parent().unwrap()).unwrap();
    std::fs::write(&prefix, "in the way").unwrap();
    job.order("echo 1 > w");
    job.said("could not be kept, and the program goes on");
    std::fs::remove_file(&prefix).unwrap();
    job.said("checkpoint 000001-000001: 1 files");
    job.exit(0).ended(Outcome::Succeeded);
}

#[test]
fn a_checkpoint_that_cannot_be_read_gives_way_to_the_one_before() {
    for damage in ["w", "manifest.json"] {
        let world = World::new();
        let mut gang = gang(1);
        let mut job = Job::start(&world, &gang);
        job.restored();
        for sequence in 1..=2 {
            job.order(&format!("echo {sequence} > w"));
            job.said(&format!("checkpoint {}", name(1, sequence)));
        }
        job.running.kill();
        let damaged = |sequence| {
            let prefix = paths::checkpoint_prefix(&common::prefix("train"));
            let path = world.path(&format!("{prefix}/{}/{damage}", name(1, sequence)));
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path, bytes).unwrap();
        };
        damaged(2);
        gang.again();
        let mut job = Job::start(&world, &gang);
        job.said("the checkpoint 000001-000002 cannot be used");
        assert_eq!(job.restored(), "000001-000001");
        assert_eq!(job.order("cat w"), "1");
        job.running.kill();
        damaged(1);
        gang.again();
        let done = gang.shell(&world, 0, "echo ran").run().ended(Outcome::ArtifactCorrupt);
        assert_eq!(done.stdout, "", "a training that has lost its state does not begin anew by itself");
        done.says("no checkpoint can be read, 2 were tried; to begin anew, delete what is below");
    }
}

#[test]
fn a_runner_killed_while_it_sends_leaves_the_one_before() {
    let world = World::new();
    let mut gang = gang(1);
    let begun = world.path(&format!("{}/000001-000002", paths::checkpoint_prefix(&common::prefix("train"))));
    let mut job = Job::start(&world, &gang);
    job.restored();
    job.order("echo 1 > w");
    job.said("checkpoint 000001-000001");
    job.order("echo 2 > w; head -c 400000000 /dev/zero > large");
    // Something of it is there, and much is not.
    while std::fs::read_dir(&begun).map_or(0, Iterator::count) == 0 {
        std::thread::yield_now();
    }
    job.running.kill();
    assert!(!begun.join("manifest.json").exists());
    gang.again();
    let mut job = Job::start(&world, &gang);
    assert_eq!(job.restored(), "000001-000001");
    assert_eq!(job.order("cat w; ls; echo 3 > w"), "1w");
    job.said("checkpoint 000002-000001");
    assert!(!begun.exists() || std::fs::read_dir(&begun).unwrap().all(|entry| entry.unwrap().path().is_dir()));
    job.exit(0).ended(Outcome::Succeeded);
}

#[test]
fn a_runner_killed_before_the_manifest_is_written_to_s3_leaves_the_one_before() {
    let Some(s3) = s3() else { return };
    let (held, holding) = mpsc::channel();
    let held = std::sync::Mutex::new(held);
    let proxy = proxy::start(&s3.endpoint, move |first, _| {
        if first.starts_with("PUT") && first.contains("000001-000002/manifest.json") {
            held.lock().unwrap().send(()).unwrap();
            let (_never, word) = mpsc::channel();
            return Fault::Hold(word);
        }
        Fault::Pass
    });
    let world = on_s3(&s3, &proxy);
    let mut gang = gang(1);
    let mut job = Job::start(&world, &gang);
    job.restored();
    job.order("echo 1 > w");
    job.said("checkpoint 000001-000001");
    job.order("echo 2 > w");
    holding.recv().unwrap();
    job.running.kill();
    gang.again();
    let mut job = Job::start(&world, &gang);
    assert_eq!(job.restored(), "000001-000001");
    assert_eq!(job.order("cat w"), "1");
    job.exit(0).ended(Outcome::Succeeded);
}

#[test]
fn every_rank_restores_what_rank_0_chooses() {
    let world = World::new();
    let mut gang = Gang::new(Framework::None, 2);
    gang.checkpoint = Some(1);
    let script = "cat $TRAINYARD_CHECKPOINT/w; echo $TRAINYARD_RESTORED; echo $TRAINYARD_RANK > $TRAINYARD_CHECKPOINT/w; \
                  echo written; cat < $GATE";
    let gate = |world: &World, rank: u32| {
        let path = world.dir.path().join(format!("gate-{rank}"));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let _ = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0);
        path.to_str().unwrap().to_owned()
    };
    let start = |gang: &Gang| {
        [0, 1].map(|rank| Running::start(gang.shell(&world, rank, script).variable("GATE", gate(&world, rank))))
    };
    let [mut first, mut second] = start(&gang);
    for rank in [&mut first, &mut second] {
        while rank.line() != "written" {}
    }
    let mut errors = BufReader::new(first.child.stderr.take().unwrap()).lines();
    assert!(errors.any(|line| line.unwrap().contains("checkpoint 000001-000001: 1 files")));
    first.kill();
    second.kill();
    gang.again();
    let mut ranks = start(&gang);
    for rank in &mut ranks {
        assert_eq!([rank.line(), rank.line()], ["0", "000001-000001"], "what rank 0 wrote, on both");
    }
    // Not before: the other one may not have heard yet that it may go.
    ranks.iter_mut().for_each(Running::kill);
    let keys = world.objects("train").into_keys();
    let others: Vec<_> = keys.filter(|key| key.contains("ranks/") && key.contains("checkpoint")).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Memory of its own that a process has, in KiB.
fn own_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
fn sending_takes_little_memory_whatever_the_size() {
    for (kind, world) in worlds() {
        let mut job = Job::start(&world, &gang(1));
        job.restored();
        let pid = job.running.child.id();
        let before = own_memory(pid).unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let watching = std::thread::spawn(move || {
            let mut most = 0;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                most = most.max(own_memory(pid).unwrap_or(0));
                std::thread::yield_now();
            }
            most
        });
        job.order("head -c 200000000 /dev/zero > large.tmp; mv large.tmp large; for i in 1 2 3 4; do head -c 20000000 /dev/zero > $i; done");
        job.said("checkpoint 000001-000001: 5 files, 280000000 bytes");
        drop(stop);
        let most = watching.join().unwrap();
        assert!(most < before + (32 << 10), "{kind}: {before} KiB before, {most} KiB at most");
        job.exit(0).ended(Outcome::Succeeded);
    }
}
