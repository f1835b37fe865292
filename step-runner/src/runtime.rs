//! The one thread that everything runs on, and a few beside it for what blocks.

use std::time::Duration;

use step_protocol::Outcome;

use crate::failure::say;

/// Threads that read, hash and write files, made when needed; one asks the name service.
const BLOCKING: usize = 8;

/// Does the work to its end; the process's exit code.
pub(crate) fn block_on(work: impl Future<Output = Outcome>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(Duration::from_millis(200))
        .thread_stack_size(512 * 1024)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say!("failed to start: {error}");
            return Outcome::RunnerError.exit_code();
        }
    };
    let outcome = runtime.block_on(work);
    // A thread that hangs in a read of a dead volume must not hold up the exit.
    runtime.shutdown_background();
    outcome.exit_code()
}
