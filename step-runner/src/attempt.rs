//! One attempt, from the step's description to the exit code.
//!
//! ```text
//! is there a COMMIT? -> adopt it           run the program        commit -> early report
//! fetch the inputs  (at the same time)  ->  (probe the store)  ->  send outputs, log     -> termination message -> exit
//! ```
//!
//! Without a COMMIT the ledger is asked, if the step has one, before anything is done. A stage that publishes a model does that between
//! the inputs and the commit, see [`crate::publish`], and has no program.
//!
//! For a rank of a training there is more between the inputs and the program, and beside it: see [`crate::training`].

use std::path::Path;
use std::time::{Duration, SystemTime};

use step_protocol::{CheckpointName, Outcome, PublishSpec, StepReport, StepSpec, Text};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::environment::Environment;
use crate::exec::{Ended, Program};
use crate::failure::{Failure, say};
use crate::log::Log;
use crate::report::{self, TerminationLog};
use crate::stage_in::{self, Inputs, Record};
use crate::stage_out::{Publisher, commit};
use crate::stop::{Reason, Stop, Stopped};
use crate::store::{Opener, Store, StoreError};
use crate::training::Training;
use crate::{beneath, exec, layout, ledger, process, publish, runtime, training};

/// How long the probe of a store is waited for after a failure.
const PROBE_END: Duration = Duration::from_secs(2);
/// How long a log may take once everything else is done.
const LOG_LIMIT: Duration = Duration::from_secs(15);

/// Runs the attempt that the environment describes; the process's exit code.
pub fn run(environment: Environment) -> u8 {
    runtime::block_on(whole(environment, Instant::now()))
}

async fn whole(environment: Environment, since: Instant) -> Outcome {
    let termination = TerminationLog::open(&environment.termination_log);
    let spec = match StepSpec::from_env(&environment.spec) {
        Ok(spec) => spec,
        Err(error) => return say_and_end(termination, &Failure::config(error.to_string()).into_report(), &[]),
    };
    let declared = spec.metrics.clone();
    match Attempt::prepare(&spec, environment, since) {
        Ok(attempt) => attempt.finish(termination).await,
        Err(failure) => say_and_end(termination, &failure.into_report(), &declared),
    }
}

impl Failure {
    fn into_report(self) -> StepReport {
        report::failure(self, String::new())
    }
}

/// Says how it ended: to whoever reads the Pod's log, and to the kubelet.
fn say_and_end(termination: TerminationLog, report: &StepReport, declared: &[String]) -> Outcome {
    if report.outcome != Outcome::Succeeded {
        say!("{}: {}", report.outcome.as_str(), report.message);
    }
    match report.to_message(declared) {
        Ok(message) => termination.write(&message),
        Err(error) => say!("the report is not JSON: {error}"),
    }
    report.outcome
}

/// Why the attempt ended before it could succeed.
pub(crate) fn stopped(spec: &StepSpec, stopped: Stopped, doing: &str) -> Failure {
    match stopped.reason {
        Reason::Signal => Failure::new(
            Outcome::Disrupted,
            format!("the Pod was asked to stop {doing} and could not commit within its grace"),
        ),
        Reason::Timeout => Failure::new(
            Outcome::Timeout,
            format!(
                "the stage's timeout of {} s passed {doing}; raise `timeout` or give it less to do",
                spec.timeout_seconds.unwrap_or_default()
            ),
        ),
        Reason::Abandoned => Failure::new(Outcome::StoreUnsupported, format!("the attempt was given up {doing}")),
        Reason::Stalled => training::stalled(spec),
        Reason::NotListening => training::not_listening(spec),
    }
}

struct Attempt<'a> {
    spec: &'a StepSpec,
    environment: Environment,
    grace: Duration,
    stop: Stop,
    log: Log,
    opener: Opener,
    store: Store,
    root: std::os::fd::OwnedFd,
    training: Option<Training>,
}

/// What the program left, or that there was none to run.
enum Ran<'a> {
    Adopted(Record),
    Publishes(&'a PublishSpec),
    Ended(Ended, JoinHandle<Result<(), StoreError>>),
}

