//! One case: a namespace, an operator behind its proxy, a kubelet, one run, and the faults.

use super::api::Api;
use super::fault::{CaseName, Expected, Fault, Place, Strike};
use super::history::{History, Kind, Recorder, Version, What, World, is_ours, is_task};
use super::invariants::{self, Evidence, Files, Summary, Violation};
use super::kubelet::{self, Kubelet, Runners};
use super::monkey::Monkey;
use super::observer::{Observer, collection};
use super::operator::{self, Killer, Operator, Reports};
use super::proxy::{Proxy, Scene};
use super::report_proxy::ReportProxy;
use super::store::{self, Commit};
use super::store_proxy::StoreProxy;
use super::user::{DOWNSTREAM, User, has_ended};
use super::workload::{Starts, Workload};
use crate::store::{BUCKET, LocalVersity};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A case that has not come to its end by then, beyond what its faults hold up, is stuck.
const LIMIT: Duration = Duration::from_secs(60);
/// What follows the end (Pods go, the Pipeline hears of it) has this long. It is judged as it is then.
const SETTLE: Duration = Duration::from_secs(5);
/// Succeeded Pods go at once when their run has ended, so that this is a part of every case.
const POD_TTL: &str = "0s";
/// A container's end is seen so much later; until then the early report is all that the operator has.
const SHOWN_AFTER: Duration = Duration::from_millis(150);
/// The name of the run or job.
const RUN: &str = "run";

/// What all cases have in common.
#[derive(Clone)]
pub struct Setup {
    /// The API server.
    pub api: Api,
    /// The S3 server.
    pub store: Arc<LocalVersity>,
    /// The operator.
    pub operator: PathBuf,
    /// The step-runner.
    pub runner: PathBuf,
    /// Every case has a folder below this.
    pub folder: PathBuf,
    /// The mistake that is planted in both.
    pub mutant: Option<&'static str>,
    /// How long the operator is watched after the end, in which it must write nothing.
    pub rest: Duration,
}

/// What came of a case.
#[derive(Debug)]
pub struct Case {
    /// All that happened.
    pub history: History,
    /// What lies in the store.
    pub commits: Vec<Commit>,
    /// What the case left on disk.
    pub files: Files,
    /// Why it did not come to an end.
    pub stuck: Option<String>,
    /// Whether its Pods went and its Pipeline heard of the end.
    pub settled: bool,
    /// From the first request to the end.
    pub took: Duration,
    /// How many places there are for faults.
    pub places: Places,
}

/// How many places a run has for faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Writes of the operator.
    pub writes: u32,
    /// Events of its watches.
    pub events: u32,
    /// Pods of ours.
    pub pods: u32,
    /// Requests to the S3 server.
    pub store: u32,
    /// Early reports.
    pub reports: u32,
}

impl Case {
    /// What is wrong.
    #[must_use]
    pub fn violations(&self, workload: &Workload, strikes: &[Strike], expected: Option<&Summary>) -> Vec<Violation> {
        let stuck = self.stuck.iter().map(|what| Violation { invariant: "end", what: what.clone() });
        let tolerated = strikes.iter().map(|strike| strike.fault.expected()).max().unwrap_or(Expected::Same);
        let evidence = Evidence {
            workload,
            history: &self.history,
            commits: &self.commits,
            files: &self.files,
            expected,
            tolerated,
            strikes,
        };
        stuck.chain(invariants::check(evidence)).collect()
    }
}

