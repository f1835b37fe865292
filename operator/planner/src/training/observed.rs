//! What the world says of a job: its ranks' Pods, in the planner's own words.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use step_protocol::ProgressReport;
use trainyard_crds::condition::Reason;

use crate::observed::Attempt;
pub use crate::observed::Blocked;

/// Everything observed of one job.
#[derive(Clone, Debug, Default)]
pub struct Ranks {
    pods: BTreeMap<(u32, u32), RankPod>,
    gone: BTreeSet<(u32, u32)>,
    /// Ranks whose Pods have been seen and are no longer shown.
    lost: BTreeSet<(u32, u32)>,
    /// No Pod of this attempt or an earlier one is there, by a live look.
    cleared: Option<u32>,
    service: bool,
    /// The attempt whose Pods are all known, by a live look or since it was begun here.
    known: Option<u32>,
    blocked: Option<Blocked>,
    hopeless: Option<(Reason, String)>,
    progress: Option<(u32, ProgressReport)>,
}

/// The Pod of one rank of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct RankPod {
    /// Place among all ranks, from 0.
    pub rank: u32,
    /// How far it is; its number is that of the job's attempt.
    pub attempt: Attempt,
    /// Whether it has a node. One that is being deleted without one never gets one.
    pub bound: bool,
    /// Whether a finalizer keeps its object, such as that of a queue.
    pub held: bool,
    /// When it must be gone, if it is being deleted.
    pub due: Option<Timestamp>,
    /// Why it is being taken away, if something other than its program or the operator does that.
    pub disruption: Option<String>,
}

impl RankPod {
    /// Whether it must be waited for. Only its object is left of one that is being deleted, has ended or has no node, and is held by
    /// somebody else: that may take long.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !(self.attempt.deleting && self.held && (self.has_ended() || !self.bound))
    }

    /// Whether its containers have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.attempt.state, crate::observed::AttemptState::Ended(_))
    }
}

impl Ranks {
    /// Adds or replaces a rank's Pod.
    pub fn insert(&mut self, pod: RankPod) {
        let key = (pod.attempt.number, pod.rank);
        self.gone.remove(&key);
        self.lost.remove(&key);
        if self.cleared.is_some_and(|attempt| key.0 <= attempt) {
            self.cleared = None;
        }
        self.pods.insert(key, pod);
    }

    /// A rank's Pod is no longer shown. Whether it is gone a live look will tell.
    pub fn remove(&mut self, attempt: u32, rank: u32) {
        if self.pods.remove(&(attempt, rank)).is_some() {
            self.lost.insert((attempt, rank));
        }
    }

    /// A live look found no Pod for this rank.
    pub fn confirm_gone(&mut self, attempt: u32, rank: u32) {
        self.pods.remove(&(attempt, rank));
        self.lost.remove(&(attempt, rank));
        self.gone.insert((attempt, rank));
    }

    /// A Pod has been deleted. If it said how it ended, that is kept.
    pub fn bury(&mut self, mut pod: RankPod) {
        let key = (pod.attempt.number, pod.rank);
        if let Some(known) = self.pods.get(&key)
            && known.attempt.uid == pod.attempt.uid
            && known.has_ended()
        {
            pod.attempt.state = known.attempt.state.clone();
        }
        if pod.has_ended() {
            pod.attempt.uid = String::new();
            self.lost.remove(&key);
            self.pods.insert(key, pod);
        } else {
            self.pods.remove(&key);
            self.lost.insert(key);
        }
    }

    /// Every Pod of this attempt that there is has been taken in.
    pub fn know(&mut self, attempt: u32) {
        self.known = Some(attempt);
    }

    pub(super) fn knows(&self, attempt: u32) -> bool {
        self.known == Some(attempt)
    }

    /// A live look found no Pod of this attempt or an earlier one that has not ended.
    pub fn clear(&mut self, attempt: u32) {
        self.pods.retain(|(number, _), _| *number > attempt);
        self.cleared = Some(self.cleared.map_or(attempt, |before| before.max(attempt)));
        self.gone.retain(|(number, _)| *number > attempt);
        self.lost.retain(|(number, _)| *number > attempt);
    }

    /// One rank's Pod.
    #[must_use]
    pub fn pod(&self, attempt: u32, rank: u32) -> Option<&RankPod> {
        self.pods.get(&(attempt, rank))
    }

    /// One rank's Pod, to be changed.
    pub fn pod_mut(&mut self, attempt: u32, rank: u32) -> Option<&mut RankPod> {
        self.pods.get_mut(&(attempt, rank))
    }

    /// Every Pod, by attempt and rank.
    pub fn iter(&self) -> impl Iterator<Item = &RankPod> {
        self.pods.values()
    }

    /// The Pods of one attempt, by rank.
    pub fn of(&self, attempt: u32) -> impl Iterator<Item = &RankPod> {
        self.pods.range((attempt, 0)..=(attempt, u32::MAX)).map(|(_, pod)| pod)
    }

    pub(super) fn is_gone(&self, attempt: u32, rank: u32) -> bool {
        self.gone.contains(&(attempt, rank))
    }

    /// Whether a rank's Pod has been there and is not shown any more.
    fn is_lost(&self, attempt: u32, rank: u32) -> bool {
        self.lost.contains(&(attempt, rank))
    }

    /// Whether a rank without a Pod has had one: the Pods of all ranks had been created (`launched`), its own has been seen, or it is
    /// rank 0, which is created before any other.
    #[must_use]
    pub fn had_pod(&self, attempt: u32, rank: u32, launched: bool) -> bool {
        launched || self.is_lost(attempt, rank) || (rank == 0 && self.of(attempt).any(|pod| pod.rank != 0))
    }

    pub(super) fn is_cleared(&self, attempt: u32) -> bool {
        self.cleared.is_some_and(|cleared| cleared >= attempt)
    }

    /// The job's Service exists.
    pub fn has_service(&mut self) {
        self.service = true;
    }

    pub(super) fn service(&self) -> bool {
        self.service
    }

    /// The API server has no room for Pods until some time.
    pub fn block(&mut self, blocked: Blocked) {
        self.blocked = Some(blocked);
    }

    pub(super) fn blocked(&self, now: Timestamp) -> Option<&Blocked> {
        self.blocked.as_ref().filter(|blocked| blocked.until > now)
    }

    /// The job can never get its Pods, for this reason.
    pub fn give_up(&mut self, reason: Reason, message: String) {
        self.hopeless = Some((reason, message));
    }

    pub(super) fn hopeless(&self) -> Option<&(Reason, String)> {
        self.hopeless.as_ref()
    }

    /// Takes in what rank 0 says of its progress. Returns whether it is news.
    pub fn report_progress(&mut self, attempt: u32, report: ProgressReport) -> bool {
        if self
            .progress
            .as_ref()
            .is_some_and(|(number, known)| *number > attempt || (*number == attempt && *known == report))
        {
            return false;
        }
        self.progress = Some((attempt, report));
        true
    }

    pub(super) fn progress(&self, attempt: u32) -> Option<&ProgressReport> {
        self.progress.as_ref().filter(|(number, _)| *number == attempt).map(|(_, report)| report)
    }
}