impl<'a> Attempt<'a> {
    fn prepare(spec: &'a StepSpec, environment: Environment, since: Instant) -> Result<Self, Failure> {
        let stop = Stop::listen(spec.timeout_seconds.map(Duration::from_secs), since)
            .map_err(|error| Failure::new(Outcome::RunnerError, format!("failed to listen for signals: {error}")))?;
        if let Some(Err(())) = environment.report_key {
            return Err(Failure::config(format!("{} is not hex", step_protocol::paths::ENV_REPORT_KEY)));
        }
        layout::prepare(spec)?;
        let root = Path::new(&spec.root);
        let log = Log::new(root);
        let root = beneath::open_root(root).map_err(|error| Failure::io("open", root, &error))?;
        let opener = Opener::new(&spec.store, environment.credentials.clone(), environment.patience);
        let store = opener.store()?;
        let grace = Duration::from_secs(spec.grace_seconds);
        let training = Training::prepare(spec, &environment, &opener, &root, since)?;
        Ok(Self { spec, environment, grace, stop, log, opener, store, root, training })
    }

    async fn finish(self, termination: TerminationLog) -> Outcome {
        let ran = self.run_program().await;
        let exit_code = match &ran {
            Ok(Ran::Ended(ended, _)) => ended.code,
            Ok(Ran::Adopted(_) | Ran::Publishes(_)) | Err(_) => None,
        };
        let times = match &ran {
            Ok(Ran::Ended(ended, _)) => Some((ended.started, ended.finished)),
            Ok(Ran::Adopted(_) | Ran::Publishes(_)) | Err(_) => None,
        };
        let root = match rustix::io::fcntl_dupfd_cloexec(&self.root, 3) {
            Ok(root) => root,
            Err(error) => {
                let failure = Failure::new(Outcome::RunnerError, format!("failed to copy a descriptor: {error}"));
                return say_and_end(termination, &failure.into_report(), &[]);
            }
        };
        let publisher = Publisher { spec: self.spec, store: &self.store, stop: &self.stop, grace: self.grace, root };
        let done = Notify::new();
        let concluding = async {
            let mut report = match self.conclude(ran, &publisher).await {
                Ok(record) => report::success(&record, exit_code),
                Err(failure) => {
                    let mut report = report::failure(failure, self.log.last_lines());
                    if let Some((started, finished)) = times {
                        report.started = Some(commit::rfc3339(started));
                        report.finished = Some(commit::rfc3339(finished));
                    }
                    report
                }
            };
            if let Some(training) = &self.training {
                training.conclude(&mut report).await;
            }
            if report.outcome == Outcome::Succeeded
                && let Ok(message) = report.to_message(&self.spec.metrics)
            {
                let key = self.environment.report_key.as_ref().and_then(|key| key.as_deref().ok());
                report::early(self.spec, key, &message).await;
            }
            // Before the log is through: a kill from here on loses nothing but the log's end.
            let outcome = say_and_end(termination, &report, &self.spec.metrics);
            done.notify_one();
            outcome
        };
        let limit = async {
            let late = async {
                done.notified().await;
                tokio::time::sleep(LOG_LIMIT).await;
            };
            tokio::select! {
                () = late => {}
                () = publisher.given_up() => {}
            }
        };
        let (outcome, ()) = tokio::join!(concluding, publisher.send_log(&self.log, limit));
        outcome
    }

