//! The crash sweep: the real operator beside the real API server and the real step-runner, with one fault a case.
//!
//! ```text
//! operator (child process) -> proxy -> kube-apiserver <- test kubelet -> step-runner (child processes) -> store (a folder, or S3
//!                               |            |                 |                                            behind a proxy)
//!                               +--------- history ------------+   -> invariants
//! ```
//!
//! A run without a fault counts the writes, watch events, Pods, store requests and early reports of a workload; then there is one
//! case for each of these and each fault that fits, in a namespace of its own. What must hold is judged on the whole history. `e2e/FAULTS.md` is the manual.

pub mod api;
pub mod case;
pub mod fault;
pub mod history;
pub mod invariants;
pub mod kubelet;
pub mod monkey;
pub mod mutants;
pub mod observer;
pub mod operator;
pub mod programs;
pub mod proxy;
pub mod report_proxy;
pub mod selection;
pub mod store;
pub mod store_proxy;
pub mod sweep;
pub mod user;
pub mod workload;
