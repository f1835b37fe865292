//! Short work in the store: fingerprints of what lies below a prefix, and artifacts that nothing refers to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, SystemTime};

use common::publishing::{MODEL, directory, keys, make, of_run, train, uid};
use common::worlds::{on_s3, s3, worlds};
use common::{World, proxy};
use rustix::process::{Pid, Signal};
use step_protocol::{CollectSpec, Collected, Fingerprint, FingerprintSpec, Outcome, Task, TaskReport, TaskSpec, paths};

/// A task that has ended.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    stdout: String,
    report: TaskReport,
}

fn start(world: &World, spec: &TaskSpec) -> Child {
    std::fs::write(world.dir.path().join("termination"), "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_step-runner"));
    command.arg("task").env_clear().env(paths::ENV_TASK, serde_json::to_string(spec).unwrap());
    command.env("TRAINYARD_TERMINATION_LOG", world.dir.path().join("termination"));
    command.envs(world.credentials.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn end(world: &World, child: Child) -> Done {
    let output = child.wait_with_output().unwrap();
    let message = std::fs::read_to_string(world.dir.path().join("termination")).unwrap();
    let report = serde_json::from_str(&message)
        .unwrap_or_else(|error| panic!("{error}: {message:?}, {}", String::from_utf8_lossy(&output.stderr)));
    Done { code: output.status.code(), stdout: String::from_utf8(output.stdout).unwrap(), report }
}

impl Done {
    #[track_caller]
    fn ended(self, outcome: Outcome) -> Self {
        assert_eq!(self.report.outcome, outcome, "{self:#?}");
        assert_eq!(self.code, Some(i32::from(outcome.exit_code())), "{self:#?}");
        self
    }

    #[track_caller]
    fn says(self, words: &str) -> Self {
        assert!(self.report.message.contains(words), "{words:?} is not in {self:#?}");
        self
    }
}

fn spec(world: &World, task: Task) -> TaskSpec {
    TaskSpec { version: step_protocol::VERSION, store: world.store.clone(), task, timeout_seconds: 300 }
}

fn run(world: &World, task: Task) -> Done {
    end(world, start(world, &spec(world, task)))
}

fn fingerprint_task(world: &World, path: &str, marker: Option<&str>) -> Task {
    let uri = format!("{}/{path}", world.store.uri);
    Task::Fingerprint(FingerprintSpec { uri, marker: marker.map(str::to_owned) })
}

#[track_caller]
fn fingerprint(world: &World, path: &str, marker: Option<&str>) -> Fingerprint {
    run(world, fingerprint_task(world, path, marker)).ended(Outcome::Succeeded).report.fingerprint.unwrap()
}

fn put(world: &World, key: &str, text: &str) {
    let path = world.path(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The digest of nothing.
const NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn a_fingerprint_changes_with_what_is_there_and_with_nothing_else() {
    let world = World::new();
    for name in ["b", "a/2", "a/1", "c"] {
        put(&world, &format!("raw/{name}"), name);
    }
    put(&world, "rawer/x", "not below it");
    let first = fingerprint(&world, "raw/", None);
    assert_eq!((first.objects, first.bytes, first.marker), (4, 8, None));
    assert!(first.age_seconds.unwrap() < 300 && first.newest.as_ref().unwrap().starts_with("20"), "{first:?}");
    assert_eq!(fingerprint(&world, "raw/", None).digest, first.digest, "the same when it is asked again");
    put(&world, "raw/a/3", "new");
    let second = fingerprint(&world, "raw/", None);
    assert_ne!(second.digest, first.digest);
    assert_eq!((second.objects, second.bytes), (5, 11));
    std::fs::remove_file(world.path("raw/a/3")).unwrap();
    assert_eq!(fingerprint(&world, "raw/", None).digest, first.digest, "as before");
    put(&world, "raw/b", "B and more");
    assert_ne!(fingerprint(&world, "raw/", None).digest, first.digest);
    assert_eq!(fingerprint(&world, "raw/a/", None).objects, 2);
}

#[test]
fn the_marker_is_asked_for_and_does_not_count() {
    let world = World::new();
    put(&world, "raw/x", "x");
    let before = fingerprint(&world, "raw/", Some("_SUCCESS"));
    assert_eq!((before.marker, before.objects), (Some(false), 1));
    put(&world, "raw/_SUCCESS", "done");
    let after = fingerprint(&world, "raw/", Some("_SUCCESS"));
    assert_eq!(after, Fingerprint { marker: Some(true), age_seconds: after.age_seconds, ..before.clone() });
    put(&world, "raw/sub/_SUCCESS", "another one's");
    assert_eq!(fingerprint(&world, "raw/", Some("_SUCCESS")).objects, 2);
    let done = run(&world, fingerprint_task(&world, "raw/x", Some("_SUCCESS"))).ended(Outcome::ConfigError);
    done.says("raw/x is one object");
}

#[test]
fn nothing_has_a_fingerprint_and_a_missing_object_has_none() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let nothing = fingerprint(&world, "none/", Some("m"));
        let expected = Fingerprint {
            digest: NOTHING.into(),
            objects: 0,
            bytes: 0,
            newest: None,
            age_seconds: None,
            marker: Some(false),
        };
        assert_eq!(nothing, expected);
        run(&world, fingerprint_task(&world, "none", None)).ended(Outcome::InputMissing).says("none does not exist");
        train(&world, 1);
        let weights = format!("team/iris/{}/train/1/m/weights", directory(1));
        let one = fingerprint(&world, &weights, None);
        assert_eq!((one.objects, one.bytes, one.marker), (1, 2, None));
        assert_eq!(fingerprint(&world, &weights, None).digest, one.digest);
    }
    let world = World::new();
    let uri = "file:///etc/passwd".into();
    let done = run(&world, Task::Fingerprint(FingerprintSpec { uri, marker: None })).ended(Outcome::ConfigError);
    done.says("not below the store");
}

#[test]
fn more_objects_than_one_page_has_are_all_seen_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        let script = "mkdir $TRAINYARD_OUT_M; cd $TRAINYARD_OUT_M; for i in $(seq 1200); do echo $i > $i; done";
        let mut step = of_run(world.shell("many", 1, script).outputs(&["m"]), 1);
        // Models are not packed: each file is an object.
        step.spec.outputs[0].kind = Some("Model".into());
        step.run().ended(Outcome::Succeeded);
        let prefix = format!("team/iris/{}/many/1/m/", directory(1));
        let all = fingerprint(&world, &prefix, Some("manifest.json"));
        assert_eq!((all.objects, all.marker), (1_200, Some(true)));
        assert_eq!(fingerprint(&world, &prefix, Some("manifest.json")).digest, all.digest);
        assert_eq!(fingerprint(&world, &prefix, None).objects, 1_201);
        let collected = collect(&world, &[], 0).report.collected.unwrap();
        assert_eq!((collected.runs, collected.objects), (1, 1_202), "with the manifest and the commit record");
        assert_eq!(fingerprint(&world, &prefix, None).objects, 0);
    }
}

