//! What to do next for a training job: the same kind of function as [`crate::plan`], for many Pods with one outcome.
//!
//! [`plan`] is a pure function of the job ([`Job`]), of what is observed of its ranks ([`Ranks`]), of the status that was written last,
//! and of the time. What it promises:
//!
//! * `status.attempt` is the one truth, and it is on record before any Pod of that attempt exists. A Pod of another attempt is stale.
//! * Whatever ends one rank ends the attempt for all, once: its end is on record before any of its Pods is deleted, and what the
//!   others do then means nothing.
//! * No Pod of an attempt is alive when the next one begins. A Pod on a lost node counts as gone when its time is over, since the
//!   rendezvous and the prefix of its outputs carry its attempt.
//! * Terminal status is written before Pods are deleted, and never changes.

mod completion;
mod job;
mod observed;
mod plan;
mod rank;
mod restart;
mod status;

pub use job::{Job, Origin};
pub use observed::{Blocked, RankPod, Ranks};
pub use plan::{JobAction, JobPlan, JobRun, plan};
pub use rank::rank_spec;
pub use status::{initial, refused};
