//! The generation loop: several prompts at once, each with its own cache, position and end.
//!
//! One step feeds every running sequence what its cache lacks: the last token of one that is generating, the next part of
//! a prompt that is being read. Finished sequences leave and waiting prompts take their place. As a token's result depends
//! on its own sequence alone, none of this changes what is generated.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::sampler::Sampler;
use super::sequence::{Finished, Rules, Sequence};
use super::{FinishReason, GenerateRequest, Piece};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Rows that one step feeds at most, and so what a sequence's cache must be able to take at once.
pub(crate) const STEP_ROWS: usize = 512;

/// Sequences that run at once; fewer than [`STEP_ROWS`], so that prompts are read while others generate.
const MAX_RUNNING: usize = 32;

/// What the loop needs of a model.
pub(crate) trait CausalModel {
    /// Keys and values of one sequence.
    type Cache;

    /// An empty cache that takes up to [`STEP_ROWS`] tokens a step.
    fn cache(&self) -> Result<Self::Cache>;

    /// A copy that goes on independently.
    fn fork(&self, cache: &Self::Cache) -> Self::Cache;

    /// Appends `tokens[i]` to `caches[i]`. Returns the logits after the last token of the sequences that `wanted`
    /// names, a row each, in the order named.
    fn step(&self, tokens: &[&[u32]], caches: &mut [&mut Self::Cache], wanted: &[usize]) -> Result<Vec<Vec<f32>>>;
}

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

/// A sequence with its cache.
struct Running<'a, C> {
    sequence: Sequence<'a>,
    cache: C,
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
        let sampler = Sampler::new(&request.sampling)?;
        Ok(Self { model, rules: Rules { tokenizer, request, sampler, context } })
    }

    /// The seed in use; none when nothing is drawn.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.rules.sampler.seed()
    }

    /// Continues all prompts; results come in the order they end. A sequence that fails alone (its logits are not finite)
    /// has its error, and the others go on.
    pub(crate) fn run(&self, prompts: Vec<Prompt>, on_piece: &mut OnPiece<'_>) -> Result<Vec<Output>> {
        let mut sink = Sink { on_piece, done: Vec::new(), cancelled: false };
        let mut waiting = VecDeque::from(prompts);
        let mut running = Vec::new();
        loop {
            self.admit(&mut waiting, &mut running, &mut sink)?;
            if running.is_empty() || sink.cancelled {
                break;
            }
            let logits = self.step(&mut running)?;
            running = self.extend(running, logits, &mut sink);
        }
        let unread = waiting.into_iter().map(|prompt| Sequence::new(&self.rules, prompt.ids, prompt.output));
        for sequence in running.into_iter().map(|one| one.sequence).chain(unread) {
            for mut sequence in self.samples(sequence) {
                sequence.end(FinishReason::Cancelled)?;
                sink.finish(sequence, FinishReason::Cancelled);
            }
        }
        Ok(sink.done)
    }

    /// Moves prompts from waiting to running; those that leave no room for a token end at once.
    fn admit(
        &self,
        waiting: &mut VecDeque<Prompt>,
        running: &mut Vec<Running<'a, M::Cache>>,
        sink: &mut Sink<'_, '_>,
    ) -> Result<()> {
        let samples = self.rules.request.samples;
        let outputs = |one: &Running<'a, M::Cache>| {
            if one.sequence.is_reading() { samples } else { 1 }
        };
        let mut taken: usize = running.iter().map(outputs).sum();
        while taken == 0 || taken + samples <= MAX_RUNNING {
            let Some(prompt) = waiting.pop_front() else {
                break;
            };
            let sequence = Sequence::new(&self.rules, prompt.ids, prompt.output);
            match sequence.is_full(&self.rules) {
                Some(reason) => {
                    for sequence in self.samples(sequence) {
                        sink.piece(sequence.output, "", Some(reason));
                        sink.finish(sequence, reason);
                    }
                }
                None => {
                    taken += samples;
                    running.push(Running { sequence, cache: self.model.cache()? });
                }
            }
        }
        Ok(())
    }

    /// Feeds every sequence as much as fits in one step, those that generate first. Returns the logits of those that
    /// are fed up to their last token.
    fn step(&self, running: &mut [Running<'a, M::Cache>]) -> Result<Vec<Option<Vec<f32>>>> {
        let mut room = STEP_ROWS;
        let mut rows = vec![0; running.len()];
        for reading in [false, true] {
            for (rows, one) in rows.iter_mut().zip(&*running).filter(|(_, one)| one.sequence.is_reading() == reading) {
                *rows = one.sequence.unread().len().min(room);
                room -= *rows;
            }
        }
        let (mut fed, mut wanted, mut tokens, mut caches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, Running { sequence, cache }) in running.iter_mut().enumerate() {
            let unread = sequence.unread();
            if rows[index] > 0 {
                if rows[index] == unread.len() {
                    wanted.push(fed.len());
                }
                fed.push(index);
                tokens.push(&unread[..rows[index]]);
                caches.push(cache);
            }
        }
        let computed = self.model.step(&tokens, &mut caches, &wanted)?;
        let mut logits: Vec<Option<Vec<f32>>> = running.iter().map(|_| None).collect();
        for (row, member) in computed.into_iter().zip(wanted) {
            logits[fed[member]] = Some(row);
        }
        for (one, rows) in running.iter_mut().zip(rows) {
            one.sequence.advance(rows);
        }
        Ok(logits)
    }

    /// Adds a token to every sequence that has logits; returns those that go on.
    fn extend(
        &self,
        running: Vec<Running<'a, M::Cache>>,
        logits: Vec<Option<Vec<f32>>>,
        sink: &mut Sink<'_, '_>,
    ) -> Vec<Running<'a, M::Cache>> {
        let mut rest = Vec::with_capacity(running.len());
        for (one, logits) in running.into_iter().zip(logits) {
            let Some(logits) = logits else {
                rest.push(one);
                continue;
            };
            for mut one in self.split(one) {
                if sink.cancelled {
                    rest.push(one);
                    continue;
                }
                match one.sequence.extend(&self.rules, &logits) {
                    Err(error) => sink.done.push((one.sequence.output, Err(error))),
                    Ok((text, finish)) => {
                        sink.piece(one.sequence.output, &text, finish);
                        match finish {
                            Some(reason) => sink.finish(one.sequence, reason),
                            None => rest.push(one),
                        }
                    }
                }
            }
        }
        rest
    }

    /// A sequence whose prompt was just read becomes its samples, each with a cache of its own.
    fn split(&self, one: Running<'a, M::Cache>) -> Vec<Running<'a, M::Cache>> {
        if !one.sequence.is_fresh() {
            return vec![one];
        }
        let mut samples: Vec<_> = (1..self.rules.request.samples)
            .map(|sample| Running { sequence: one.sequence.sample(sample), cache: self.model.fork(&one.cache) })
            .collect();
        samples.insert(0, one);
        samples
    }

    /// The samples of a sequence that has none yet, or the sequence itself.
    fn samples(&self, sequence: Sequence<'a>) -> Vec<Sequence<'a>> {
        let samples = if sequence.is_reading() { self.rules.request.samples } else { 1 };
        (0..samples).map(|sample| if samples == 1 { sequence.clone() } else { sequence.sample(sample) }).collect()
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

    fn finish(&mut self, sequence: Sequence<'_>, reason: FinishReason) {
        self.done.push((sequence.output, Ok(sequence.finished(reason))));
    }
}
