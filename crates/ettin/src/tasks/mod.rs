//! Text in, plain Rust values out.
//!
//! Every task is loaded once with [`Options`] and run on any number of inputs. Inputs are sorted by length and
//! packed into batches of at most [`Options::batch_tokens`] tokens; results come back in input order. A bad input
//! has its own error and never loses the others; the outer `Result` is for failures of the engine.
//!
//! The output structs serialise to the keys and the key order of the transformers pipelines.

mod answer;
mod batching;
mod classify;
mod embed;
mod fill_mask;
mod frontend;
mod generate;
mod limit;
mod numbers;
mod profile;
mod prompt;
mod rerank;
mod score;
mod tag;
mod tokenize;

use std::fmt;
use std::sync::Arc;

use candle_core::Device;

use crate::ops::Dtype;
pub use crate::tokenizer::Truncate;
use crate::{KvFormat, Result};

pub use answer::{Answer, AnswerRequest, Answerer, Question};
pub use classify::{Classifier, ClassifyRequest, Label};
pub use embed::{EmbedRequest, Embedding, IndexedScore, SimilarityInput, TextEmbedder, Vector};
pub use fill_mask::{Candidate, FillMask, Fills};
pub use generate::{Drafted, Generated, Generations, Generator, Timings};
pub use profile::{ChainProfile, Profile};
pub use prompt::PromptChoice;
pub use rerank::{Activation, RerankInput, RerankRequest, Reranker};
pub use score::{ScoreInput, ScoreMethod, ScoreRequest, Scored, Scorer, TokenScore};
pub use tag::{Aggregation, Tag, TagRequest, Tagger};
pub use tokenize::{Tokenized, tokenize};

/// How a task is loaded and how it treats its inputs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the model computes.
    pub device: Device,
    /// The numeric scheme.
    pub dtype: Dtype,
    /// How keys and values are kept; `None` is what suits the numeric scheme.
    pub kv_dtype: Option<KvFormat>,
    /// A length limit in tokens, specials included, below the model's own.
    pub max_length: Option<usize>,
    /// What happens to an input over the limit.
    pub truncate: Truncate,
    /// The most tokens packed into one batch; a single longer input is a batch of its own.
    pub batch_tokens: usize,
    /// Told what loading noticed and did not refuse.
    pub notices: Notices,
}

/// Where loading says what deserves a word and is no error: tensors that are stored and not used, above all.
#[derive(Clone, Default)]
pub struct Notices(Option<Listener>);

type Listener = Arc<dyn Fn(&str) + Send + Sync>;

impl Notices {
    /// Calls `tell` with one sentence at a time, without a full stop.
    pub fn to(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    fn tell(&self, sentence: &str) {
        if let Some(tell) = &self.0 {
            tell(sentence);
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Notices(told)" } else { "Notices(unheard)" })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: Dtype::default(),
            kv_dtype: None,
            max_length: None,
            truncate: Truncate::default(),
            batch_tokens: 4096,
            notices: Notices::default(),
        }
    }
}

/// What a task computed for one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<T> {
    /// The answer.
    pub value: T,
    /// Whether the input was cut to the length limit first.
    pub truncated: bool,
}

/// One result per input, in input order.
pub type Outcomes<T> = Vec<Result<Outcome<T>>>;

/// A text, or two that are encoded together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextInput<'a> {
    /// The text.
    pub text: &'a str,
    /// The second text of a pair.
    pub pair: Option<&'a str>,
}

impl<'a> From<&'a str> for TextInput<'a> {
    fn from(text: &'a str) -> Self {
        Self { text, pair: None }
    }
}

impl<'a> From<(&'a str, &'a str)> for TextInput<'a> {
    fn from((text, pair): (&'a str, &'a str)) -> Self {
        Self { text, pair: Some(pair) }
    }
}
