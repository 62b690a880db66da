//! The streams of one model: continuous batching over an [`Engine`], and the thread that steps it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ettin::generate::{
    Engine, EngineSettings, Event, FinishReason, Flow, Handle, Logprobs, NewToken, Request, TextSequence,
};
use ettin::heads::LanguageModel;
use ettin::tokenizer::Tokenizer;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::compute::{self, panic_message};
use super::{Admission, Caller, Turn, lock};
use crate::error::{ErrorKind, ServeError};
use crate::metrics;

/// Events on their way to a client that reads.
const CHANNEL: usize = 64;

/// Events kept for a client that does not read; beyond, it is given up.
const BACKLOG: usize = 4096;

/// How often a client that does not read is looked at while nothing else is to be done.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// How a [`DecoderQueue`] runs its engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DecoderSettings {
    /// The engine's limits.
    pub engine: EngineSettings,
}

/// One prompt to be continued.
#[derive(Debug, Clone)]
pub struct GenerationTask {
    /// What the engine is asked for.
    pub request: Request,
    /// Strings that end a text.
    pub stop: Arc<[String]>,
    /// Whether spellings of special tokens are part of the text.
    pub special: bool,
    /// The number of its first sample among the outputs of its call.
    pub first_output: usize,
}

/// What becomes of an output: tokens, none or more, and one end or failure. Before the first token of a prompt's first
/// output come the log-probabilities of the prompt, where they were asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationEvent {
    /// A prompt is read.
    Prompt(PromptScores),
    /// One more token.
    Token(TokenPiece),
    /// The output is complete.
    End(SampleEnd),
    /// The output cannot go on; others may.
    Failed {
        /// Which output.
        output: usize,
        /// Why.
        error: ServeError,
    },
}

/// The log-probabilities of a prompt's tokens.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PromptScores {
    /// The first output of the prompt.
    pub output: usize,
    /// Those of every token but the first, which has nothing before it.
    pub logprobs: Vec<Logprobs>,
}

/// A token of an output.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TokenPiece {
    /// Which output: prompts × samples, the samples of a prompt in a row.
    pub output: usize,
    /// The token.
    pub id: u32,
    /// Text that is final with it; empty while it may still turn out to be the beginning of a stop string, or of a
    /// character.
    pub text: String,
    /// Log-probabilities, where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Why the output ends with it, if it does; its end is the next event.
    pub finish: Option<FinishReason>,
}

/// The end of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SampleEnd {
    /// Which output.
    pub output: usize,
    /// Why it ended.
    pub reason: FinishReason,
    /// The stop string that ended it, if one did. It is no part of the text.
    pub stop: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The continuation's tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// The seed that its tokens were drawn with; none where nothing is drawn.
    pub seed: Option<u64>,
}

/// Continues the prompts of many requests at once. When it is dropped, what runs is still completed, and its thread
/// ends.
pub struct DecoderQueue {
    shared: Arc<StreamShared>,
}

struct StreamShared {
    state: Mutex<Arrivals>,
    arrived: Condvar,
    /// Sequences that run or wait in the engine.
    held: AtomicUsize,
    /// Sequences that were taken out before their end.
    cancelled: AtomicUsize,
    admission: Arc<Admission>,
    turn: Arc<Turn>,
    /// The model's name.
    name: Arc<str>,
}

#[derive(Default)]
struct Arrivals {
    tasks: Vec<Arrival>,
    closed: bool,
}

struct Arrival {
    task: GenerationTask,
    caller: Caller,
    events: mpsc::Sender<GenerationEvent>,
}

impl DecoderQueue {
    /// Starts the thread of a model.
    ///
    /// # Errors
    /// Settings that the engine refuses; when there is no thread to be had.
    pub fn start(
        name: &str,
        model: Arc<LanguageModel>,
        tokenizer: Arc<Tokenizer>,
        settings: DecoderSettings,
        turn: Arc<Turn>,
        admission: Arc<Admission>,
    ) -> Result<Self, ServeError> {
        let engine = Engine::new(model, settings.engine)?;
        let shared = Arc::new(StreamShared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            held: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            admission,
            turn,
            name: name.into(),
        });
        let of_thread = shared.clone();
        compute::spawn(format!("ettin-decode-{name}"), move || Streams::new(engine, &tokenizer).run(&of_thread))?;
        Ok(Self { shared })
    }

    /// Sequences that run or wait, as of the last step. Those of clients that hung up are gone.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Sequences that were taken out before their end, so far.
    pub fn cancelled(&self) -> usize {
        self.shared.cancelled.load(Ordering::Relaxed)
    }

    /// Continues the prompts of one call. Events of all of them come through one channel; dropping it cancels what has
    /// not ended.
    pub fn submit(&self, tasks: Vec<GenerationTask>, caller: Caller) -> mpsc::Receiver<GenerationEvent> {
        let (events, received) = mpsc::channel(CHANNEL);
        let arrival = |task| Arrival { task, caller, events: events.clone() };
        lock(&self.shared.state).tasks.extend(tasks.into_iter().map(arrival));
        self.shared.arrived.notify_one();
        received
    }
}

