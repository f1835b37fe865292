//! Triggers by data: when their prefixes are looked at, and what a look means.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use trainyard_crds::condition::Reason;
use trainyard_crds::v1alpha1::{
    Cause, Data, DataStatus, PipelineSpec, PipelineStatus, Trigger, TriggerKind, TriggerStatus, duration_seconds,
};

use super::triggers::{Wish, quiet, say};
use crate::SpecProblem;

/// Time between two looks where the trigger does not say, in seconds.
const POLL: u64 = 300;
/// Least time between two looks, in seconds: each is a Pod.
const LEAST_POLL: u64 = 10;
/// Stands for what lies there while it is not complete: no fingerprint is equal to it.
const INCOMPLETE: &str = "incomplete";

/// What a look at a prefix has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenData {
    /// When it ended.
    pub checked: Timestamp,
    /// What lies there, or why that is not known.
    pub found: Result<FoundData, String>,
}

/// What lies below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundData {
    /// Checksum over keys, sizes, entity tags and versions.
    pub digest: String,
    /// How many objects.
    pub objects: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Seconds since the newest was written.
    pub age_seconds: Option<u64>,
    /// Whether the marker is there, if one is asked for.
    pub marker: Option<bool>,
}

/// A prefix that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look<'a> {
    /// Name of the trigger.
    pub trigger: &'a str,
    /// The prefix.
    pub data: &'a Data,
    /// When it was looked at before; empty for the first time. Part of the look's name.
    pub since: String,
    /// When it is due.
    pub at: Timestamp,
}

/// What is to be looked at, and when.
pub fn looks<'a>(spec: &'a PipelineSpec, status: &PipelineStatus) -> Vec<Look<'a>> {
    if spec.suspend.unwrap_or(false) {
        return Vec::new();
    }
    let look = |trigger: &'a Trigger| {
        let TriggerKind::Data(data) = &trigger.kind else { return None };
        let row = status.triggers.iter().find(|row| row.name == trigger.name);
        let before = row.and_then(|row| row.data.as_ref()).filter(|before| before.uri == data.uri);
        let since = before.map(|before| before.checked.0);
        let settling = row.is_some_and(|row| row.reason == Reason::DataSettling.as_str());
        let wait = if settling { poll(data).min(settle(data).max(LEAST_POLL)) } else { poll(data) };
        let at = since.map_or(Timestamp::UNIX_EPOCH, |since| later(since, wait));
        Some(Look { trigger: &trigger.name, data, since: since.map(|since| since.to_string()).unwrap_or_default(), at })
    };
    spec.triggers.iter().filter_map(look).collect()
}

fn poll(data: &Data) -> u64 {
    data.poll.as_deref().and_then(duration_seconds).unwrap_or(POLL)
}

fn settle(data: &Data) -> u64 {
    data.settle.as_deref().and_then(duration_seconds).unwrap_or(0)
}

fn later(since: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    since.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// What is wrong with a trigger by data.
pub(super) fn check(data: &Data, path: &str) -> Result<(), SpecProblem> {
    for (field, text) in [("poll", &data.poll), ("settle", &data.settle)] {
        let least = if field == "poll" { LEAST_POLL } else { 0 };
        if let Some(text) = text
            && duration_seconds(text).is_none_or(|seconds| seconds < least)
        {
            let message = format!("{text} is not a time of at least {least}s, such as 90s, 30m or 1h30m");
            return Err(SpecProblem::new(Reason::InvalidPipeline, format!("{path}.{field}"), message));
        }
    }
    Ok(())
}

/// Asks a trigger what it wants, given what a look has shown, if there was one.
pub(super) fn ask(data: &Data, mut status: TriggerStatus, seen: Option<&SeenData>, suspended: bool) -> Wish {
    let before = status.data.take().filter(|before| before.uri == data.uri);
    if suspended {
        status.data = before;
        say(
            &mut status,
            Reason::Suspended,
            "spec.suspend is true: nobody looks, and what has changed by then starts a run",
        );
        return Wish::nothing(status);
    }
    let Some(seen) = seen else {
        status.data = before;
        return Wish::nothing(status);
    };
    let known = before.as_ref().map(|before| before.fingerprint.clone()).unwrap_or_default();
    let mut now = DataStatus {
        uri: data.uri.clone(),
        checked: Time(seen.checked),
        fingerprint: known.clone(),
        objects: before.as_ref().and_then(|before| before.objects),
        bytes: before.as_ref().and_then(|before| before.bytes),
    };
    let found = match &seen.found {
        Ok(found) => found,
        Err(message) => {
            status.data = Some(now);
            say(&mut status, Reason::FingerprintFailed, format!("{}: {message}", data.uri));
            return Wish::nothing(status);
        }
    };
    let mut causes = Vec::new();
    if found.marker == Some(false) {
        let marker = data.marker.as_deref().unwrap_or_default();
        say(&mut status, Reason::MarkerMissing, format!("there is no {marker} below {}: it is written last", data.uri));
        if known.is_empty() {
            INCOMPLETE.clone_into(&mut now.fingerprint);
        }
    } else if found.age_seconds.is_some_and(|age| age < settle(data)) && found.digest != known {
        let age = found.age_seconds.unwrap_or_default();
        let settle = data.settle.as_deref().unwrap_or_default();
        say(
            &mut status,
            Reason::DataSettling,
            format!("the newest object below {} is {age}s old, and settle is {settle}", data.uri),
        );
    } else {
        if ["DataSettling", "MarkerMissing", "FingerprintFailed"].contains(&status.reason.as_str()) {
            quiet(&mut status);
        }
        if !known.is_empty() && found.digest != known {
            causes.push(Cause::Data { fingerprint: found.digest.clone() });
        }
        now.fingerprint.clone_from(&found.digest);
        now.objects = i64::try_from(found.objects).ok();
        now.bytes = i64::try_from(found.bytes).ok();
    }
    status.data = Some(now);
    Wish { causes, ..Wish::nothing(status) }
}

/// What a trigger has seen when nothing could be started for it: it was looked at, and that must be found again.
pub(super) fn unstarted(status: &mut TriggerStatus, prior: Option<&TriggerStatus>) {
    let before = prior.and_then(|prior| prior.data.as_ref());
    if let (Some(now), Some(before)) = (&mut status.data, before)
        && now.uri == before.uri
    {
        now.fingerprint.clone_from(&before.fingerprint);
        (now.objects, now.bytes) = (before.objects, before.bytes);
    }
}
