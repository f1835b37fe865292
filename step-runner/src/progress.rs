//! How far a training is, told while it runs: the progress file, declared metrics and the newest checkpoint, posted to the operator.
//!
//! Posted at most every ten seconds and only when it has changed. Nobody waits for it: an operator that is away costs a figure in a
//! table.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use step_protocol::{MESSAGE_LIMIT, ProgressReport, StepSpec, paths};
use tokio::time::Instant;

use crate::beneath;
use crate::checkpoint::Checkpoints;
use crate::digest;
use crate::stage_out::{metrics, small_file};
use crate::store;

/// Between two posts.
const PAUSE: Duration = Duration::from_secs(10);
/// Between two looks at what is to be posted.
const LOOK: Duration = Duration::from_secs(1);
/// One post.
const ONE_TRY: Duration = Duration::from_secs(2);
/// Bytes of the progress file.
const LIMIT: u64 = 4096;
/// Bytes of the program's own words on when it will be done, and of an error.
const WORDS: usize = 64;
const ERROR: usize = 256;
/// Bytes of metrics that are read at one look: a program that writes more is caught up with later.
const AT_ONCE: u64 = 4 << 20;

/// Who tells what.
pub(crate) struct Teller {
    url: String,
    key: Vec<u8>,
    declared: Arc<[String]>,
    root: Arc<OwnedFd>,
    checkpoints: Option<Checkpoints>,
}

impl Teller {
    /// For rank 0 of a training whose operator wants to know.
    pub(crate) fn new(
        spec: &StepSpec,
        key: Option<&[u8]>,
        root: OwnedFd,
        checkpoints: Option<Checkpoints>,
    ) -> Option<Self> {
        let rank = spec.rank.as_ref().filter(|rank| rank.rank == 0)?;
        let identity = &spec.identity;
        let url = format!(
            "{}/v1/progress/{}/{}/{}/{}",
            spec.report.as_ref()?.url.trim_end_matches('/'),
            identity.namespace,
            identity.run,
            identity.run_uid,
            rank.execution
        );
        let declared = spec.metrics.clone().into();
        Some(Self { url, key: key?.to_owned(), declared, root: Arc::new(root), checkpoints })
    }

    /// Tells for as long as the program runs. Never ends.
    pub(crate) async fn tell(self) -> Infallible {
        let mut told = ProgressReport::default();
        let mut curve = Curve::default();
        let mut last: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            if last.is_some_and(|last| last.elapsed() < PAUSE) {
                continue;
            }
            let (now, back) = self.look(curve).await;
            curve = back;
            if now == told || now == ProgressReport::default() {
                continue;
            }
            last = Some(Instant::now());
            let Some(body) = body(now.clone()) else { continue };
            let signature = digest::sign(&self.key, body.as_bytes());
            // What was not taken is told again.
            if let Ok(Ok(())) = tokio::time::timeout(ONE_TRY, store::post(&self.url, &signature, body)).await {
                told = now;
            }
        }
    }

    /// What there is to tell, without the version.
    async fn look(&self, mut curve: Curve) -> (ProgressReport, Curve) {
        let (root, declared) = (self.root.clone(), self.declared.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let mut report = ProgressReport::default();
            (report.progress, report.eta) = progress(&root);
            report.metrics = curve.read(&root, &declared);
            (report, curve)
        });
        let (mut report, curve) = looking.await.unwrap_or_default();
        if let Some(state) = self.checkpoints.as_ref().map(Checkpoints::state) {
            report.checkpoint = state.newest;
            report.checkpoint_error = state.error.map(|error| cut(error, ERROR));
        }
        (report, curve)
    }
}

/// The report as JSON, without the metrics that have no room.
fn body(mut report: ProgressReport) -> Option<String> {
    report.version = step_protocol::VERSION;
    loop {
        let json = serde_json::to_string(&report).ok()?;
        if json.len() <= MESSAGE_LIMIT || report.metrics.pop_last().is_none() {
            return Some(json);
        }
    }
}

/// What a program writes.
#[derive(Deserialize)]
struct Written {
    progress: Option<f64>,
    eta: Option<String>,
}

/// What the progress file says. What is not of its shape says nothing.
fn progress(root: &OwnedFd) -> (Option<f64>, Option<String>) {
    let bytes = small_file(root.as_fd(), paths::PROGRESS, LIMIT).ok().flatten();
    let written: Option<Written> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    written.map_or((None, None), |Written { progress, eta }| {
        let progress = progress.filter(|part| (0.0..=1.0).contains(part));
        (progress, eta.map(|eta| cut(eta.replace(char::is_control, " "), WORDS)))
    })
}

