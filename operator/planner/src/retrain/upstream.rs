//! Triggers by what another pipeline has made.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{
    Cause, PipelineSpec, PipelineStatus, TriggerKind, TriggerStatus, Upstream, UpstreamArtifact, UpstreamStatus,
};

use super::triggers::{Wish, quiet, say};

/// What is seen of another pipeline's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenUpstream {
    /// Its newest run that has succeeded; empty if there is none.
    pub run: String,
    /// When that was created.
    pub created: Option<Timestamp>,
    /// The output of that run; `None` without a run. Or why it is not known.
    pub found: Result<Option<FoundOutput>, (Reason, String)>,
}

/// An output of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundOutput {
    /// Its checksum.
    pub digest: String,
    /// Where it lies.
    pub uri: String,
}

/// An output of another pipeline that a trigger watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched<'a> {
    /// Name of the trigger.
    pub trigger: &'a str,
    /// The output.
    pub upstream: &'a Upstream,
    /// The run that was looked at last, and when it was created; `None` if nothing was looked at yet.
    pub run: Option<(&'a str, Option<Timestamp>)>,
}

/// What upstream triggers watch.
pub fn watched<'a>(spec: &'a PipelineSpec, status: &'a PipelineStatus) -> impl Iterator<Item = Watched<'a>> {
    spec.triggers.iter().filter_map(|trigger| {
        let TriggerKind::Upstream(upstream) = &trigger.kind else { return None };
        let row = status.triggers.iter().find(|row| row.name == trigger.name);
        let before = row.and_then(|row| row.upstream.as_ref()).filter(|before| is_of(before, upstream));
        Some(Watched { trigger: &trigger.name, upstream, run: before.map(known) })
    })
}

fn known(before: &UpstreamStatus) -> (&str, Option<Timestamp>) {
    (&before.run, before.created.as_ref().map(|created| created.0))
}

fn nothing(upstream: &Upstream) -> UpstreamStatus {
    let (pipeline, output) = (upstream.pipeline.clone(), upstream.output.clone());
    UpstreamStatus { pipeline, output, run: String::new(), created: None, digest: String::new() }
}

fn is_of(before: &UpstreamStatus, upstream: &Upstream) -> bool {
    before.pipeline == upstream.pipeline && before.output == upstream.output
}

/// Reasons that hold until the output is seen again.
const UNSEEN: [Reason; 2] = [Reason::UpstreamNotFound, Reason::OutputMissing];

/// Asks a trigger what it wants, given what is seen of the output. `None` means that nothing has moved since.
pub(super) fn ask(
    upstream: &Upstream,
    mut status: TriggerStatus,
    seen: Option<&SeenUpstream>,
    suspended: bool,
) -> Wish {
    let before = status.upstream.take().filter(|before| is_of(before, upstream));
    if suspended {
        status.upstream = before;
        let message = "spec.suspend is true: nobody looks, and what has changed by then starts a run";
        say(&mut status, Reason::Suspended, message);
        return Wish::nothing(status);
    }
    let Some(seen) = seen else {
        status.upstream = before;
        return Wish::nothing(status);
    };
    let found = match &seen.found {
        Ok(found) => found,
        Err((reason, message)) => {
            // There is nothing that the trigger begins with: what comes is a change.
            status.upstream = Some(before.unwrap_or_else(|| nothing(upstream)));
            say(&mut status, *reason, message.clone());
            return Wish::nothing(status);
        }
    };
    if UNSEEN.iter().any(|reason| reason.as_str() == status.reason) {
        quiet(&mut status);
    }
    let mut now = UpstreamStatus { run: seen.run.clone(), created: seen.created.map(Time), ..nothing(upstream) };
    let Some(found) = found else {
        // Its runs that have succeeded may all be gone; what the last of them made is known.
        now.digest = before.map(|before| before.digest).unwrap_or_default();
        status.upstream = Some(now);
        return Wish::nothing(status);
    };
    now.digest.clone_from(&found.digest);
    let mut wish = Wish::nothing(status);
    match before {
        Some(before) if before.digest != found.digest => {
            let (pipeline, output) = (now.pipeline.clone(), now.output.clone());
            wish.causes.push(Cause::Upstream { pipeline, output, digest: found.digest.clone() });
            wish.upstream = Some(UpstreamArtifact { run: seen.run.clone(), uri: found.uri.clone() });
        }
        Some(before) if known(&before) != (&seen.run, seen.created) => {
            let message = format!("run {} has written the same {} as the one before", seen.run, upstream.output);
            say(&mut wish.status, Reason::OutputUnchanged, message);
        }
        Some(_) | None => {}
    }
    wish.status.upstream = Some(now);
    wish
}

/// What a trigger has seen when nothing could be started for it: that must be found again.
pub(super) fn unstarted(status: &mut TriggerStatus, prior: Option<&TriggerStatus>) {
    let before = prior.and_then(|prior| prior.upstream.clone());
    status.upstream = match (status.upstream.take(), before) {
        (Some(now), Some(before)) if now.pipeline == before.pipeline && now.output == before.output => Some(before),
        (now, _) => now,
    };
}
