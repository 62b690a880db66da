//! Speculative decoding: something cheap proposes the next tokens, and the model verifies all proposals in one step.
//!
//! Verification is not a rule of its own. The model computes the proposals as further rows of its step, and the loop
//! then chooses tokens from row after row, exactly as it would without proposals, for as long as what it chose is what
//! had been proposed. As a row's logits do not depend on the rows beside it, and a choice is keyed by seed, sample and
//! position, the result is the same token for token, sampling included; proposals decide only how many tokens a step
//! yields.
//!
//! A model that proposes chooses with the very sampler and random numbers of the model it proposes for. That coupling
//! accepts nearly as much as the accept-and-resample rule (Leviathan et al., arXiv 2211.17192), which gives only the
//! same distribution: with total variation d between the two, at least (1 − d) / (1 + d) where that has 1 − d (Daliri
//! et al., arXiv 2408.07978). For proposals that are certain of themselves (greedy, looked up) the two accept alike.

mod any;
mod lookup;
mod model;

pub use any::AnyDraft;
pub use lookup::Lookup;
pub use model::ModelDraft;

use super::sampler::{Chooser, Scratch};
use super::shaping::Place;
use crate::{Error, Result};

/// Proposes the next tokens of sequences. Whatever it proposes, an engine's tokens are the same.
pub trait Draft {
    /// What it remembers of one sequence.
    type State;

    /// That of a sequence it knows nothing of.
    ///
    /// # Errors
    /// Whatever the draft meets.
    fn state(&self) -> Result<Self::State>;

    /// A copy that goes on independently.
    fn fork(&self, state: &Self::State) -> Self::State;

    /// Proposes at most as many tokens for every request as it [wants](DraftRequest::wanted); for one that wants none,
    /// only takes note of its tokens.
    ///
    /// # Errors
    /// Whatever the draft meets beyond single requests, which [fail](DraftRequest::fail) alone.
    fn propose(&mut self, requests: &mut [DraftRequest<'_, Self::State>]) -> Result<()>;

    /// Whether it never proposes anything, and need not be asked.
    fn is_off(&self) -> bool {
        false
    }

    /// Bytes that it remembers for one token of a sequence.
    fn bytes_per_token(&self) -> usize {
        0
    }
}

/// One sequence to propose tokens for. All its tokens but the last are those of the call before, where that proposed
/// them rightly.
#[derive(Debug)]
pub struct DraftRequest<'a, S> {
    /// Prompt and continuation; proposals are appended.
    pub(super) tokens: &'a mut Vec<u32>,
    pub(super) wanted: usize,
    /// Tokens of the model that verifies.
    pub(super) vocabulary: usize,
    pub(super) state: &'a mut S,
    /// Where it stands, and how its tokens are chosen.
    pub(super) place: Place,
    pub(super) chooser: &'a Chooser,
    pub(super) failure: &'a mut Option<Error>,
}

impl<S> DraftRequest<'_, S> {
    /// Prompt and continuation, and what has been proposed behind them.
    pub fn tokens(&self) -> &[u32] {
        self.tokens
    }

    /// How many more proposals are of use.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// What the draft remembers of the sequence.
    pub fn state(&mut self) -> &mut S {
        self.state
    }

    /// Appends a proposal, unless no more are wanted. A token that the model does not have ends the proposals.
    pub fn propose(&mut self, token: u32) {
        if token as usize >= self.vocabulary {
            self.wanted = 0;
        }
        if self.wanted > 0 {
            self.wanted -= 1;
            self.tokens.push(token);
        }
    }

    /// The token that the sequence's own settings and random numbers choose next from a draft's logits.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for logits that are none; [`Error::Input`] where no token is allowed.
    pub fn choose(&self, logits: &[f32], scratch: &mut Scratch) -> Result<u32> {
        self.chooser.choose(logits, self.tokens, self.place, scratch)
    }

    /// Ends the sequence with an error. Other sequences go on.
    pub fn fail(&mut self, error: Error) {
        self.wanted = 0;
        self.failure.get_or_insert(error);
    }
}

/// Never proposes: plain decoding.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDraft;

impl Draft for NoDraft {
    type State = ();

    fn state(&self) -> Result<()> {
        Ok(())
    }

    fn fork(&self, (): &()) {}

    fn propose(&mut self, _: &mut [DraftRequest<'_, ()>]) -> Result<()> {
        Ok(())
    }

    fn is_off(&self) -> bool {
        true
    }
}
