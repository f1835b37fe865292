//! The real runner on every kind of store: one suite on a directory, on a volume of another file system, and on an S3 service; then
//! the faults of an S3 service by a proxy in front of it.
//!
//! The S3 part runs when `TRAINYARD_TEST_S3_ENDPOINT`, `TRAINYARD_TEST_S3_BUCKET`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`
//! are set (`make test` starts such a service).

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use common::proxy::{self, Fault};
use common::stage;
use common::worlds::{S3, on_s3, s3, worlds};
use rustix::process::{Pid, Signal};
use step_protocol::{InputSource, Outcome, paths};

#[test]
fn a_chain_of_stages_works_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let script = r#"mkdir -p $TRAINYARD_OUT_D/sub
printf x > "$TRAINYARD_OUT_D/a b#1%"; head -c 9000000 /dev/urandom > $TRAINYARD_OUT_D/sub/big; : > $TRAINYARD_OUT_D/empty
for i in $(seq 100); do echo $i > $TRAINYARD_OUT_D/sub/$i; done
printf 'one' > $TRAINYARD_OUT_F; sha256sum < $TRAINYARD_OUT_D/sub/big > $TRAINYARD_ROOT/results/sum"#;
        let first = world
            .shell("a", 1, script)
            .outputs(&["d", "f"])
            .result("sum", step_protocol::ValueType::String)
            .run()
            .ended(Outcome::Succeeded);
        let sum = first.report.results["sum"].as_str().unwrap().to_owned();
        let read = r#"cat $TRAINYARD_IN_F; sha256sum < $TRAINYARD_IN_D/sub/big; cat "$TRAINYARD_IN_D/a b#1%"; cat $TRAINYARD_IN_D/sub/[0-9]* | wc -l; test -f $TRAINYARD_IN_D/empty"#;
        let second = world
            .shell("b", 1, read)
            .input("d", stage("a", "d"))
            .input("f", stage("a", "f"))
            .run()
            .ended(Outcome::Succeeded);
        assert_eq!(second.stdout, format!("one{sum}\nx100\n"));
        let adopted = world.shell("a", 2, "exit 1").outputs(&["d", "f"]).run().ended(Outcome::Succeeded);
        assert_eq!((adopted.report.winner, adopted.report.commit), (Some(1), first.report.commit));
        world.shell("c", 1, "true").input("x", stage("nobody", "o")).run().ended(Outcome::InputMissing);
    }
}

#[test]
fn a_uri_is_read_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let script = "mkdir $TRAINYARD_OUT_D; echo 1 > $TRAINYARD_OUT_D/x; echo 2 > $TRAINYARD_OUT_D/y";
        world.shell("a", 1, script).outputs(&["d"]).run().ended(Outcome::Succeeded);
        let uri = |path: &str| InputSource::Uri(format!("{}/{}/1/d/{path}", world.store.uri, common::prefix("a")));
        let step = world
            .shell("b", 1, "cat $TRAINYARD_IN_ONE; ls $TRAINYARD_IN_ALL")
            .input("one", uri("x"))
            .input("all", uri(""));
        assert_eq!(step.run().ended(Outcome::Succeeded).stdout, "1\nx\ny\n");
        world.shell("c", 1, "true").input("i", uri("none")).run().ended(Outcome::InputMissing);
        // What no stage has committed comes as it lies there, whatever the numbers in its name.
        let raw = |path: &str| InputSource::Uri(format!("{}/{}/{path}", world.store.uri, common::prefix("a")));
        let raw = world.shell("d", 1, "cd $TRAINYARD_IN_ALL; find . -type f | sort").input("all", raw("1/"));
        assert_eq!(
            raw.run().ended(Outcome::Succeeded).stdout.lines().filter(|line| line.starts_with("./d/")).count(),
            3
        );
    }
}

/// 300 files of 0 to 299 bytes, one of 300 KiB between them, an executable one, and names that are hard to keep.
const MANY: &str = r##"import os
d = os.environ["TRAINYARD_OUT_D"]
for i in range(300):
    os.makedirs(f"{d}/{i % 7}", exist_ok=True)
    open(f"{d}/{i % 7}/{i}", "wb").write(bytes([i % 251]) * i)
for name in ["manifest.json", "%pack-00000", "COMMIT", "new\nline", "x#12", "ä🚂", "..."]:
    open(f"{d}/{name}", "w").write(name)
