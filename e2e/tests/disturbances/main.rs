//! Disturbances: stories in which the operator, the node or the API server is taken away, one after the other, since all others would
//! feel it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a story stops at what it did not expect")]

mod api_server;
mod gang;
mod machine;
mod node;
mod operator;
#[path = "../stories/world.rs"]
#[expect(dead_code, reason = "shared with the stories, which use all of it")]
mod world;
