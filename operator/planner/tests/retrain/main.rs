//! Which runs a Pipeline's triggers start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod clock;
mod keys;
mod laws;
mod policies;
mod world;
