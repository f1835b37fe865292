//! Models are published once: each run that publishes makes one version and one promotion, whatever dies or goes on beside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

use common::endpoint::{KEY, endpoint};
use common::publishing::{
    MODEL, alias, aliases, keys, make, promote, promotion, publish, records, stage_prefix, train, uid, version,
};
use common::worlds::{on_s3, s3, worlds};
use common::{Done, Step, World, proxy};
use rustix::process::{Pid, Signal};
use serde_json::json;
use step_protocol::{Outcome, PublishSource, ReportSpec, StepReport, paths};

#[test]
fn versions_follow_each_other_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        train(&world, 1);
        let done = publish(&world, 1, 1).run().ended(Outcome::Succeeded);
        let record = version(&world, 1).unwrap();
        let results = json!({"model": "flower", "version": 1, "sequence": 1, "uri": record.uri});
        assert_eq!(serde_json::to_value(&done.report.results).unwrap(), results);
        assert_eq!((done.report.winner, done.report.exit_code), (Some(1), None));
        assert_eq!(
            (record.run.name.as_str(), record.run.uid, record.run.stage.as_str()),
            ("iris-1", uid(1), "publish")
        );
        assert_eq!(record.output.prefix, format!("{}/1/m", stage_prefix(1, "train")));
        assert_eq!(record.uri, format!("{}/{}/", world.store.uri, record.output.prefix));
        assert_eq!(
            (record.metrics["train.accuracy"].as_f64(), &record.lineage["cause"]),
            (Some(0.9), &json!("by hand"))
        );
        assert_eq!((record.namespace.as_str(), record.pipeline.as_str(), record.protocol), ("team", "iris", 1));
        let [output] = done.report.outputs.as_slice() else { panic!("{done:?}") };
        assert_eq!((output.name.as_str(), &output.digest), ("model", &record.output.digest));
        let champion = alias(&world, paths::CHAMPION).unwrap();
        assert_eq!((champion.version, champion.sequence, champion.uri), (1, 1, record.uri));
        assert_eq!(champion.digest, record.output.digest);
        assert_eq!(aliases(&world), (Some(1), None));

        train(&world, 2);
        let done = publish(&world, 2, 1).run().ended(Outcome::Succeeded);
        let uri = version(&world, 2).unwrap().uri;
        let results = json!({"model": "flower", "version": 2, "sequence": 2, "previous": 1, "uri": uri});
        assert_eq!(serde_json::to_value(&done.report.results).unwrap(), results);
        assert_eq!(aliases(&world), (Some(2), Some(1)));
        assert_eq!(alias(&world, paths::PREVIOUS).unwrap().sequence, 2, "it is the newest promotion that says so");
        assert_eq!(promotion(&world, 2).unwrap().previous, Some(1));
        assert_eq!(records(&world), (2, 2));
        // The next attempt finds the commit.
        let again = publish(&world, 2, 2).run().ended(Outcome::Succeeded);
        assert_eq!((again.report.winner, again.report.results), (Some(1), done.report.results));
        assert_eq!(again.report.commit, done.report.commit);
    }
}

#[test]
fn the_files_of_a_version_are_those_of_its_output() {
    let world = World::new();
    make(&world, 7);
    let uri = alias(&world, paths::CHAMPION).unwrap().uri;
    let weights = std::fs::read_to_string(format!("{}weights", uri.strip_prefix("file://").unwrap())).unwrap();
    assert_eq!(weights, "7\n");
}

#[test]
fn it_is_reported_early_like_any_stage() {
    let world = World::new();
    train(&world, 1);
    let (url, requests) = endpoint(&[200]);
    let mut step = publish(&world, 1, 1).variable("TRAINYARD_REPORT_KEY", KEY);
    step.spec.report = Some(ReportSpec { url });
    let done = step.run().ended(Outcome::Succeeded);
    let report: StepReport = serde_json::from_str(&requests.recv().unwrap().body).unwrap();
    assert_eq!(report, done.report);
    assert!(report.started.is_some() && report.finished.is_some() && report.metrics.is_empty());
}

