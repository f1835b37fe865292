//! What demo, stories, fault tests and benchmarks stand on: a real Kubernetes on one machine, images
//! assembled without a container engine, and S3 stores.
//!
//! * [`cluster`] brings up a whole one-node cluster, or only a control plane, or uses the one that `KUBECONFIG` names;
//! * [`build`] makes the programs: the pinned Go tools of `e2e/cluster/*/go.mod` and our own static binaries;
//! * [`image`] turns the recipes of `deploy/images/*.toml` into OCI archives and loads them;
//! * [`store`] runs an S3 server in the cluster or beside a test;
//! * [`mod@bench`] measures what the documents claim;
//! * [`faults`] crashes the operator wherever it writes, and judges what then happens;
//! * [`soak`] runs many pipelines under small faults, and looks at memory.
//!
//! All but [`faults`] and [`soak`] is blocking: these are start-up steps around programs, not a service.

pub mod bench;
pub mod bucket;
pub mod build;
pub mod cluster;
pub mod command;
pub mod demo;
pub mod faults;
pub mod image;
pub mod install;
pub mod paths;
pub mod progress;
pub mod soak;
pub mod store;
