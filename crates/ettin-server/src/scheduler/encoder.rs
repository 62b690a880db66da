//! The queue of one model's sequences, and the thread that computes them.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ettin::batching::BATCH_TOKENS;
use ettin::tasks::{Outcomes, Prepared, Staged};

use super::fair_queue::FairQueue;
use super::work::{Computed, Job, Member, Work};
use super::{Admission, Caller, Turn, compute, lock};
use crate::error::{ErrorKind, ServeError};
use crate::metrics;

/// The smallest bound of a batch: below, products are so thin that throughput suffers.
const LEAST_BATCH: usize = 512;

/// How an [`EncoderQueue`] forms batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderSettings {
    /// The most tokens of a batch, unless one sequence has more.
    pub batch_tokens: usize,
    /// How long a batch is to take at most, by what was measured lately; others wait for so long. A single sequence
    /// that takes longer is computed all the same.
    pub batch_time: Duration,
}

impl Default for EncoderSettings {
    fn default() -> Self {
        Self { batch_tokens: BATCH_TOKENS, batch_time: Duration::from_millis(100) }
    }
}

/// How long the parts of a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallTimes {
    /// From text to tokens.
    pub tokenization: Duration,
    /// Until the first sequence's turn came.
    pub queue: Duration,
    /// From then until the last was computed.
    pub inference: Duration,
}

/// A request whose sequences are computed.
pub struct ComputedCall<T: Staged> {
    task: Arc<T>,
    prepared: Arc<Prepared<T>>,
    rows: Vec<Result<T::Row, ettin::Error>>,
    /// How long it took.
    pub times: CallTimes,
}

impl<T: Staged> ComputedCall<T> {
    /// Puts the answers together; an input's own failure is in its place. For some tasks that is work, and not for a
    /// reactor.
    pub fn assemble(self) -> Outcomes<T::Answer> {
        self.task.assemble(&self.prepared, self.rows)
    }
}

/// Computes the sequences of many requests to one model. When it is dropped, what waits is still computed, and its
/// thread ends.
pub struct EncoderQueue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    settings: EncoderSettings,
    admission: Arc<Admission>,
}

#[derive(Default)]
struct State {
    queue: FairQueue<Arc<dyn Work>>,
    closed: bool,
}

impl EncoderQueue {
    /// Starts the thread of a model.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        name: &str,
        settings: EncoderSettings,
        turn: Arc<Turn>,
        admission: Arc<Admission>,
    ) -> Result<Self, ServeError> {
        let shared = Arc::new(Shared { state: Mutex::default(), arrived: Condvar::new(), settings, admission });
        let of_thread = shared.clone();
        compute::spawn(format!("ettin-encode-{name}"), move || of_thread.run(&turn))?;
        Ok(Self { shared })
    }

    /// How batches are formed.
    pub fn settings(&self) -> EncoderSettings {
        self.shared.settings
    }

    /// Sequences that wait.
    pub fn waiting(&self) -> usize {
        lock(&self.shared.state).queue.len()
    }

    /// Computes what a task has prepared. Dropping the future takes its sequences out of the queue.
    ///
    /// # Errors
    /// [`Deadline`](ErrorKind::Deadline).
    pub async fn compute<T: Staged + 'static>(
        &self,
        task: &Arc<T>,
        prepared: Prepared<T>,
        caller: Caller,
    ) -> Result<ComputedCall<T>, ServeError> {
        let (task, prepared) = (task.clone(), Arc::new(prepared));
        if prepared.sequences().is_empty() {
            return Ok(ComputedCall { task, prepared, rows: Vec::new(), times: CallTimes::default() });
        }
        let (job, rows) = Job::new(task.clone(), prepared.clone(), caller);
        {
            let mut state = lock(&self.shared.state);
            state.queue.push(caller.client, Arc::new(job));
            metrics::queue_size(state.queue.len());
        }
        self.shared.arrived.notify_one();
        let gone = |_| ServeError::new(ErrorKind::Unhealthy, "the model was taken down");
        let computed = match caller.deadline {
            None => rows.await.map_err(gone)?,
            Some(deadline) => {
                let late = |_| ServeError::new(ErrorKind::Deadline, "the request was not answered before its deadline");
                tokio::time::timeout_at(deadline.into(), rows).await.map_err(late)?.map_err(gone)?
            }
        };
        let Computed { rows, queued, computed } = computed?;
        let times = CallTimes { tokenization: Duration::ZERO, queue: queued, inference: computed };
        Ok(ComputedCall { task, prepared, rows, times })
    }
}

impl Drop for EncoderQueue {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.arrived.notify_all();
    }
}

impl fmt::Debug for EncoderQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncoderQueue").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl Shared {
    fn run(&self, turn: &Turn) {
        while self.wait() {
            let turn = turn.take();
            // What came while others computed is in it.
            let batch = self.form();
            self.compute(batch);
            drop(turn);
        }
    }

    /// Waits for something to compute; false when there will be nothing more.
    fn wait(&self) -> bool {
        let mut state = lock(&self.state);
        while state.queue.is_empty() {
            if state.closed {
                return false;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn form(&self) -> Vec<Member> {
        let EncoderSettings { batch_tokens, batch_time } = self.settings;
        let in_time = (self.admission.rate() * batch_time.as_secs_f64()) as usize;
        let budget = in_time.clamp(LEAST_BATCH.min(batch_tokens), batch_tokens);
        let mut state = lock(&self.state);
        let batch = state.queue.take(budget);
        metrics::queue_size(state.queue.len());
        batch
    }

    fn compute(&self, mut batch: Vec<Member>) {
        if batch.is_empty() {
            return;
        }
        let begun = Instant::now();
        let tokens = batch.iter().map(|(work, index)| work.length(*index)).sum();
        metrics::batch(batch.len(), tokens);
        batch.iter().for_each(|(work, _)| work.begin(begun));
        // What is read alike is computed together; the rest of the batch follows at once.
        while let Some((first, _)) = batch.first() {
            let first = first.clone();
            let (alike, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(work, _)| first.joins(&**work));
            first.compute(&alike);
            batch = rest;
        }
        let time = begun.elapsed();
        self.admission.computed(tokens, time);
        metrics::computed("encode", tokens, time);
    }
}