fn remove(world: &World, keys: &[&str]) {
    for key in keys {
        std::fs::remove_file(world.path(&format!("{MODEL}/{key}"))).unwrap();
    }
}

#[test]
fn an_execution_that_died_between_two_writes_is_gone_on_with() {
    // What is not there yet when it dies, the commit record first.
    for missing in [
        vec![],
        vec!["previous.json"],
        vec!["previous.json", "champion.json"],
        vec!["previous.json", "champion.json", "promotions/00000002.json"],
        vec!["previous.json", "champion.json", "promotions/00000002.json", "2/model.json"],
    ] {
        let world = World::new();
        make(&world, 1);
        make(&world, 2);
        std::fs::remove_file(world.path(&paths::commit_key(&stage_prefix(2, "publish")))).unwrap();
        remove(&world, &missing);
        let done = publish(&world, 2, 2).run().ended(Outcome::Succeeded);
        assert_eq!(done.report.results["version"], 2, "without {missing:?}");
        assert_eq!(done.report.results["sequence"], 2, "without {missing:?}");
        assert_eq!((records(&world), aliases(&world)), ((2, 2), (Some(2), Some(1))), "without {missing:?}");
    }
}

#[test]
fn an_execution_that_died_is_gone_on_with_when_others_have_published_since() {
    for missing in [vec![], vec!["promotions/00000001.json"]] {
        let world = World::new();
        make(&world, 1);
        std::fs::remove_file(world.path(&paths::commit_key(&stage_prefix(1, "publish")))).unwrap();
        remove(&world, &missing);
        make(&world, 2);
        make(&world, 3);
        let done = publish(&world, 1, 2).run().ended(Outcome::Succeeded);
        assert_eq!(done.report.results["version"], 1);
        // A promotion of its own counts, and does not come again; without one it has its turn now.
        let (sequence, champion) = if missing.is_empty() { (1, 3) } else { (3, 1) };
        assert_eq!(done.report.results["sequence"], sequence);
        assert_eq!((aliases(&world).0, records(&world)), (Some(champion), (3, 3)));
    }
}

/// What comes first: the end of a child, or the request that is held.
enum First {
    Ended(Box<Done>),
    Held,
}

/// Starts the step with its `nth` request held until there is a word, and kills it there.
fn kill_at(
    step: impl FnOnce(&World) -> Step,
    nth: usize,
    s3: &common::worlds::S3,
    of: &World,
) -> (First, mpsc::Sender<()>) {
    let (sender, first) = mpsc::channel();
    let (go, word) = mpsc::channel();
    let (held, arrived, count) = (Mutex::new(Some(word)), Mutex::new(sender.clone()), AtomicUsize::new(0));
    let endpoint = proxy::start(&s3.endpoint, move |_, _| {
        if count.fetch_add(1, Ordering::SeqCst) != nth {
            return proxy::Fault::Pass;
        }
        let Some(word) = held.lock().unwrap().take() else { return proxy::Fault::Pass };
        arrived.lock().unwrap().send(First::Held).unwrap();
        proxy::Fault::Hold(word)
    });
    let mut step = step(of);
    step.spec.store.s3.as_mut().unwrap().endpoint = Some(endpoint);
    let child = step.start();
    let pid = Pid::from_child(&child);
    let waiting = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        // Nobody listens for the end of one that is killed.
        if output.status.code().is_some() {
            let _ = sender.send(First::Ended(Box::new(step.done(output))));
        }
    });
    let first = first.recv().unwrap();
    if let First::Held = first {
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        waiting.join().unwrap();
    }
    (first, go)
}

