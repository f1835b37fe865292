//! The sweep: a run without a fault to count the writes, then one case for each write and fault, several at a time.

use super::case::{self, Case, Setup};
use super::fault::{CaseName, Fault};
use super::history::What;
use super::invariants::{Summary, Violation};
use super::proxy::Plan;
use super::workload::Workload;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The variable that names the only case to run.
pub const ENV_CASE: &str = "TRAINYARD_FAULT";

/// What is known of a workload after its run without a fault.
#[derive(Clone, Debug)]
pub struct Learned {
    /// How many writes the operator needed.
    pub writes: u32,
    /// How it ended.
    pub summary: Summary,
    /// How long it took.
    pub took: Duration,
    /// What each write was, from the first.
    pub list: Vec<String>,
}

/// What came of one case of a sweep.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which case.
    pub name: CaseName,
    /// Whether the fault took place: a run may need fewer writes than the one that was counted.
    pub faulted: bool,
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// How long it took.
    pub took: Duration,
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
    /// Takes in another report.
    pub fn extend(&mut self, other: Self) {
        self.verdicts.extend(other.verdicts);
        self.took += other.took;
    }

    /// The cases in which something is wrong.
    pub fn failures(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.violations.is_empty())
    }

    /// The last lines of a sweep: cases by class and fault, and the sum.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut kinds: BTreeMap<(&str, Fault), Vec<&Verdict>> = BTreeMap::new();
        for verdict in &self.verdicts {
            kinds.entry((&verdict.name.workload, verdict.name.fault)).or_default().push(verdict);
        }
        let mut lines: Vec<String> = kinds
            .into_iter()
            .map(|((workload, fault), verdicts)| {
                let reached = verdicts.iter().filter(|verdict| verdict.faulted).count();
                let mut times: Vec<f64> = verdicts.iter().map(|verdict| verdict.took.as_secs_f64()).collect();
                times.sort_by(f64::total_cmp);
                let (middle, most) = (times[times.len() / 2], times[times.len() - 1]);
                format!(
                    "faults: class {} {workload} {fault:?}: {} cases, {reached} reached, {middle:.1} s each, {most:.1} s at most",
                    fault.class(),
                    verdicts.len(),
                )
            })
            .collect();
        lines.push(format!("faults: all of it took {:.0} s", self.took.as_secs_f64()));
        let violations: usize = self.verdicts.iter().map(|verdict| verdict.violations.len()).sum();
        lines.push(format!("faults: {} cases, {violations} violations", self.verdicts.len()));
        lines
    }
}

/// A sweep over one workload.
pub struct Sweep {
    setup: Setup,
    workload: Workload,
    /// Distinguishes the namespaces of this sweep from those of others on the same cluster.
    prefix: String,
    /// Cases at the same time.
    together: usize,
}

