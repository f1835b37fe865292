//! The core of Trainyard: what to do next for a run.
//!
//! [`plan`] is a pure function of the pipeline ([`Graph`]), of what is observed of the run ([`Observed`]), of the status that was
//! written last, and of the time. It returns a [`Plan`]: actions as data, and the rows of status that change. There is no client
//! here, no task, no clock and no randomness, so the same function drives the operator, a local runner and the tests.
//!
//! Status is the only memory, and it is written before what depends on it: attempt n+1 is launched only when the failure of attempt
//! n stands in the status that was read back, and so is a stage that runs because another failed or was stopped. A success needs
//! no such care, since its commit record lasts. So planning can be stopped anywhere and begun again. A plan that waits for nothing
//! but its own write says so with a `requeue_at` that has come.

#![forbid(unsafe_code)]

mod attempts;
mod child;
mod error;
mod expression;
mod graph;
mod job_spec;
mod judge;
mod observed;
mod params;
mod publish;
pub mod retrain;
mod retry;
mod reuse;
mod schedule;
mod status;
mod step;
mod template;
pub mod training;

pub use error::SpecProblem;
pub use graph::{Graph, Node, Section};
pub use job_spec::job_spec;
pub use judge::Champions;
pub use observed::{
    Attempt, AttemptState, Blocked, ChildJob, Class, Committed, CommittedOutput, Ended, Late, Observed, Verdict,
    Waiting,
};
pub use params::{digest as params_digest, resolve as resolve_params};
pub use publish::{Published, published};
pub use reuse::reuse;
pub use schedule::{Action, Note, NoteKind, Origin, Plan, Run, plan};
pub use status::{initial, refused, terminal_conditions, without_rows};
pub use step::{StepContext, StepProblem, artifact_uri, asks_ledger, step_spec, store_spec};
