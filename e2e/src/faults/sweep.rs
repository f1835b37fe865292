//! The sweep: runs without a fault to count places, then one case for each chosen place and fault, several at a time.

use super::case::{self, Case, Places, Setup};
use super::fault::CaseName;
use super::history::What;
use super::invariants::{Summary, Violation};
use super::workload::Workload;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The variable that names the only case to run.
pub const ENV_CASE: &str = "TRAINYARD_FAULT";
/// In place of an invariant where the harness itself could not go on.
pub const HARNESS: &str = "harness";
/// Cases that mostly wait go on in such numbers beside the others.
const WAITING: usize = 64;

/// What is known of a workload after its run without a fault.
#[derive(Clone, Debug)]
pub struct Learned {
    /// How many places for faults it has.
    pub places: Places,
    /// How it ended.
    pub summary: Summary,
    /// How long it took.
    pub took: Duration,
    /// Method and path of each write, from the first.
    pub list: Vec<(String, String)>,
}

/// What came of one case of a sweep.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which case.
    pub name: CaseName,
    /// How many of its faults took place: a run may have fewer places than the one that was counted.
    pub struck: usize,
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// How long it took.
    pub took: Duration,
}

impl Verdict {
    /// A case in which the harness itself could not go on: it shows nothing, so it counts as a violation.
    fn unjudged(name: CaseName, error: &anyhow::Error) -> Self {
        let violation = Violation { invariant: HARNESS, what: format!("{error:#}") };
        Self { name, struck: 0, violations: vec![violation], took: Duration::ZERO }
    }
}

/// What came of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every case.
    pub verdicts: Vec<Verdict>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// The cases in which something is wrong.
    pub fn failures(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.violations.is_empty())
    }

    /// How many violations there are.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.verdicts.iter().map(|verdict| verdict.violations.len()).sum()
    }

    /// Cases and time by class and fault.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut kinds: BTreeMap<(char, String), Vec<&Verdict>> = BTreeMap::new();
        for verdict in &self.verdicts {
            kinds.entry((verdict.name.class(), verdict.name.kind())).or_default().push(verdict);
        }
        let mut lines: Vec<String> = kinds
            .into_iter()
            .map(|((class, kind), verdicts)| {
                let reached = verdicts.iter().filter(|verdict| verdict.struck > 0).count();
                let mut times: Vec<f64> = verdicts.iter().map(|verdict| verdict.took.as_secs_f64()).collect();
                times.sort_by(f64::total_cmp);
                let (middle, most) = (times[times.len() / 2], times[times.len() - 1]);
                format!(
                    "faults: class {class} {kind}: {} cases, {reached} reached, {middle:.1} s each, {most:.1} s at most",
                    verdicts.len(),
                )
            })
            .collect();
        lines.push(format!("faults: all of it took {:.0} s", self.took.as_secs_f64()));
        lines
    }
}

/// A sweep on one API server.
pub struct Sweep {
    setup: Setup,
    /// Distinguishes the namespaces of this sweep from those of others on the same cluster.
    prefix: String,
    /// Number of the next case.
    next: AtomicU32,
    /// Cases at the same time.
    together: usize,
}

