//! The planner in a small world: a run's status as it was persisted, its Pods, its commit records, and an operator that performs
//! plans and may crash between any two effects.

#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this crate is tests")]

mod case;
mod exhaustive;
mod judged;
mod laws;
mod scenarios;
mod stale;
mod step_spec;
mod story;
mod training_stages;
mod world;
