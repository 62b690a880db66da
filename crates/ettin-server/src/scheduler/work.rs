//! One request in a queue of sequences, whatever its task.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ettin::PackedBatch;
use ettin::tasks::{Prepared, Staged};
use tokio::sync::oneshot;

use super::compute::panic_message;
use super::fair_queue::Queued;
use super::{Caller, lock};
use crate::error::{ErrorKind, ServeError};

/// A request whose task is not known by type.
pub(super) trait Work: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn sequences(&self) -> usize;
    /// When it came.
    fn arrival(&self) -> Instant;
    fn length(&self, index: usize) -> usize;
    /// Whether the client is gone, or the deadline over; in the latter case it is told.
    fn is_dead(&self) -> bool;
    /// Whether sequences of both may be computed together.
    fn joins(&self, other: &dyn Work) -> bool;
    /// Computes members, which all join this one, and tells each request its rows. Says whether anything could be
    /// computed.
    fn compute(&self, members: &[Member]) -> bool;
    /// Notes when the first sequence's turn came.
    fn begin(&self, now: Instant);
    /// Ends the request without an answer.
    fn fail(&self, error: ServeError);
}

/// A sequence of a request.
pub(super) type Member = (Arc<dyn Work>, usize);

impl Queued for Arc<dyn Work> {
    fn sequences(&self) -> usize {
        (**self).sequences()
    }

    fn length(&self, index: usize) -> usize {
        (**self).length(index)
    }

    fn is_dead(&self) -> bool {
        (**self).is_dead()
    }
}

/// What is known when all sequences are computed.
#[derive(Debug)]
pub(super) struct Computed<R> {
    pub(super) rows: Vec<Result<R, ettin::Error>>,
    /// From arrival until the first sequence's turn.
    pub(super) queued: Duration,
    /// From then on.
    pub(super) computed: Duration,
}

/// One request of a task.
pub(super) struct Job<T: Staged> {
    task: Arc<T>,
    prepared: Arc<Prepared<T>>,
    caller: Caller,
    arrival: Instant,
    progress: Mutex<Progress<T::Row>>,
}

struct Progress<R> {
    rows: Vec<Option<Result<R, ettin::Error>>>,
    left: usize,
    begun: Option<Instant>,
    /// Gone when the answer is.
    answer: Option<oneshot::Sender<Result<Computed<R>, ServeError>>>,
}

/// Where a job's rows arrive.
type Rows<R> = oneshot::Receiver<Result<Computed<R>, ServeError>>;

impl<T: Staged + 'static> Job<T> {
    pub(super) fn new(task: Arc<T>, prepared: Arc<Prepared<T>>, caller: Caller) -> (Self, Rows<T::Row>) {
        let (answer, rows) = oneshot::channel();
        let left = prepared.sequences().len();
        let progress = Progress { rows: (0..left).map(|_| None).collect(), left, begun: None, answer: Some(answer) };
        (Self { task, prepared, caller, arrival: Instant::now(), progress: Mutex::new(progress) }, rows)
    }

    fn put(&self, index: usize, row: Result<T::Row, ettin::Error>) {
        let mut progress = lock(&self.progress);
        if let Some(slot) = progress.rows.get_mut(index).filter(|slot| slot.is_none()) {
            *slot = Some(row);
            progress.left -= 1;
        }
        if progress.left > 0 {
            return;
        }
        let Some(answer) = progress.answer.take() else { return };
        let begun = progress.begun.unwrap_or(self.arrival);
        let rows = std::mem::take(&mut progress.rows).into_iter().flatten().collect();
        let computed = Computed { rows, queued: begun - self.arrival, computed: begun.elapsed() };
        // A client that is gone wants nothing.
        let _ = answer.send(Ok(computed));
    }

    /// Computes sequences of jobs of this kind together.
    fn rows(&self, members: &[(&Self, usize)]) -> Result<Vec<Result<T::Row, ettin::Error>>, ettin::Error> {
        let sequences: Vec<_> = members.iter().map(|(job, index)| &job.prepared.sequences()[*index]).collect();
        let ids: Vec<_> = sequences.iter().map(|sequence| sequence.ids()).collect();
        let computed = catch_unwind(AssertUnwindSafe(|| {
            let batch = PackedBatch::new(&ids)?;
            self.task.compute(&batch, &sequences, self.prepared.reading())
        }));
        let rows = computed.unwrap_or_else(|panic| Err(ettin::Error::Internal(panic_message("a batch", &*panic))))?;
        match rows.len() == members.len() {
            true => Ok(rows),
            false => {
                let message = format!("{} rows of {} sequences", rows.len(), members.len());
                Err(ettin::Error::Internal(message))
            }
        }
    }
}

impl<T: Staged + 'static> Work for Job<T> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn sequences(&self) -> usize {
        self.prepared.sequences().len()
    }

    fn arrival(&self) -> Instant {
        self.arrival
    }

    fn length(&self, index: usize) -> usize {
        self.prepared.sequences()[index].ids().len()
    }

    fn is_dead(&self) -> bool {
        if self.caller.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.fail(ServeError::new(ErrorKind::Deadline, "the request did not get its turn before its deadline"));
        }
        lock(&self.progress).answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn joins(&self, other: &dyn Work) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| {
            Arc::ptr_eq(&self.task, &other.task) && self.prepared.reading() == other.prepared.reading()
        })
    }

    fn compute(&self, members: &[Member]) -> bool {
        let jobs: Vec<(&Self, usize)> =
            members.iter().filter_map(|(work, index)| Some((work.as_any().downcast_ref::<Self>()?, *index))).collect();
        match self.rows(&jobs) {
            Ok(rows) => {
                jobs.iter().zip(rows).for_each(|((job, index), row)| job.put(*index, row));
                true
            }
            // One of them is to blame, and the others shall not suffer for it.
            Err(_) if jobs.len() > 1 => {
                let mut any = false;
                for (job, index) in jobs {
                    let alone = self.rows(&[(job, index)]);
                    any |= alone.is_ok();
                    job.put(index, alone.and_then(|mut rows| rows.pop().unwrap_or_else(|| Err(no_row()))));
                }
                any
            }
            Err(error) => {
                jobs.iter().for_each(|(job, index)| job.put(*index, Err(error.clone())));
                false
            }
        }
    }

    fn begin(&self, now: Instant) {
        lock(&self.progress).begun.get_or_insert(now);
    }

    fn fail(&self, error: ServeError) {
        if let Some(answer) = lock(&self.progress).answer.take() {
            // A client that is gone wants nothing.
            let _ = answer.send(Err(error));
        }
    }
}

fn no_row() -> ettin::Error {
    ettin::Error::Internal("a sequence has no row".to_owned())
}
