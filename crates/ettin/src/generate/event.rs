//! What an engine tells of its requests.

use serde::Serialize;

use super::clock::Times;
use super::logprobs::Logprobs;
use crate::Error;

/// A request that was submitted to an [`Engine`](super::Engine); no two of one engine are equal, and later ones are
/// larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub(super) u64);

/// What became of a request in a step. Each sample of a request has tokens, none or more, and then one end: finished or
/// failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Log-probabilities of more tokens of a prompt, where they were asked for: all of them before its first token.
    Prompt(ScoredPrompt),
    /// One more token of a sample. With speculation a step may give several.
    Token(NewToken),
    /// A sample has ended.
    Finished(Finished),
    /// A sample cannot go on, and the others do.
    Failed(Failed),
}

impl Event {
    /// The request it is about.
    pub fn handle(&self) -> Handle {
        match self {
            Event::Prompt(ScoredPrompt { handle, .. })
            | Event::Token(NewToken { handle, .. })
            | Event::Finished(Finished { handle, .. })
            | Event::Failed(Failed { handle, .. }) => *handle,
        }
    }
}

/// Log-probabilities of some tokens of a prompt, each after all tokens before it. They are those of
/// [`Scorer`](crate::tasks::Scorer), bit for bit.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoredPrompt {
    /// Its request.
    pub handle: Handle,
    /// Where in the prompt the first of them stands; 1 in the first event, as nothing is before token 0.
    pub from: usize,
    /// Those of this token and of the ones behind it.
    pub logprobs: Vec<Logprobs>,
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NewToken {
    /// Its request.
    pub handle: Handle,
    /// Which of the request's samples it belongs to, from 0.
    pub sample: usize,
    /// The token.
    pub id: u32,
    /// Whether a draft had proposed it.
    pub drafted: bool,
    /// Log-probabilities, where the request asks for them.
    pub logprobs: Option<Logprobs>,
    /// Why the sample ends with it, if it does.
    pub finish: Option<FinishReason>,
}

/// A sample that has ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Finished {
    /// Its request.
    pub handle: Handle,
    /// Which of the request's samples it is, from 0.
    pub sample: usize,
    /// The continuation, with the token that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that a draft proposed.
    pub drafted: usize,
    /// Those of them that proved right.
    pub accepted: usize,
    /// The seed that its tokens were drawn with: the one asked for, or the one drawn; none where nothing is drawn
    /// (greedy).
    pub seed: Option<u64>,
    /// How long it took.
    pub times: Times,
}

/// A sample that cannot go on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed {
    /// Its request.
    pub handle: Handle,
    /// Which of the request's samples it is, from 0.
    pub sample: usize,
    /// Why.
    pub error: Error,
}

/// How a step goes on after an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// As it would.
    Continue,
    /// After a token: its sample ends with it, for [`FinishReason::Stop`], unless it ends anyway.
    Stop,
    /// No more tokens are chosen in this step. Those are not lost: the next step chooses them.
    Halt,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-text token.
    Eos,
    /// A stop string, or whatever else made the caller of an engine stop it at a token.
    Stop,
    /// As many tokens as `max_new_tokens` or `max_length` allow.
    Length,
    /// The model's context is full.
    Context,
    /// The caller no longer wants it.
    Cancelled,
}
