//! Threads that turn texts into tokens, apart from those that compute and from the reactors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use super::compute::panic_message;
use crate::error::ServeError;

/// A small pool of threads for work on texts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TokenizerPool(Arc<ThreadPool>);

impl TokenizerPool {
    /// With so many threads.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn new(threads: usize) -> Result<Self, ServeError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("ettin-text-{index}"))
            .build()
            .map_err(|error| ServeError::internal(format!("threads for texts cannot be started: {error}")))?;
        Ok(Self(Arc::new(pool)))
    }

    /// Runs `work` on the pool; what it does in parallel stays there. A caller that is gone when its turn comes costs
    /// nothing.
    ///
    /// # Errors
    /// Those of `work`; an internal one where it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
    ) -> Result<T, ServeError> {
        let (answer, answered) = oneshot::channel();
        self.0.spawn(move || {
            if answer.is_closed() {
                return;
            }
            let done = catch_unwind(AssertUnwindSafe(work));
            let done = done.unwrap_or_else(|panic| Err(ServeError::internal(panic_message("work on a text", &*panic))));
            // Nobody waits any more.
            let _ = answer.send(done);
        });
        answered.await.unwrap_or_else(|_| Err(ServeError::internal("work on a text was given up")))
    }
}
