//! The generation loop: several prompts at once, each with its own cache, position and end.
//!
//! One step feeds every running sequence what its cache lacks: the last token of one that is generating and the guesses
//! behind it, the next part of a prompt that is being read. Finished sequences leave and waiting prompts take their place.
//! As a token's result depends on its own sequence alone, none of this changes what is generated.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use super::draft::{Draft, Task};
use super::model::{Cache, CausalModel, STEP_ROWS};
use super::prefixes::{Prefixes, worth_keeping};
use super::sampler::{Chooser, Scratch};
use super::sequence::{Finished, Rules, Sequence};
use super::{FinishReason, GenerateRequest, MOST_DRAFTED, Piece};
use crate::tokenizer::Tokenizer;
use crate::{Error, PackedBatch, Result};

/// Sequences that run at once; fewer than [`STEP_ROWS`], so that prompts are read while others generate.
const MAX_RUNNING: usize = 32;

/// A prompt and where its outputs go.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Token ids; at least one.
    pub(crate) ids: Vec<u32>,
    /// Index of its first output; its other samples follow.
    pub(crate) output: usize,
}

/// A result with the index of its output.
pub(crate) type Output = (usize, Result<Finished>);

/// Who hears of new text; a break ends the run.
pub(crate) type OnPiece<'a> = dyn FnMut(Piece<'_>) -> ControlFlow<()> + 'a;

/// A model with a request.
pub(crate) struct Engine<'a, M> {
    model: &'a M,
    rules: Rules<'a>,
}

impl<'a, M: CausalModel> Engine<'a, M> {
    /// `context` is the most tokens of a sequence, prompt included.
    ///
    /// # Errors
    /// [`Error::Input`] for settings out of range.
    pub(crate) fn new(
        model: &'a M,
        tokenizer: &'a Tokenizer,
        request: &'a GenerateRequest,
        context: usize,
    ) -> Result<Self> {
        if request.stop.iter().any(String::is_empty) {
            return Err(Error::input("a stop string must not be empty"));
        }
        if request.samples == 0 {
            return Err(Error::input("at least one sample per prompt must be asked for"));
        }
        if request.draft_tokens > MOST_DRAFTED {
            return Err(Error::input(format!(
                "at most {MOST_DRAFTED} tokens can be drafted at a time, not {}",
                request.draft_tokens
            )));
        }
        let ends = match (request.ignore_eos, &request.eos) {
            (true, _) => Vec::new(),
            (false, Some(ends)) => ends.clone(),
            (false, None) => tokenizer.special().eos.clone(),
        };
        let chooser = Chooser::new(&request.sampling, &request.shaping, ends)?;
        let context = context.min(model.positions());
        Ok(Self { model, rules: Rules { tokenizer, request, chooser, context } })
    }

    /// The seed in use; none when nothing is drawn.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.rules.chooser.seed()
    }

    /// Continues all prompts with the help of `draft`; results come in the order they end. A sequence that fails alone
    /// (its logits are not finite) has its error, and the others go on.
    pub(crate) fn run<D: Draft>(
        &self,
        draft: D,
        prompts: Vec<Prompt>,
        on_piece: &mut OnPiece<'_>,
    ) -> Result<Vec<Output>> {
        let mut run = Run {
            engine: self,
            draft,
            waiting: prompts.into(),
            running: Vec::new(),
            prefixes: Prefixes::new(),
            sink: Sink { on_piece, done: Vec::new(), cancelled: false },
            batch: PackedBatch::default(),
            rows: Vec::new(),
            logits: Vec::new(),
            scratch: Scratch::default(),
        };
        while run.admit()? {
            run.guess()?;
            run.step()?;
            run.split()?;
            run.extend()?;
        }
        run.cancel()
    }
}

/// A sequence with what models remember of it.
struct Running<'a, C, D> {
    sequence: Sequence<'a>,
    cache: C,
    memory: D,
    /// Tokens of its prompt of which waiting prompts want a copy.
    shared: Option<usize>,
    /// Tokens that the step feeds.
    fed: usize,
    /// Its rows of the step's logits.
    logits: Range<usize>,
    over: bool,
}

impl<C, D> Running<'_, C, D> {
    /// Tokens that it feeds next, where its turn allows `room`.
    fn rows(&self, room: usize) -> usize {
        let read = self.sequence.read();
        let until = self.shared.filter(|&shared| read < shared).map_or(usize::MAX, |shared| shared - read);
        self.sequence.unread().len().min(until).min(room)
    }

    /// Whether it is reading a beginning that `prompt` wants a copy of.
    fn reads_for(&self, prompt: &[u32]) -> bool {
        let shared = self.shared.filter(|&shared| self.sequence.read() < shared);
        shared.is_some_and(|shared| prompt.len() > shared && prompt.starts_with(&self.sequence.tokens()[..shared]))
    }
}

