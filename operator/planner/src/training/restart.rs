//! What ends an attempt, whose fault it was, and whether and when another one follows (rules 6, 7 and 10 to 14).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{AttemptOutcome, Elastic, FailureClass, FailureCounts, JobPhase, RankFailure};

use super::observed::RankPod;
use super::plan::Pass;
use super::status;
use crate::observed::{AttemptState, Class, Ended};
use crate::retry::Decision;
use crate::schedule::NoteKind;

/// A Pod whose node does not answer counts as gone so long after it should have been.
const FENCE: SignedDuration = SignedDuration::from_secs(30);

/// When a Pod counts as gone although it is there: its node does not answer, and its time is over. `None` if it never does.
pub(super) fn fenced_at(pod: &RankPod) -> Option<Timestamp> {
    pod.attempt.lost_node.as_ref()?;
    pod.due?.saturating_add(FENCE).ok()
}

/// So many ranks within the bounds.
pub(super) fn bounded(ranks: u32, elastic: Option<Elastic>) -> u32 {
    elastic.map_or(ranks, |elastic| ranks.min(elastic.max).max(elastic.min))
}

/// The failure that ends an attempt.
struct First {
    rank: Option<u32>,
    pod: String,
    ended: Ended,
    /// Whether it counts toward a limit.
    counts: bool,
    /// How many ranks the next attempt is to have, if not all.
    next: Option<u32>,
}

/// Ends the attempt if a rank of it has failed or not all have started in time. Returns whether it did.
pub(super) fn failed(pass: &mut Pass<'_>, attempt: u32, ranks: u32) -> bool {
    let Some(first) = first(pass, attempt, ranks).or_else(|| late(pass, attempt, ranks)) else { return false };
    let First { rank, pod, ended, counts, next } = first;
    let before =
        if forgiven(pass, attempt) { FailureCounts::default() } else { pass.run.status.failures.unwrap_or_default() };
    let decision = if counts {
        pass.job.policy.decide(before, &ended, pass.now)
    } else {
        Decision::Repeat { at: pass.job.policy.after(gang_timeouts(pass), pass.now), failures: before }
    };
    let (role, index) = match rank.and_then(|rank| pass.job.role_of(ranks, rank)) {
        Some((role, index)) => (role.to_owned(), Some(index)),
        None => (String::new(), None),
    };
    let class = match pass.job.policy.class(&ended) {
        Class::Fatal => FailureClass::Fatal,
        Class::Infra => FailureClass::Infra,
        Class::User => FailureClass::User,
    };
    let failure = RankFailure {
        role,
        index,
        pod,
        class,
        reason: ended.reason.clone(),
        message: status::shortened(&ended.message, 512),
        exit_code: ended.exit_code,
        last_lines: ended.last_lines.clone(),
    };
    let what = status::failure(&failure);
    pass.end(attempt, ranks, AttemptOutcome::Failed, Some(failure));
    pass.status.ranks = next;
    pass.status.reason = ended.reason.clone();
    match decision {
        Decision::Repeat { at, failures } => {
            let wait = at.duration_since(pass.now);
            let when = if wait.is_zero() { "now".to_owned() } else { format!("in {}", crate::status::human(wait)) };
            pass.status.failures = Some(failures);
            pass.status.restarts = pass.status.restarts.saturating_add(1);
            pass.status.phase = Some(JobPhase::Restarting);
            pass.status.retry_at = Some(Time(at));
            pass.status.message = what.clone();
            let reason = if counts { "Restarting" } else { "GangTimeout" };
            pass.note(NoteKind::Warning, reason, format!("attempt {attempt}: {what}; all ranks start again {when}"));
            pass.look_again(pass.now);
        }
        Decision::Fail(failures) => {
            pass.status.failures = Some(failures);
            let count = attempt.saturating_sub(pass.run.attempts_before);
            let attempts = if count > 1 { format!(" after {count} attempts") } else { String::new() };
            pass.status.phase = Some(JobPhase::Failed);
            pass.status.message = format!("the training failed{attempts}: {what}");
            pass.status.retry_at = None;
        }
    }
    true
}

/// Rule 13: failures before an attempt that has kept a newer checkpoint are forgiven.
fn forgiven(pass: &Pass<'_>, attempt: u32) -> bool {
    pass.status.checkpoint.is_some_and(|checkpoint| checkpoint.attempt == attempt)
}

