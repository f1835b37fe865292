//! What no program should write, and some do: too much, too deep, by odd names, and while it is read. Memory is bounded by the kernel:
//! the runner and its program have a control group, which needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Mutex, mpsc};

use common::group::Group;
use common::proxy::{self, Fault};
use common::worlds::{on_s3, s3, worlds};
use common::{Step, World, stage};
use step_protocol::{Outcome, Segment, Text, ValueType, paths};

/// Files of the directory of very many: a million by `make many-files`.
const FILES: &str = "TRAINYARD_TEST_FILES";

/// What the runner and a small program have: the goal for the runner alone is 64 MiB.
const MEMORY: u64 = 80 << 20;

fn bounded(mut step: Step, group: &Group) -> Step {
    step.wrapper = group.wrapper();
    step
}

fn python(world: &World, stage: &str, script: &str) -> Step {
    world.command(stage, 1, &["python3", "-c", script]).variable("PATH", std::env::var("PATH").unwrap())
}

#[test]
fn a_result_of_ten_gibibytes_is_refused_in_bounded_memory() {
    let Some(group) = Group::new("result", MEMORY) else { return };
    let world = World::new();
    for kind in [ValueType::String, ValueType::Object] {
        let step = world.shell("s", 1, "truncate -s 10G $TRAINYARD_ROOT/results/r").result("r", kind);
        bounded(step, &group).run().ended(Outcome::ResultInvalid).says("results/r").says("larger than 64 KiB");
    }
    assert!(world.record("s").is_none());
}

#[test]
fn metrics_in_one_endless_line_are_one_bad_line_in_bounded_memory() {
    let Some(group) = Group::new("metrics", MEMORY) else { return };
    let world = World::new();
    let step = world.shell("s", 1, "truncate -s 300M $TRAINYARD_ROOT/metrics.jsonl");
    let done = bounded(step, &group).run().ended(Outcome::Succeeded);
    assert!(done.stderr.contains("1 lines are not metrics"), "{}", done.stderr);
    assert!(done.stderr.contains("longer than 64 KiB"), "{}", done.stderr);
}

#[test]
fn a_log_of_ten_gibibytes_without_a_line_passes_in_bounded_memory() {
    let Some(group) = Group::new("log", MEMORY) else { return };
    let world = World::new();
    let mut step = bounded(world.shell("s", 1, "head -c 10G /dev/zero; printf end; exit 3"), &group);
    step.stdout = Some(Stdio::null());
    let done = step.run().ended(Outcome::UserError);
    assert!(done.report.last_lines.ends_with("end"), "{:?}", done.report.last_lines);
    let log = &world.objects("s")["1/log.txt"];
    assert!(log.len() == 64 << 20 && log.ends_with(b"\0end"), "{} bytes", log.len());
}

#[test]
fn a_directory_of_very_many_files_goes_both_ways_in_bounded_memory() {
    let files: u64 = std::env::var(FILES).map_or(100_000, |count| count.parse().unwrap());
    // A file costs some hundred bytes in the manifest, which is written as a whole.
    let Some(group) = Group::new("files", MEMORY + files * 512) else { return };
    let world = World::new();
    let script = format!(
        "import os\nd = os.environ['TRAINYARD_OUT_D']\nfor i in range({files}):\n if i % 1000 == 0: os.makedirs(f'{{d}}/{{i // 1000}}')\n open(f'{{d}}/{{i // 1000}}/{{i}}', 'w').write(str(i))"
    );
    let step = bounded(python(&world, "a", &script).outputs(&["d"]), &group);
    let out = step.root().join("out/d");
    step.run().ended(Outcome::Succeeded);
    assert_eq!(world.manifest("a", 1, "d").files.len() as u64, files);
    std::fs::remove_dir_all(out).unwrap();
    let count = "import os, sys\nn = 0\nfor here, _, files in os.walk(os.environ['TRAINYARD_IN_D']):\n for f in files:\n  n += 1\n  assert open(here + '/' + f).read() == f\nprint(n)";
    let step = bounded(python(&world, "b", count).input("d", stage("a", "d")), &group);
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, format!("{files}\n"));
}