open(f"{d}/3/large", "wb").write(os.urandom(300 << 10))
os.chmod(f"{d}/3/10", 0o700)
"##;

#[test]
fn many_small_files_are_packed_and_come_back_by_their_names_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let mut first = world.command("a", 1, &["python3", "-c", MANY]).outputs(&["d"]);
        first = first.variable("PATH", "/usr/bin:/bin:/usr/local/bin");
        let root = first.spec.root.clone();
        first.run().ended(Outcome::Succeeded);
        let compare = format!(
            "diff -r {root}/out/d $TRAINYARD_IN_D && test -x $TRAINYARD_IN_D/3/10 && test ! -x $TRAINYARD_IN_D/3/17"
        );
        world.shell("b", 1, &compare).input("d", stage("a", "d")).run().ended(Outcome::Succeeded);
        // By its address, too.
        let uri = |path: &str| InputSource::Uri(format!("{}/{}/1/{path}", world.store.uri, common::prefix("a")));
        world.shell("c", 1, &compare).input("d", uri("d/")).run().ended(Outcome::Succeeded);
        // What lies in the store, by the eyes of whoever reads its objects.
        let listed = world.shell("d", 1, "cd $TRAINYARD_IN_ALL/d; find . -type f | sort").input("all", uri(""));
        let listed = listed.run().ended(Outcome::Succeeded);
        assert_eq!(listed.stdout, "./%pack-00000\n./3/large\n./manifest.json\n");
    }
}

#[test]
fn a_pack_that_is_cut_is_read_again() {
    let Some(s3) = s3() else { return };
    let world = on_s3(&s3, &s3.endpoint);
    let script = "mkdir $TRAINYARD_OUT_O; for i in $(seq 400); do printf %01000d $i > $TRAINYARD_OUT_O/$i; done";
    world.shell("a", 1, script).outputs(&["o"]).run().ended(Outcome::Succeeded);
    let (cuts, asked) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (cut, seen) = (cuts.clone(), asked.clone());
    let endpoint = proxy::start(&s3.endpoint, move |line, head| {
        if !(line.starts_with("GET") && line.contains("pack-00000")) {
            return Fault::Pass;
        }
        seen.lock().unwrap().extend(head.lines().find(|line| line.starts_with("range:")).map(str::to_owned));
        if cut.fetch_add(1, Ordering::Relaxed) < 2 { Fault::Cut(1_000) } else { Fault::Pass }
    });
    let mut step = world.shell("b", 1, "cat $TRAINYARD_IN_O/* | wc -c").input("o", stage("a", "o"));
    step.spec.store.s3.as_mut().unwrap().endpoint = Some(endpoint);
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout.trim(), "400000");
    assert_eq!(*asked.lock().unwrap(), ["range: bytes=0-399999"; 3]);
}

#[test]
fn of_four_attempts_one_wins_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let mut steps: Vec<_> =
            (1..=4).map(|attempt| world.shell("s", attempt, "echo $$ > $TRAINYARD_OUT_O").outputs(&["o"])).collect();
        let children: Vec<_> = steps.iter_mut().map(common::Step::start).collect();
        let done: Vec<_> =
            steps.iter().zip(children).map(|(step, child)| step.wait(child).ended(Outcome::Succeeded)).collect();
        for one in &done {
            assert_eq!(one.report.commit, done[0].report.commit);
            assert_eq!(one.report.winner, done[0].report.winner);
        }
    }
}

#[test]
fn a_store_that_fails_for_a_while_is_outlasted() {
    let Some(s3) = s3() else { return };
    let failures = Arc::new(AtomicU32::new(0));
    let count = failures.clone();
    // The first request for each kind of thing fails, in another way each time.
    let endpoint = proxy::start(&s3.endpoint, move |_, _| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Fault::Answer(503, "<Error><Code>SlowDown</Code></Error>"),
        1 => Fault::Answer(500, ""),
        3 => Fault::LoseAnswer,
        _ => Fault::Pass,
    });
    let world = on_s3(&s3, &endpoint);
    let done = world.shell("a", 1, "echo x > $TRAINYARD_OUT_O").outputs(&["o"]).run().ended(Outcome::Succeeded);
    assert!(done.stderr.contains("failed: 503 SlowDown (1 so far); trying again"), "{}", done.stderr);
    assert_eq!(done.report.winner, Some(1));
}

