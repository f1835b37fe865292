//! Inputs: verified before user code sees them, and never silently empty.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use common::{Step, World, prefix, stage};
use step_protocol::{InputSource, Outcome, paths};

/// A world with a stage `a` that has made a directory `d` and a file `f`.
fn world() -> World {
    let world = World::new();
    world
        .shell("a", 1, "mkdir -p $TRAINYARD_OUT_D/sub; echo one > $TRAINYARD_OUT_D/x; echo two > $TRAINYARD_OUT_D/sub/y; echo '#!/bin/sh' > $TRAINYARD_OUT_D/run; chmod 700 $TRAINYARD_OUT_D/run; echo file > $TRAINYARD_OUT_F")
        .outputs(&["d", "f"])
        .run()
        .ended(Outcome::Succeeded);
    world
}

fn reader(world: &World, output: &str) -> Step {
    world.shell("b", 1, "echo the program must not run").input("i", stage("a", output))
}

#[track_caller]
fn refused(step: Step, outcome: Outcome, words: &str) {
    let done = step.run().ended(outcome).says(words);
    assert_eq!(done.stdout, "", "the program has not run");
    assert!(!done.input("i").exists(), "nothing that is not verified has its name");
}

#[test]
fn a_directory_arrives_with_its_executable_bits() {
    let world = world();
    let script = "cd $TRAINYARD_IN_I; find . -type f | sort; cat x sub/y; ./run && test ! -x x";
    let done = world.shell("b", 1, script).input("i", stage("a", "d")).run().ended(Outcome::Succeeded);
    assert_eq!(done.stdout, "./run\n./sub/y\n./x\none\ntwo\n");
}

#[test]
fn changed_bytes_never_reach_user_code() {
    let world = world();
    std::fs::write(world.path(&format!("{}/1/d/sub/y", prefix("a"))), "TWO\n").unwrap();
    refused(reader(&world, "d"), Outcome::ArtifactCorrupt, "1/d/sub/y has the digest sha256:");
}

#[test]
fn a_short_object_is_corrupt() {
    let world = world();
    std::fs::write(world.path(&format!("{}/1/f/f", prefix("a"))), "fi").unwrap();
    refused(reader(&world, "f"), Outcome::ArtifactCorrupt, "it has 2 bytes instead of 5");
}

#[test]
fn a_changed_manifest_is_corrupt() {
    let world = world();
    let path = world.path(&format!("{}/1/d/manifest.json", prefix("a")));
    let text = std::fs::read_to_string(&path).unwrap().replace("\"sub/y\"", "\"../../y\"");
    std::fs::write(&path, &text).unwrap();
    refused(reader(&world, "d"), Outcome::ArtifactCorrupt, "manifest.json has the digest");
}

