//! `trainyard-e2e`: clusters, images and stores from the command line.

mod cli;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            e2e::progress::line(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