impl Sweep {
    /// A sweep with `together` cases at the same time, beside those that mostly wait.
    #[must_use]
    pub fn new(setup: Setup, together: usize) -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        Self { setup, prefix: format!("f{since}"), next: AtomicU32::new(1), together }
    }

    fn namespace(&self, workload: &Workload) -> String {
        format!("{}-{}-{}", self.prefix, workload.name, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The run of a workload without a fault.
    ///
    /// # Errors
    /// When it does not end well: then there is nothing to compare with.
    pub async fn learn(&self, workload: &Workload) -> Result<Learned> {
        let namespace = self.namespace(workload);
        let case = case::run(&self.setup, workload, &namespace, &[]).await?;
        let violations = case.violations(workload, &[], None);
        let summary = Summary::of(&case.history);
        let folder = self.setup.folder.join(&namespace);
        let ended = workload.end == "Deleted" || summary.run[0] == workload.end;
        if !violations.is_empty() || !ended || !case.settled {
            let path = case::keep(&folder, &case.history)?;
            let list: String = violations.iter().map(|violation| format!("\n  {violation}")).collect();
            bail!("{} without a fault: {summary}{list}\n  see {}", workload.name, path.display());
        }
        fs::remove_dir_all(&folder)?;
        let list = case.history.writes();
        let list = list.iter().map(|write| (write.request.method.clone(), write.request.path.clone())).collect();
        Ok(Learned { places: case.places, summary, took: case.took, list })
    }

    /// All of these cases, until `told`, which hears of each as it ends, says that it is enough.
    ///
    /// # Errors
    /// When the harness itself cannot go on.
    pub async fn run(
        self: Arc<Self>,
        known: &[(Workload, Learned)],
        cases: &[CaseName],
        mut told: impl FnMut(&Verdict) -> bool,
    ) -> Result<Report> {
        let began = Instant::now();
        let (busy, waiting) = (Arc::new(Semaphore::new(self.together)), Arc::new(Semaphore::new(WAITING)));
        let mut tasks = JoinSet::new();
        for name in cases.iter().cloned() {
            let (workload, learned) = known
                .iter()
                .find(|(workload, _)| workload.name == name.workload)
                .with_context(|| format!("no workload {}", name.workload))?;
            let (workload, expected) = (workload.clone(), learned.summary.clone());
            let (sweep, room) = (Arc::clone(&self), Arc::clone(if name.is_slow() { &waiting } else { &busy }));
            tasks.spawn(async move {
                let _turn = room.acquire_owned().await?;
                let judged = sweep.case(&workload, &name, &expected, false).await;
                // One case that cannot be judged does not end all others.
                anyhow::Ok(judged.unwrap_or_else(|error| Verdict::unjudged(name, &error)))
            });
        }
        let mut verdicts = Vec::new();
        while let Some(verdict) = tasks.join_next().await {
            let verdict = verdict??;
            let enough = told(&verdict);
            verdicts.push(verdict);
            if enough {
                break;
            }
        }
        tasks.shutdown().await;
        verdicts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Report { verdicts, took: began.elapsed() })
    }

    /// One case. Its folder stays if something is wrong, or if it is to be kept.
    ///
    /// # Errors
    /// When the harness itself cannot go on.
    pub async fn case(&self, workload: &Workload, name: &CaseName, expected: &Summary, keep: bool) -> Result<Verdict> {
        let namespace = self.namespace(workload);
        let case =
            case::run(&self.setup, workload, &namespace, &name.strikes).await.with_context(|| name.to_string())?;
        let violations = case.violations(workload, &name.strikes, Some(expected));
        let folder = self.setup.folder.join(&namespace);
        if violations.is_empty() && !keep {
            fs::remove_dir_all(&folder)?;
        } else {
            case::keep(&folder, &case.history)?;
            fs::write(folder.join("case.txt"), account(name, &case, &violations))?;
        }
        Ok(Verdict { name: name.clone(), struck: case.history.faults(), violations, took: case.took })
    }
}

/// What a person wants to read first.
fn account(name: &CaseName, case: &Case, violations: &[Violation]) -> String {
    let mut text = format!("{name}\n");
    for violation in violations {
        text += &format!("  {violation}\n");
    }
    for entry in &case.history.entries {
        let at = entry.at.as_secs_f64();
        let line = match &entry.what {
            What::Request(request) => {
                let number = request.write.map_or_else(String::new, |write| format!(" #{write}"));
                format!(
                    "operator {} asks{number} {} (request {})",
                    request.process,
                    shown(&request.method, &request.path),
                    request.id
                )
            }
            What::Reply(reply) => format!("  {} to request {}", reply.status, reply.id),
            What::Watched { process, event, object } => format!("  operator {process} is shown {event} {object}"),
            What::Version(version) => {
                let (name, phase) = (version.name(), &version.object["status"]["phase"]);
                format!("    {:?} {name}@{} {:?} {phase}", version.kind, version.revision(), version.change)
            }
            What::RunnerEnded { pod, code, .. } => format!("runner of {pod} ended with {code}"),
            What::RunnerStarted { pod, .. } => format!("runner of {pod} started"),
            other => format!("{other:?}"),
        };
        text += &format!("{at:8.3} {line}\n");
    }
    text
}

/// A request without what differs from case to case.
#[must_use]
pub fn shown(method: &str, path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    if let Some(at) = parts.iter().position(|part| *part == "namespaces") {
        parts.drain(..(at + 2).min(parts.len()));
    }
    format!("{method} {}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Fault, Place};
    use super::*;

    fn verdict(write: u32, fault: Fault, struck: usize, violations: usize) -> Verdict {
        let violation = Violation { invariant: "I1", what: "two".into() };
        Verdict {
            name: CaseName::one("chain5", Place::Write(write), fault),
            struck,
            violations: vec![violation; violations],
            took: Duration::from_secs(u64::from(write)),
        }
    }

    #[test]
    fn cases_are_summed_up_by_class_and_fault() {
        let verdicts = vec![
            verdict(1, Fault::KillBefore, 1, 0),
            verdict(2, Fault::KillBefore, 0, 0),
            verdict(1, Fault::KillAfterReply, 1, 2),
        ];
        let report = Report { verdicts, took: Duration::from_secs(7) };
        assert_eq!(
            report.lines(),
            [
                "faults: class A KillAfterReply: 1 cases, 1 reached, 1.0 s each, 1.0 s at most",
                "faults: class A KillBefore: 2 cases, 1 reached, 2.0 s each, 2.0 s at most",
                "faults: all of it took 7 s",
            ]
        );
        assert_eq!((report.failures().count(), report.violations()), (1, 2));
    }

    #[test]
    fn requests_are_shown_without_their_namespace() {
        assert_eq!(shown("POST", "/api/v1/namespaces/f1-7/pods"), "POST pods");
        assert_eq!(shown("GET", "/api/v1/nodes"), "GET /api/v1/nodes");
    }
}