impl Drop for DecoderQueue {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.arrived.notify_all();
    }
}

impl fmt::Debug for DecoderQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecoderQueue").field("arrived", &lock(&self.shared.state).tasks.len()).finish_non_exhaustive()
    }
}

type ModelEngine = Engine<Arc<LanguageModel>>;

/// What the thread keeps.
struct Streams<'a> {
    engine: ModelEngine,
    tokenizer: &'a Tokenizer,
    open: BTreeMap<Handle, OpenStream<'a>>,
    /// Steps in a row that failed.
    failures: usize,
}

/// A prompt that is being continued.
struct OpenStream<'a> {
    caller: Caller,
    events: mpsc::Sender<GenerationEvent>,
    /// What the client has not taken yet.
    backlog: VecDeque<GenerationEvent>,
    first_output: usize,
    samples: Vec<OpenSample<'a>>,
    /// Tokens of prompt and continuations.
    tokens: usize,
    /// Log-probabilities of the prompt, until all of them are there.
    scores: Vec<Logprobs>,
    /// How many there will be.
    scored: usize,
}

struct OpenSample<'a> {
    text: TextSequence<'a>,
    finish: Option<FinishReason>,
    over: bool,
}

impl<'a> Streams<'a> {
    fn new(engine: ModelEngine, tokenizer: &'a Tokenizer) -> Self {
        Self { engine, tokenizer, open: BTreeMap::new(), failures: 0 }
    }

    fn run(mut self, shared: &StreamShared) {
        while let Some(arrivals) = self.wait(shared) {
            arrivals.into_iter().for_each(|arrival| self.open(arrival));
            self.clear(shared);
            if self.engine.is_idle() {
                self.tell_of_load(shared);
                continue;
            }
            let turn = shared.turn.take();
            let begun = Instant::now();
            let tokens = self.step();
            drop(turn);
            let time = begun.elapsed();
            shared.admission.computed(tokens, time);
            metrics::computed(&shared.name, "generate", tokens, time);
            self.tell_of_load(shared);
        }
    }

    /// What has arrived; waits where there is nothing to do. None when there will be nothing more.
    fn wait(&self, shared: &StreamShared) -> Option<Vec<Arrival>> {
        let mut state = lock(&shared.state);
        while state.tasks.is_empty() && self.engine.is_idle() {
            if state.closed && self.open.is_empty() {
                return None;
            }
            if self.open.is_empty() {
                state = shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                // Clients that are slow to take what is theirs.
                drop(state);
                std::thread::sleep(BACKLOG_PAUSE);
                return Some(std::mem::take(&mut lock(&shared.state).tasks));
            }
        }
        Some(std::mem::take(&mut state.tasks))
    }

    fn open(&mut self, Arrival { task, caller, events }: Arrival) {
        if events.is_closed() {
            return;
        }
        let GenerationTask { request, stop, special, first_output } = task;
        let (samples, tokens) = (request.samples, request.ids.len());
        let scored = request.prompt_logprobs.map(|_| tokens.saturating_sub(1));
        let opened = TextSequence::new(self.tokenizer, &request.ids, stop)
            .and_then(|text| Ok((text.with_special(special), self.engine.submit(request)?)));
        let sample = |text: &TextSequence<'a>| OpenSample { text: text.clone(), finish: None, over: false };
        match opened {
            Ok((text, handle)) => {
                let samples = (0..samples).map(|_| sample(&text)).collect();
                let (backlog, scores) = (VecDeque::new(), Vec::new());
                let mut stream = OpenStream {
                    caller,
                    events,
                    backlog,
                    first_output,
                    samples,
                    tokens,
                    scores,
                    scored: scored.unwrap_or(0),
                };
                if scored == Some(0) {
                    stream.send_scores();
                }
                self.open.insert(handle, stream);
            }
            Err(error) => {
                let error = ServeError::from(error);
                for output in first_output..first_output + samples.max(1) {
                    // The channel of a call has room for its first events, or its client does not read them.
                    let _ = events.try_send(GenerationEvent::Failed { output, error: error.clone() });
                }
            }
        }
    }

    /// Takes out what nobody waits for, and sends what could not be sent before.
    fn clear(&mut self, shared: &StreamShared) {
        let now = Instant::now();
        let mut gone = Vec::new();
        for (handle, stream) in &mut self.open {
            stream.flush();
            if stream.caller.deadline.is_some_and(|deadline| deadline <= now) {
                let late = ServeError::new(ErrorKind::Deadline, "the request was not answered before its deadline");
                stream.fail(&late);
            }
            if stream.backlog.len() > BACKLOG {
                stream.events = mpsc::channel(1).0;
            }
            if stream.is_over() {
                gone.push(*handle);
            }
        }
        for handle in gone {
            self.open.remove(&handle);
            let cancelled = self.engine.cancel(handle).len();
            shared.cancelled.fetch_add(cancelled, Ordering::Relaxed);
        }
    }

