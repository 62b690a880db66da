//! One continuation in progress: its tokens, its text and when it ends.

use std::collections::HashSet;
use std::time::Instant;

use super::sampler::Sampler;
use super::stop::StopFilter;
use super::{FinishReason, GenerateRequest};
use crate::Result;
use crate::tokenizer::{TextStream, Tokenizer};

/// A finished continuation.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The continuation's text.
    pub(crate) text: String,
    /// The continuation's tokens.
    pub(crate) tokens: Vec<u32>,
    /// Why it ended.
    pub(crate) reason: FinishReason,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Until the prompt's last logits.
    pub(crate) prompt_ms: f64,
    /// From there on.
    pub(crate) generate_ms: f64,
}

/// What all continuations of a request share.
pub(super) struct Rules<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) request: &'a GenerateRequest,
    pub(super) sampler: Sampler,
    /// The most tokens of a sequence, prompt included.
    pub(super) context: usize,
}

/// Prompt and continuation so far.
#[derive(Clone)]
pub(super) struct Sequence<'a> {
    /// Index of the output it becomes.
    pub(super) output: usize,
    sample: u64,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// How many of `tokens` the model has read.
    read: usize,
    seen: HashSet<u32>,
    stream: TextStream<'a>,
    stop: StopFilter<'a>,
    text: String,
    started: Instant,
    prompt_read: Option<Instant>,
}

impl<'a> Sequence<'a> {
    pub(super) fn new(rules: &Rules<'a>, prompt: Vec<u32>, output: usize) -> Self {
        let seen = if rules.sampler.wants_history() { prompt.iter().copied().collect() } else { HashSet::new() };
        Self {
            output,
            sample: 0,
            prompt_tokens: prompt.len(),
            tokens: prompt,
            read: 0,
            seen,
            stream: rules.tokenizer.stream(),
            stop: StopFilter::new(&rules.request.stop),
            text: String::new(),
            started: Instant::now(),
            prompt_read: None,
        }
    }

    /// The same prompt for its `sample`-th continuation.
    pub(super) fn sample(&self, sample: usize) -> Self {
        Self { output: self.output + sample, sample: sample as u64, ..self.clone() }
    }

    /// Whether the prompt's last logits are still to come.
    pub(super) fn is_reading(&self) -> bool {
        self.prompt_read.is_none()
    }

    /// Whether it has no token beyond its prompt.
    pub(super) fn is_fresh(&self) -> bool {
        self.tokens.len() == self.prompt_tokens
    }

    /// Tokens that the model has not read.
    pub(super) fn unread(&self) -> &[u32] {
        &self.tokens[self.read..]
    }

    /// Notes that the model read `count` more tokens.
    pub(super) fn advance(&mut self, count: usize) {
        self.read += count;
        if self.read == self.prompt_tokens {
            self.prompt_read = Some(Instant::now());
        }
    }

    /// Whether no more token fits or is wanted.
    pub(super) fn is_full(&self, rules: &Rules<'a>) -> Option<FinishReason> {
        if self.tokens.len() - self.prompt_tokens >= rules.request.max_new_tokens {
            Some(FinishReason::Length)
        } else if self.tokens.len() >= rules.context {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    /// Chooses the next token. Returns the text that is final with it, and whether the sequence ends here.
    pub(super) fn extend(&mut self, rules: &Rules<'a>, logits: &[f32]) -> Result<(String, Option<FinishReason>)> {
        let position = self.tokens.len() as u64;
        let token = rules.sampler.choose(logits, &self.seen, self.sample, position)?;
        self.tokens.push(token);
        if !rules.request.ignore_eos && rules.tokenizer.special().eos.contains(&token) {
            return self.end(FinishReason::Eos);
        }
        if rules.sampler.wants_history() {
            self.seen.insert(token);
        }
        let completed = self.stream.push(token)?;
        let (text, stopped) = self.stop.push(&completed);
        self.text += &text;
        if stopped {
            return Ok((text, Some(FinishReason::Stop)));
        }
        match self.is_full(rules) {
            None => Ok((text, None)),
            Some(reason) => {
                let (rest, reason) = self.end(reason)?;
                Ok((text + &rest, reason))
            }
        }
    }

    /// Ends the sequence for `reason`, unless the text held back turns out to complete a stop string. Returns that text.
    pub(super) fn end(&mut self, reason: FinishReason) -> Result<(String, Option<FinishReason>)> {
        let held = self.stream.finish()?;
        let (mut text, stopped) = self.stop.push(&held);
        let reason = if stopped {
            FinishReason::Stop
        } else {
            text += &self.stop.finish();
            reason
        };
        self.text += &text;
        Ok((text, Some(reason)))
    }

    /// The result of a sequence that has ended.
    pub(super) fn finished(self, reason: FinishReason) -> Finished {
        let now = Instant::now();
        let read = self.prompt_read.unwrap_or(now);
        let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        Finished {
            text: self.text,
            tokens: self.tokens[self.prompt_tokens..].to_vec(),
            reason,
            prompt_tokens: self.prompt_tokens,
            prompt_ms: milliseconds(self.started, read),
            generate_ms: milliseconds(read, now),
        }
    }
}