fn collect_task(runs: &[u32], grace_seconds: u64, dry_run: bool) -> Task {
    let runs = runs.iter().map(|run| uid(*run)).collect();
    Task::Collect(CollectSpec { prefix: "team/iris".into(), runs, grace_seconds, dry_run })
}

#[track_caller]
fn collect(world: &World, runs: &[u32], grace_seconds: u64) -> Done {
    run(world, collect_task(runs, grace_seconds, false)).ended(Outcome::Succeeded)
}

/// The runs' directories that there are, by the runs' numbers, and the first part of all other keys.
fn left(world: &World) -> (Vec<u32>, Vec<String>) {
    let mut parts: Vec<String> =
        keys(world, "team/iris").iter().map(|key| key.split('/').next().unwrap().to_owned()).collect();
    parts.dedup();
    let (mut runs, mut others) = (Vec::new(), Vec::new());
    for part in parts {
        match (1..10).find(|run| part == directory(*run)) {
            Some(run) => runs.push(run),
            // That of the stages that tests look with.
            None if part == "iris-1.uid-1" => {}
            None => others.push(part),
        }
    }
    (runs, others)
}

#[test]
fn what_nothing_refers_to_is_deleted_on_every_store() {
    for (name, world) in worlds() {
        eprintln!("on {name}");
        make(&world, 1);
        for run in 2..=4 {
            train(&world, run);
        }
        // Others' directories: one has a dot in its name as well.
        // One of the Pipeline's own name is a run's with a pipeline of its own.
        let own = format!("iris.{}", uid(9));
        for stranger in ["backup.old", own.as_str(), "scratch"] {
            let mut step = world.shell("s", 1, "echo x > $TRAINYARD_OUT_O").outputs(&["o"]);
            step.spec.prefix = format!("team/iris/{stranger}");
            step.run().ended(Outcome::Succeeded);
        }
        let others = ["backup.old", own.as_str(), "models", "scratch"].map(str::to_owned).to_vec();
        let before = left(&world);
        assert_eq!(before, (vec![1, 2, 3, 4], others.clone()));

        let dry = run(&world, collect_task(&[3], 0, true)).ended(Outcome::Succeeded);
        assert_eq!(dry.stdout.lines().count(), 2);
        for line in [format!("would delete {}: 3 objects, ", directory(2)), format!("would delete {}: 3", directory(4))]
        {
            assert!(dry.stdout.contains(&line), "{}", dry.stdout);
        }
        let collected = dry.report.collected.unwrap();
        assert_eq!((collected.runs, collected.objects, collected.kept), (2, 6, 2));
        assert_eq!(left(&world), before);

        let done = collect(&world, &[3], 0);
        assert_eq!(done.report.collected, Some(collected));
        assert_eq!(done.stdout, dry.stdout.replace("would delete", "deleted"));
        assert_eq!(left(&world), (vec![1, 3], others.clone()), "1 is a model's, 3 is known");

        let again = collect(&world, &[3], 0);
        assert_eq!(again.report.collected, Some(Collected { kept: 2, ..Collected::default() }));
        // All of it was written just now.
        assert_eq!(collect(&world, &[], 3_600).report.collected, Some(Collected { kept: 2, ..Collected::default() }));
        collect(&world, &[], 0);
        assert_eq!(left(&world), (vec![1], others));
    }
}

