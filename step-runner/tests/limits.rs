//! Full disks and full memory, for real. These need root, for a small file system and a control group.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::group::Group;
use common::{World, stage};
use step_protocol::Outcome;

/// A file system of one MiB, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m,mode=777", "small"]).arg(path).status();
        if common::is_root() && status.is_ok_and(|status| status.success()) {
            return Some(Self(path.to_owned()));
        }
        eprintln!("not run: needs root to mount a small file system");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[test]
fn a_full_volume_is_named() {
    let world = World::new();
    let Some(_small) = Small::mount(&world.path("")) else { return };
    let script = "head -c 3000000 /dev/zero > $TRAINYARD_OUT_BIG";
    let done = world.shell("s", 1, script).outputs(&["big"]).run().ended(Outcome::DiskFull);
    done.says("1/big/big").says("full");
    assert!(world.record("s").is_none());
}

#[test]
fn a_full_disk_below_the_root_is_named() {
    let world = World::new();
    world
        .shell("a", 1, "head -c 3000000 /dev/zero > $TRAINYARD_OUT_BIG")
        .outputs(&["big"])
        .run()
        .ended(Outcome::Succeeded);
    let step = world.shell("b", 1, "echo ran").input("big", stage("a", "big"));
    let Some(_small) = Small::mount(step.root()) else { return };
    let done = step.run().ended(Outcome::DiskFull).says("in/big");
    assert_eq!(done.stdout, "");
}

#[test]
fn a_log_that_finds_no_disk_does_not_fail_the_stage() {
    let world = World::new();
    let step = world.shell("s", 1, "yes | head -c 3000000; echo end");
    let Some(_small) = Small::mount(step.root()) else { return };
    assert!(step.run().ended(Outcome::Succeeded).stdout.ends_with("end\n"));
}

#[test]
fn the_program_itself_out_of_memory() {
    let Some(group) = Group::new("self", 48 << 20) else { return };
    let world = World::new();
    let mut step = world.command("s", 1, &["/usr/bin/tail", "/dev/zero"]);
    step.wrapper = group.wrapper();
    let done =
        step.run().ended(Outcome::OOMKilled).says("killed the program for").says("memory limit 48 MiB, peak 48 MiB");
    assert_eq!(done.report.signal, Some(9));
}

#[test]
fn a_child_of_the_program_out_of_memory() {
    let Some(group) = Group::new("child", 48 << 20) else { return };
    let world = World::new();
    let mut step = world.shell("s", 1, "tail /dev/zero; exit 3");
    step.wrapper = group.wrapper();
    let done = step.run().ended(Outcome::OOMKilled).says("killed a child process of the program").says("exit code 3");
    assert_eq!(done.report.exit_code, Some(3));
}

#[test]
fn a_program_that_hides_it_never_succeeds() {
    let Some(group) = Group::new("hidden", 48 << 20) else { return };
    let world = World::new();
    let mut step = world.shell("s", 1, "tail /dev/zero; echo fine > $TRAINYARD_OUT_O; exit 0").outputs(&["o"]);
    step.wrapper = group.wrapper();
    step.run().ended(Outcome::OOMKilled);
    assert!(world.record("s").is_none());
}
