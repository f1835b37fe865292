//! What the runner says at the end: the report, early by HTTP and again as the termination message.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use step_protocol::{Outcome, OutputReport, StepReport, StepSpec};

use crate::digest;
use crate::failure::{Failure, say};
use crate::stage_in::Record;
use crate::store;

/// Both tries of the early report together.
const EARLY: Duration = Duration::from_secs(1);
/// One try, so that a second one has time.
const ONE_TRY: Duration = Duration::from_millis(500);

/// The report of a stage that is committed, by this attempt or by another.
pub(crate) fn success(record: &Record, exit_code: Option<i32>) -> StepReport {
    let committed = &record.record;
    let mut report = StepReport::new(Outcome::Succeeded, "");
    report.exit_code = exit_code;
    report.commit = Some(record.digest.clone());
    report.winner = Some(committed.attempt);
    report.outputs = committed
        .outputs
        .iter()
        .map(|output| OutputReport { name: output.name.clone(), digest: output.digest.clone(), bytes: output.bytes })
        .collect();
    report.results = committed.results.clone();
    report.metrics = committed.metrics.clone();
    report.started = committed.started.clone();
    report.finished = committed.finished.clone();
    report
}

/// The report of an attempt that did not succeed.
pub(crate) fn failure(failure: Failure, last_lines: String) -> StepReport {
    let Failure { outcome, message, exit_code, signal } = failure;
    let mut report = StepReport::new(outcome, message);
    report.exit_code = exit_code;
    report.signal = signal;
    report.last_lines = last_lines;
    report
}

/// Posts the report to the operator. A hint only: if it does not arrive, the kubelet says the same a little later.
pub(crate) async fn early(spec: &StepSpec, key: Option<&[u8]>, body: &str) {
    let (Some(report), Some(key)) = (&spec.report, key) else { return };
    let identity = &spec.identity;
    let url = format!(
        "{}/v1/report/{}/{}/{}/{}/{}",
        report.url.trim_end_matches('/'),
        identity.namespace,
        identity.run,
        identity.run_uid,
        identity.stage,
        identity.attempt
    );
    let signature = digest::sign(key, body.as_bytes());
    let twice = async {
        for _ in 0..2 {
            let posted = tokio::time::timeout(ONE_TRY, store::post(&url, &signature, body.to_owned())).await;
            if let Ok(Ok(())) = posted {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(EARLY, twice).await;
}

/// The file of the termination message, opened before user code could put something else in its place.
pub(crate) struct TerminationLog {
    path: PathBuf,
    file: Option<OwnedFd>,
}

impl TerminationLog {
    pub(crate) fn open(path: &Path) -> Self {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644)).ok();
        Self { path: path.to_owned(), file }
    }

    /// Replaces whatever is in it.
    pub(crate) fn write(self, message: &str) {
        let written = match self.file {
            Some(file) => rustix::fs::ftruncate(&file, 0).map_err(Into::into).and_then(|()| {
                use std::os::unix::fs::FileExt as _;
                File::from(file).write_all_at(message.as_bytes(), 0)
            }),
            None => std::fs::write(&self.path, message),
        };
        if let Err(error) = written {
            say!("failed to write the termination message {}: {error}", self.path.display());
        }
    }
}
