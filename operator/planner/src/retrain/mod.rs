//! Which runs a Pipeline's triggers start: a function of its spec, its status, its runs and the time.
//!
//! The ledger in `status.revisions` is the only memory, and it is written before what depends on it: a run is created only for an
//! entry that was read back as `Starting`. Its name follows from the entry's key, so whoever creates it again meets it. An entry that
//! has ended is never started again, and it outlives its run.

mod backfill;
mod data;
mod decide;
mod given;
mod instants;
mod key;
mod ledger;
mod models;
mod retention;
mod triggers;
mod upstream;

pub use data::{FoundData, Look, SeenData, looks};
pub use decide::{Decision, NewRun, Seen, SeenRun, creates, decide};
pub use given::given;
pub use key::run_key;
pub use ledger::unsettled;
pub use models::{PublishedBy, champions, register};
pub use retention::{Collection, EndedRun, collection, expired};
pub use triggers::check;
pub use upstream::{FoundOutput, SeenUpstream, Watched, watched};
