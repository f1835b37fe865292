//! t1: a training of four ranks on the real kubelet: from the create of the job until the program of every rank runs; and from the
//! moment that somebody deletes one rank's Pod until the program of every rank of the next attempt runs.
//!
//! The programs say when they were started, and then wait for TERM, which ends them at once. Both runs of the group are of one
//! job: the second one is what a failure costs, with the end of all Pods of the first one in it.

use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use serde_json::json;
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{JobPhase, TrainingJob};

use super::graphs::Mount;
use super::row::Row;
use super::world::{Namespace, World};
use super::{Error, Turns, arms};

const ID: &str = "t1";
const RANKS: usize = 4;
const NAME: &str = "group";
/// Seconds from the deletion of a rank to the last program of the next attempt, at most.
const RESTART_GOAL: f64 = 5.0;
const MOUNTS: [Mount; 2] = [Mount::Image, Mount::Init];
/// How often a job is asked for its phase: rare beside what the operator asks.
const GLANCE: Duration = Duration::from_millis(250);
const LIMIT: Duration = Duration::from_secs(120);

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let mut starts = [Vec::new(), Vec::new()];
    let mut restarts = [Vec::new(), Vec::new()];
    for (round, index) in Turns::new(repeat, MOUNTS.len()) {
        arms::Arm { engine: arms::Engine::Trainyard, mount: MOUNTS[index] }.prepare(world)?;
        let namespace = world.namespace(&format!("bench-t1-{round}-{index}"))?;
        let took = group(world, &namespace)?;
        starts[index].push(took.start);
        restarts[index].push(took.restart);
    }
    let mut rows = Vec::new();
    for (index, mount) in MOUNTS.into_iter().enumerate() {
        let name = |what: &str| format!("{what}, {RANKS} ranks, {}", mount.words());
        rows.push(Row::new(ID, &name("create to all programs"), "s", &starts[index])?);
        let restart = Row::new(ID, &name("a rank deleted to all programs of the next attempt"), "s", &restarts[index])?;
        rows.push(restart.at_most(RESTART_GOAL));
    }
    Ok(rows)
}

/// What one job took, in seconds.
struct Took {
    start: f64,
    restart: f64,
}

fn group(world: &World, namespace: &Namespace<'_>) -> Result<Took, Error> {
    let job = TrainingJob::new(NAME, serde_json::from_value(spec(&world.stamp))?);
    let api: Api<TrainingJob> = Api::namespaced(namespace.client(), &namespace.name);
    let mark = world.audit.mark()?;
    world.wait(api.create(&PostParams::default(), &job))?;
    let started = world.wait(started(namespace, &api, 1))?;
    let victim = started.pods.last().cloned().unwrap_or_default();
    world.wait(namespace.pods().delete(&victim, &DeleteParams::default()))?;
    let again = world.wait(self::started(namespace, &api, 2))?;
    let events = world.audit.since(mark)?;
    let begun = arms::begun(&events, &namespace.name, "trainingjobs")?;
    let deletions = events.iter().filter(|event| event.verb == "delete" && event.name == victim);
    let deleted = deletions
        .map(|event| event.received)
        .min_by(f64::total_cmp)
        .ok_or_else(|| Error::NotInAudit(format!("the deletion of {victim}")))?;
    Ok(Took { start: started.last - begun, restart: again.last - deleted })
}

/// A job whose ranks run until they are told to end.
fn spec(image: &str) -> serde_json::Value {
    json!({
        "framework": "None",
        "gracePeriod": "5s",
        "roles": [{
            "name": "worker", "replicas": RANKS,
            "container": {"image": image, "command": ["/trainyard-stamp", "-", "stay"]},
        }],
    })
}

/// An attempt all of whose programs run.
struct Started {
    /// Names of its Pods, by rank.
    pods: Vec<String>,
    /// When the last program was started, in seconds since 1970.
    last: f64,
}

async fn started(namespace: &Namespace<'_>, api: &Api<TrainingJob>, attempt: u32) -> Result<Started, Error> {
    let began = Instant::now();
    loop {
        let status = api.get(NAME).await?.status.unwrap_or_default();
        if status.phase.is_some_and(JobPhase::is_terminal) {
            let phase = status.phase.unwrap_or_default().as_str();
            return Err(Error::Run { run: NAME.to_owned(), phase, message: status.message });
        }
        if status.attempt == Some(attempt)
            && status.phase == Some(JobPhase::Running)
            && let Some(started) = stamps(namespace, attempt).await?
        {
            return Ok(started);
        }
        if began.elapsed() > LIMIT {
            return Err(Error::Slow { what: format!("attempt {attempt} of a training"), limit: LIMIT });
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// When the programs of an attempt were started, by their own word; `None` before all have said it.
async fn stamps(namespace: &Namespace<'_>, attempt: u32) -> Result<Option<Started>, Error> {
    let selected = ListParams::default().labels(&format!("{}={attempt}", labels::ATTEMPT));
    let mut pods: Vec<(usize, String)> = Vec::new();
    for pod in namespace.pods().list(&selected).await?.items {
        let rank = pod.metadata.labels.as_ref().and_then(|labels| labels.get(labels::RANK)?.parse().ok());
        pods.extend(rank.zip(pod.metadata.name));
    }
    pods.sort_unstable();
    let mut last = 0.0_f64;
    for (_, name) in &pods {
        let text = namespace.pods().logs(name, &LogParams::default()).await?;
        let Some(stamp) = text.lines().find_map(arms::stamp) else { return Ok(None) };
        last = last.max(stamp);
    }
    let pods: Vec<String> = pods.into_iter().map(|(_, name)| name).collect();
    Ok((pods.len() == RANKS).then_some(Started { pods, last }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_crds::v1alpha1::TrainingJobSpec;

    #[test]
    fn the_job_is_one_that_the_api_knows() {
        let spec: TrainingJobSpec = serde_json::from_value(spec("image")).unwrap();
        assert_eq!(spec.training.roles[0].replicas, 4);
    }
}