/// One run of an engine.
struct Run<'r, 'a, 'p, M: CausalModel, D: Draft> {
    engine: &'r Engine<'a, M>,
    draft: D,
    waiting: VecDeque<Prompt>,
    running: Vec<Running<'a, M::Cache, D::Memory>>,
    prefixes: Prefixes<M::Cache, D::Memory>,
    sink: Sink<'r, 'p>,
    /// Used again for every step: what is fed, its rows with logits, the logits.
    batch: PackedBatch,
    rows: Vec<usize>,
    logits: Vec<f32>,
    scratch: Scratch,
}

impl<M: CausalModel, D: Draft> Run<'_, '_, '_, M, D> {
    /// Moves prompts from waiting to running; those that leave no room for a token end at once. Returns whether there is
    /// anything to do.
    fn admit(&mut self) -> Result<bool> {
        let rules = &self.engine.rules;
        let samples = rules.request.samples;
        let outputs = |one: &Running<_, _>| if one.sequence.is_reading() { samples } else { 1 };
        let mut taken: usize = self.running.iter().map(outputs).sum();
        while taken == 0 || taken + samples <= MAX_RUNNING {
            // A prompt waits for its beginning, and those behind it with it.
            let is_read = |prompt: &mut Prompt| !self.running.iter().any(|one| one.reads_for(&prompt.ids));
            let Some(Prompt { ids, output }) = self.waiting.pop_front_if(is_read) else {
                break;
            };
            let waiting = self.waiting.iter().map(|prompt| prompt.ids.as_slice());
            let (cache, memory) = match self.prefixes.find(&ids) {
                Some(prefix) => (prefix.cache.fork(), self.draft.fork(&prefix.memory)),
                None => (self.engine.model.cache()?, self.draft.memory()?),
            };
            let shared = worth_keeping(&ids, cache.len(), waiting.clone());
            self.prefixes.forget(waiting);
            let sequence = Sequence::new(rules, ids, cache.len(), output);
            match sequence.is_full(rules) {
                Some(reason) => {
                    for mut sequence in self.engine.samples(sequence) {
                        self.sink.piece(sequence.output, "", Some(reason));
                        self.sink.finish(&mut sequence, reason);
                    }
                }
                None => {
                    taken += samples;
                    self.running.push(Running { sequence, cache, memory, shared, fed: 0, logits: 0..0, over: false });
                }
            }
        }
        Ok(!self.running.is_empty() && !self.sink.cancelled)
    }

    /// Lets the draft guess behind every sequence that is generating.
    fn guess(&mut self) -> Result<()> {
        let rules = &self.engine.rules;
        let generating = self.running.iter().filter(|one| !one.sequence.is_reading()).count();
        // Guesses are rows like others: the more sequences share a step, the fewer each has.
        let Some(share) = MOST_DRAFTED.checked_div(generating).map(|share| share.min(rules.request.draft_tokens))
        else {
            return Ok(());
        };
        let mut tasks = Vec::with_capacity(generating);
        for one in self.running.iter_mut().filter(|one| !one.sequence.is_reading()) {
            let (tokens, place, useful) = one.sequence.guess_space(rules);
            let wanted = useful.min(share);
            if wanted > 0 {
                tasks.push(Task { tokens, place, wanted, memory: &mut one.memory });
            }
        }
        self.draft.guess(&rules.chooser, &mut tasks)
    }

    /// Feeds every sequence as much as fits in one step, those that generate first, and computes the logits after what
    /// was fed to those, or after a prompt's last token.
    fn step(&mut self) -> Result<()> {
        self.batch.clear();
        self.rows.clear();
        let mut room = STEP_ROWS;
        let mut fed = Vec::with_capacity(self.running.len());
        self.running.sort_by_key(|one| one.sequence.is_reading());
        for one in &mut self.running {
            let rows = one.rows(room);
            (one.fed, one.logits) = (rows, 0..0);
            if rows == 0 {
                continue;
            }
            room -= rows;
            self.batch.push(&one.sequence.unread()[..rows], one.sequence.read())?;
            if rows == one.sequence.unread().len() {
                let end = self.batch.tokens();
                let start = end - 1 - one.sequence.guesses();
                one.logits = self.rows.len()..self.rows.len() + end - start;
                self.rows.extend(start..end);
            }
            fed.push(&mut one.cache);
        }
        self.engine.model.step(&self.batch, &mut fed, &self.rows, &mut self.logits)?;
        self.running.iter_mut().for_each(|one| one.sequence.advance(one.fed));
        Ok(())
    }

    /// Keeps beginnings that other prompts wait for. Gives the samples of a prompt that was just read a cache each.
    fn split(&mut self) -> Result<()> {
        let rules = &self.engine.rules;
        let mut samples = Vec::new();
        for one in &mut self.running {
            let read = one.sequence.read();
            let fork = !one.logits.is_empty() && one.sequence.is_fresh() && rules.request.samples > 1;
            let keep = one.shared == Some(read);
            if !fork && !keep {
                continue;
            }
            let mut tokens = one.sequence.tokens()[..read].to_vec();
            let place = one.sequence.place(rules);
            let task = Task { tokens: &mut tokens, place, wanted: 0, memory: &mut one.memory };
            self.draft.guess(&rules.chooser, &mut [task])?;
            if keep {
                one.shared = None;
                self.prefixes.keep(&tokens, one.cache.fork(), self.draft.fork(&one.memory));
            }
            if fork {
                samples.extend((1..rules.request.samples).map(|sample| Running {
                    sequence: one.sequence.sample(sample),
                    cache: one.cache.fork(),
                    memory: self.draft.fork(&one.memory),
                    shared: None,
                    fed: 0,
                    logits: one.logits.clone(),
                    over: false,
                }));
            }
        }
        self.running.append(&mut samples);
        Ok(())
    }

    /// Adds to every sequence that has logits a token, and one more for every guess that proves right. Those that end
    /// leave.
    fn extend(&mut self) -> Result<()> {
        let rules = &self.engine.rules;
        let vocabulary = self.logits.len() / self.rows.len().max(1);
        for one in self.running.iter_mut().filter(|one| !one.logits.is_empty()) {
            let (drafted, mut accepted) = (one.sequence.guesses(), 0);
            for row in one.logits.clone() {
                if self.sink.cancelled {
                    break;
                }
                let logits = &self.logits[row * vocabulary..][..vocabulary];
                match one.sequence.extend(rules, logits, &mut self.scratch) {
                    Err(error) => {
                        let error = match error {
                            Error::NotFinite { .. } => self.engine.model.not_finite(one.sequence.settled()),
                            error => error,
                        };
                        self.sink.done.push((one.sequence.output, Err(error)));
                        one.over = true;
                    }
                    Ok(extended) => {
                        accepted += usize::from(extended.guessed);
                        self.sink.piece(one.sequence.output, &extended.text, extended.finish);
                        if let Some(reason) = extended.finish {
                            one.sequence.checked(drafted, accepted);
                            self.sink.finish(&mut one.sequence, reason);
                            one.over = true;
                        } else if extended.guessed {
                            continue;
                        }
                    }
                }
                break;
            }
            if !one.over {
                one.sequence.checked(drafted, accepted);
                one.cache.truncate(one.sequence.read())?;
            }
        }
        self.running.retain(|one| !one.over);
        Ok(())
    }

    /// Ends what has not ended.
    fn cancel(mut self) -> Result<Vec<Output>> {
        let rules = &self.engine.rules;
        let unread = self.waiting.into_iter().map(|prompt| Sequence::new(rules, prompt.ids, 0, prompt.output));
        for sequence in self.running.into_iter().map(|one| one.sequence).chain(unread) {
            for mut sequence in self.engine.samples(sequence) {
                sequence.end(FinishReason::Cancelled)?;
                self.sink.finish(&mut sequence, FinishReason::Cancelled);
            }
        }
        Ok(self.sink.done)
    }
}

impl<'a, M> Engine<'a, M> {
    /// The samples of a sequence that has none yet, or the sequence itself.
    fn samples(&self, sequence: Sequence<'a>) -> Vec<Sequence<'a>> {
        let samples = if sequence.is_reading() { self.rules.request.samples } else { 1 };
        (0..samples).map(|sample| sequence.sample(sample)).collect()
    }
}

/// Where text and results go.
struct Sink<'a, 'b> {
    on_piece: &'a mut OnPiece<'b>,
    done: Vec<Output>,
    cancelled: bool,
}

impl Sink<'_, '_> {
    fn piece(&mut self, index: usize, text: &str, finish: Option<FinishReason>) {
        if !self.cancelled && (!text.is_empty() || finish.is_some()) {
            self.cancelled = (self.on_piece)(Piece { index, text, finish }).is_break();
        }
    }

    fn finish(&mut self, sequence: &mut Sequence<'_>, reason: FinishReason) {
        self.done.push((sequence.output, Ok(sequence.finished(reason))));
    }
}
