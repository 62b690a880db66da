//! Whether a model still computes: known without waiting for anything that is being computed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::compute::panic_message;
use super::lock;
use crate::error::{ErrorKind, ServeError};

/// Computes the smallest thing there is.
pub type Probe = dyn Fn() -> Result<(), ettin::Error> + Send + Sync;

/// How often a model that fails is tried again while nobody asks it for anything.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What the last batch, or what was tried after a failed one, has shown.
#[derive(Default)]
pub(super) struct Vitals {
    failure: Mutex<Option<ServeError>>,
    probe: OnceLock<Box<Probe>>,
}

impl Vitals {
    /// Sets what is tried after a failure, once.
    pub(super) fn probe_with(&self, probe: Box<Probe>) {
        // The first one stays.
        let _ = self.probe.set(probe);
    }

    /// # Errors
    /// What failed.
    pub(super) fn check(&self) -> Result<(), ServeError> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    pub(super) fn is_failing(&self) -> bool {
        lock(&self.failure).is_some()
    }

    /// A batch was computed.
    pub(super) fn well(&self) {
        *lock(&self.failure) = None;
    }

    /// A whole batch failed, or had before: tries the smallest thing, by the thread whose turn it is. One request that
    /// is to blame makes no failing model.
    pub(super) fn try_again(&self) {
        let Some(probe) = self.probe.get() else { return };
        let tried = catch_unwind(AssertUnwindSafe(probe));
        let tried = tried.unwrap_or_else(|panic| Err(ettin::Error::Internal(panic_message("one token", &*panic))));
        let failure = tried
            .err()
            .map(|error| ServeError::unhealthy(format!("the model fails to compute a single token: {error}"), RETRY));
        if let Some(error) = &failure {
            tracing::error!(%error, "model fails");
        }
        *lock(&self.failure) = failure;
    }

    /// The thread ends that computes.
    pub(super) fn over(&self) {
        *lock(&self.failure) = Some(ServeError::new(ErrorKind::Unhealthy, "the model's thread has ended"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_tried_after_a_failure_decides() {
        let (vitals, fails) = (Vitals::default(), Arc::new(AtomicBool::new(true)));
        vitals.try_again();
        assert!(vitals.check().is_ok());
        let seen = fails.clone();
        vitals.probe_with(Box::new(move || match seen.load(Ordering::Relaxed) {
            true => panic!("broken"),
            false => Ok(()),
        }));
        vitals.try_again();
        assert!(vitals.check().unwrap_err().message.contains("broken") && vitals.is_failing());
        fails.store(false, Ordering::Relaxed);
        vitals.try_again();
        assert!(vitals.check().is_ok());
    }
}
