//! Text generation.

use std::ops::ControlFlow;

use serde::Serialize;

use super::{Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;
use crate::generate::{FinishReason, GenerateRequest, Piece};

/// Continues prompts with a causal language model.
#[derive(Debug)]
pub struct Generator {}

/// How long a generation took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timings {
    /// Tokens of the prompt, bos included.
    pub prompt_tokens: usize,
    /// From the start until the prompt's last logits, in milliseconds.
    pub prompt_ms: f64,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// From the prompt's last logits until the end, in milliseconds.
    pub generate_ms: f64,
}

/// One continued prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generated {
    /// The prompt as given.
    pub prompt: String,
    /// The continuation, without the prompt, the stop string and special tokens.
    pub text: String,
    /// The continuation's token ids, with the final eos or the tokens that completed the stop string.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// How long it took.
    pub timings: Timings,
}

/// What [`Generator::run`] returns.
#[derive(Debug)]
pub struct Generations {
    /// The seed used: the one asked for, or the one drawn; none when nothing is drawn (greedy).
    pub seed: Option<u64>,
    /// One result per prompt, in order; `samples` of them in a row per prompt when several were asked for.
    pub outputs: Outcomes<Generated>,
}

impl Generator {
    /// Loads a causal language model.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// Continues every prompt. `on_piece` sees the text as it comes; when it breaks, generation ends at once and
    /// the unfinished prompts have the finish reason `cancelled`.
    pub fn run(
        &self,
        _prompts: &[&str],
        _request: &GenerateRequest,
        _on_piece: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Generations> {
        todo!()
    }
}
