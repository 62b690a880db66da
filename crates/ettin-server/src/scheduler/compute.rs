//! What threads that compute have in common.

use std::any::Any;
use std::thread;

use crate::error::ServeError;

/// What a panic says, as a fault of `what`.
pub(super) fn panic_message(what: &str, panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    format!("{what} panicked: {}", said.unwrap_or("for no reason given"))
}

/// Starts a thread that computes.
///
/// # Errors
/// When the system has none.
pub(super) fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), ServeError> {
    let started = thread::Builder::new().name(name).spawn(run);
    started.map(drop).map_err(|error| ServeError::internal(format!("a thread cannot be started: {error}")))
}