/// Everything below looks as if it was written two days ago.
fn make_old(path: &Path) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            make_old(&path);
        } else {
            let time = SystemTime::now() - Duration::from_secs(2 * 86_400);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
    }
}

#[test]
fn what_was_written_lately_is_kept() {
    let world = World::new();
    for run in 1..=3 {
        train(&world, run);
        make_old(&world.path(&format!("team/iris/{}", directory(run))));
    }
    put(&world, &format!("team/iris/{}/train/2/log.txt", directory(2)), "it goes on");
    let done = collect(&world, &[], 86_400);
    let collected = done.report.collected.unwrap();
    assert_eq!((collected.runs, collected.kept), (2, 1));
    assert_eq!(left(&world).0, [2]);
    assert!(!world.path(&format!("team/iris/{}", directory(1))).exists(), "its directories as well");
}

#[test]
fn the_ledger_and_the_registry_stay() {
    let world = World::new();
    make(&world, 1);
    put(&world, &paths::ledger_key("team", "iris", "key", 0), "{}");
    make_old(&world.path("team"));
    let before = keys(&world, "team/iris");
    collect(&world, &[], 0);
    let after = keys(&world, "team/iris");
    let is_look = |key: &String| key.starts_with("iris-1.uid-1/");
    let gone: Vec<_> = before.iter().filter(|key| !is_look(key) && !after.contains(key)).collect();
    assert_eq!(gone, [""; 0], "the run is a model's");
    // Its version is deleted by a person, and with it the reason to keep the run.
    std::fs::remove_file(world.path(&paths::version_key(MODEL, 1))).unwrap();
    collect(&world, &[], 0);
    let mut last: Vec<_> = keys(&world, "team/iris").into_iter().filter(|key| !is_look(key)).collect();
    last.sort();
    assert_eq!(last, ["ledger/key-0.json", "models/flower/champion.json", "models/flower/promotions/00000001.json"]);
}

