//! Scoring text: log-probabilities of its tokens.

mod causal;
mod masked;
mod pieces;

use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::spec::TaskSpec;
use super::{Options, Outcome, Outcomes, Preprocessor};
use crate::batching::{merge, split};
use crate::files::ModelFiles;
use crate::finite::Traced;
use crate::heads::LanguageModel;
use crate::setters::setters;
use crate::{Error, Objective, Result};

/// Scores texts with a causal or a masked language model.
///
/// Context and text are tokenised separately, unless [`ScoreRequest::join`] asks for one string; white space at the end
/// of the context moves to the text, where tokens carry their leading space. Of an input over the limit, `truncate`
/// cuts the beginning (context first) or the end of the text.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-decoder");
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Options, ScoreInput, ScoreRequest, Scorer};
///
/// let scorer = Scorer::load(&ModelFiles::folder(folder)?, &Options::default())?;
/// let input = ScoreInput { text: " Paris.", context: Some("The capital of France is") };
/// for outcome in scorer.run(&[input], &ScoreRequest::default())? {
///     let scored = outcome?.value;
///     assert_eq!(scored.count, 2);
///     assert!(scored.sum < 0.0);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Scorer {
    model: Arc<LanguageModel>,
    preprocessor: Preprocessor,
    /// Whether the model is an encoder made from a decoder, by its name: its configuration does not say.
    from_decoder: bool,
}

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
#[non_exhaustive]
pub struct ScoreRequest {
    /// The method; causal for decoders and pll for encoders unless given.
    pub method: Option<ScoreMethod>,
    /// Put the bos token first (causal).
    pub bos: bool,
    /// Tokenise context and text as one string, and score what is behind as many tokens as the context has alone, as
    /// lm-evaluation-harness does. A token may then span their border; it counts as the context's or as the text's by
    /// its place alone.
    pub join: bool,
    /// Read left-to-right probabilities one position before the mask, as the paper does for encoders that were decoders
    /// before; known by the model's name (`enc-from-dec`) unless given.
    pub read_earlier: Option<bool>,
}

setters!(ScoreRequest {
    /// With a method of one's own choice.
    with_method(method: impl Into<Option<ScoreMethod>>);
    /// With the bos token first, or without.
    with_bos(bos: bool);
    /// With context and text tokenised as one string, or not.
    with_join(join: bool);
    /// With left-to-right probabilities read one position before the mask, or at it.
    with_read_earlier(read_earlier: impl Into<Option<bool>>);
});

impl Default for ScoreRequest {
    fn default() -> Self {
        Self { method: None, bos: true, join: false, read_earlier: None }
    }
}

/// One scored token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenScore {
    /// The token's id.
    pub token: u32,
    /// The token decoded alone, as in [`Candidate`](super::Candidate).
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
    /// `exp(−sum / count)`, at most the largest number; none when nothing was scored.
    pub perplexity: Option<f64>,
}

impl Scorer {
    /// Loads a language model.
    ///
    /// # Errors
    /// What loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "score", objective: None };
        let (model, preprocessor) = spec.load(files, options, LanguageModel::load, Bounds::positions)?;
        let name = files.name();
        let from_decoder = ["enc-from-dec", "encoder-from-decoder"].iter().any(|part| name.contains(part));
        Ok(Self { from_decoder, ..Self::new(model, preprocessor) })
    }

    /// A scorer of parts. Whether an encoder was a decoder before is not known of it: see
    /// [`ScoreRequest::read_earlier`].
    pub fn new(model: impl Into<Arc<LanguageModel>>, preprocessor: Preprocessor) -> Self {
        Self { model: model.into(), preprocessor, from_decoder: false }
    }

    /// The model.
    pub fn model(&self) -> &Arc<LanguageModel> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The method used unless a request names one.
    pub fn default_method(&self) -> ScoreMethod {
        match self.model.config().objective {
            Objective::Decoder => ScoreMethod::Causal,
            Objective::Encoder => ScoreMethod::Pll,
        }
    }

    /// Scores every text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a method that does not fit the model; failures of the engine. A text's own failure is
    /// in its place.
    pub fn run(&self, inputs: &[ScoreInput<'_>], request: &ScoreRequest) -> Result<Outcomes<Scored>> {
        let method = request.method.unwrap_or_else(|| self.default_method());
        self.check(method)?;
        let pieces = self.preprocessor.encode_all(inputs, |input| self.pieces(input, method, request));
        let (pieces, errors) = split(pieces.into_iter());
        let logprobs = match method {
            ScoreMethod::Causal => self.causal(&pieces)?,
            ScoreMethod::Pll => self.pll(&pieces)?,
            ScoreMethod::LeftToRight => {
                self.left_to_right(&pieces, request.read_earlier.unwrap_or(self.from_decoder))?
            }
        };
        let outcomes = pieces.into_iter().zip(logprobs).map(|(pieces, logprobs)| {
            let truncated = pieces.truncated;
            Ok(Outcome { value: self.scored(method, &pieces.text, logprobs?)?, truncated })
        });
        Ok(merge(outcomes, errors))
    }

    fn check(&self, method: ScoreMethod) -> Result<()> {
        match (method, self.model.config().objective) {
            (ScoreMethod::Causal, Objective::Encoder) => Err(Error::Unsupported(
                "causal scoring with an encoder, which sees what follows; choose pll or left-to-right".to_owned(),
            )),
            (ScoreMethod::Pll | ScoreMethod::LeftToRight, Objective::Decoder) => Err(Error::Unsupported(
                "scoring at masks with a decoder, which was trained on none; choose causal".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn scored(&self, method: ScoreMethod, tokens: &[u32], logprobs: Vec<Option<f32>>) -> Result<Scored> {
        let known = || logprobs.iter().flatten();
        let (sum, count) = (known().map(|&logprob| f64::from(logprob)).sum::<f64>(), known().count());
        let score = |(&token, &logprob): (&u32, &Option<f32>)| {
            let token_str = self.preprocessor.tokenizer.decode(&[token], false)?;
            Ok(TokenScore { token, token_str, logprob })
        };
        Ok(Scored {
            method,
            tokens: tokens.iter().zip(&logprobs).map(score).collect::<Result<_>>()?,
            sum,
            count,
            perplexity: (count > 0).then(|| (-sum / count as f64).exp().min(f64::MAX)),
        })
    }
}

impl Scorer {
    /// A token's log-probability, unless it is no number; `ids` is the sequence that the model read.
    fn checked(&self, logprob: f32, token: u32, ids: &[u32]) -> Result<f32> {
        if logprob == f32::NEG_INFINITY {
            return Err(Error::input(format!(
                "the model excludes token {token} here (its logit is -∞): the logarithm of its probability is no number"
            )));
        }
        self.model.finite(logprob.is_finite(), logprob, ids)
    }
}
