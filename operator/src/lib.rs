//! The operator: watches `Pipeline` and `PipelineRun` and runs every stage as one Pod.
//!
//! The decisions are `trainyard-planner`'s; this crate is the shell around them. Each module is one concern:
//!
//! | module | concern |
//! |---|---|
//! | [`args`] | the command line, checked |
//! | [`pod`] | the Pod of an attempt, from data alone |
//! | [`report`] | early reports of runners, and their keys |
//! | [`lease`] | which of several replicas works |
//! | [`metrics`] | what is counted |

#![forbid(unsafe_code)]

pub mod args;
pub mod lease;
pub mod metrics;
pub mod pod;
pub mod report;
