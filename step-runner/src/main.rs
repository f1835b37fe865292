//! The binary of the step-runner; see the library.

fn main() -> std::process::ExitCode {
    step_runner::cli::main().into()
}
