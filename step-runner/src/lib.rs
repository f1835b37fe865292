//! The parent process of the user's command in every stage Pod.
//!
//! It fetches and verifies inputs ([`stage_in`]), runs the program in a process group of its own ([`exec`]), checks and sends its
//! outputs and commits them exactly once ([`stage_out`]), and says how it ended ([`report`]). A stage may publish a model instead of
//! running a program ([`publish`]), and a Pod that is no stage's does short work in the store ([`task`]). [`attempt`] is the order of these
//! things. What it agrees on with the operator is the crate `step-protocol`; it never talks to Kubernetes.
//!
//! The child is not trusted: it cannot read this process ([`process`]), does not see its variables ([`environment`]), and whatever
//! it wrote is opened beneath its directory ([`beneath`]).

#![deny(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links)]

mod attempt;
mod beneath;
mod checkpoint;
pub mod cli;
mod digest;
mod environment;
mod exec;
mod failure;
mod layout;
mod ledger;
mod log;
mod mutant;
mod oom;
mod process;
mod progress;
mod publish;
mod rank;
mod report;
mod runtime;
mod stage_in;
mod stage_out;
mod stop;
mod store;
mod task;
mod training;
