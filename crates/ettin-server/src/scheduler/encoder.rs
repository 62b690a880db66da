//! The queue of one model's sequences, and the thread that computes them.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ettin::batching::BATCH_TOKENS;
use ettin::tasks::{Outcomes, Prepared, Staged};

use super::fair_queue::FairQueue;
use super::vitals::{self, Probe, Vitals};
use super::work::{Computed, Job, Member, Work};
use super::{Admission, Caller, Turn, compute, lock};
use crate::error::{ErrorKind, ServeError};
use crate::metrics;

/// The smallest bound of a batch: below, products are so thin that throughput suffers.
const LEAST_BATCH: usize = 512;

/// The shortest text that is computed beside the others: below, it is not worth it.
const LEAST_ASIDE: usize = 512;

/// How an [`EncoderQueue`] forms batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderSettings {
    /// The most tokens of a batch, unless one sequence has more.
    pub batch_tokens: usize,
    /// How long a batch is to take at most, by what was measured lately; others wait for so long. A single sequence
    /// that takes longer is computed all the same.
    pub batch_time: Duration,
    /// A text that takes longer than this, by the same measure, is computed beside the others, which then do not wait
    /// for it.
    pub aside_time: Duration,
}

impl Default for EncoderSettings {
    fn default() -> Self {
        Self {
            batch_tokens: BATCH_TOKENS,
            batch_time: Duration::from_millis(100),
            aside_time: Duration::from_millis(25),
        }
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

impl CallTimes {
    /// Both together, of calls that followed one another.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            tokenization: self.tokenization + other.tokenization,
            queue: self.queue + other.queue,
            inference: self.inference + other.inference,
        }
    }
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
    vitals: Vitals,
    /// The model's name.
    name: Arc<str>,
}

#[derive(Default)]
struct State {
    queue: FairQueue<Arc<dyn Work>>,
    closed: bool,
    /// Whether long texts are being computed beside; others stay in the queue until that is done.
    aside: bool,
    /// Whether all that waits is long texts of which none can be taken now.
    stuck: bool,
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
        let (state, arrived, vitals) = (Mutex::default(), Condvar::new(), Vitals::default());
        let shared = Arc::new(Shared { state, arrived, settings, admission, vitals, name: name.into() });
        let of_thread = shared.clone();
        compute::spawn(format!("ettin-encode-{name}"), move || {
            let _over = Over(&of_thread.vitals);
            Shared::run(&of_thread, &turn);
        })?;
        Ok(Self { shared })
    }

    /// How batches are formed.
    pub fn settings(&self) -> EncoderSettings {
        self.shared.settings
    }

    /// Sets what is computed, once, after a batch of which nothing could be.
    pub fn probe_with(&self, probe: Box<Probe>) {
        self.shared.vitals.probe_with(probe);
    }

    /// Whether the model computes, as far as is known.
    ///
    /// # Errors
    /// [`Unhealthy`](ErrorKind::Unhealthy) with what failed.
    pub fn check(&self) -> Result<(), ServeError> {
        self.shared.vitals.check()
    }

    /// How long the request has waited that has waited longest; zero where none waits.
    pub fn oldest(&self) -> Duration {
        let state = lock(&self.shared.state);
        state.queue.heads().map(|work| work.arrival()).min().map_or(Duration::ZERO, |arrival| arrival.elapsed())
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
            state.stuck = false;
            metrics::queue_size(&self.shared.name, state.queue.len());
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

/// Says that the thread has ended, however it did.
struct Over<'a>(&'a Vitals);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

impl Shared {
    fn run(self: &Arc<Self>, turn: &Turn) {
        while self.wait() {
            let held = turn.take();
            // What came while others computed is in it.
            let (batch, long) = self.form();
            if !long.is_empty() {
                self.compute_beside(long, turn);
            }
            let begun = Instant::now();
            let tokens = self.compute(batch);
            self.admission.computed(tokens, begun.elapsed());
            drop(held);
        }
    }

    fn compute_beside(self: &Arc<Self>, long: Vec<Member>, turn: &Turn) {
        let done = Done(self.clone());
        turn.beside(Box::new(move || {
            let Done(shared) = &done;
            // It may have waited long for the threads.
            shared.compute(long.into_iter().filter(|(work, _)| !work.is_dead()).collect());
        }));
    }

    /// Waits for something to compute, or to try again; false when there will be nothing more.
    fn wait(&self) -> bool {
        let mut state = lock(&self.state);
        while state.queue.is_empty() || state.stuck {
            if state.closed && state.queue.is_empty() {
                return false;
            }
            if !self.vitals.is_failing() {
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (woken, waited) =
                self.arrived.wait_timeout(state, vitals::RETRY).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if waited.timed_out() {
                return true;
            }
        }
        true
    }

    /// The next batch, and apart from it what is to be computed beside.
    fn form(&self) -> (Vec<Member>, Vec<Member>) {
        let EncoderSettings { batch_tokens, batch_time, aside_time } = self.settings;
        let in_time = |time: Duration| (self.admission.rate() * time.as_secs_f64()) as usize;
        let budget = in_time(batch_time).clamp(LEAST_BATCH.min(batch_tokens), batch_tokens);
        let longest = in_time(aside_time).max(LEAST_ASIDE);
        let mut state = lock(&self.state);
        let bound = if state.aside { longest } else { usize::MAX };
        let taken = state.queue.take(budget, bound);
        metrics::queue_size(&self.name, state.queue.len());
        state.stuck = taken.is_empty() && state.aside;
        let (long, batch): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|(work, index)| work.length(*index) > longest);
        state.aside |= !long.is_empty();
        (batch, long)
    }

    /// Computes sequences together, and returns how many tokens they have.
    fn compute(&self, mut batch: Vec<Member>) -> usize {
        if batch.is_empty() {
            if self.vitals.is_failing() {
                self.vitals.try_again();
            }
            return 0;
        }
        let begun = Instant::now();
        let tokens = batch.iter().map(|(work, index)| work.length(*index)).sum();
        metrics::batch(&self.name, batch.len(), tokens);
        batch.iter().for_each(|(work, _)| work.begin(begun));
        // What is read alike is computed together; the rest of the batch follows at once.
        let mut any = false;
        while let Some((first, _)) = batch.first() {
            let first = first.clone();
            let (alike, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(work, _)| first.joins(&**work));
            any |= first.compute(&alike);
            batch = rest;
        }
        if any {
            self.vitals.well()
        } else {
            self.vitals.try_again()
        }
        metrics::computed(&self.name, "encode", tokens, begun.elapsed());
        tokens
    }
}

/// Lets the next long text in when one is done with, however that came about.
struct Done(Arc<Shared>);

impl Drop for Done {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        (state.aside, state.stuck) = (false, false);
        drop(state);
        self.0.arrived.notify_one();
    }
}
