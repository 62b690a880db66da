//! Words for the person at the terminal: all of stderr goes through here.
//!
//! Unlike `eprintln!`, a closed stderr is no reason to panic.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// Notes on stderr, silent under `--quiet`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notes {
    quiet: bool,
}

impl Notes {
    /// Notes, or with `quiet` none.
    pub(crate) fn new(quiet: bool) -> Self {
        Notes { quiet }
    }

    /// Something worth knowing that is not an error.
    pub(crate) fn note(self, message: impl Display) {
        if !self.quiet {
            line(format_args!("note: {message}"));
        }
    }

    /// A line of its own, without a label.
    pub(crate) fn plain(self, message: impl Display) {
        if !self.quiet {
            line(message);
        }
    }

    /// Whether progress bars may be drawn.
    pub(crate) fn progress(self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// An error, also under `--quiet`.
pub(crate) fn error(message: impl Display) {
    line(format_args!("error: {message}"));
}

/// Something that was asked for, also under `--quiet`.
pub(crate) fn asked(message: impl Display) {
    line(message);
}

/// What `RUST_LOG=debug` asks to see: how what was typed was understood.
pub(crate) fn plan(plan: &dyn Display) {
    let asked = std::env::var("RUST_LOG").is_ok_and(|levels| levels.contains("debug") || levels.contains("trace"));
    if asked {
        line(format_args!("plan: {plan}"));
    }
}

fn line(message: impl Display) {
    // Nobody can be told that stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}
