//! One continuation in progress: its tokens, its text and when it ends.

use std::time::Instant;

use super::sampler::{Chooser, Scratch};
use super::shaping::Place;
use super::stop::StopFilter;
use super::{FinishReason, GenerateRequest};
use crate::Result;
use crate::tokenizer::{Said, TextStream, Tokenizer};

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
    /// Tokens guessed, and how many of them were right.
    pub(crate) drafted: usize,
    pub(crate) accepted: usize,
}

/// What all continuations of a request share.
pub(super) struct Rules<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) request: &'a GenerateRequest,
    pub(super) chooser: Chooser<'a>,
    /// The most tokens of a sequence, prompt included.
    pub(super) context: usize,
}

/// Prompt and continuation so far, with guesses behind them while they are being checked.
#[derive(Clone)]
pub(super) struct Sequence<'a> {
    /// Index of the output it becomes.
    pub(super) output: usize,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// The most tokens that the request allows, prompt included.
    most: usize,
    /// How many of `tokens` are certain; the rest are guesses.
    settled: usize,
    /// How many of `tokens` the model has read.
    read: usize,
    stream: TextStream<'a>,
    stop: StopFilter<'a>,
    text: String,
    started: Instant,
    prompt_read: Option<Instant>,
    drafted: usize,
    accepted: usize,
    /// Guesses that the next round asks for: grows while they are right.
    reach: usize,
}

/// What a further token made of a sequence.
pub(super) struct Extended {
    /// Text that is final with it.
    pub(super) text: String,
    /// Set when the sequence ends here.
    pub(super) finish: Option<FinishReason>,
    /// Whether the token had been guessed, so that the logits behind it hold.
    pub(super) guessed: bool,
}

impl<'a> Sequence<'a> {
    /// Guesses of the first round.
    const FIRST_REACH: usize = 2;

    /// A prompt of which `read` tokens are in its cache.
    pub(super) fn new(rules: &Rules<'a>, mut prompt: Vec<u32>, read: usize, output: usize) -> Self {
        let request = rules.request;
        let most = prompt.len().saturating_add(request.max_new_tokens).min(request.max_length.unwrap_or(usize::MAX));
        let room = most.min(rules.context).saturating_sub(prompt.len());
        prompt.reserve(room + request.draft_tokens);
        let stream = rules.tokenizer.stream_behind(&prompt);
        Self {
            output,
            prompt_tokens: prompt.len(),
            most,
            settled: prompt.len(),
            tokens: prompt,
            read,
            stream,
            stop: StopFilter::new(&request.stop),
            text: String::new(),
            started: Instant::now(),
            prompt_read: None,
            drafted: 0,
            accepted: 0,
            reach: Self::FIRST_REACH,
        }
    }

    /// The same prompt for its `sample`-th continuation.
    pub(super) fn sample(&self, sample: usize) -> Self {
        let mut tokens = Vec::with_capacity(self.tokens.capacity());
        tokens.extend_from_slice(&self.tokens);
        Self { output: self.output + sample, tokens, ..self.clone() }
    }

    /// Whether the prompt's last logits are still to come.
    pub(super) fn is_reading(&self) -> bool {
        self.prompt_read.is_none()
    }

    /// Whether it has no token beyond its prompt.
    pub(super) fn is_fresh(&self) -> bool {
        self.settled == self.prompt_tokens
    }

    /// All tokens, guesses included.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// All tokens that are certain.
    pub(super) fn settled(&self) -> &[u32] {
        &self.tokens[..self.settled]
    }

    /// How many tokens the model has read.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Tokens that the model has not read, guesses included.
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

    /// Where guesses are to be appended, where the sequence stands, and how many guesses are of use.
    pub(super) fn guess_space(&mut self, rules: &Rules<'a>) -> (&mut Vec<u32>, Place, usize) {
        let place = self.place(rules);
        // The step that checks them adds one more token.
        let room = self.most.min(rules.context).saturating_sub(self.settled + 1);
        (&mut self.tokens, place, self.reach.min(room))
    }

    /// Guesses not yet checked.
    pub(super) fn guesses(&self) -> usize {
        self.tokens.len() - self.settled
    }

    /// Notes that `drafted` guesses were checked, and `accepted` were right; drops what was not reached.
    pub(super) fn checked(&mut self, drafted: usize, accepted: usize) {
        self.tokens.truncate(self.settled);
        self.read = self.read.min(self.settled - 1);
        self.drafted += drafted;
        self.accepted += accepted;
        if drafted > 0 {
            self.reach = if accepted == drafted { (2 * self.reach).min(super::MOST_DRAFTED) } else { accepted + 1 };
        }
    }