#[test]
fn a_commit_whose_answer_was_lost_is_our_own() {
    let Some(s3) = s3() else { return };
    let lost = AtomicU32::new(0);
    let endpoint = proxy::start(&s3.endpoint, move |line, _| {
        let commits = line.starts_with("PUT") && line.contains("/COMMIT ");
        if commits && lost.fetch_add(1, Ordering::Relaxed) == 0 { Fault::LoseAnswer } else { Fault::Pass }
    });
    let world = on_s3(&s3, &endpoint);
    let done = world.shell("a", 1, "echo x > $TRAINYARD_OUT_O").outputs(&["o"]).run().ended(Outcome::Succeeded);
    assert!(!done.stderr.contains("ours are deleted"), "{}", done.stderr);
    world.shell("b", 1, "cat $TRAINYARD_IN_O").input("o", stage("a", "o")).run().ended(Outcome::Succeeded);
}

#[test]
fn a_store_that_ignores_the_condition_is_refused_while_the_program_runs() {
    let Some(s3) = s3() else { return };
    let endpoint =
        proxy::start(
            &s3.endpoint,
            |_, head| {
                if head.contains("if-none-match") { Fault::Answer(200, "") } else { Fault::Pass }
            },
        );
    let world = on_s3(&s3, &endpoint);
    // Never ends by itself: it is ended early, since nothing that it makes could be committed.
    world.shell("a", 1, "sleep 1000").run().ended(Outcome::StoreUnsupported).says("ignores If-None-Match");
    let endpoint = proxy::start(&s3.endpoint, |_, head| {
        if head.contains("if-none-match") {
            Fault::Answer(501, "<Error><Code>NotImplemented</Code></Error>")
        } else {
            Fault::Pass
        }
    });
    let world = on_s3(&s3, &endpoint);
    world.shell("a", 1, "sleep 1000").run().ended(Outcome::StoreUnsupported).says("conditional writes");
}

#[test]
fn denied_is_not_tried_again_and_says_what_to_check() {
    let Some(s3) = s3() else { return };
    let mut world = on_s3(&s3, &s3.endpoint);
    world.credentials[1].1 = "planted-secret".into();
    let done = world.shell("a", 1, "echo ran").run().ended(Outcome::StoreAccessDenied).says("SignatureDoesNotMatch");
    assert!(!format!("{done:?}").contains("planted") && done.stdout.is_empty());
    // Denied only when it writes, as with expired credentials.
    let endpoint = proxy::start(&s3.endpoint, |line, head| {
        let denied = line.starts_with("PUT") && !head.contains("if-none-match");
        if denied { Fault::Answer(403, "<Error><Code>ExpiredToken</Code></Error>") } else { Fault::Pass }
    });
    let world = on_s3(&s3, &endpoint);
    let step = world.shell("a", 1, "echo x > $TRAINYARD_OUT_O").outputs(&["o"]);
    step.run().ended(Outcome::StoreAccessDenied).says("ExpiredToken");
}

#[test]
fn a_store_that_stays_away_is_named_with_its_count() {
    let Some(s3) = s3() else { return };
    let endpoint = proxy::start(&s3.endpoint, |_, _| Fault::Answer(503, ""));
    let world = on_s3(&s3, &endpoint);
    let step = world.shell("a", 1, "echo ran").variable("TRAINYARD_PATIENCE_SECONDS", "2");
    let done = step.run().ended(Outcome::StoreUnavailable).says("tries").says("503");
    assert_eq!(done.stdout, "");
}

#[test]
fn a_body_that_is_cut_is_read_again() {
    let Some(s3) = s3() else { return };
    let world = on_s3(&s3, &s3.endpoint);
    let script = "head -c 20000000 /dev/urandom > $TRAINYARD_OUT_O; sha256sum < $TRAINYARD_OUT_O";
    let made = world.shell("a", 1, script).outputs(&["o"]).run().ended(Outcome::Succeeded);
    let cut = AtomicU32::new(0);
    let endpoint = proxy::start(&s3.endpoint, move |line, _| {
        let data = line.starts_with("GET") && line.contains("/o/o");
        if data && cut.fetch_add(1, Ordering::Relaxed) < 2 { Fault::Cut(100_000) } else { Fault::Pass }
    });
    let mut step = world.shell("b", 1, "sha256sum < $TRAINYARD_IN_O").input("o", stage("a", "o"));
    step.spec.store.s3.as_mut().unwrap().endpoint = Some(endpoint);
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, made.stdout);
}