#[test]
fn killed_at_any_request_it_publishes_once() {
    let Some(s3) = s3() else { return };
    for late in [false, true] {
        for nth in 0.. {
            let world = on_s3(&s3, &s3.endpoint);
            make(&world, 1);
            train(&world, 2);
            let (first, go) = kill_at(|world| publish(world, 2, 1), nth, &s3, &world);
            if let First::Ended(done) = first {
                assert_eq!(done.ended(Outcome::Succeeded).report.results["version"], 2);
                assert!(nth > 10, "{nth} requests are too few");
                break;
            }
            // What was under way arrives before the next attempt, or after it.
            if !late {
                go.send(()).unwrap();
            }
            let done = publish(&world, 2, 2).run().ended(Outcome::Succeeded);
            let _ = go.send(());
            assert_eq!((&done.report.results["version"], &done.report.results["sequence"]), (&json!(2), &json!(2)));
            let again = publish(&world, 2, 3).run().ended(Outcome::Succeeded);
            assert_eq!(again.report.results, done.report.results, "request {nth}");
            assert_eq!((records(&world), aliases(&world)), ((2, 2), (Some(2), Some(1))), "request {nth}");
        }
    }
}

#[test]
fn a_listing_from_before_its_own_records_makes_no_second_ones() {
    let Some(s3) = s3() else { return };
    for stale in [1, 2] {
        let world = on_s3(&s3, &s3.endpoint);
        make(&world, 1);
        train(&world, 2);
        // All but its commit record is written.
        let through = |step: Step, rule: Box<proxy::Rule>| {
            let mut step = step;
            step.spec.store.s3.as_mut().unwrap().endpoint =
                Some(proxy::start(&s3.endpoint, move |line, head| rule(line, head)));
            step.run()
        };
        let dying = |line: &str, _: &str| match line.starts_with("PUT") && line.contains("/publish/COMMIT") {
            true => proxy::Fault::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
            false => proxy::Fault::Pass,
        };
        through(publish(&world, 2, 1), Box::new(dying)).ended(Outcome::StoreAccessDenied);
        make(&world, 3);
        assert_eq!(records(&world), (3, 3));
        let count = AtomicUsize::new(0);
        let listing = move |line: &str, _: &str| {
            if line.contains("list-type=2") && count.fetch_add(1, Ordering::SeqCst) < stale {
                let nothing =
                    "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
                return proxy::Fault::Answer(200, nothing);
            }
            proxy::Fault::Pass
        };
        let done = through(publish(&world, 2, 2), Box::new(listing)).ended(Outcome::Succeeded);
        let uri = version(&world, 2).unwrap().uri;
        let results = json!({"model": "flower", "version": 2, "sequence": 2, "previous": 1, "uri": uri});
        assert_eq!(serde_json::to_value(&done.report.results).unwrap(), results);
        assert_eq!((records(&world), aliases(&world)), ((3, 3), (Some(3), Some(2))));
    }
}

#[test]
fn ten_publishers_at_once_make_ten_versions_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        for run in 1..=10 {
            train(&world, run);
        }
        let mut steps: Vec<Step> = (1..=10).map(|run| publish(&world, run, 1)).collect();
        let children: Vec<_> = steps.iter_mut().map(Step::start).collect();
        let done: Vec<Done> =
            steps.iter().zip(children).map(|(step, child)| step.wait(child).ended(Outcome::Succeeded)).collect();
        let numbers = |of: &str| {
            let mut all: Vec<u64> = done.iter().map(|done| done.report.results[of].as_u64().unwrap()).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(numbers("version"), (1..=10).collect::<Vec<_>>());
        assert_eq!(numbers("sequence"), (1..=10).collect::<Vec<_>>());
        assert_eq!(records(&world), (10, 10));
        let promotions: Vec<_> = (1..=10).map(|sequence| promotion(&world, sequence).unwrap()).collect();
        for pair in promotions.windows(2) {
            assert_eq!(pair[1].previous, Some(pair[0].version));
        }
        let newest = &promotions[9];
        assert_eq!(aliases(&world), (Some(newest.version), newest.previous));
        assert_eq!(alias(&world, paths::CHAMPION).unwrap().sequence, 10);
    }
}

