//! Which runs a Pipeline's triggers start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod backfill;
mod clock;
mod data;
mod given;
mod keys;
mod laws;
mod models;
mod policies;
mod upstream;
mod world;
