//! The command line of ettin-run, as a library: what was typed (`args`), what will happen (`plan`), doing it
//! (`commands`).
#![forbid(unsafe_code)]

mod advice;
mod args;
mod commands;
mod device;
mod exit;
mod input;
mod nano;
mod output;
mod plan;
mod progress;
mod record;
mod say;

use std::process::ExitCode;

/// Runs the process's command line.
pub fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, errors to stderr; neither can be told that it is closed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::FAILURE));
        }
    };
    let result = commands::run(cli.command);
    if let Some(message) = exit::message(&result) {
        say::error(message);
    }
    exit::code(&result)
}