fn cut(mut text: String, most: usize) -> String {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// The metrics file, read on from where it was left.
#[derive(Default)]
struct Curve {
    collector: metrics::Collector,
    inode: u64,
    at: u64,
}

impl Curve {
    /// The value of each declared metric so far.
    fn read(&mut self, root: &OwnedFd, declared: &[String]) -> BTreeMap<String, serde_json::Value> {
        if !declared.is_empty()
            && let Some(part) = self.next(root)
        {
            self.collector.feed(BufReader::new(&part[..]), declared);
        }
        let value = |name: &String| Some((name.clone(), self.collector.value(name)?));
        declared.iter().filter_map(value).collect()
    }

    /// Whole lines that have come since.
    fn next(&mut self, root: &OwnedFd) -> Option<Vec<u8>> {
        let mut file = File::from(beneath::open(root.as_fd(), paths::METRICS, OFlags::RDONLY, Mode::empty()).ok()?);
        let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        if meta.ino() != self.inode || meta.len() < self.at {
            *self = Self { inode: meta.ino(), ..Self::default() };
        }
        file.seek(SeekFrom::Start(self.at)).ok()?;
        let mut part = Vec::new();
        file.take(AT_ONCE).read_to_end(&mut part).ok()?;
        let whole = match part.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            // A line that has no end is no metric, and not kept in memory.
            None if part.len() as u64 == AT_ONCE => part.len(),
            None => 0,
        };
        part.truncate(whole);
        self.at += whole as u64;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    fn root(folder: &tempfile::TempDir) -> OwnedFd {
        beneath::open_root(folder.path()).unwrap()
    }

    #[test]
    fn the_progress_file_is_read_if_it_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let said = |text: &str| {
            std::fs::write(folder.path().join(paths::PROGRESS), text).unwrap();
            progress(&root(&folder))
        };
        assert_eq!(progress(&root(&folder)), (None, None), "there is none");
        assert_eq!(said(r#"{"progress": 0.4, "eta": "12 min"}"#), (Some(0.4), Some("12 min".into())));
        assert_eq!(said(r#"{"progress": 1, "more": []}"#), (Some(1.0), None));
        for text in ["", "{", "0.4", r#"{"progress": "half"}"#, r#"{"progress": 1.5}"#, r#"{"progress": -1}"#] {
            assert_eq!(said(text), (None, None), "{text}");
        }
        let (_, eta) = said(&json!({"eta": "ä\n".repeat(100)}).to_string());
        assert_eq!(eta.unwrap(), "ä ".repeat(21));
        assert_eq!(said(&" ".repeat(5000)), (None, None));
        std::fs::remove_file(folder.path().join(paths::PROGRESS)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join(paths::PROGRESS)).unwrap();
        assert_eq!(progress(&root(&folder)), (None, None));
    }

    #[test]
    fn a_report_always_fits() {
        let long = |n: u32| (format!("{n:0>63}"), json!("x".repeat(100)));
        let report = ProgressReport {
            progress: Some(0.5),
            metrics: (0..32).map(long).collect(),
            checkpoint_error: Some("\u{1}".repeat(ERROR)),
            ..ProgressReport::default()
        };
        let body = body(report).unwrap();
        assert!(body.len() <= MESSAGE_LIMIT);
        let read: ProgressReport = serde_json::from_str(&body).unwrap();
        assert!(read.metrics.len() > 9 && read.progress == Some(0.5) && read.version == 1);
    }

    #[test]
    fn metrics_are_read_on_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(&folder);
        let path = folder.path().join(paths::METRICS);
        let declared = ["loss".to_owned(), "never".to_owned()];
        let mut curve = Curve::default();
        assert_eq!(curve.read(&root, &declared), BTreeMap::new());
        let mut file = File::create(&path).unwrap();
        let mut append = |text: &str| file.write_all(text.as_bytes()).unwrap();
        let loss = |value| BTreeMap::from([("loss".to_owned(), value)]);
        append("{\"name\":\"loss\",\"value\":3}\n{\"name\":\"other\",\"value\":1}\nnonsense\n{\"name\":\"loss\",\"va");
        assert_eq!(curve.read(&root, &declared), loss(json!(3)));
        append("lue\":2}");
        assert_eq!(curve.read(&root, &declared), loss(json!(3)), "the line has no end yet");
        append("\n{\"name\":\"loss\",\"value\":NaN}\n");
        assert_eq!(curve.read(&root, &declared), loss(json!("NaN")));
        assert_eq!(curve.read(&root, &declared), loss(json!("NaN")));
        // Another file in its place begins anew.
        std::fs::write(folder.path().join("new"), "{\"name\":\"loss\",\"value\":0.5}\n").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(curve.read(&root, &declared), loss(json!(0.5)));
    }

    #[test]
    fn a_line_without_end_is_passed_over_in_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(&folder);
        let mut text = "x".repeat(usize::try_from(AT_ONCE).unwrap() + 10);
        text.push_str("\n{\"name\":\"loss\",\"value\":1}\n");
        std::fs::write(folder.path().join(paths::METRICS), text).unwrap();
        let mut curve = Curve::default();
        let declared = ["loss".to_owned()];
        assert!(curve.read(&root, &declared).is_empty());
        assert_eq!(curve.read(&root, &declared)["loss"], json!(1));
    }
}