#[test]
fn json_that_is_nested_too_deep_is_named() {
    let world = World::new();
    let nested =
        |depth: usize| format!("python3 -c \"print('[' * {depth} + ']' * {depth})\" > $TRAINYARD_ROOT/results/r");
    for (depth, words) in
        [(65, "deeper than 64 levels"), (200, "recursion limit exceeded"), (30_000, "recursion limit")]
    {
        let step = world.shell("deep", 1, &nested(depth)).result("r", ValueType::List);
        step.run().ended(Outcome::ResultInvalid).says("results/r").says(words);
    }
    assert!(world.record("deep").is_none());
    // What is taken can be read by those after it.
    world.shell("fine", 1, &nested(64)).result("r", ValueType::List).run().ended(Outcome::Succeeded);
    let mut reader = world.shell("reader", 1, "echo \"$1\"");
    let commit = paths::commit_key(&common::prefix("fine"));
    let result = Segment::Result { commit, stage: "fine".into(), name: "r".into() };
    reader.spec.command.extend([Text::from("sh"), Text::Segments(vec![result])]);
    assert_eq!(reader.run().ended(Outcome::Succeeded).stdout, format!("{}{}\n", "[".repeat(64), "]".repeat(64)));
    let line = "python3 -c \"print('{\\\"name\\\": \\\"a\\\", \\\"value\\\": ' + '[' * 20000 + ']' * 20000 + '}')\"";
    let good = "echo '{\"name\": \"good\", \"value\": 1}'";
    let script = format!("exec >> $TRAINYARD_ROOT/metrics.jsonl; {line}; {good}");
    let done = world.shell("metrics", 1, &script).run().ended(Outcome::Succeeded);
    assert!(done.stderr.contains("1 lines are not metrics, the first is line 1: recursion limit"), "{}", done.stderr);
    assert_eq!(world.record("metrics").unwrap().metrics.keys().collect::<Vec<_>>(), ["good"]);
}

/// Names that file systems, services, shells and our own layout could take for something else.
fn names() -> BTreeSet<String> {
    let odd = [
        "-rf",
        "--",
        "a.",
        "a..",
        ".hidden",
        "...",
        " ",
        " a",
        "a ",
        "a\nb",
        "a\r",
        "a\tb",
        "\u{1}\u{1b}[31m",
        "\u{7f}",
        "'",
        "\"",
        "`id`",
        "$(id)",
        "${HOME}",
        "{{x}}",
        "*",
        "?",
        "[a]",
        "~",
        "!",
        "#1",
        "a#12",
        "%",
        "%2e%2e",
        "a%20b",
        "a b",
        "a+b",
        "a&b=c",
        "a;b",
        "a\\b",
        "a:b",
        "con",
        "COMMIT",
        "manifest.json",
        "%pack-00000",
        "File",
        "file",
        "FILE",
        "e\u{301}",
        "\u{e9}",
        "\u{202e}txt",
        "\u{200b}",
        "ä🚂",
    ];
    odd.into_iter().map(str::to_owned).chain([format!("{}.txt", "x".repeat(236))]).collect()
}

#[test]
fn odd_names_come_back_as_they_were_from_every_store() {
    for (store, world) in worlds() {
        let list: Vec<String> = names().into_iter().collect();
        let make = "import json, os\nd = os.environ['TRAINYARD_OUT_D']\nfor n in json.load(open(os.environ['TRAINYARD_ROOT'] + '/params.json'))['names']:\n os.makedirs(d + '/in/' + n)\n for p in [n, 'in/' + n + '/' + n]: open(d + '/' + p, 'w').write(n)";
        let made =
            python(&world, "a", make).param("names", list.clone()).outputs(&["d"]).run().ended(Outcome::Succeeded);
        let show = "import json, os, sys\nd = os.environ['TRAINYARD_IN_D']\nfound = [os.path.relpath(h + '/' + f, d) for h, _, fs in os.walk(d) for f in fs]\nassert all(open(d + '/' + f, newline='').read() == os.path.basename(f) for f in found)\nprint(json.dumps(sorted(found)))";
        let shown = python(&world, "b", show).input("d", stage("a", "d")).run().ended(Outcome::Succeeded).stdout;
        let found: BTreeSet<String> = serde_json::from_str::<Vec<String>>(&shown).unwrap().into_iter().collect();
        let expected = list.iter().flat_map(|name| [name.clone(), format!("in/{name}/{name}")]).collect();
        assert_eq!(found, expected, "{store}: {}", made.stderr);
    }
}

