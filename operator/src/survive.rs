//! A panic over one object costs that object a turn, and nobody else anything.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use trainyard_planner::{Note, NoteKind};

/// What a panic said.
#[derive(Debug, thiserror::Error)]
#[error("internal error, a panic: {0}")]
pub(crate) struct Panicked(String);

/// Does the work to its end, be that a panic.
///
/// What the work shares with others are locks that are held for a moment, and what they guard is read again from the API server.
pub(crate) async fn survive<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| Panicked(said(panic.as_ref())))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl Panicked {
    /// For whoever looks at the object.
    pub(crate) fn note(&self) -> Note {
        let message = format!(
            "the operator cannot go on with this object and tries again every half minute; report this, with the operator's log: {self}"
        );
        Note { kind: NoteKind::Warning, reason: "InternalError", message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_that_says_what_it_said() {
        let panicked =
            |work: futures::future::BoxFuture<'static, ()>| async { survive(work).await.unwrap_err().to_string() };
        let text = panicked(Box::pin(async { panic!("plain") })).await;
        assert_eq!(text, "internal error, a panic: plain");
        let (index, list): (usize, Vec<u8>) = (3, Vec::new());
        let text = panicked(Box::pin(async move {
            std::hint::black_box(list[index]);
        }))
        .await;
        assert!(text.contains("index out of bounds"), "{text}");
        assert_eq!(survive(async { 7 }).await.unwrap(), 7);
    }
}