#[test]
fn a_hostile_manifest_with_the_right_digest_is_refused() {
    for path in ["../../escape", "/etc/escape", "a//b", "sub/../../escape"] {
        let world = world();
        let manifest = world.path(&format!("{}/1/d/manifest.json", prefix("a")));
        let text = std::fs::read_to_string(&manifest).unwrap().replace("\"sub/y\"", &format!("{path:?}"));
        replace_manifest(&world, &text);
        refused(reader(&world, "d"), Outcome::ArtifactCorrupt, "is not safe");
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// A world with a stage `a` whose output `d` is 300 files of 9 bytes, of which `f7` is the last in its pack.
fn packed() -> World {
    let world = World::new();
    let script = "mkdir $TRAINYARD_OUT_D; for i in $(seq 100 399); do printf 'file %04d' $i > $TRAINYARD_OUT_D/$i; done; printf 'the  last' > $TRAINYARD_OUT_D/f7";
    world.shell("a", 1, script).outputs(&["d"]).run().ended(Outcome::Succeeded);
    world
}

/// The path of the pack of a packed world.
fn pack(world: &World) -> std::path::PathBuf {
    world.path(&format!("{}/1/d/{}", prefix("a"), paths::pack_name(0)))
}

/// Another manifest, that the commit record names.
fn replace_manifest(world: &World, text: &str) {
    std::fs::write(world.path(&format!("{}/1/d/manifest.json", prefix("a"))), text).unwrap();
    let mut record = world.record("a").unwrap();
    record.outputs[0].digest = sha256(text.as_bytes());
    std::fs::write(world.path(&paths::commit_key(&prefix("a"))), serde_json::to_vec(&record).unwrap()).unwrap();
}

#[test]
fn a_packed_directory_is_listed_file_by_file() {
    let world = packed();
    let manifest = world.manifest("a", 1, "d");
    assert_eq!((manifest.files.len(), manifest.packs.len(), manifest.packs[0].size), (301, 1, 301 * 9));
    assert_eq!(std::fs::metadata(pack(&world)).unwrap().len(), 301 * 9);
    let record = world.record("a").unwrap();
    assert_eq!((record.outputs[0].files, record.outputs[0].bytes), (301, 301 * 9));
    let last = manifest.files.last().unwrap();
    assert_eq!((last.path.as_str(), last.packed.unwrap().offset), ("f7", 300 * 9));
}

#[test]
fn equal_directories_have_equal_digests_also_packed() {
    let (one, two) = (packed(), packed());
    assert_eq!(one.record("a").unwrap().outputs, two.record("a").unwrap().outputs);
}

#[test]
fn a_model_is_never_packed() {
    let world = World::new();
    let script = "mkdir $TRAINYARD_OUT_M; for i in $(seq 300); do echo $i > $TRAINYARD_OUT_M/$i; done";
    let mut step = world.shell("a", 1, script).outputs(&["m"]);
    step.spec.outputs[0].kind = Some("Model".into());
    step.run().ended(Outcome::Succeeded);
    let manifest = world.manifest("a", 1, "m");
    assert!(manifest.packs.is_empty() && manifest.files.iter().all(|file| file.packed.is_none()));
    assert_eq!(std::fs::read_to_string(world.path(&format!("{}/1/m/17", prefix("a")))).unwrap(), "17\n");
}

#[test]
fn changed_bytes_in_a_pack_never_reach_user_code() {
    let world = packed();
    let mut bytes = std::fs::read(pack(&world)).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    std::fs::write(pack(&world), &bytes).unwrap();
    refused(reader(&world, "d"), Outcome::ArtifactCorrupt, "f7 in file://");
    std::fs::write(pack(&world), &bytes[..end]).unwrap();
    refused(reader(&world, "d"), Outcome::ArtifactCorrupt, "it has 2708 of the 2709 bytes");
    std::fs::remove_file(pack(&world)).unwrap();
    refused(reader(&world, "d"), Outcome::InputMissing, "pack-00000 does not exist, though its manifest lists it");
}

#[test]
fn a_hostile_packed_manifest_with_the_right_digest_is_refused() {
    let change = |from: &str, to: &str| {
        let world = packed();
        let manifest = world.path(&format!("{}/1/d/manifest.json", prefix("a")));
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        replace_manifest(&world, &text.replace(from, to));
        world
    };
    for (from, to, outcome, words) in [
        (r#""offset":2700"#, r#""offset":2701"#, Outcome::ArtifactCorrupt, "ends beyond its pack"),
        (r#""offset":2700"#, r#""offset":18446744073709551615"#, Outcome::ArtifactCorrupt, "ends beyond its pack"),
        (r#""offset":2700"#, r#""offset":2699"#, Outcome::ArtifactCorrupt, "overlaps"),
        (r#"{"pack":0,"offset":2700}"#, r#"{"pack":77,"offset":2700}"#, Outcome::ArtifactCorrupt, "pack 77 of 1"),
        (r#""path":"f7""#, r#""path":"../../f7""#, Outcome::ArtifactCorrupt, "is not safe"),
        (r#""path":"f7""#, r#""path":"100/f7""#, Outcome::ArtifactCorrupt, "below the file"),
        (r#""name":"%pack-00000""#, r#""name":"../../../../../secret""#, Outcome::ArtifactCorrupt, "is not safe"),
        (r#""name":"%pack-00000""#, r#""name":"%pack-00001""#, Outcome::InputMissing, "pack-00001 does not exist"),
        // As large as numbers go, and no byte of it is allocated.
        (r#""size":2709}]"#, r#""size":18446744073709551615}]"#, Outcome::Succeeded, ""),
        (
            r#""size":9,"digest":"sha256:a"#,
            r#""size":8,"digest":"sha256:a"#,
            Outcome::ArtifactCorrupt,
            "has the digest",
        ),
    ] {
        let world = change(from, to);
        if outcome == Outcome::Succeeded {
            world.shell("b", 1, "true").input("i", stage("a", "d")).run().ended(outcome);
        } else {
            refused(reader(&world, "d"), outcome, words);
        }
    }
}

#[test]
fn what_is_not_there_is_named() {
    let world = world();
    refused(reader(&world, "other"), Outcome::InputMissing, "has no output \"other\"");
    refused(
        world.shell("b", 1, "echo ran").input("i", stage("nobody", "o")),
        Outcome::InputMissing,
        "no commit record",
    );
    refused(world.shell("b", 1, "echo ran").input("i", InputSource::Absent), Outcome::InputMissing, "not optional");
    std::fs::remove_file(world.path(&format!("{}/1/d/x", prefix("a")))).unwrap();
    refused(reader(&world, "d"), Outcome::InputMissing, "1/d/x does not exist");
    std::fs::remove_file(world.path(&format!("{}/1/d/manifest.json", prefix("a")))).unwrap();
    refused(reader(&world, "d"), Outcome::InputMissing, "manifest.json does not exist");
}

#[test]
fn the_digest_that_the_run_knows_must_match() {
    let world = world();
    let digest = |digest: String| InputSource::Stage {
        commit: paths::commit_key(&prefix("a")),
        output: "f".into(),
        digest: Some(digest),
    };
    let known = world.record("a").unwrap().outputs[1].digest.clone();
    let step = world.shell("b", 1, "cat $TRAINYARD_IN_I").input("i", digest(known));
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, "file\n");
    let step = world.shell("c", 1, "echo ran").input("i", digest("sha256:00".into()));
    refused(step, Outcome::ArtifactCorrupt, "the run knows sha256:00");
}

#[test]
fn an_optional_input_may_be_absent_but_not_corrupt() {
    let world = world();
    let script = "test -z \"${TRAINYARD_IN_I+set}\" && test ! -e $TRAINYARD_ROOT/in/i";
    for source in [InputSource::Absent, stage("nobody", "o"), InputSource::Uri(format!("{}/nothing", world.store.uri))]
    {
        let name = format!("b{}", format!("{source:?}").len());
        world.shell(&name, 1, script).input("i", source).optional().run().ended(Outcome::Succeeded);
    }
    std::fs::write(world.path(&format!("{}/1/f/f", prefix("a"))), "FILE\n").unwrap();
    refused(reader(&world, "f").optional(), Outcome::ArtifactCorrupt, "digest");
}

#[test]
fn a_uri_is_an_object_or_everything_below_a_prefix() {
    let world = world();
    std::fs::create_dir_all(world.path("raw/2024")).unwrap();
    std::fs::write(world.path("raw/a b.csv"), "A").unwrap();
    std::fs::write(world.path("raw/2024/c.csv"), "C").unwrap();
    let uri = |path: &str| InputSource::Uri(format!("{}/{path}", world.store.uri));
    let step = world
        .shell("b", 1, "cat \"$TRAINYARD_IN_ONE\"; cd $TRAINYARD_IN_ALL; find . -type f | sort")
        .input("one", uri("raw/a b.csv"))
        .input("all", uri("raw/"));
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, "A./2024/c.csv\n./a b.csv\n");
    refused(world.shell("c", 1, "echo ran").input("i", uri("raw/none")), Outcome::InputMissing, "does not exist");
    refused(world.shell("c", 1, "echo ran").input("i", uri("none/")), Outcome::InputMissing, "no object below");
    let outside = InputSource::Uri("file:///etc/passwd".into());
    refused(world.shell("c", 1, "echo ran").input("i", outside), Outcome::ConfigError, "not below the store");
}

#[test]
fn what_a_stage_has_written_is_checked_also_by_its_address() {
    let world = world();
    let uri = |path: &str| InputSource::Uri(format!("{}/{}/{path}", world.store.uri, prefix("a")));
    let step = world.shell("b", 1, "cat $TRAINYARD_IN_I").input("i", uri("1/f/"));
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, "file\n", "a file, as it is to a stage of its run");
    std::fs::write(world.path(&format!("{}/1/f/f", prefix("a"))), "FILE\n").unwrap();
    refused(world.shell("c", 1, "echo ran").input("i", uri("1/f/")), Outcome::ArtifactCorrupt, "digest");
    // Of an attempt that was not committed nothing is known.
    std::fs::create_dir_all(world.path(&format!("{}/2/f", prefix("a")))).unwrap();
    std::fs::write(world.path(&format!("{}/2/f/f", prefix("a"))), "other\n").unwrap();
    let step = world.shell("d", 1, "cat $TRAINYARD_IN_I/f").input("i", uri("2/f/"));
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, "other\n");
}

#[test]
fn a_big_directory_with_odd_names_goes_both_ways() {
    let world = World::new();
    let script = r##"import os
d = os.environ["TRAINYARD_OUT_D"]
for i in range(3000):
    os.makedirs(f"{d}/{i % 40}", exist_ok=True)
    open(f"{d}/{i % 40}/{i}", "wb").write(bytes([i % 251]) * (i % 5000))
for name in ["manifest.json", "COMMIT", "a%20b", "#1", "x#12", "new\nline", "ä🚂", " ", "back\\slash", "~", "..."]:
    open(f"{d}/{name}", "w").write(name)
os.makedirs(d + "/deep/" + "/".join(["x" * 20] * 20))
open(d + "/deep/" + "/".join(["x" * 20] * 20) + "/end", "w").write("end")
open(d + "/big", "wb").write(os.urandom(20 << 20))
open(d + "/exact", "wb").write(os.urandom(16 << 20))
open(d + "/empty", "w")
"##;
    let mut step = world
        .command("a", 1, &["python3", "-c", script])
        .outputs(&["d"])
        .variable("PATH", "/usr/bin:/bin:/usr/local/bin");
    step.spec.grace_seconds = 60;
    let root = step.spec.root.clone();
    step.run().ended(Outcome::Succeeded);
    assert_eq!(world.manifest("a", 1, "d").files.len(), 3000 + 11 + 4);
    let done = world
        .shell("b", 1, &format!("diff -r {root}/out/d $TRAINYARD_IN_D && echo equal"))
        .input("d", stage("a", "d"))
        .run();
    assert_eq!(done.ended(Outcome::Succeeded).stdout, "equal\n");
}

#[test]
fn an_empty_directory_is_an_output_of_no_files() {
    let world = World::new();
    world.shell("a", 1, "mkdir $TRAINYARD_OUT_D").outputs(&["d"]).run().ended(Outcome::Succeeded);
    let step = world.shell("b", 1, "test -d $TRAINYARD_IN_D && ls -A $TRAINYARD_IN_D").input("d", stage("a", "d"));
    assert_eq!(step.run().ended(Outcome::Succeeded).stdout, "");
}

#[test]
fn a_foreign_commit_record_is_not_adopted() {
    let world = World::new();
    let path = world.path(&paths::commit_key(&prefix("s")));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, r#"{"version":1,"runUid":"other","stage":"s","attempt":1}"#).unwrap();
    world.shell("s", 1, "true").run().ended(Outcome::ArtifactCorrupt).says("the run other");
    std::fs::write(&path, "{").unwrap();
    world.shell("s", 1, "true").run().ended(Outcome::ArtifactCorrupt).says("cannot be read");
    std::fs::write(&path, r#"{"version":2,"runUid":"uid-1","stage":"s","attempt":1}"#).unwrap();
    world.shell("s", 1, "true").run().ended(Outcome::ConfigError).says("protocol version 2");
}
