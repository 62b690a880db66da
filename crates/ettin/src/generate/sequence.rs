//! One continuation in progress: its tokens, and when it ends.

use std::ops::Range;
use std::sync::Arc;

use super::clock::Phases;
use super::draft::DraftRequest;
use super::event::{FinishReason, Finished};
use super::request::Rules;
use super::sampler::Scratch;
use super::shaping::Place;
use crate::{Error, Result};

/// Prompt and continuation so far, with proposals behind them while they are being verified.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub(super) rules: Arc<Rules>,
    /// Which of its request's samples it is; the first stands for all until they part.
    pub(super) sample: usize,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// How many of `tokens` are certain; the rest are proposals.
    accepted: usize,
    /// How many of `tokens` the model has computed.
    computed: usize,
    /// How many tokens of the prompt have been scored; the first one never is.
    scored: usize,
    phases: Phases,
    /// Proposals verified, and how many of them were right.
    drafted: usize,
    drafts_accepted: usize,
    /// Proposals that the next round asks for: grows while they are right.
    draft_len: usize,
}

/// Tokens that a sequence never has to grow for; limits may say any number.
const MAX_RESERVED: usize = 1 << 20;

/// A token that was chosen.
pub(super) struct Chosen {
    pub(super) token: u32,
    /// Set when the sequence ends here.
    pub(super) finish: Option<FinishReason>,
    /// Whether it had been proposed, so that the logits behind it hold.
    pub(super) proposed: bool,
}

impl Sequence {
    /// Proposals of the first round.
    const FIRST_DRAFT_LEN: usize = 2;

    /// A prompt that waits.
    pub(super) fn new(rules: Arc<Rules>, prompt: Vec<u32>) -> Self {
        Self {
            rules,
            sample: 0,
            prompt_tokens: prompt.len(),
            accepted: prompt.len(),
            tokens: prompt,
            computed: 0,
            scored: 1,
            phases: Phases::new(),
            drafted: 0,
            drafts_accepted: 0,
            draft_len: Self::FIRST_DRAFT_LEN,
        }
    }

    /// Runs it behind a cache that holds its first `computed` tokens. It then never has to grow.
    pub(super) fn start(&mut self, computed: usize) {
        let room = self.max_tokens().saturating_sub(self.tokens.len());
        self.tokens.reserve(room.saturating_add(self.rules.draft_tokens).min(MAX_RESERVED));
        self.computed = computed;
        self.phases.start();
    }

    /// Forgets what was computed, and no token that is certain.
    pub(super) fn restart(&mut self) {
        self.tokens.truncate(self.accepted);
        self.computed = 0;
    }

    /// The same prompt for its `sample`-th continuation.
    pub(super) fn sample(&self, sample: usize) -> Self {
        let mut tokens = Vec::with_capacity(self.tokens.capacity());
        tokens.extend_from_slice(&self.tokens);
        Self { sample: self.sample + sample, tokens, ..self.clone() }
    }

    /// Whether logits behind tokens that are certain are still to be computed by steps to come.
    pub(super) fn is_reading(&self) -> bool {
        !self.phases.is_prompt_computed() || self.computed + 1 < self.accepted
    }

    /// All tokens, proposals included.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// All tokens that are certain.
    pub(super) fn accepted(&self) -> &[u32] {
        &self.tokens[..self.accepted]
    }

    /// How many tokens the model has computed.
    pub(super) fn computed(&self) -> usize {
        self.computed
    }

    /// Tokens that the model has not computed, proposals included.
    pub(super) fn pending(&self) -> &[u32] {
        &self.tokens[self.computed..]
    }

    /// The most tokens that it may have.
    pub(super) fn max_tokens(&self) -> usize {
        self.rules.max_length.min(self.rules.context)
    }

    /// Notes that the model computed `count` more tokens.
    pub(super) fn advance(&mut self, count: usize) {
        self.computed += count;
        if self.computed >= self.prompt_tokens {
            self.phases.prompt_computed();
        }
    }