#[test]
fn a_model_whose_record_cannot_be_read_stops_it() {
    let world = World::new();
    train(&world, 1);
    let record = |text: &str| put(&world, "team/iris/models/other/x/model.json", text);
    for garbled in ["{", "", r#"{"protocol":1}"#, r#"{"protocol":1,"output":{"prefix":7}}"#] {
        record(garbled);
        for dry_run in [true, false] {
            let done = run(&world, collect_task(&[], 0, dry_run)).ended(Outcome::ArtifactCorrupt);
            assert_eq!(done.stdout, "");
            done.says("models/other/x/model.json cannot be read").says("nothing is deleted");
        }
    }
    std::fs::File::create(world.path("team/iris/models/other/x/model.json")).unwrap().set_len(1 << 40).unwrap();
    run(&world, collect_task(&[], 0, false)).ended(Outcome::ArtifactCorrupt).says("1099511627776 bytes");
    record(r#"{"protocol":2,"output":{"prefix":"x"}}"#);
    run(&world, collect_task(&[], 0, false)).ended(Outcome::ConfigError).says("a newer release wrote it");
    assert_eq!(left(&world).0, [1]);
    record(r#"{"protocol":1,"output":{"prefix":"elsewhere/iris/a.b/c"}}"#);
    collect(&world, &[], 0);
    assert_eq!(left(&world).0, [0_u32; 0]);
}

type Answer = Box<dyn Fn() -> proxy::Fault + Send + Sync>;

#[test]
fn commit_records_are_deleted_first_and_the_next_task_goes_on() {
    let Some(s3) = s3() else { return };
    let world = on_s3(&s3, &s3.endpoint);
    let refused = |nth: usize, answer: Answer| {
        let count = AtomicUsize::new(0);
        let endpoint = proxy::start(&s3.endpoint, move |line, _| {
            let deletes = line.starts_with("POST") && line.contains("?delete");
            if deletes && count.fetch_add(1, Ordering::SeqCst) == nth { answer() } else { proxy::Fault::Pass }
        });
        let mut spec = spec(&world, collect_task(&[], 0, false));
        spec.store.s3.as_mut().unwrap().endpoint = Some(endpoint);
        end(&world, start(&world, &spec))
    };
    train(&world, 1);
    let denied = || proxy::Fault::Answer(403, "<Error><Code>AccessDenied</Code></Error>");
    refused(0, Box::new(denied)).ended(Outcome::StoreAccessDenied).says("train/COMMIT").says("check the keys");
    let files = ["train/1/m/manifest.json", "train/1/m/weights"];
    let of_run = || -> Vec<String> { keys(&world, &format!("team/iris/{}", directory(1))) };
    assert_eq!(of_run(), [files[0], files[1], "train/COMMIT"]);
    let done = refused(1, Box::new(denied)).ended(Outcome::StoreAccessDenied);
    assert_eq!(done.stdout, "");
    assert_eq!(of_run(), files);
    // The service refuses one of many: by the answer's body only.
    let (_, key) = world.store.uri.split_once("://").unwrap().1.split_once('/').unwrap();
    let key = format!("{key}/team/iris/{}/{}", directory(1), files[0]);
    let body = format!(
        "<DeleteResult><Error><Key>{key}</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    );
    let body: &'static str = Box::leak(body.into_boxed_str());
    let of_many = move || proxy::Fault::Answer(200, body);
    refused(0, Box::new(of_many)).ended(Outcome::StoreAccessDenied).says("AccessDenied");
    assert_eq!(of_run(), files);
    let collected = collect(&world, &[], 0).report.collected.unwrap();
    assert_eq!((collected.runs, collected.objects), (1, 2));
    assert_eq!(of_run(), [""; 0]);
}

#[test]
fn term_and_the_timeout_end_a_task() {
    let Some(s3) = s3() else { return };
    let world = on_s3(&s3, &s3.endpoint);
    train(&world, 1);
    for (timeout, outcome, words) in
        [(300, Outcome::Disrupted, "asked to stop"), (1, Outcome::Timeout, "1 s passed while it deleted artifacts")]
    {
        let (arrived, is_there) = mpsc::channel();
        let (_go, word) = mpsc::channel::<()>();
        let held = Mutex::new(Some((arrived, word)));
        let endpoint = proxy::start(&s3.endpoint, move |_, _| match held.lock().unwrap().take() {
            Some((arrived, word)) => {
                arrived.send(()).unwrap();
                proxy::Fault::Hold(word)
            }
            None => proxy::Fault::Pass,
        });
        let mut spec = spec(&world, collect_task(&[], 0, false));
        spec.store.s3.as_mut().unwrap().endpoint = Some(endpoint);
        spec.timeout_seconds = timeout;
        let child = start(&world, &spec);
        is_there.recv().unwrap();
        if outcome == Outcome::Disrupted {
            rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        end(&world, child).ended(outcome).says(words);
    }
}

#[test]
fn a_task_that_is_none_is_refused() {
    let world = World::new();
    let mut other = spec(&world, collect_task(&[], 0, false));
    other.version = 9;
    end(&world, start(&world, &other)).ended(Outcome::ConfigError).says("protocol version 9");
    for prefix in ["", "/", "team/", "/etc", "a//b", "../x", "team/trainingjobs"] {
        let spec = CollectSpec { prefix: prefix.into(), runs: Vec::new(), grace_seconds: 0, dry_run: false };
        run(&world, Task::Collect(spec)).ended(Outcome::ConfigError);
    }
}