    /// Whether no more token fits or is wanted.
    pub(super) fn is_full(&self, rules: &Rules<'a>) -> Option<FinishReason> {
        if self.settled >= self.most {
            Some(FinishReason::Length)
        } else if self.settled >= rules.context {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    /// Chooses the next token.
    pub(super) fn extend(&mut self, rules: &Rules<'a>, logits: &[f32], scratch: &mut Scratch) -> Result<Extended> {
        let token = rules.chooser.choose(logits, &self.tokens[..self.settled], self.place(rules), scratch)?;
        let guessed = self.tokens.get(self.settled) == Some(&token);
        if !guessed {
            self.tokens.truncate(self.settled);
            self.tokens.push(token);
        }
        self.settled += 1;
        let (text, finish) = self.say(rules, token)?;
        Ok(Extended { text, finish, guessed })
    }

    /// Turns a token into text. Returns what is final with it, and whether the sequence ends here.
    fn say(&mut self, rules: &Rules<'a>, token: u32) -> Result<(String, Option<FinishReason>)> {
        if rules.chooser.is_end(token) {
            return self.end_at(token);
        }
        let Said { text, hidden } = self.stream.say(token)?;
        // Text that is not final may complete a stop string all the same, alone or with a special token behind it.
        let held = if self.stop.is_off() { String::new() } else { self.stream.held()? };
        if text.is_empty()
            && let Some(text) = self.stop.complete_with(&held, &hidden)
        {
            self.text += &text;
            return Ok((text, Some(FinishReason::Stop)));
        }
        let (text, stopped) = self.stop.push(&text, &hidden);
        self.text += &text;
        if stopped {
            return Ok((text, Some(FinishReason::Stop)));
        }
        if let Some(more) = self.stop.complete_with(&held, "") {
            self.text += &more;
            return Ok((text + &more, Some(FinishReason::Stop)));
        }
        match self.is_full(rules) {
            None => Ok((text, None)),
            Some(reason) => {
                let (rest, reason) = self.end(reason)?;
                Ok((text + &rest, reason))
            }
        }
    }

    /// Ends the sequence at an end-of-text token. Its own spelling ends nothing that has not ended, but a stop string may begin
    /// before it.
    fn end_at(&mut self, token: u32) -> Result<(String, Option<FinishReason>)> {
        if self.stop.is_off() {
            return self.end(FinishReason::Eos);
        }
        let held = self.stream.finish()?;
        let (mut text, stopped) = self.stop.push(&held, "");
        let mut reason = FinishReason::Stop;
        if !stopped {
            let waiting = self.stop.waiting();
            let (rest, stopped) = self.stop.push("", &self.stream.say(token)?.hidden);
            // The stop string is the token's own spelling: nothing is cut.
            if !stopped || rest.len() == waiting {
                reason = FinishReason::Eos;
            }
            text += &rest;
            text += &self.stop.finish();
        }
        self.text += &text;
        Ok((text, Some(reason)))
    }

    /// Ends the sequence for `reason`, unless the text held back turns out to complete a stop string. Returns that text.
    pub(super) fn end(&mut self, reason: FinishReason) -> Result<(String, Option<FinishReason>)> {
        let held = self.stream.finish()?;
        let (mut text, stopped) = self.stop.push(&held, "");
        let reason = if stopped {
            FinishReason::Stop
        } else {
            text += &self.stop.finish();
            reason
        };
        self.text += &text;
        Ok((text, Some(reason)))
    }

    /// The result of a sequence that has ended; nothing is left of it.
    pub(super) fn finished(&mut self, reason: FinishReason) -> Finished {
        let now = Instant::now();
        let read = self.prompt_read.unwrap_or(now);
        let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        Finished {
            text: std::mem::take(&mut self.text),
            tokens: self.tokens[self.prompt_tokens..self.settled].to_vec(),
            reason,
            prompt_tokens: self.prompt_tokens,
            prompt_ms: milliseconds(self.started, read),
            generate_ms: milliseconds(read, now),
            drafted: self.drafted,
            accepted: self.accepted,
        }
    }

    /// Where it stands; samples count among all of the request.
    pub(super) fn place(&self, rules: &Rules<'a>) -> Place {
        let sample = (rules.request.first_index + self.output) as u64;
        Place { sample, prompt: self.prompt_tokens, most: self.most }
    }
}