    /// How many proposals would be of use.
    pub(super) fn useful_proposals(&self) -> usize {
        // The step that verifies them adds one more token.
        let room = self.max_tokens().saturating_sub(self.accepted + 1);
        self.draft_len.min(self.rules.draft_tokens).min(room)
    }

    /// Asks a draft, which remembers `state` of it, for `wanted` proposals.
    pub(super) fn draft_request<'a, S>(
        &'a mut self,
        wanted: usize,
        state: &'a mut S,
        failure: &'a mut Option<Error>,
    ) -> DraftRequest<'a, S> {
        let place = self.place();
        let Rules { chooser, vocabulary, .. } = &*self.rules;
        DraftRequest { tokens: &mut self.tokens, wanted, vocabulary: *vocabulary, state, place, chooser, failure }
    }

    /// Proposals not yet verified.
    pub(super) fn proposals(&self) -> usize {
        self.tokens.len() - self.accepted
    }

    /// Notes that `drafted` proposals were verified, and `accepted` were right; drops what was not reached.
    pub(super) fn verified(&mut self, drafted: usize, accepted: usize) {
        self.tokens.truncate(self.accepted);
        self.computed = self.computed.min(self.accepted - 1);
        self.drafted += drafted;
        self.drafts_accepted += accepted;
        if drafted > 0 {
            let all = accepted == drafted;
            self.draft_len = if all { (2 * self.draft_len).min(self.rules.draft_tokens) } else { accepted + 1 };
        }
    }

    /// Tokens of the prompt whose log-probabilities are wanted and not told yet.
    pub(super) fn unscored(&self) -> Range<usize> {
        match self.rules.prompt_logprobs {
            Some(_) => self.scored.min(self.prompt_tokens)..self.prompt_tokens,
            None => 0..0,
        }
    }

    /// Those of them that the next `rows` rows predict: a token is predicted at the row before its own.
    pub(super) fn scored_by(&self, rows: usize) -> Range<usize> {
        let unscored = self.unscored();
        let (start, end) = (unscored.start.max(self.computed + 1), unscored.end.min(self.computed + rows + 1));
        start..end.max(start)
    }

    /// Notes that the tokens of the prompt up to `end` were scored.
    pub(super) fn scored_until(&mut self, end: usize) {
        self.scored = self.scored.max(end);
    }

    /// Whether no more token fits or is wanted.
    pub(super) fn is_full(&self) -> Option<FinishReason> {
        if self.accepted >= self.rules.max_length {
            Some(FinishReason::Length)
        } else if self.accepted >= self.rules.context {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    /// Chooses the next token from the logits behind the last one.
    pub(super) fn accept_next(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<Chosen> {
        let chooser = &self.rules.chooser;
        let token = chooser.choose(logits, &self.tokens[..self.accepted], self.place(), scratch)?;
        let proposed = self.tokens.get(self.accepted) == Some(&token);
        if !proposed {
            self.tokens.truncate(self.accepted);
            self.tokens.push(token);
        }
        self.accepted += 1;
        let eos = self.rules.chooser.is_end(token).then_some(FinishReason::Eos);
        Ok(Chosen { token, finish: eos.or_else(|| self.is_full()), proposed })
    }

    /// The result of a sequence that has ended.
    pub(super) fn finished(&self, reason: FinishReason) -> Finished {
        Finished {
            handle: self.rules.handle,
            sample: self.sample,
            tokens: self.tokens[self.prompt_tokens..self.accepted].to_vec(),
            reason,
            prompt_tokens: self.prompt_tokens,
            drafted: self.drafted,
            accepted: self.drafts_accepted,
            seed: self.rules.chooser.seed(),
            times: self.phases.times(),
        }
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        let sample = self.rules.first_sample.wrapping_add(self.sample as u64);
        Place { sample, prompt: self.prompt_tokens, most: self.rules.max_length }
    }
}
