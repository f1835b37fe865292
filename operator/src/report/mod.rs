//! Early reports: a runner says that its stage has committed, 1.6 s before the kubelet does.
//!
//! A report is a hint that the store's commit record always backs, so acting on it is safe. It is signed with a
//! key that only its own attempt has; whoever forges one anyway starts at most a Pod whose runner finds no record. A report that is
//! lost, late or refused costs nothing but those 1.6 s, so nothing here is retried, stored or waited for.
//!
//! What rank 0 of a training says of its progress comes the same way, see `progress`.

mod key;
mod progress;
mod server;

pub use key::{KeyError, ReportKeys, SIGNATURE_HEADER};
pub use progress::{EarlyProgress, router as progress_router};
pub use server::{EarlyReport, Refusal, path, router, url};
