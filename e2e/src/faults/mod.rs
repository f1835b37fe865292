//! The crash sweep: the real operator beside the real API server and the real step-runner, with one fault a case.
//!
//! ```text
//! operator (child process) -> proxy -> kube-apiserver <- test kubelet -> step-runner (child processes) -> store (a folder)
//!                               |            |                 |
//!                               +--------- history ------------+   -> invariants
//! ```
//!
//! A run without a fault counts the writes of a workload; then there is one case for each write and fault, in a namespace of
//! its own. What must hold is judged on the whole history. `e2e/FAULTS.md` is the manual.

pub mod api;
pub mod case;
pub mod fault;
pub mod history;
pub mod invariants;
pub mod kubelet;
pub mod observer;
pub mod operator;
pub mod programs;
pub mod proxy;
pub mod store;
pub mod sweep;
pub mod workload;
