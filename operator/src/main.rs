//! The operator's process: arguments in, exit code out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use mimalloc::MiMalloc;
use trainyard_operator::args::{Arguments, Settings};
use trainyard_operator::{app, telemetry};

/// The allocator of a static C library took two fifths of the operator's processor time: `docs/performance.md`, a3.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let settings = match Settings::try_from(Arguments::parse()) {
        Ok(settings) => settings,
        // Exits with 2, as for every other wrong argument.
        Err(error) => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: failed to start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(app::run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = telemetry::chain(&error), "the operator ends");
            ExitCode::from(error.exit_code())
        }
    };
    // Who lost the lease must not go on for another moment, and tasks that are cut off in the middle have nothing to say.
    std::mem::forget(runtime);
    code
}
