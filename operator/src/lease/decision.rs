//! The rule of the election: pure, time is an argument.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::{DURATION, LeaseSettings};

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// There is none: create it.
    Create(Lease),
    /// It is ours, free, or has run out: write this over it, with the version that was seen as precondition.
    Replace(Lease),
    /// It is somebody else's.
    Wait,
}

/// What to do about the lease that was just read and has been unchanged for so long.
pub(super) fn decide(lease: Option<&Lease>, unchanged: Duration, now: Timestamp, settings: &LeaseSettings) -> Decision {
    let Some(lease) = lease else {
        let metadata = ObjectMeta {
            name: Some(settings.name.clone()),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        };
        return Decision::Create(Lease { metadata, spec: Some(held(&LeaseSpec::default(), now, 0, settings)) });
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let transitions = spec.lease_transitions.unwrap_or(0);
    let next = match spec.holder_identity.as_deref().unwrap_or_default() {
        holder if holder == settings.identity => {
            LeaseSpec { acquire_time: spec.acquire_time.clone(), ..held(&spec, now, transitions, settings) }
        }
        "" => held(&spec, now, transitions.saturating_add(1), settings),
        _ if unchanged >= duration(&spec) => held(&spec, now, transitions.saturating_add(1), settings),
        _ => return Decision::Wait,
    };
    Decision::Replace(Lease { metadata: lease.metadata.clone(), spec: Some(next) })
}

/// The lease, free again.
pub(super) fn released(lease: &Lease) -> Lease {
    let mut lease = lease.clone();
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
    }
    lease
}

fn held(before: &LeaseSpec, now: Timestamp, transitions: i32, settings: &LeaseSettings) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(settings.identity.clone()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..before.clone()
    }
}

/// The holder's own word on how long its lease is good for; ours where it says nothing sensible.
fn duration(spec: &LeaseSpec) -> Duration {
    spec.lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .map_or(DURATION, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> LeaseSettings {
        LeaseSettings { namespace: "system".into(), name: "trainyard-operator".into(), identity: "me".into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn lease(holder: Option<&str>, seconds: i32) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some("5".into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(seconds),
                acquire_time: Some(MicroTime(at(0))),
                renew_time: Some(MicroTime(at(0))),
                lease_transitions: Some(3),
                ..LeaseSpec::default()
            }),
        }
    }

    fn replaced(decision: Decision) -> LeaseSpec {
        let Decision::Replace(lease) = decision else { panic!("{decision:?}") };
        assert_eq!(lease.metadata.resource_version.as_deref(), Some("5"));
        lease.spec.unwrap()
    }

    #[test]
    fn a_lease_that_does_not_exist_is_created() {
        let Decision::Create(lease) = decide(None, Duration::ZERO, at(9), &settings()) else { panic!() };
        assert_eq!(
            (lease.metadata.name.as_deref(), lease.metadata.namespace.as_deref()),
            (Some("trainyard-operator"), Some("system"))
        );
        let spec = lease.spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("me"), Some(0)));
        assert_eq!(spec.lease_duration_seconds, Some(15));
    }

    #[test]
    fn ours_is_renewed_since_when_it_is_ours_stays() {
        let spec = replaced(decide(Some(&lease(Some("me"), 15)), Duration::ZERO, at(9), &settings()));
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(at(0))), Some(MicroTime(at(9)))));
        assert_eq!(spec.lease_transitions, Some(3));
    }

    #[test]
    fn a_free_one_is_taken() {
        for free in [lease(None, 15), lease(Some(""), 15)] {
            let spec = replaced(decide(Some(&free), Duration::ZERO, at(9), &settings()));
            assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("me"), Some(4)));
            assert_eq!(spec.acquire_time, Some(MicroTime(at(9))));
        }
    }

    #[test]
    fn anothers_is_taken_only_after_its_own_duration_without_a_change() {
        let other = lease(Some("other"), 40);
        assert_eq!(decide(Some(&other), Duration::from_millis(39_999), at(900), &settings()), Decision::Wait);
        let spec = replaced(decide(Some(&other), Duration::from_secs(40), at(900), &settings()));
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("me"), Some(4)));
    }

    #[test]
    fn a_duration_that_makes_no_sense_is_ours() {
        for seconds in [0, -3] {
            let other = lease(Some("other"), seconds);
            assert_eq!(decide(Some(&other), Duration::from_secs(14), at(900), &settings()), Decision::Wait);
            replaced(decide(Some(&other), Duration::from_secs(15), at(900), &settings()));
        }
    }

    #[test]
    fn a_released_one_is_free() {
        let spec = released(&lease(Some("me"), 15)).spec.unwrap();
        assert_eq!((spec.holder_identity, spec.lease_duration_seconds), (None, Some(1)));
    }
}