impl Sweep {
    /// The workload.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// A sweep with `together` cases at the same time.
    #[must_use]
    pub fn new(setup: Setup, workload: Workload, together: usize) -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let prefix = format!("f{since}-{}", workload.name);
        Self { setup, workload, prefix, together }
    }

    /// The run without a fault.
    ///
    /// # Errors
    /// When it does not end well: then there is nothing to compare with.
    pub async fn learn(&self) -> Result<Learned> {
        let namespace = format!("{}-learn", self.prefix);
        let case = case::run(&self.setup, &self.workload, &namespace, None).await?;
        let violations = case.violations(&self.workload, None);
        let summary = Summary::of(&case.history);
        let folder = self.setup.folder.join(&namespace);
        if !violations.is_empty() || summary.run[0] != "Succeeded" || !case.settled {
            let path = case::keep(&folder, &case.history)?;
            let list: String = violations.iter().map(|violation| format!("\n  {violation}")).collect();
            bail!("the run without a fault: {summary}{list}\n  see {}", path.display());
        }
        fs::remove_dir_all(&folder)?;
        let list: Vec<String> =
            case.history.writes().iter().map(|write| shown(&write.request.method, &write.request.path)).collect();
        let writes = u32::try_from(list.len())?;
        Ok(Learned { writes, summary, took: case.took, list })
    }

    /// Every case of these faults. `told` hears of each case as it ends.
    ///
    /// # Errors
    /// When the harness itself cannot go on.
    pub async fn run(self: Arc<Self>, learned: &Learned, faults: &[Fault], told: impl Fn(&Verdict)) -> Result<Report> {
        let began = Instant::now();
        let room = Arc::new(Semaphore::new(self.together));
        let mut tasks = JoinSet::new();
        for write in 1..=learned.writes {
            for fault in faults.iter().copied() {
                let name = CaseName { workload: self.workload.name.to_owned(), write, fault };
                let (sweep, room, expected) = (Arc::clone(&self), Arc::clone(&room), learned.summary.clone());
                tasks.spawn(async move {
                    let _turn = room.acquire_owned().await?;
                    sweep.case(&name, &expected, false).await
                });
            }
        }
        let mut verdicts = Vec::new();
        while let Some(verdict) = tasks.join_next().await {
            let verdict = verdict??;
            told(&verdict);
            verdicts.push(verdict);
        }
        verdicts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Report { verdicts, took: began.elapsed() })
    }

    /// One case. Its folder stays if something is wrong, or if it is to be kept.
    ///
    /// # Errors
    /// When the harness itself cannot go on.
    pub async fn case(&self, name: &CaseName, expected: &Summary, keep: bool) -> Result<Verdict> {
        let CaseName { write, fault, .. } = *name;
        let namespace = format!("{}-{write}-{}", self.prefix, format!("{fault:?}").to_lowercase());
        let case = case::run(&self.setup, &self.workload, &namespace, Some(Plan { write, fault })).await?;
        let violations = case.violations(&self.workload, Some(expected));
        let folder = self.setup.folder.join(&namespace);
        if violations.is_empty() && !keep {
            fs::remove_dir_all(&folder)?;
        } else {
            case::keep(&folder, &case.history)?;
            fs::write(folder.join("case.txt"), account(name, &case, &violations))?;
        }
        Ok(Verdict { name: name.clone(), faulted: case.history.faulted(), violations, took: case.took })
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
fn shown(method: &str, path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    if let Some(at) = parts.iter().position(|part| *part == "namespaces") {
        parts.drain(..(at + 2).min(parts.len()));
    }
    format!("{method} {}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(write: u32, fault: Fault, faulted: bool, violations: usize) -> Verdict {
        let violation = Violation { invariant: "I1", what: "two".into() };
        Verdict {
            name: CaseName { workload: "chain3".into(), write, fault },
            faulted,
            violations: vec![violation; violations],
            took: Duration::from_secs(u64::from(write)),
        }
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let verdicts = vec![
            verdict(1, Fault::KillBefore, true, 0),
            verdict(2, Fault::KillBefore, false, 0),
            verdict(1, Fault::KillAfterReply, true, 2),
        ];
        let report = Report { verdicts, took: Duration::from_secs(7) };
        assert_eq!(
            report.lines(),
            [
                "faults: class A chain3 KillBefore: 2 cases, 1 reached, 2.0 s each, 2.0 s at most",
                "faults: class A chain3 KillAfterReply: 1 cases, 1 reached, 1.0 s each, 1.0 s at most",
                "faults: all of it took 7 s",
                "faults: 3 cases, 2 violations",
            ]
        );
        assert_eq!(report.failures().count(), 1);
    }

    #[test]
    fn requests_are_shown_without_their_namespace() {
        assert_eq!(shown("POST", "/api/v1/namespaces/f1-7/pods"), "POST pods");
        assert_eq!(shown("GET", "/api/v1/nodes"), "GET /api/v1/nodes");
    }
}
