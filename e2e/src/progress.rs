//! One line for each long step, on standard error: quiet otherwise.

use std::io::Write;
use std::time::Instant;

/// Says that `what` goes on, does it, and says how long it took. A failure leaves the line to the error that follows.
pub fn step<T, E>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let started = Instant::now();
    let done = work()?;
    line(&format!("{what} ({})", seconds(started)));
    Ok(done)
}

/// Like [`step`], for work of minutes: it is announced before it starts, too.
pub fn long_step<T, E>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    line(&format!("{what} ..."));
    step(what, work)
}

/// Prints one line. A closed standard error is nothing to stop for.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn seconds(started: Instant) -> String {
    format!("{:.1} s", started.elapsed().as_secs_f64())
}
