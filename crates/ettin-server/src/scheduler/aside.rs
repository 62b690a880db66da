//! Where texts are computed that would hold up all others.
//!
//! A forward pass cannot be interrupted, and one over thousands of tokens takes as long as a hundred short ones. So it
//! does not take the [`Turn`](super::Turn): it runs beside whoever has it, one at a time, on threads to which the system
//! gives what the others leave over. Alone it is as fast as with the turn; by the invariance rule it is the same to the
//! bit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use rayon::ThreadPoolBuilder;

use super::compute;
use crate::error::ServeError;

/// How much the threads stand back (the "nice" value of Unix): beside a busy thread, such a one has about a tenth of a core.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Something to compute.
pub(super) type AsideJob = Box<dyn FnOnce() + Send>;

/// The threads and what waits for them. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Aside {
    jobs: mpsc::Sender<AsideJob>,
}

impl Aside {
    /// Starts the threads, as many as the kernels have.
    ///
    /// # Errors
    /// When there are none to be had.
    pub(super) fn start() -> Result<Self, ServeError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(rayon::current_num_threads())
            .thread_name(|index| format!("ettin-long-{index}"))
            .start_handler(|_| stand_back())
            .build()
            .map_err(|error| ServeError::internal(format!("threads for long texts cannot be started: {error}")))?;
        let (jobs, received) = mpsc::channel::<AsideJob>();
        compute::spawn("ettin-long".to_owned(), move || {
            // Kernels that are called within a pool use that pool.
            received.iter().for_each(|job| {
                // Whoever waits for it is told by the job's own drop.
                let _ = catch_unwind(AssertUnwindSafe(|| pool.install(job)));
            });
        })?;
        Ok(Self { jobs })
    }

    /// Computes it when what came before is done.
    pub(super) fn run(&self, job: AsideJob) {
        // The thread ends with this sender only.
        let _ = self.jobs.send(job);
    }
}

/// Lets others go first. Where the system has no priority for one thread, it takes turns as it sees fit.
fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "a thread for long texts has the priority of all others");
    }
}