    /// One step; returns the tokens that it made.
    fn step(&mut self) -> usize {
        let (engine, open) = (&mut self.engine, &mut self.open);
        let mut made = 0;
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            engine.step_with(&mut |event| {
                made += match &event {
                    Event::Token(_) => 1,
                    Event::Prompt(scored) => scored.logprobs.len(),
                    _ => 0,
                };
                match open.get_mut(&event.handle()) {
                    Some(stream) => stream.take(event),
                    None => Flow::Continue,
                }
            })
        }));
        match stepped {
            Ok(Ok(())) => self.failures = 0,
            // Nothing is lost, and the next step computes it anew.
            Ok(Err(_)) if self.failures == 0 => self.failures = 1,
            Ok(Err(error)) => self.fail_all(&error.into()),
            Err(panic) => self.fail_all(&ServeError::internal(panic_message("a step", &*panic))),
        }
        made
    }

    /// Ends all streams, and begins anew with an engine of which nothing is broken.
    fn fail_all(&mut self, error: &ServeError) {
        self.failures = 0;
        for stream in self.open.values_mut() {
            stream.fail(error);
        }
        let handles: Vec<Handle> = self.open.keys().copied().collect();
        let (model, settings) = (self.engine.model().clone(), self.engine.settings().clone());
        match Engine::new(model, settings) {
            // Handles begin anew, too: no stream may keep an old one.
            Ok(engine) => {
                self.engine = engine;
                self.open.clear();
            }
            Err(_) => handles.into_iter().for_each(|handle| drop(self.engine.cancel(handle))),
        }
    }

    fn tell_of_load(&self, shared: &StreamShared) {
        shared.held.store(self.engine.running() + self.engine.waiting(), Ordering::Relaxed);
        let tokens: usize = self.open.values().map(|stream| stream.tokens).sum();
        let bytes = tokens.saturating_mul(self.engine.bytes_per_token());
        metrics::streams(&shared.name, self.engine.running(), self.engine.waiting(), bytes);
    }
}

impl OpenStream<'_> {
    /// Turns an event of the engine into text, and says how the engine is to go on.
    fn take(&mut self, event: Event) -> Flow {
        match event {
            Event::Prompt(scored) => {
                self.scores.extend(scored.logprobs);
                if self.scores.len() >= self.scored {
                    self.send_scores();
                }
                Flow::Continue
            }
            Event::Token(NewToken { sample, id, logprobs, finish, .. }) => {
                self.tokens += 1;
                let Some(open) = self.samples.get_mut(sample) else { return Flow::Stop };
                let output = self.first_output + sample;
                match open.text.push(id, finish) {
                    Ok(said) => {
                        open.finish = said.finish;
                        let (text, finish) = (said.text, said.finish);
                        self.send(GenerationEvent::Token(TokenPiece { output, id, text, logprobs, finish }));
                        if finish.is_some() { Flow::Stop } else { Flow::Continue }
                    }
                    Err(error) => {
                        open.over = true;
                        self.send(GenerationEvent::Failed { output, error: error.into() });
                        Flow::Stop
                    }
                }
            }
            Event::Finished(finished) => {
                let Some(open) = self.samples.get_mut(finished.sample) else { return Flow::Continue };
                if std::mem::replace(&mut open.over, true) {
                    return Flow::Continue;
                }
                let reason = open.finish.unwrap_or(finished.reason);
                let output = self.first_output + finished.sample;
                let stop = open.text.stopped_by().filter(|_| reason == FinishReason::Stop).map(str::to_owned);
                let (prompt_tokens, tokens, seed) = (finished.prompt_tokens, finished.tokens, finished.seed);
                self.send(GenerationEvent::End(SampleEnd { output, reason, stop, prompt_tokens, tokens, seed }));
                Flow::Continue
            }
            Event::Failed(failed) => {
                if let Some(open) = self.samples.get_mut(failed.sample) {
                    open.over = true;
                }
                let (output, error) = (self.first_output + failed.sample, failed.error.into());
                self.send(GenerationEvent::Failed { output, error });
                Flow::Continue
            }
            _ => Flow::Continue,
        }
    }

    fn send_scores(&mut self) {
        let scores = PromptScores { output: self.first_output, logprobs: std::mem::take(&mut self.scores) };
        self.send(GenerationEvent::Prompt(scores));
    }

    fn send(&mut self, event: GenerationEvent) {
        self.backlog.push_back(event);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    return;
                }
                Err(TrySendError::Closed(_)) => self.backlog.clear(),
            }
        }
    }

    /// Ends what has not ended.
    fn fail(&mut self, error: &ServeError) {
        for sample in 0..self.samples.len() {
            if !std::mem::replace(&mut self.samples[sample].over, true) {
                let output = self.first_output + sample;
                self.send(GenerationEvent::Failed { output, error: error.clone() });
            }
        }
    }

    /// Whether its client has all of it, or is gone.
    fn is_over(&self) -> bool {
        self.events.is_closed() || self.backlog.is_empty() && self.samples.iter().all(|sample| sample.over)
    }
}