/// Rule 7: the first terminal container counts. A Pod that is being deleted will end, and the others need not wait for that.
fn first(pass: &Pass<'_>, attempt: u32, ranks: u32) -> Option<First> {
    let mut found: Option<(Timestamp, First)> = None;
    for rank in 0..ranks {
        let candidate = match pass.ranks.pod(attempt, rank) {
            Some(pod) => ended(pod, pass.now),
            None if pass.ranks.is_gone(attempt, rank) => {
                let pod = pass.job.pod_name(pass.run.name, pass.run.uid, ranks, attempt, rank);
                let message = format!("Pod {pod} is gone and did not say how it ended");
                Some((pod, Ended::failure(Class::Infra, Reason::Disrupted.as_str(), message)))
            }
            None => None,
        };
        let Some((pod, ended)) = candidate else { continue };
        let at = ended.end.unwrap_or(pass.now).min(pass.now);
        if found.as_ref().is_none_or(|(earliest, _)| at < *earliest) {
            let lost = ended.reason == Reason::NodeLost.as_str();
            let next = (lost && pass.run.elastic.is_some()).then(|| status::running(pass.ranks, attempt));
            found = Some((at, First { rank: Some(rank), pod, ended, counts: true, next }));
        }
    }
    found.map(|(_, first)| first)
}

/// How a rank has failed, if it has.
fn ended(pod: &RankPod, now: Timestamp) -> Option<(String, Ended)> {
    let attempt = &pod.attempt;
    let ended = match &attempt.state {
        AttemptState::Ended(ended) if ended.committed.is_some() => return None,
        AttemptState::Ended(ended) => ended.clone(),
        AttemptState::Pending(_) | AttemptState::Running(_) if attempt.deleting => match &attempt.lost_node {
            Some(node) => {
                let message = format!("node {node} does not answer any more, and Pod {} on it is lost", attempt.pod);
                Ended::failure(Class::Infra, Reason::NodeLost.as_str(), message)
            }
            None => {
                let why = pod.disruption.clone().unwrap_or_else(|| format!("Pod {} is being deleted", attempt.pod));
                Ended::failure(Class::Infra, Reason::Disrupted.as_str(), why)
            }
        },
        // Images and what a Pod needs may still come (rule 11); a container that cannot be made needs another Pod.
        AttemptState::Pending(waiting) => {
            let verdict = waiting.verdict.filter(|verdict| verdict.reason == Reason::ContainerStartFailed)?;
            let due = attempt.created.saturating_add(verdict.after).unwrap_or(Timestamp::MAX);
            if due > now {
                return None;
            }
            Ended::failure(Class::Infra, verdict.reason.as_str(), waiting.message.clone())
        }
        AttemptState::Running(_) => return None,
    };
    Some((attempt.pod.clone(), ended))
}

/// Rule 10: not all ranks have started in time. That is nobody's failure and counts toward no limit; the deadline bounds it.
fn late(pass: &mut Pass<'_>, attempt: u32, ranks: u32) -> Option<First> {
    if pass.run.status.started {
        return None;
    }
    let running = status::running(pass.ranks, attempt);
    if running == ranks {
        return None;
    }
    if status::is_held(pass.ranks, attempt) {
        // By a queue, which lets all go at once. That may take hours, and starting anew would cost the job its place.
        return None;
    }
    if pass.run.status.reason == Reason::Queued.as_str() {
        // It has been let go: the time counts from now on.
        pass.status.attempt_time = Some(Time(pass.now));
    }
    let begun = pass.status.attempt_time.as_ref().map_or(pass.now, |time| time.0);
    let due = begun.saturating_add(pass.job.start_timeout).unwrap_or(Timestamp::MAX);
    if due > pass.now {
        pass.look_again(due);
        return None;
    }
    let why = status::waiting(pass, attempt, ranks);
    let message = format!(
        "{running} of {ranks} ranks had started within startTimeout ({}){}",
        crate::status::human(pass.job.start_timeout),
        if why.1.is_empty() { String::new() } else { format!(": {}", why.1) }
    );
    let next = pass.run.elastic.is_some().then_some(running);
    let ended = Ended::failure(Class::Infra, Reason::GangTimeout.as_str(), message);
    Some(First { rank: None, pod: String::new(), ended, counts: false, next })
}

/// How many of the last attempts did not come together, one after the other.
fn gang_timeouts(pass: &Pass<'_>) -> u32 {
    let timeouts = pass.run.status.attempts.iter().rev().take_while(|attempt| {
        attempt.first_failure.as_ref().is_some_and(|failure| failure.reason == Reason::GangTimeout.as_str())
    });
    u32::try_from(timeouts.count()).unwrap_or(u32::MAX)
}
