//! Lines about what happens, on stderr.

use tracing_subscriber::EnvFilter;

/// Begins to write them: as JSON, or for people. `RUST_LOG` chooses which, as `tracing` reads it; without it, what
/// operators want to know. Does nothing where somebody else has begun.
pub fn begin(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Where somebody else has begun, those lines are theirs.
    let _ = if json { lines.json().try_init() } else { lines.try_init() };
}
