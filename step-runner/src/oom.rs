//! Out of memory: the kernel's own count of processes that it killed in this container, on cgroup v1 and v2.

use std::path::{Path, PathBuf};

/// The container's memory controller, as far as it can be read.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Option<Files>,
    before: u64,
}

#[derive(Debug, Clone)]
struct Files {
    events: PathBuf,
    limit: PathBuf,
    peak: PathBuf,
}

/// What the kernel did since the watch began.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kills {
    pub(crate) limit: Option<u64>,
    pub(crate) peak: Option<u64>,
}

impl Watch {
    /// Reads the count as it is now.
    pub(crate) fn begin() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::of(Files::find(Path::new("/sys/fs/cgroup"), &own))
    }

    fn of(files: Option<Files>) -> Self {
        let before = files.as_ref().and_then(Files::kills).unwrap_or(0);
        Self { files, before }
    }

    /// What happened since, if the kernel killed at least one process.
    pub(crate) fn kills(&self) -> Option<Kills> {
        let files = self.files.as_ref()?;
        // The count rises before the signal is sent, so it is there once the process has ended.
        (files.kills()? > self.before).then(|| Kills { limit: number(&files.limit), peak: number(&files.peak) })
    }
}

impl Files {
    /// Looks where a container sees its own controller (the mount's root, or the path that `/proc/self/cgroup` names).
    fn find(mount: &Path, own: &str) -> Option<Self> {
        let path_of = |wanted: &str| {
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                let found = if wanted.is_empty() {
                    controllers.is_empty()
                } else {
                    controllers.split(',').any(|controller| controller == wanted)
                };
                found.then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let v2 = path_of("").unwrap_or_default();
        let v1 = path_of("memory").unwrap_or_default();
        let candidates = [
            (mount.join(v2), false),
            (mount.to_owned(), false),
            (mount.join("memory").join(v1), true),
            (mount.join("memory"), true),
        ];
        candidates
            .into_iter()
            .map(|(directory, old)| {
                let file = |name: &str| directory.join(name);
                if old {
                    Self {
                        events: file("memory.oom_control"),
                        limit: file("memory.limit_in_bytes"),
                        peak: file("memory.max_usage_in_bytes"),
                    }
                } else {
                    Self { events: file("memory.events"), limit: file("memory.max"), peak: file("memory.peak") }
                }
            })
            .find(|files| files.kills().is_some())
    }

    /// `oom_kill <n>` in both versions.
    fn kills(&self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.events).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

/// A number of bytes; `None` for `max` and for v1's way to say the same.
fn number(path: &Path) -> Option<u64> {
    let bytes: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

impl std::fmt::Display for Kills {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        match (self.limit, self.peak) {
            (Some(limit), Some(peak)) => {
                write!(f, "memory limit {} MiB, peak {} MiB", mebibytes(limit), mebibytes(peak))
            }
            (Some(limit), None) => write!(f, "memory limit {} MiB", mebibytes(limit)),
            (None, Some(peak)) => write!(f, "no memory limit of its own, peak {} MiB", mebibytes(peak)),
            (None, None) => write!(f, "memory limit not readable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn version_2_at_the_mount_as_in_a_container() {
        let mount = tempfile::tempdir().unwrap();
        write(mount.path().join("memory.events"), "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n");
        write(mount.path().join("memory.max"), "67108864\n");
        let watch = Watch::of(Files::find(mount.path(), "0::/\n"));
        assert_eq!(watch.kills(), None);
        write(mount.path().join("memory.events"), "oom 2\noom_kill 2\noom_group_kill 0\n");
        assert_eq!(watch.kills(), Some(Kills { limit: Some(64 << 20), peak: None }));
        assert_eq!(watch.kills().unwrap().to_string(), "memory limit 64 MiB");
    }

    #[test]
    fn version_1_by_the_path_of_the_process() {
        let mount = tempfile::tempdir().unwrap();
        let own = mount.path().join("memory/kubepods/pod1");
        write(own.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        write(own.join("memory.limit_in_bytes"), "9223372036854771712\n");
        write(own.join("memory.max_usage_in_bytes"), "1048577\n");
        let watch = Watch::of(Files::find(mount.path(), "4:memory:/kubepods/pod1\n0::/\n"));
        write(own.join("memory.oom_control"), "oom_kill 5\n");
        assert_eq!(watch.kills().unwrap().to_string(), "no memory limit of its own, peak 2 MiB");
    }

    #[test]
    fn no_controller_is_no_verdict() {
        let mount = tempfile::tempdir().unwrap();
        assert_eq!(Watch::of(Files::find(mount.path(), "")).kills(), None);
    }
}
