//! Which runs a Pipeline's triggers start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod clock;
mod data;
mod keys;
mod laws;
mod models;
mod policies;
mod world;