/// Runs a workload in a namespace of its own, with these faults.
///
/// # Errors
/// When the harness itself cannot go on. That the operator does not get to the end is no error: it is what [`Case::stuck`] says.
pub async fn run(setup: &Setup, workload: &Workload, namespace: &str, strikes: &[Strike]) -> Result<Case> {
    let folder = setup.folder.join(namespace);
    let pods = folder.join("pods");
    let store = if workload.bucket {
        setup.store.root().join(BUCKET).join("runs").join(namespace)
    } else {
        folder.join("store")
    };
    let data = setup.store.root().join(BUCKET).join("data").join(namespace);
    if workload.looks() {
        fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        fs::write(data.join("first.csv"), "1\n")?;
    }
    for path in [&store, &pods] {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    }
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    setup.api.create("/api/v1/namespaces", &object).await?;

    let recorder = Recorder::default();
    let runners = Arc::new(Runners::default());
    let (observer, seen) = Observer::start(&setup.api, namespace, &recorder).await?;
    let way = Arc::new(StoreProxy::new(&setup.store.endpoint, strikes, &runners, &recorder));
    let options = kubelet::Options {
        namespace: namespace.to_owned(),
        runner: setup.runner.clone(),
        store: store.clone(),
        folder: pods,
        shown_after: SHOWN_AFTER,
        bucket: workload.bucket.then(|| (Arc::clone(&way), (**setup.store).clone())),
        cut_files: strikes.iter().copied().filter(|strike| strike.fault == Fault::CutFile).collect(),
        mutant: setup.mutant,
    };
    let kubelet = Kubelet::start(setup.api.clone(), options, recorder.clone(), Arc::clone(&runners), seen);
    let monkey = Monkey::start(&setup.api, namespace, strikes, &runners, &recorder);
    let port = operator::free_port()?;
    let reports = ReportProxy::start(port, strikes, &recorder).await?;
    let scene = Scene::new(setup.api.clone(), recorder.clone(), strikes);
    let mut operators = Vec::new();
    // One operator, or two of which one leads.
    let elects = strikes.iter().any(|strike| strike.fault.class() == 'F');
    for number in 0..if elects { 2 } else { 1 } {
        let (killer, kills) = Killer::of(number);
        let proxy = Proxy::start(Arc::clone(&scene), killer).await?;
        let kubeconfig = folder.join(format!("kubeconfig-{number}"));
        proxy.write_kubeconfig(&kubeconfig)?;
        let options = operator::Options {
            program: setup.operator.clone(),
            namespace: namespace.to_owned(),
            kubeconfig,
            logs: folder.clone(),
            reports: match workload.early_reports && !elects {
                true => Reports::By(reports.address(), port),
                false => Reports::None,
            },
            candidate: elects.then(|| format!("operator-{number}")),
            mutant: setup.mutant,
            pod_ttl: POD_TTL.to_owned(),
        };
        operators.push((Operator::start(options, recorder.clone(), kills)?, proxy));
    }
    submit(&setup.api, workload, namespace).await?;
    let object = (subject(workload), RUN, workload.name);
    let user = workload
        .during
        .map(|during| User::start(setup.api.clone(), namespace, object, (during, &data), recorder.clone()));
    let held = workload.holds() + strikes.iter().map(|strike| strike.fault.holds()).sum::<Duration>();
    let ended = recorder
        .wait(LIMIT + held, "the run to end, its label and its last runner", |world| end(world, workload))
        .await;
    // Whether it comes to this is for the invariants to say.
    let what = "Pods to go and the Pipeline to hear of it";
    let settled = ended.is_ok() && recorder.wait(SETTLE + held, what, |world| settled(world, workload)).await.is_ok();
    let took = recorder.elapsed();
    if !setup.rest.is_zero()
        && let Some((operator, _)) = operators.first()
    {
        let reconciles = operator.reconciles().await?;
        recorder.push(What::Rest { reconciles });
        // That nothing comes can only be seen by waiting for it.
        tokio::time::sleep(setup.rest).await;
    }
    for (operator, _) in operators.drain(..) {
        operator.stop().await;
    }
    drop((user, monkey, kubelet, observer));
    let history = recorder.history();
    if let Some(trouble) = history.entries.iter().find_map(|entry| match &entry.what {
        What::Trouble(text) if ended.is_err() => Some(text),
        _ => None,
    }) {
        keep(&folder, &history)?;
        anyhow::bail!("{trouble}; see {}", folder.display());
    }
    let commits = store::commits(&store, &recorder)?;
    let files = Files::read(&folder, &store, &setup.store.secret_key)?;
    let places = places(&history, &way, &reports)?;
    if workload.bucket {
        let _ = fs::remove_dir_all(&store);
        let _ = fs::remove_dir_all(&data);
    }
    tidy(&setup.api, namespace).await;
    Ok(Case { history, commits, files, stuck: ended.err().map(|error| error.to_string()), settled, took, places })
}

fn places(history: &History, way: &StoreProxy, reports: &ReportProxy) -> Result<Places> {
    let pods: BTreeSet<&str> = history
        .all_versions()
        .filter(|version| version.kind == Kind::Pod && (is_ours(&version.object) || is_task(&version.object)))
        .map(Version::name)
        .collect();
    let counted = |event: &str, object: &str| {
        !matches!(event, "BOOKMARK" | "ERROR")
            && Kind::ALL.iter().any(|kind| object.split(' ').next() == Some(kind.word()))
    };
    let events = history
        .entries
        .iter()
        .filter(|entry| matches!(&entry.what, What::Watched { event, object, .. } if counted(event, object)));
    Ok(Places {
        writes: u32::try_from(history.writes().len())?,
        events: u32::try_from(events.count())?,
        pods: u32::try_from(pods.len())?,
        store: way.requests(),
        reports: reports.reports(),
    })
}

/// Takes the objects of a case away, so that later ones do not stand in a full API server. What is left then is no harm.
async fn tidy(api: &Api, namespace: &str) {
    let force = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    let revisions = format!("/apis/apps/v1/namespaces/{namespace}/controllerrevisions");
    let events = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let services = format!("/api/v1/namespaces/{namespace}/services");
    // What owns others goes first.
    let kinds = [Kind::Run, Kind::Pipeline, Kind::Job, Kind::Pod].map(|kind| collection(kind, namespace));
    for path in kinds.into_iter().chain([services, revisions, events]) {
        let _ = api.delete(&path, &force).await;
    }
}

/// Writes the history beside the logs of the case.
pub fn keep(folder: &Path, history: &History) -> Result<PathBuf> {
    let path = folder.join("history.jsonl");
    fs::write(&path, history.to_lines()).with_context(|| path.display().to_string())?;
    Ok(path)
}

