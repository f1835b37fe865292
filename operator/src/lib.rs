//! The operator: watches `Pipeline`, `PipelineRun` and `TrainingJob`; runs every stage as one Pod, and a training as many.
//!
//! The decisions are `trainyard-planner`'s; this crate is the shell around them. Each module is one concern:
//!
//! | module | concern |
//! |---|---|
//! | [`args`] | the command line, checked |
//! | [`app`] | what is started and stopped in which order |
//! | `controllers`, `pipeline`, `pipeline_run`, `training_job` | watching, observing, and performing what the planner decides |
//! | `apply` | the one door through which writes leave |
//! | `seen`, `audit` | objects as they are read, and watches that lose nothing |
//! | [`pod`] | the Pod of an attempt, from data alone |
//! | [`report`] | early reports of runners, and their keys |
//! | [`events`] | what people should know of a run |
//! | [`gang`] | schedulers that place all ranks of a training or none |
//! | [`lease`] | which of several replicas works |
//! | [`crd`] | whether the cluster has our kinds |
//! | [`health`], [`metrics`], [`telemetry`] | what is seen of this process |
//! | [`client`], [`shutdown`] | the connection to the API server, and when to stop |

#![forbid(unsafe_code)]

pub mod app;
mod apply;
pub mod args;
mod audit;
pub mod client;
mod context;
mod controllers;
pub mod crd;
pub mod events;
pub mod gang;
pub mod health;
pub mod lease;
mod memory;
pub mod metrics;
mod mutant;
mod pace;
mod pipeline;
mod pipeline_run;
pub mod pod;
pub mod report;
mod revisions;
mod seen;
pub mod shutdown;
mod status_patch;
mod survive;
pub mod telemetry;
mod training_job;