#[test]
fn what_is_no_file_is_named_however_deep_and_however_it_loops() {
    let world = World::new();
    let o = "o=$TRAINYARD_OUT_O; mkdir -p $o/d;";
    let deep = "import os\nos.makedirs(os.environ['TRAINYARD_OUT_O'])\nos.chdir(os.environ['TRAINYARD_OUT_O'])\nfor _ in range(30):\n os.mkdir('x' * 200)\n os.chdir('x' * 200)\nopen('f', 'w')";
    for (step, words) in [
        (world.shell("s", 1, &format!("{o} ln -s . $o/d/self")), "out/o/d/self is a symbolic link"),
        (world.shell("s", 1, &format!("{o} ln -s loop $o/d/loop")), "out/o/d/loop is a symbolic link"),
        (world.shell("s", 1, &format!("{o} ln -s b $o/a; ln -s a $o/b")), "is a symbolic link"),
        (world.shell("s", 1, "ln -s o $TRAINYARD_OUT_O"), "out/o is a symbolic link"),
        (world.shell("s", 1, &format!("{o} mkfifo $o/d/pipe")), "out/o/d/pipe is a FIFO"),
        (world.shell("s", 1, &format!("{o} touch $o/\"$(printf 'a\\nb\\377')\"")), r#"not UTF-8 ("a\nb\xff")"#),
        (python(&world, "s", deep), "has a path longer than 4095 bytes below it"),
    ] {
        step.outputs(&["o"]).run().ended(Outcome::OutputUnsafe).says(words);
    }
    assert!(world.record("s").is_none());
}

#[test]
fn a_sparse_file_arrives_with_all_its_bytes() {
    let world = World::new();
    let script = "truncate -s 100M $TRAINYARD_OUT_O; printf end >> $TRAINYARD_OUT_O; sha256sum < $TRAINYARD_OUT_O";
    let made = world.shell("a", 1, script).outputs(&["o"]).run().ended(Outcome::Succeeded);
    let step = world.shell("b", 1, "sha256sum < $TRAINYARD_IN_O").input("o", stage("a", "o"));
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, made.stdout);
}

/// Nothing of the program itself is left when its outputs are read; another container of a shared volume could be.
#[test]
fn a_file_that_grows_while_it_is_sent_is_named() {
    let Some(s3) = s3() else { return };
    let (arrived, is_there) = mpsc::channel();
    let (go, word) = mpsc::channel();
    let held = Mutex::new(Some((arrived, word)));
    let endpoint = proxy::start(&s3.endpoint, move |line, _| {
        match held.lock().unwrap().take_if(|_| line.starts_with("POST") && line.contains("?uploads")) {
            Some((arrived, word)) => {
                arrived.send(()).unwrap();
                Fault::Hold(word)
            }
            None => Fault::Pass,
        }
    });
    let world = on_s3(&s3, &endpoint);
    let mut step = world.shell("s", 1, "head -c 20000000 /dev/zero > $TRAINYARD_OUT_O").outputs(&["o"]);
    let out = step.root().join("out/o");
    let child = step.start();
    is_there.recv().unwrap();
    // Without an end, for whoever reads until one.
    std::fs::OpenOptions::new().write(true).open(&out).unwrap().set_len(1 << 40).unwrap();
    go.send(()).unwrap();
    step.wait(child).ended(Outcome::OutputUnsafe).says("out/o had 20000000 bytes").says("something else writes to it");
}
