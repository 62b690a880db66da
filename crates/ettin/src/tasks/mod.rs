//! Text in, plain Rust values out.
//!
//! Every task is loaded once with [`Options`] and run on any number of inputs. Inputs are sorted by length and
//! packed into batches of at most [`Options::batch_tokens`] tokens; results come back in input order. A bad input
//! has its own error and never loses the others; the outer `Result` is for failures of the engine.
//!
//! Three ways to a task:
//! * `load(files, options)`: everything from a model's files.
//! * `new(model, preprocessor)`: from parts. A model may be shared between tasks, in an [`Arc`](std::sync::Arc); a
//!   [`Preprocessor`] holds the tokenizer, the limit and the size of batches.
//! * plain methods beside `run` for plain wishes, such as [`TextEmbedder::embed`], [`FillMask::fill`] and
//!   [`Classifier::classify`].
//!
//! `run` is three stages that can be called one by one, as a server does that packs the inputs of several callers into
//! one batch: `prepare`, and then [`Staged::compute`] and [`Staged::assemble`].
//!
//! The output structs serialise to the keys and the key order of the transformers pipelines.

mod answer;
mod choose;
mod classify;
mod embed;
mod embeddings;
mod extract;
mod fill_mask;
mod generate;
mod limit;
mod multi_vector;
mod numbers;
mod options;
mod pairs;
mod plain;
mod preprocessor;
mod profile;
mod prompt;
mod rerank;
mod schema;
mod score;
mod sparse;
mod spec;
mod staged;
mod tag;
mod tokenize;
mod ward;
mod zero_shot;

use crate::Result;
pub use crate::sentence_transformers::SearchSide;
pub use crate::tokenizer::Truncate;

pub use answer::{Answer, AnswerRequest, Answerer, Question};
pub use choose::{ChoiceInput, MultipleChoice, ScoredChoice};
pub use classify::{Classifier, ClassifyRequest, Label, ScoreFunction};
pub use embed::{
    EmbedInput, EmbedPlan, EmbedRequest, Embedding, IndexedScore, SimilarityInput, TextEmbedder, TextVectors,
};
pub use embeddings::Embeddings;
pub use extract::{Entity, EntityExtractor, EntityLabels, EntityRequest, LabelVectors, lacks_label_vectors};
pub use fill_mask::{Candidate, FillMask, Fills};
pub use generate::{Drafted, Generated, GenerationStream, Generations, Generator, StreamPiece, Timings};
pub use multi_vector::{MultiVector, MultiVectorEncoder, MultiVectorRequest};
pub use options::{Notices, Options};
pub use preprocessor::Preprocessor;
pub use profile::{ChainProfile, ExtractionProfile, Profile, RouteProfile};
pub use prompt::PromptChoice;
pub use rerank::{Activation, RerankInput, RerankRequest, Reranker};
pub use schema::{SchemaClassifier, SchemaRequest};
pub use score::{ScoreInput, ScoreMethod, ScoreRequest, Scored, Scorer, TokenScore};
pub use sparse::SparseVector;
pub use staged::{Prepared, PreparedSequence, Staged};
pub use tag::{Aggregation, Tag, TagRequest, Tagger};
pub use tokenize::{Tokenized, tokenize};
pub use zero_shot::{
    HypothesisTemplate, ZeroShotClassifier, ZeroShotInput, ZeroShotLabels, ZeroShotRequest, split_labels,
};

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