    /// Everything up to the end of the user's program.
    async fn run_program(&self) -> Result<Ran<'a>, Failure> {
        let (existing, inputs) = tokio::select! {
            found = self.look_and_fetch() => found?,
            why = self.stop.wait() => return Err(stopped(self.spec, why, "before its program was started")),
        };
        if let Some(record) = existing {
            say!("attempt {} has committed this stage; its outputs count and nothing is run", record.record.attempt);
            return Ok(Ran::Adopted(record));
        }
        if let Some(publish) = &self.spec.publish {
            return Ok(Ran::Publishes(publish));
        }
        let Some(inputs) = inputs else { return Err(Failure::new(Outcome::RunnerError, "no inputs were fetched")) };
        let Some(training) = &self.training else {
            let program = self.program(&inputs, None)?;
            drop(inputs);
            let probe = self.begin_probe();
            let ended = exec::run(program, &self.stop, self.grace, &self.log).await?;
            return Ok(Ran::Ended(ended, probe));
        };
        let restored = tokio::select! {
            met = training.meet() => met?,
            why = self.stop.wait() => return Err(stopped(self.spec, why, "before its program was started")),
        };
        let program = self.program(&inputs, restored)?;
        drop(inputs);
        let probe = self.begin_probe();
        let ended = training.run(program, &self.stop, self.grace, &self.log).await?;
        Ok(Ran::Ended(ended, probe))
    }

    /// Looks for a commit and fetches the inputs meanwhile; a commit makes the inputs needless, and their errors too. Without one the
    /// ledger is asked, whose answer comes before anything is done.
    async fn look_and_fetch(&self) -> Result<(Option<Record>, Option<Inputs>), Failure> {
        let look = async {
            let existing = commit::existing(&self.store, self.spec).await?;
            if let (None, Some(ledger)) = (&existing, &self.spec.ledger) {
                ledger::take(&self.store, self.spec, ledger).await?;
            }
            Ok::<_, Failure>(existing)
        };
        let fetch = stage_in::fetch(self.spec, &self.opener, &self.store);
        tokio::pin!(look, fetch);
        let mut fetched = None;
        let existing = loop {
            tokio::select! {
                existing = &mut look => break existing?,
                inputs = &mut fetch, if fetched.is_none() => fetched = Some(inputs),
            }
        };
        if existing.is_some() {
            return Ok((existing, None));
        }
        let inputs = match fetched {
            Some(inputs) => inputs?,
            None => fetch.await?,
        };
        Ok((None, Some(inputs)))
    }

    /// The store is probed while the program runs; one that cannot be used ends the program early.
    fn begin_probe(&self) -> JoinHandle<Result<(), StoreError>> {
        let (store, stop) = (self.store.clone(), self.stop.clone());
        let prefix = step_protocol::paths::attempt_prefix(&self.spec.prefix, self.spec.identity.attempt);
        tokio::spawn(async move {
            let verdict = store.probe(&prefix).await;
            // An unavailable store may be back when the program has ended; these will not change.
            if let Err(StoreError::Unsupported { .. } | StoreError::Denied { .. } | StoreError::Config(_)) = &verdict {
                stop.abandon();
            }
            // The last thing to do before a long wait.
            process::give_memory_back();
            verdict
        })
    }

    fn program(&self, inputs: &Inputs, restored: Option<CheckpointName>) -> Result<Program, Failure> {
        let spec = self.spec;
        let mut environment = self.environment.for_child(spec, &inputs.paths, restored);
        for variable in &spec.env {
            if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
                return Err(Failure::config(format!("{:?} is not the name of a variable", variable.name)));
            }
            let value = no_nul(inputs.resolve(&variable.value)?, &variable.name)?;
            environment.insert(variable.name.clone().into(), value.into());
        }
        let resolve = |text: &Text| inputs.resolve(text).and_then(|text| no_nul(text, "an argument"));
        let mut words = spec.command.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
        let name = match layout::script_path(spec) {
            Some(script) => script.to_string_lossy().into_owned(),
            None if words.is_empty() => String::new(),
            None => words.remove(0),
        };
        Ok(Program { name, arguments: words, environment, directory: layout::working_directory(spec) })
    }

    /// From the end of the program to the commit.
    async fn conclude(&self, ran: Result<Ran<'_>, Failure>, publisher: &Publisher<'_>) -> Result<Record, Failure> {
        let (ended, probe) = match ran? {
            Ran::Adopted(record) => return Ok(record),
            Ran::Publishes(spec) => return self.publish(spec, publisher).await,
            Ran::Ended(ended, probe) => (ended, probe),
        };
        let verdict = async {
            match probe.await {
                Ok(verdict) => verdict.map_err(Failure::from),
                Err(error) => Err(Failure::new(Outcome::RunnerError, format!("the store's probe: {error}"))),
            }
        };
        // What the probe found says more than whatever it cut short.
        if let Some(why) = ended.stopped.filter(|why| why.reason == Reason::Abandoned) {
            return Err(verdict.await.err().unwrap_or_else(|| stopped(self.spec, why, "while its program ran")));
        }
        let made = match judge(self.spec, &ended) {
            Ok(()) => publisher.publish().await,
            Err(failure) => Err(failure),
        };
        let made = match made {
            Err(failure) if self.stop.now().is_some_and(|why| why.reason == Reason::Abandoned) => {
                return Err(verdict.await.err().unwrap_or(failure));
            }
            Err(failure) => {
                // The probe takes away what it wrote; a store that does not answer is not waited for.
                let _ = tokio::time::timeout(PROBE_END, verdict).await;
                return Err(failure);
            }
            Ok(made) => made,
        };
        verdict.await?;
        let commit = publisher.commit(made, ended.started, ended.finished);
        self.unless_given_up(publisher, commit, "while it was committed").await
    }

    /// What a stage does that has no program. It may end well within the grace, as what a program left is sent and committed.
    async fn publish(&self, spec: &PublishSpec, publisher: &Publisher<'_>) -> Result<Record, Failure> {
        let started = SystemTime::now();
        let whole = async {
            let made = publish::publish(self.spec, spec, &self.store).await?;
            publisher.commit(made, started, SystemTime::now()).await
        };
        self.unless_given_up(publisher, whole, "while it published").await
    }

    async fn unless_given_up(
        &self,
        publisher: &Publisher<'_>,
        work: impl Future<Output = Result<Record, Failure>>,
        doing: &str,
    ) -> Result<Record, Failure> {
        tokio::select! {
            record = work => record,
            () = publisher.given_up() => {
                let Some(why) = self.stop.now() else { return Err(Failure::new(Outcome::RunnerError, "stopped for no reason")) };
                Err(stopped(self.spec, why, doing))
            }
        }
    }
}

