//! What the operator remembers, how much of that still matters, and when two worlds go on alike.

use std::rc::Rc;

use trainyard_planner::{Attempt, AttemptState, Observed, Plan, plan};

use super::World;

impl World {
    /// The operator hears of an attempt.
    pub(super) fn learn(&mut self, stage: &str, attempt: Attempt) {
        self.gone.remove(&(stage.to_owned(), attempt.number));
        self.lost.remove(stage);
        self.observed.insert(stage, attempt);
    }

    /// Whether the stage may still change.
    fn is_open(&self, stage: &str) -> bool {
        !self.row(stage).phase.is_terminal()
    }

    /// Nothing matters of a stage that has ended, nor of an attempt that another one followed and that is not alive.
    fn matters(&self, stage: &str, number: u32, live: bool) -> bool {
        self.is_open(stage) && (live || self.row(stage).attempt.is_none_or(|last| number >= last))
    }

    fn attempts(&self) -> Vec<(&str, &Attempt)> {
        let live = |attempt: &Attempt| !matches!(attempt.state, AttemptState::Ended(_));
        self.observed.iter().filter(|(stage, it)| self.matters(stage, it.number, live(it))).collect()
    }

    fn gone(&self) -> Vec<&super::Key> {
        self.gone.iter().filter(|(stage, number)| self.matters(stage, *number, false)).collect()
    }

    fn lost(&self) -> Vec<(&String, &u32)> {
        self.lost.iter().filter(|(stage, _)| self.is_open(stage)).collect()
    }

    /// Nothing else is planned by an operator that has forgotten what does not matter.
    pub(super) fn assert_forgets(&self, planned: &Plan) {
        let mut observed = Observed::default();
        for (stage, attempt) in self.attempts() {
            observed.insert(stage, attempt.clone());
        }
        for (stage, number) in self.lost() {
            observed.remove(stage, *number);
        }
        for (stage, number) in self.gone() {
            observed.confirm_gone(stage, *number);
        }
        for (stage, blocked) in &self.blocked {
            observed.block(stage, blocked.clone());
        }
        if self.champions_read {
            observed.set_champions(self.champions.clone());
        }
        assert_eq!(*planned, plan(&self.graph, &self.run(), &observed, self.now));
    }

    /// Whether both go on alike: all is the same that anything to come depends on or that is asserted in the end.
    pub fn goes_on_like(&self, other: &Self) -> bool {
        // Without `..`: a new field must be compared, or be named among those that decide nothing.
        let Self {
            spec,
            graph,
            params,
            state,
            suspend,
            approvals,
            champions,
            champions_read,
            generation,
            now,
            status,
            pods,
            commits,
            script,
            refusals,
            observed: _,
            gone: _,
            lost: _,
            blocked,
            late,
            due,
            requeue_at,
            notes: _,
            done: _,
            effects: _,
            crash_before,
            forks: _,
            fail_write,
            skipped,
            uids,
        } = self;
        let simple = |world: &Self| world.refusals.is_empty() && world.crash_before.is_none();
        assert!(refusals.is_empty() && crash_before.is_none() && simple(other), "not for worlds with more to come");
        *now == other.now
            && status == &other.status
            && *uids == other.uids
            && (*state, *suspend, *generation) == (other.state, other.suspend, other.generation)
            && (*due, *requeue_at, *fail_write) == (other.due, other.requeue_at, other.fail_write)
            && (late, skipped, blocked) == (&other.late, &other.skipped, &other.blocked)
            && (pods, commits) == (&other.pods, &other.commits)
            && (self.attempts(), self.gone(), self.lost()) == (other.attempts(), other.gone(), other.lost())
            && (approvals, champions, *champions_read) == (&other.approvals, &other.champions, other.champions_read)
            && (params, script) == (&other.params, &other.script)
            && Rc::ptr_eq(spec, &other.spec)
            && Rc::ptr_eq(graph, &other.graph)
    }
}
