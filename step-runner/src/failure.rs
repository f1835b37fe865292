//! How an attempt fails: an outcome class and a sentence for a person.

use step_protocol::Outcome;

/// Why an attempt did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The class, which decides about retries.
    pub(crate) outcome: Outcome,
    /// What happened, to which object, what to do.
    pub(crate) message: String,
    /// Exit code of the user's process, if it ended by itself.
    pub(crate) exit_code: Option<i32>,
    /// Signal that ended the user's process.
    pub(crate) signal: Option<i32>,
}

impl Failure {
    pub(crate) fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { outcome, message: message.into(), exit_code: None, signal: None }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Outcome::ConfigError, message)
    }

    /// A failed call below `path`: a full disk has its own class.
    pub(crate) fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        if is_disk_full(error) {
            return Self::new(
                Outcome::DiskFull,
                format!(
                    "{}: the disk is full; give the stage more `scratch` or write less below {}",
                    shown(path),
                    shown(path.parent().unwrap_or(path))
                ),
            );
        }
        Self::new(Outcome::RunnerError, format!("failed to {doing} {}: {error}", shown(path)))
    }
}

/// A path as a message has room for it: of a long one its two ends.
pub(crate) fn shown(path: &std::path::Path) -> String {
    const ENDS: usize = 150;
    let path = path.display().to_string();
    let from = path.char_indices().nth(ENDS);
    let to = path.char_indices().nth_back(ENDS);
    match (from, to) {
        (Some((from, _)), Some((to, _))) if from < to => format!("{}...{}", &path[..from], &path[to..]),
        _ => path,
    }
}

/// Whether an error says that a disk or a quota is full.
pub(crate) fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// A line of the runner's own on standard error. Few, and only when a person can use them.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // Nobody may be reading any more; that is no reason to fail.
        let _ = writeln!(std::io::stderr(), "trainyard: {}", format_args!($($text)*));
    }};
}
pub(crate) use say;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_long_path_shows_its_ends() {
        assert_eq!(shown(Path::new("/out/o/a")), "/out/o/a");
        let long = shown(Path::new(&format!("/out/{}/end", "ä".repeat(4_000))));
        assert!(long.starts_with("/out/ä") && long.contains("ä...ä") && long.ends_with("ä/end"), "{long}");
        assert!(long.chars().count() < 320, "{long}");
    }
}
