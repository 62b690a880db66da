//! Scoring text: log-probabilities of its tokens.

use serde::Serialize;

use super::{Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;

/// Scores texts with a causal or a masked language model.
#[derive(Debug)]
pub struct Scorer {}

/// A text, with or without what comes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreInput<'a> {
    /// The text that is scored.
    pub text: &'a str,
    /// What precedes it; not scored itself.
    pub context: Option<&'a str>,
}

/// Where a token's probability is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreMethod {
    /// After all tokens before it; decoders only.
    Causal,
    /// At a mask in its place with all others visible (pseudo-log-likelihood).
    Pll,
    /// At the first of three masks after the tokens before it, as the Ettin paper evaluates encoders.
    LeftToRight,
}

/// How to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreRequest {
    /// The method; causal for decoders and pll for encoders unless given.
    pub method: Option<ScoreMethod>,
    /// Put the bos token first (causal).
    pub bos: bool,
}

impl Default for ScoreRequest {
    fn default() -> Self {
        Self {
            method: None,
            bos: true,
        }
    }
}

/// One scored token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenScore {
    /// The token's id.
    pub token: u32,
    /// The token as text.
    pub token_str: String,
    /// Natural logarithm of its probability; none for a token with nothing before it.
    pub logprob: Option<f32>,
}

/// A scored text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    /// The method used.
    pub method: ScoreMethod,
    /// The scored tokens, in text order.
    pub tokens: Vec<TokenScore>,
    /// Sum of the log-probabilities.
    pub sum: f64,
    /// How many tokens have one.
    pub count: usize,
    /// `exp(−sum / count)`; none when nothing was scored.
    pub perplexity: Option<f64>,
}

impl Scorer {
    /// Loads a language model.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// Scores every text.
    pub fn run(
        &self,
        _inputs: &[ScoreInput<'_>],
        _request: &ScoreRequest,
    ) -> Result<Outcomes<Scored>> {
        todo!()
    }
}