/// A proxy that holds the first part of an upload.
struct Holding {
    endpoint: String,
    /// Has a word once the part is there.
    is_there: mpsc::Receiver<()>,
    /// Takes the word to let it go.
    go: mpsc::Sender<()>,
    /// The first line of every request.
    lines: Arc<Mutex<Vec<String>>>,
}

fn holding(s3: &S3) -> Holding {
    let (arrived, is_there) = mpsc::channel();
    let (go, word) = mpsc::channel();
    let word = Mutex::new(Some(word));
    let arrived = Mutex::new(arrived);
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = lines.clone();
    let endpoint = proxy::start(&s3.endpoint, move |line, _| {
        seen.lock().unwrap().push(line.to_owned());
        if line.starts_with("PUT")
            && line.contains("partNumber=1&")
            && let Some(word) = word.lock().unwrap().take()
        {
            arrived.lock().unwrap().send(()).unwrap();
            return Fault::Hold(word);
        }
        Fault::Pass
    });
    Holding { endpoint, is_there, go, lines }
}

#[test]
fn a_path_that_no_service_takes_is_named_before_anything_is_sent() {
    let Some(s3) = s3() else { return };
    let world = on_s3(&s3, &s3.endpoint);
    let script = "d=$TRAINYARD_OUT_O/$(printf 'x%.0s' $(seq 200)); for i in 1 2 3 4 5; do d=$d/$(printf 'y%.0s' $(seq 200)); done; mkdir -p $d; echo > $d/f";
    world.shell("a", 1, script).outputs(&["o"]).run().ended(Outcome::OutputUnsafe).says("use shorter names");
}

#[test]
fn term_while_inputs_are_fetched_ends_at_once() {
    let Some(s3) = s3() else { return };
    let world = on_s3(&s3, &s3.endpoint);
    world.shell("a", 1, "echo x > $TRAINYARD_OUT_O").outputs(&["o"]).run().ended(Outcome::Succeeded);
    let (arrived, is_there) = mpsc::channel();
    let (_go, word) = mpsc::channel::<()>();
    let held = Mutex::new(Some((arrived, word)));
    let endpoint =
        proxy::start(&s3.endpoint, move |line, _| match held.lock().unwrap().take_if(|_| line.contains("/o/o")) {
            Some((arrived, word)) => {
                arrived.send(()).unwrap();
                Fault::Hold(word)
            }
            None => Fault::Pass,
        });
    let mut step = world.shell("b", 1, "echo ran").input("o", stage("a", "o"));
    step.spec.store.s3.as_mut().unwrap().endpoint = Some(endpoint);
    let child = step.start();
    is_there.recv().unwrap();
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let done = step.wait(child).ended(Outcome::Disrupted).says("before its program was started");
    assert_eq!(done.stdout, "");
}

const BIG: &str = "head -c 20000000 /dev/zero > $TRAINYARD_OUT_O";

#[test]
fn term_while_uploading_ends_well_within_the_grace() {
    let Some(s3) = s3() else { return };
    let Holding { endpoint, is_there, go, .. } = holding(&s3);
    let world = on_s3(&s3, &endpoint);
    let mut step = world.shell("a", 1, BIG).outputs(&["o"]);
    let child = step.start();
    is_there.recv().unwrap();
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    go.send(()).unwrap();
    step.wait(child).ended(Outcome::Succeeded);
}

#[test]
fn term_while_uploading_beyond_the_grace_aborts_the_upload() {
    let Some(s3) = s3() else { return };
    let Holding { endpoint, is_there, go, lines } = holding(&s3);
    let world = on_s3(&s3, &endpoint);
    let mut step = world.shell("a", 1, BIG).outputs(&["o"]).grace(1);
    let child = step.start();
    is_there.recv().unwrap();
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    step.wait(child).ended(Outcome::Disrupted).says("while its outputs were sent");
    drop(go);
    let lines = lines.lock().unwrap();
    assert!(lines.iter().any(|line| line.starts_with("DELETE") && line.contains("uploadId=")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("PUT") && line.contains(paths::COMMIT)), "{lines:#?}");
}
