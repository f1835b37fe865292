//! The planner of training jobs, in a world of its own: an API server that keeps what it is told, Pods that do what a test says, and
//! an operator that can die at every request.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod crashes;
mod laws;
mod ranks;
mod rules;
mod world;
