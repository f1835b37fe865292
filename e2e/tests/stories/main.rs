//! Stories: what users do and see, on the real kubelet, container runtime, DNS, object store and Helm.
//!
//! Each has a namespace of its own that enforces the restricted Pod Security Standard.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a story stops at what it did not expect")]

mod chains;
mod control;
mod failure;
mod frameworks;
mod images;
mod install;
mod jobs;
mod kstatus;
mod models;
mod pods;
mod queue;
mod queued;
mod refusals;
mod retraining;
mod secrets;
mod store;
mod success;
mod training;
mod training_stage;
mod world;