async fn submit(api: &Api, workload: &Workload, namespace: &str) -> Result<()> {
    let mut spec = workload.job.as_ref().map_or(&workload.pipeline, |job| &job.spec).clone();
    if workload.bucket {
        spec["store"]["uri"] = format!("s3://{BUCKET}/runs/{namespace}").into();
    }
    if workload.looks() {
        spec["triggers"][0]["data"]["uri"] = format!("s3://{BUCKET}/data/{namespace}/").into();
    }
    if workload.job.is_some() {
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": RUN}, "spec": spec,
        });
        api.create(&collection(Kind::Job, namespace), &job).await?;
        return Ok(());
    }
    let mut pipeline = json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": workload.name},
        "spec": spec,
    });
    if workload.starts == Starts::Request {
        pipeline["metadata"]["annotations"] = json!({"trainyard.dev/rerun-requested-at": "now"});
    }
    let run = json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "PipelineRun",
        "metadata": {"name": RUN},
        "spec": {"pipelineRef": {"name": workload.name}},
    });
    api.create(&collection(Kind::Pipeline, namespace), &pipeline).await?;
    if let Some(spec) = &workload.downstream {
        (pipeline["metadata"]["name"], pipeline["spec"]) = (DOWNSTREAM.into(), spec.clone());
        api.create(&collection(Kind::Pipeline, namespace), &pipeline).await?;
    }
    if workload.starts == Starts::Run {
        api.create(&collection(Kind::Run, namespace), &run).await?;
    }
    Ok(())
}

/// The runs or the job that are followed; `None` as long as not all of them have been there.
fn followed<'a>(world: &'a World, workload: &Workload) -> Option<Vec<&'a serde_json::Value>> {
    match workload.starts {
        Starts::Run => world.object(subject(workload), RUN).map(|object| vec![object]),
        // What their names are follows from what started them. That there are no more is for the invariants to say.
        Starts::Trigger | Starts::Request => {
            let runs: Vec<_> = world.objects(Kind::Run).collect();
            let any_failed = runs.iter().any(|run| run["status"]["phase"] == "Failed");
            (runs.len() + world.deleted() >= workload.runs(any_failed)).then_some(runs)
        }
    }
}

/// The kind whose object is followed to its end.
fn subject(workload: &Workload) -> Kind {
    if workload.job.is_some() { Kind::Job } else { Kind::Run }
}

/// The runs or the job have ended and have left the operator's watch, and no runner is left.
fn end(world: &World, workload: &Workload) -> Option<()> {
    if world.runners() > 0 {
        return None;
    }
    if workload.end == "Deleted" {
        return (world.is_deleted(RUN) && !world.objects(Kind::Pod).any(is_ours)).then_some(());
    }
    let labelled = |object: &serde_json::Value| object["metadata"]["labels"]["trainyard.dev/finished"] == "true";
    let ended = |object: &serde_json::Value| has_ended(object) && labelled(object);
    (followed(world, workload)?.into_iter().all(ended) && world.objects(Kind::Job).all(labelled)).then_some(())
}

/// Their succeeded Pods are gone, and every Pipeline shows how they ended.
fn settled(world: &World, workload: &Workload) -> Option<()> {
    let stays = |pod: &serde_json::Value| {
        let labels = &pod["metadata"]["labels"];
        pod["status"]["phase"] == "Failed"
            || !["run-uid", "job-uid"].iter().any(|label| labels[format!("trainyard.dev/{label}")].is_string())
            || labels["foreign"].is_string()
    };
    if workload.job.is_some() {
        // Those that were asked to go are on their way.
        let rests = |pod: &serde_json::Value| stays(pod) && pod["metadata"]["deletionTimestamp"].is_null();
        return world.objects(Kind::Pod).all(rests).then_some(());
    }
    let heard = |pipeline: &serde_json::Value| {
        let (status, last) = (&pipeline["status"], &pipeline["status"]["lastRun"]);
        if workload.end == "Deleted" {
            return status["activeRuns"] == 0;
        }
        let run = last["name"].as_str().and_then(|name| world.object(Kind::Run, name));
        let entries: Vec<_> = status["revisions"].as_array().into_iter().flatten().collect();
        let on_record = workload.starts == Starts::Run
            || (!entries.is_empty() && entries.iter().all(|entry| entry["completed"].is_string()));
        let is_newest = run.is_some_and(|run| run["status"]["phase"] == last["phase"] && has_ended(run));
        is_newest && status["activeRuns"] == 0 && on_record
    };
    let kept = world.objects(Kind::Run).filter(|run| run["status"]["phase"] == "Succeeded").count() <= workload.keeps();
    let stay = workload.end == "Deleted" || world.objects(Kind::Pod).all(stays);
    (stay && kept && world.objects(Kind::Pipeline).all(heard)).then_some(())
}

/// The places of a case's name that exist in a run of so many.
#[must_use]
pub fn is_within(name: &CaseName, places: Places) -> bool {
    name.strikes.iter().all(|strike| match strike.place {
        Place::Write(number) => number <= places.writes,
        Place::Event(number) => number <= places.events,
        Place::Pod(number, _) => number <= places.pods,
        Place::Store(number) => number <= places.store,
        Place::Report(number) => number <= places.reports,
    })
}