/// An argument or a variable ends at a NUL, so none may have one.
fn no_nul(text: String, what: &str) -> Result<String, Failure> {
    if text.contains('\0') {
        return Err(Failure::config(format!("{what} has a NUL character; pass it by params.json or as an input")));
    }
    Ok(text)
}

/// Whether the program succeeded, or what its end means.
fn judge(spec: &StepSpec, ended: &Ended) -> Result<(), Failure> {
    let class =
        |outcome, message: String| Err(Failure { outcome, message, exit_code: ended.code, signal: ended.signal });
    let how = match (ended.code, ended.signal) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by {}", signal_name(signal)),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    if let Some(why) = ended.stopped {
        match why.reason {
            Reason::Timeout => {
                let failure = stopped(spec, why, "while its program ran");
                return class(failure.outcome, format!("{} (the program {how})", failure.message));
            }
            // It ended well in its grace: what it made may still be committed. A training that ends well then may only have kept
            // its state, and goes on with it next time.
            Reason::Signal if ended.code == Some(0) && spec.rank.is_none() && spec.checkpoint.is_none() => {}
            Reason::Signal => {
                return class(Outcome::Disrupted, format!("the Pod was asked to stop; the program {how}"));
            }
            Reason::Abandoned => return Err(stopped(spec, why, "while its program ran")),
            // A process that the kernel has killed is a reason to hang.
            Reason::Stalled if ended.kills.is_some() => {}
            Reason::Stalled | Reason::NotListening => {
                let failure = stopped(spec, why, "while its program ran");
                return class(failure.outcome, failure.message);
            }
        }
    }
    if let Some(kills) = &ended.kills {
        let who = if ended.signal == Some(9) {
            "the kernel killed the program for lack of memory".to_owned()
        } else {
            format!("the kernel killed a child process of the program for lack of memory, and the program {how}")
        };
        return class(Outcome::OOMKilled, format!("{who} ({kills}); raise `resources.limits.memory` or use less"));
    }
    match ended.code {
        Some(0) => Ok(()),
        _ => class(Outcome::UserError, format!("the program {how}")),
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return format!("signal {number}"),
    };
    format!("{name} ({number})")
}
