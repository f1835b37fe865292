//! A bound on the memory of a runner and its program, kept by the kernel.

use std::path::{Path, PathBuf};

use super::is_root;

/// A control group with so much memory, of either version; removed at the end.
pub struct Group(PathBuf);

impl Group {
    pub fn new(name: &str, bytes: u64) -> Option<Self> {
        let mount = Path::new("/sys/fs/cgroup");
        let (parent, file) = if mount.join("cgroup.controllers").exists() {
            (mount.to_owned(), "memory.max")
        } else {
            (mount.join("memory"), "memory.limit_in_bytes")
        };
        let group = Self(parent.join(format!("trainyard-test-{name}-{}", std::process::id())));
        let made = std::fs::create_dir(&group.0).and_then(|()| std::fs::write(group.0.join(file), bytes.to_string()));
        if made.is_ok() && is_root() {
            return Some(group);
        }
        eprintln!("not run: needs root and the memory controller");
        None
    }

    /// Words that start a program within it.
    pub fn wrapper(&self) -> Vec<String> {
        let script = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.0.display());
        vec!["/bin/sh".into(), "-c".into(), script, "sh".into()]
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