#[test]
fn five_attempts_at_once_make_one_version_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        train(&world, 1);
        make(&world, 2);
        let mut steps: Vec<Step> = (1..=5).map(|attempt| publish(&world, 1, attempt)).collect();
        let children: Vec<_> = steps.iter_mut().map(Step::start).collect();
        for (step, child) in steps.iter().zip(children) {
            let done = step.wait(child).ended(Outcome::Succeeded);
            assert_eq!((&done.report.results["version"], &done.report.results["sequence"]), (&json!(2), &json!(2)));
        }
        assert_eq!((records(&world), aliases(&world)), ((2, 2), (Some(2), Some(1))));
    }
}

#[test]
fn an_older_version_becomes_champion_again() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        for run in 1..=3 {
            make(&world, run);
        }
        let done = promote(&world, 4, 1, 1).run().ended(Outcome::Succeeded);
        // With what its record has, for a Pipeline that does not know it any more.
        let uri = version(&world, 1).unwrap().uri;
        let results =
            json!({"model": "flower", "version": 1, "sequence": 4, "previous": 3, "uri": uri, "key": "of-it"});
        assert_eq!(serde_json::to_value(&done.report.results).unwrap(), results);
        assert_eq!(done.report.metrics["train.accuracy"].as_f64(), Some(0.9));
        assert_eq!(done.report.outputs[0].digest, version(&world, 1).unwrap().output.digest);
        assert_eq!((aliases(&world), records(&world)), ((Some(1), Some(3)), (3, 4)));
        // It is champion already: nothing is written, and what is so is said.
        let done = promote(&world, 5, 1, 1).run().ended(Outcome::Succeeded);
        assert_eq!(serde_json::to_value(&done.report.results).unwrap(), results);
        assert_eq!((aliases(&world), records(&world)), ((Some(1), Some(3)), (3, 4)));
        let promoted = promotion(&world, 4).unwrap();
        assert_eq!((promoted.run.uid, promoted.previous), (uid(4), Some(3)));
    }
}

#[test]
fn a_version_that_does_not_exist_is_named_with_those_that_do() {
    let world = World::new();
    promote(&world, 20, 1, 3).run().ended(Outcome::InputMissing).says("no version 3").says("there is none yet");
    for run in 1..=12 {
        make(&world, run);
    }
    let done = promote(&world, 20, 1, 13).run().ended(Outcome::InputMissing).says("no version 13");
    done.says("/13/model.json").says("the last of 12 are 12, 11, 10, 9, 8, 7, 6, 5, 4, 3");
    for number in [0, u64::MAX] {
        promote(&world, 20, 1, number).run().ended(Outcome::InputMissing).says(&format!("no version {number}"));
    }
    assert_eq!(records(&world), (12, 12));
}

#[test]
fn a_source_that_is_not_there_or_another_is_refused() {
    let world = World::new();
    train(&world, 1);
    publish(&world, 2, 1).run().ended(Outcome::InputMissing).says("no commit record").says("iris-2");
    let with = |change: fn(&mut String, &mut Option<String>)| {
        let mut step = publish(&world, 1, 1);
        let Some(PublishSource::Output { output, digest, .. }) =
            step.spec.publish.as_mut().map(|publish| &mut publish.source)
        else {
            panic!()
        };
        change(output, digest);
        step.run()
    };
    with(|output, _| *output = "other".into()).ended(Outcome::InputMissing).says("no output \"other\"");
    let done = with(|_, digest| *digest = Some(format!("sha256:{}", "0".repeat(64)))).ended(Outcome::ArtifactCorrupt);
    done.says("the run knows sha256:000");
    // What the commit record names was changed, or is gone.
    let manifest = world.path(&format!("{}/1/m/manifest.json", stage_prefix(1, "train")));
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, "{}").unwrap();
    publish(&world, 1, 1).run().ended(Outcome::ArtifactCorrupt).says("manifest.json").says("instead of sha256:");
    std::fs::remove_file(&manifest).unwrap();
    publish(&world, 1, 1).run().ended(Outcome::InputMissing).says("manifest.json").says("run the producer again");
    assert_eq!(keys(&world, MODEL), [""; 0], "nothing is published of what is not there");
    // The same of a version that is to be champion again.
    std::fs::write(&manifest, bytes).unwrap();
    publish(&world, 1, 1).run().ended(Outcome::Succeeded);
    make(&world, 2);
    std::fs::remove_file(&manifest).unwrap();
    promote(&world, 3, 1, 1).run().ended(Outcome::InputMissing).says("version 1 of the model flower");
    assert_eq!(aliases(&world), (Some(2), Some(1)));
}

