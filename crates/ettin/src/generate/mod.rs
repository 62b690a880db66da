//! Autoregressive generation: the loop, the sampler, speculation, stop conditions and streaming.

mod defaults;
mod draft;
mod engine;
mod model;
mod prefixes;
mod random;
mod sampler;
mod sequence;
mod shaping;
mod stop;
#[cfg(test)]
mod tests;
mod warpers;

use serde::Serialize;

pub use defaults::GenerationDefaults;
pub(crate) use defaults::ends_of_files;
pub(crate) use draft::{Lookup, ModelDraft, NoDraft};
pub(crate) use engine::{Engine, OnPiece, Output, Prompt};
pub(crate) use model::CausalModel;
pub use model::STEP_ROWS;
pub use random::draw_seed;
pub use sampler::{Sampler, Scratch};
pub use shaping::Shaping;

/// The most tokens that are drafted in one step, all sequences together: beyond, checking a token costs as much as making
/// it.
pub const MOST_DRAFTED: usize = 64;

/// How the next token is chosen.
///
/// Order of the steps, as in transformers: repetition penalty, temperature, top-h, top-k, top-p, min-p, typical-p, epsilon,
/// eta.
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
    /// Of the hundred most likely tokens, keep the first ones that together hold this share of their entropy.
    pub top_h: Option<f32>,
    /// Keep the tokens that surprise about as much as expected, up to this probability.
    pub typical_p: Option<f32>,
    /// Keep tokens with at least this probability.
    pub epsilon_cutoff: Option<f32>,
    /// Keep tokens with at least this probability, or less where many tokens are likely.
    pub eta_cutoff: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens already there; 1 is off.
    pub repetition_penalty: f32,
    /// The seed; drawn when missing.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            top_h: None,
            typical_p: None,
            epsilon_cutoff: None,
            eta_cutoff: None,
            repetition_penalty: 1.0,
            seed: None,
        }
    }
}

/// What to generate. What a model's files ask for is a [`GenerationDefaults`]; nothing of it but the ends is obeyed unasked.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The most tokens added to a prompt.
    pub max_new_tokens: usize,
    /// The most tokens of a prompt and its continuation together; a prompt that leaves no room is an error.
    pub max_length: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What changes logits before a token is chosen.
    pub shaping: Shaping,
    /// Strings that end the text, which then ends before them. They may hold spellings of special tokens, which the text
    /// leaves out, and are looked for in the continuation only.
    pub stop: Vec<String>,
    /// Tokens that end the text; none asks the model's files ([`SpecialIds::eos`](crate::tokenizer::SpecialIds::eos)).
    pub eos: Option<Vec<u32>>,
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
            max_length: None,
            sampling: Sampling::default(),
            shaping: Shaping::default(),
            stop: Vec::new(),
            eos: None,
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
    /// As many tokens as `max_new_tokens` or `max_length` allow.
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
