//! t2: what a training of 1,000 ranks asks of the API server, on KWOK: requests for each rank from the create of the job until it
//! needs no more work, and how often its status is written.
//!
//! The Pods only exist in the API. When all run, rank 0 is given the end that its runner would tell; then the operator takes the
//! others away.

use std::time::{Duration, Instant};

use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use trainyard_crds::labels;
use trainyard_crds::v1alpha1::{JobPhase, TrainingJob};

use super::audit::Event;
use super::operator::{self, Operator};
use super::row::Row;
use super::stats::count;
use super::world::{Namespace, World};
use super::{Error, arms, graphs};

const ID: &str = "t2";
const RANKS: usize = 1000;
const NAME: &str = "large";
/// Requests of the operator for each rank, at most.
const REQUESTS_GOAL: f64 = 3.0;
const GLANCE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(900);

/// Measures it `repeat` times.
pub fn measure(world: &World, repeat: usize) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let _operator = Operator::start(world, &operator::kubeconfig(world, folder.path())?)?;
    let (mut requests, mut writes, mut created) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..repeat {
        let namespace = world.namespace(&format!("bench-t2-{round}"))?;
        let events = train(world, &namespace)?;
        let ours: Vec<&Event> = events.iter().filter(|event| event.user == operator::USER).collect();
        requests.push(count(ours.len()) / count(RANKS));
        writes.push(count(ours.iter().filter(|event| event.resource == "trainingjobs/status").count()));
        created.push(last_create(&ours)? - arms::begun(&events, &namespace.name, "trainingjobs")?);
    }
    Ok(vec![
        Row::new(ID, "1,000 ranks on KWOK, requests a rank", "requests", &requests)?.at_most(REQUESTS_GOAL),
        Row::new(ID, "1,000 ranks on KWOK, writes of the job's status", "writes", &writes)?,
        Row::new(ID, "1,000 ranks on KWOK, create of the job to create of the last Pod", "s", &created)?,
    ])
}

/// One job from its create until it has succeeded and only rank 0's Pod is there; what was asked of the API server meanwhile.
fn train(world: &World, namespace: &Namespace<'_>) -> Result<Vec<Event>, Error> {
    let job = TrainingJob::new(NAME, serde_json::from_value(spec()?)?);
    let api: Api<TrainingJob> = Api::namespaced(namespace.client(), &namespace.name);
    let mark = world.audit.mark()?;
    world.wait(api.create(&PostParams::default(), &job))?;
    world.wait(until(&api, "1,000 ranks to run", |job| phase(job) == Some(JobPhase::Running)))?;
    world.wait(end_rank_0(namespace))?;
    world.wait(until(&api, "the end of a training of 1,000 ranks", |job| phase(job) == Some(JobPhase::Succeeded)))?;
    world.wait(left(namespace))?;
    world.audit.since(mark)
}

fn phase(job: &TrainingJob) -> Option<JobPhase> {
    job.status.as_ref()?.phase
}

async fn until(api: &Api<TrainingJob>, what: &str, done: impl Fn(&TrainingJob) -> bool) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let job = api.get(NAME).await?;
        if done(&job) {
            return Ok(());
        }
        if phase(&job) == Some(JobPhase::Failed) {
            let message = job.status.map(|status| status.message).unwrap_or_default();
            return Err(Error::Run { run: NAME.to_owned(), phase: "Failed", message });
        }
        if began.elapsed() > LIMIT {
            return Err(Error::Slow { what: what.to_owned(), limit: LIMIT });
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Rank 0's program ends well, and its runner has committed.
async fn end_rank_0(namespace: &Namespace<'_>) -> Result<(), Error> {
    let selected = ListParams::default().labels(&format!("{}=0", labels::RANK));
    for pod in namespace.pods().list_metadata(&selected).await?.items {
        let name = pod.metadata.name.unwrap_or_default();
        namespace.pods().patch_status(&name, &PatchParams::default(), &Patch::Merge(graphs::ended_well()?)).await?;
    }
    Ok(())
}

/// Waits until the Pods of all ranks but rank 0 are gone. Rank 0's stays for as long as ended Pods do.
async fn left(namespace: &Namespace<'_>) -> Result<(), Error> {
    let began = Instant::now();
    while namespace.pods().list_metadata(&ListParams::default()).await?.items.len() > 1 {
        if began.elapsed() > LIMIT {
            return Err(Error::Slow { what: "the Pods of a training of 1,000 ranks to go".to_owned(), limit: LIMIT });
        }
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// When the last Pod's create was received.
fn last_create(events: &[&Event]) -> Result<f64, Error> {
    let creates = events.iter().filter(|event| event.resource == "pods" && event.verb == "create");
    let last = creates.map(|event| event.received).max_by(f64::total_cmp);
    last.ok_or_else(|| Error::NotInAudit(format!("the creates of {RANKS} Pods")))
}

/// A job whose Pods only exist in the API and run until somebody ends them.
fn spec() -> Result<Value, Error> {
    let stage = graphs::endless_stage()?;
    Ok(json!({
        "framework": "None",
        "startTimeout": "30m",
        "roles": [{"name": "worker", "replicas": RANKS, "container": stage["container"], "pod": stage["pod"]}],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_crds::v1alpha1::TrainingJobSpec;

    #[test]
    fn the_job_is_one_that_the_api_knows() {
        let spec: TrainingJobSpec = serde_json::from_value(spec().unwrap()).unwrap();
        assert_eq!(spec.training.roles[0].replicas, 1000);
    }
}