#[test]
fn a_stage_that_publishes_has_no_program() {
    let world = World::new();
    train(&world, 1);
    let mut step = publish(&world, 1, 1);
    step.spec.command = vec!["/bin/echo".into(), "ran".into()];
    let done = step.run().ended(Outcome::ConfigError).says("it can do one of both");
    assert_eq!(done.stdout, "");
    let mut step = publish(&world, 1, 1);
    step.spec.publish.as_mut().unwrap().run_started = "yesterday".into();
    step.run().ended(Outcome::ConfigError).says("\"yesterday\" is no time");
}

fn put(world: &World, key: &str, bytes: &[u8]) {
    let path = world.path(&format!("{MODEL}/{key}"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn garbled_versions_of_others_are_passed_over() {
    let world = World::new();
    make(&world, 1);
    put(&world, "2/model.json", b"{");
    put(&world, "3/model.json", &std::fs::read(world.path(&format!("{MODEL}/1/model.json"))).unwrap());
    put(&world, "4/model.json", &[b'['; 100_000]);
    std::fs::create_dir_all(world.path(&format!("{MODEL}/5"))).unwrap();
    std::fs::File::create(world.path(&format!("{MODEL}/5/model.json"))).unwrap().set_len(1 << 40).unwrap();
    for stranger in [
        "x/model.json",
        "+6/model.json",
        "007/model.json",
        "8/other",
        "9223372036854775808/model.json",
        "99999999999999999999/model.json",
    ] {
        put(&world, stranger, b"?");
    }
    train(&world, 2);
    let done = publish(&world, 2, 1).run().ended(Outcome::Succeeded);
    assert_eq!(done.report.results["version"], 6);
    assert!(done.stderr.contains("4 records of the model flower are passed over"), "{}", done.stderr);
    assert_eq!(aliases(&world), (Some(6), Some(1)));
    promote(&world, 3, 1, 4).run().ended(Outcome::ArtifactCorrupt).says("/4/model.json");
    promote(&world, 3, 1, 3).run().ended(Outcome::ArtifactCorrupt).says("/3/model.json is not that of its key");
}

#[test]
fn a_garbled_promotion_is_named_only_where_it_decides() {
    let world = World::new();
    make(&world, 1);
    train(&world, 2);
    let good = |sequence: u64, version: u64| {
        let run = json!({"name": "iris-1", "uid": uid(1), "stage": "other"});
        let promotion = json!({"protocol": 1, "sequence": sequence, "model": "flower", "version": version, "run": run, "created": "x"});
        promotion.to_string().into_bytes()
    };
    for garbled in [b"{".to_vec(), good(3, 1), good(2, 0), vec![b' '; 5 << 20]] {
        put(&world, "promotions/00000002.json", &garbled);
        publish(&world, 2, 1).run().ended(Outcome::ArtifactCorrupt).says("promotions/00000002.json");
    }
    // Below the newest it does not count.
    put(&world, "promotions/00000003.json", &good(3, 1));
    let done = publish(&world, 2, 1).run().ended(Outcome::Succeeded);
    assert_eq!((&done.report.results["version"], &done.report.results["sequence"]), (&json!(2), &json!(4)));
    assert_eq!(aliases(&world), (Some(2), Some(1)));
    // The last number there is.
    put(&world, "promotions/9223372036854775807.json", &good(9_223_372_036_854_775_807, 1));
    train(&world, 3);
    let done = publish(&world, 3, 1).run().ended(Outcome::ArtifactCorrupt).says("promotions/9223372036854775807.json");
    done.says("no number is left");
    // A newer release's.
    remove(&world, &["promotions/9223372036854775807.json"]);
    let newer = String::from_utf8(good(5, 1)).unwrap().replace("\"protocol\":1", "\"protocol\":2");
    put(&world, "promotions/00000005.json", newer.as_bytes());
    publish(&world, 3, 1).run().ended(Outcome::ConfigError).says("a newer release wrote it");
}

#[test]
fn a_champion_before_that_was_deleted_leaves_its_alias() {
    let world = World::new();
    make(&world, 1);
    make(&world, 2);
    remove(&world, &["2/model.json"]);
    put(&world, "3/model.json", b"taken");
    train(&world, 3);
    let done = publish(&world, 3, 1).run().ended(Outcome::Succeeded);
    assert_eq!((&done.report.results["version"], &done.report.results["previous"]), (&json!(4), &json!(2)));
    assert!(done.stderr.contains("version 2 was champion before and does not exist any more"), "{}", done.stderr);
    assert_eq!(aliases(&world), (Some(4), Some(1)));
    // That of the champion itself must be there.
    remove(&world, &["4/model.json"]);
    std::fs::remove_file(world.path(&paths::commit_key(&stage_prefix(3, "publish")))).unwrap();
    remove(&world, &["promotions/00000003.json", "3/model.json"]);
    put(
        &world,
        "promotions/00000003.json",
        json!({"protocol": 1, "sequence": 3, "model": "flower", "version": 77,
        "run": {"name": "a", "uid": "b", "stage": "c"}, "created": "x"})
        .to_string()
        .as_bytes(),
    );
    let mut step = promote(&world, 4, 1, 1);
    step.spec.identity.run_uid = "b".into();
    step.run().ended(Outcome::Succeeded);
    assert_eq!(aliases(&world), (Some(1), Some(1)), "the record of version 77 is not there");
}

#[test]
fn term_and_the_timeout_end_it_where_it_is() {
    let Some(s3) = s3() else { return };
    let world = on_s3(&s3, &s3.endpoint);
    train(&world, 1);
    for timeout in [None, Some(1)] {
        let (arrived, is_there) = mpsc::channel();
        let (_go, word) = mpsc::channel::<()>();
        let held = Mutex::new(Some((arrived, word)));
        // Its first record is on its way, and no answer comes.
        let endpoint = proxy::start(&s3.endpoint, move |line, _| {
            match held.lock().unwrap().take_if(|_| line.starts_with("PUT") && line.contains("/1/model.json")) {
                Some((arrived, word)) => {
                    arrived.send(()).unwrap();
                    proxy::Fault::Hold(word)
                }
                None => proxy::Fault::Pass,
            }
        });
        let mut step = publish(&world, 1, 1).grace(0);
        step.spec.timeout_seconds = timeout;
        step.spec.store.s3.as_mut().unwrap().endpoint = Some(endpoint);
        let child = step.start();
        is_there.recv().unwrap();
        let outcome = if timeout.is_none() {
            rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            Outcome::Disrupted
        } else {
            Outcome::Timeout
        };
        step.wait(child).ended(outcome).says("while it published");
        assert_eq!(records(&world), (0, 0));
    }
    publish(&world, 1, 2).run().ended(Outcome::Succeeded);
    assert_eq!((records(&world), aliases(&world)), ((1, 1), (Some(1), None)));
}
