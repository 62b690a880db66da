//! Autoregressive generation: the loop, the sampler, speculation, stop conditions and streaming.

mod draft;
mod engine;
mod model;
mod prefixes;
mod random;
mod sampler;
mod sequence;
mod stop;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub(crate) use draft::{Lookup, ModelDraft, NoDraft};
pub(crate) use engine::{Engine, OnPiece, Output, Prompt};
pub(crate) use model::{CausalModel, STEP_ROWS};
pub use random::draw_seed;
pub use sampler::{Sampler, Scratch};

/// The most tokens that are drafted in one step, all sequences together: beyond, checking a token costs as much as making
/// it.
pub const MOST_DRAFTED: usize = 64;

/// How the next token is chosen.
///
/// Order of the steps, as in transformers: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token (greedy, the default).
    pub temperature: f32,
    /// Keep the k most likely tokens.
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens that holds this probability.
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the best one's probability.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens already there; 1 is off.
    pub repetition_penalty: f32,
    /// The seed; drawn when missing.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: None }
    }
}

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The most tokens added to a prompt.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings that end the text; they are left out of it.
    pub stop: Vec<String>,
    /// Go on after an end-of-text token.
    pub ignore_eos: bool,
    /// Put the bos token before the prompt.
    pub bos: bool,
    /// Continuations per prompt.
    pub samples: usize,
    /// Index of the first output among all that share a seed. Every output has random numbers of its own; calls for parts of
    /// a list of prompts draw what one call for all would, when each counts on from the one before.
    pub first_index: usize,
    /// The most tokens drafted ahead for one sequence, at most [`MOST_DRAFTED`], where the generator has a draft; fewer
    /// are while few prove right. It changes the speed, never the result.
    pub draft_tokens: usize,
}

impl Default for GenerateRequest {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            sampling: Sampling::default(),
            stop: Vec::new(),
            ignore_eos: false,
            bos: true,
            samples: 1,
            first_index: 0,
            draft_tokens: 8,
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-text token.
    Eos,
    /// A stop string.
    Stop,
    /// `max_new_tokens` were generated.
    Length,
    /// The model's context is full.
    Context,
    /// The callback asked for it.
    Cancelled,
}

/// A piece of streamed text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece<'a> {
    /// Index of the output it belongs to.
    pub index: usize,
    /// Text that is final; may be empty when `finish` is there.
    pub text: &'a str,
    /// Set once, on the last piece of an output.
    pub finish: Option<FinishReason>,
}
