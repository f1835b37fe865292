//! Whether every run came out right, and whether memory stayed.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::node::Seen;
use super::{STAGES, collection, expected};
use crate::faults::api::Api;

/// Pods of ended runs go by then.
const LIMIT: Duration = Duration::from_secs(60);
/// An object that grew with every run would cost more with every run, and one day be too large for the API server.
const OWNERS: usize = 48;
/// How much a process may grow that keeps nothing: allocators give back in their own time.
const ALLOWED: (f64, u64) = (1.05, 2 << 20);

/// What is wrong with the runs; nothing, if all is well.
#[derive(Debug, Default)]
pub struct Judgement {
    /// A sentence each.
    pub wrong: Vec<String>,
}

/// Looks at every run as it is in the end, beside what the node has seen.
pub(super) async fn judge(api: &Api, namespace: &str, runs: usize, seen: &Seen) -> Result<Judgement> {
    let mut wrong = seen.wrong.clone();
    let pods = format!("/api/v1/namespaces/{namespace}/pods?limit=1");
    let gone = async {
        while api.get(&pods).await?["items"].as_array().is_some_and(|items| !items.is_empty()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    match tokio::time::timeout(LIMIT, gone).await {
        Ok(gone) => gone?,
        Err(_) => wrong.push(format!("Pods of ended runs are still there after {LIMIT:?}")),
    }
    let revisions = format!("/apis/apps/v1/namespaces/{namespace}/controllerrevisions");
    for revision in api.get(&revisions).await?["items"].as_array().into_iter().flatten() {
        let owners = revision["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
        if owners > OWNERS {
            wrong.push(format!("ControllerRevision {} has {owners} owners", revision["metadata"]["name"]));
        }
    }
    for number in 0..runs {
        let name = format!("run-{number}");
        let run = api.get(&format!("{}/{name}", collection(namespace, "pipelineruns"))).await?;
        let kills = |stage: &str| seen.kills(run["metadata"]["uid"].as_str().unwrap_or_default(), stage);
        wrong.extend(of_run(&run, kills).map(|what| format!("{name}: {what}")));
    }
    Ok(Judgement { wrong })
}

/// What is wrong if the operator still remembers runs when all have ended.
pub(super) async fn forgotten(remembered: impl Fn() -> Result<u64>) -> Result<Option<String>> {
    let end = Instant::now() + LIMIT;
    while remembered()? > 0 {
        if Instant::now() > end {
            return Ok(Some(format!("the operator remembers {} runs after all have ended", remembered()?)));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(None)
}

/// What is wrong with one run, if anything is.
fn of_run(run: &Value, kills: impl Fn(&str) -> u64) -> Option<String> {
    let status = &run["status"];
    if status["phase"] != "Succeeded" || status["progress"] != format!("{STAGES}/{STAGES}") {
        return Some(format!("{} {}: {}", status["phase"], status["progress"], status["message"]));
    }
    let rows = status["stages"].as_array()?;
    if rows.len() != STAGES {
        return Some(format!("{} rows", rows.len()));
    }
    rows.iter().find_map(|row| {
        let name = row["name"].as_str().unwrap_or_default();
        let (kills, infra) = (kills(name), row["failures"]["infra"].as_u64().unwrap_or(0));
        let right = row["phase"] == "Succeeded"
            && row["results"]["n"] == expected(name)
            && row["attempt"] == kills + 1
            && infra == kills
            && row["failures"]["user"].as_u64().unwrap_or(0) == 0;
        (!right).then(|| format!("stage {name}, whose Pods were killed {kills} times: {row}"))
    })
}

/// The operator's memory from run to run.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    samples: Vec<u64>,
}

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

impl Growth {
    pub(super) fn push(&mut self, bytes: u64) {
        self.samples.push(bytes);
    }

    /// One each time that a run had ended.
    #[must_use]
    pub fn samples(&self) -> &[u64] {
        &self.samples
    }

    pub(super) fn last(&self) -> Bytes {
        Bytes(self.samples.last().copied().unwrap_or_default())
    }

    /// The most before a fifth of the runs had ended, and the most in the last fifth.
    #[must_use]
    pub fn early_and_late(&self) -> (Bytes, Bytes) {
        let fifth = self.samples.len() / 5;
        let most = |samples: &[u64]| Bytes(samples.iter().copied().max().unwrap_or_default());
        (most(&self.samples[..fifth.max(1).min(self.samples.len())]), most(&self.samples[self.samples.len() - fifth..]))
    }

    /// Whether it has stayed what it was.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes of one process"
    )]
    pub fn is_flat(&self) -> bool {
        let (early, late) = self.early_and_late();
        late.0 <= (early.0 as f64 * ALLOWED.0) as u64 + ALLOWED.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(change: impl Fn(&mut Value)) -> Value {
        let row = |number: usize| json!({"name": super::super::stage(number), "phase": "Succeeded", "attempt": 1, "results": {"n": number}});
        let rows: Vec<Value> = (0..STAGES).map(row).collect();
        let mut run = json!({"status": {"phase": "Succeeded", "progress": "10/10", "stages": rows}});
        change(&mut run["status"]);
        run
    }

    #[test]
    fn a_run_is_right_when_every_stage_counted_once() {
        assert_eq!(of_run(&run(|_| {}), |_| 0), None);
        let repeated = |status: &mut Value| {
            status["stages"][3]["attempt"] = json!(2);
            status["stages"][3]["failures"] = json!({"infra": 1, "user": 0});
        };
        assert_eq!(of_run(&run(repeated), |stage| u64::from(stage == "s3")), None);
        let wrong: [&dyn Fn(&mut Value); 6] = [
            &|status| status["phase"] = json!("Failed"),
            &|status| status["progress"] = json!("9/10"),
            &|status| status["stages"][0]["results"]["n"] = json!(1),
            &|status| status["stages"][9]["phase"] = json!("Skipped"),
            &|status| status["stages"][5]["failures"] = json!({"user": 1}),
            &repeated,
        ];
        for change in wrong {
            assert!(of_run(&run(change), |_| 0).is_some());
        }
    }

    #[test]
    fn memory_that_grows_with_every_run_is_not_flat() {
        let growth = |bytes: &dyn Fn(u64) -> u64| Growth { samples: (0..1000).map(bytes).collect() };
        assert!(growth(&|_| 20 << 20).is_flat());
        // 8 KiB a run would be 8 MiB.
        assert!(!growth(&|run| (20 << 20) + run * 8_192).is_flat());
        assert!(growth(&|run| (20 << 20) + (run % 7) * 100_000).is_flat());
        assert_eq!(Growth { samples: vec![1, 2, 3] }.early_and_late().0, Bytes(1));
    }
}
