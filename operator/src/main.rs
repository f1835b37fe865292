//! The operator's process: arguments in, exit code out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use trainyard_operator::args::{Arguments, Settings};
use trainyard_operator::{app, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match Settings::try_from(Arguments::parse()) {
        Ok(settings) => settings,
        // Exits with 2, as for every other wrong argument.
        Err(error) => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    match app::run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = telemetry::chain(&error), "the operator ends");
            ExitCode::from(error.exit_code())
        }
    }
}
