//! Embeddings and similarity.

use serde::Serialize;

use super::{Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;
use crate::pooling::Pooling;

/// Turns texts into vectors.
#[derive(Debug)]
pub struct TextEmbedder {}

/// Which prompt is put before each text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PromptChoice {
    /// The model's `default_prompt_name`, if it has one.
    #[default]
    Default,
    /// No prompt.
    None,
    /// A prompt by its name in `config_sentence_transformers.json`.
    Named(String),
}

/// How to embed; the default leaves everything to the model's own files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EmbedRequest {
    /// Pooling instead of the model's.
    pub pooling: Option<Pooling>,
    /// One vector per token instead of one per text (`--pooling none`); excludes `pooling`.
    pub per_token: bool,
    /// Scale to unit length, or not, instead of the model's choice.
    pub normalize: Option<bool>,
    /// Keep only the first dimensions (Matryoshka); what was normalised is normalised again.
    pub dimensions: Option<usize>,
    /// Hidden states of this layer: 0 the embeddings, the number of layers the last (after the final norm).
    pub layer: Option<usize>,
    /// The prompt.
    pub prompt: PromptChoice,
}

/// A vector per text, or one per token of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Vector {
    /// `[dimensions]`.
    Pooled(Vec<f32>),
    /// `[tokens, dimensions]`, special tokens included.
    Tokens(Vec<Vec<f32>>),
}

/// The embedding of one input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Embedding {
    /// Index of the input.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// A score and the index of the text it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IndexedScore {
    /// Index among the texts compared.
    pub index: usize,
    /// The score.
    pub score: f32,
}

/// A text and those it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimilarityInput<'a> {
    /// The text.
    pub a: &'a str,
    /// What it is compared with.
    pub b: Vec<&'a str>,
}

impl TextEmbedder {
    /// Loads a trunk or a sentence-transformers chain.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// The pooling taken because the model's files configure none; worth telling the user once.
    pub fn unconfigured_pooling(&self) -> Option<Pooling> {
        todo!()
    }

    /// Names of the model's prompts.
    pub fn prompts(&self) -> Vec<&str> {
        todo!()
    }

    /// The vector of every text.
    pub fn run(&self, _texts: &[&str], _request: &EmbedRequest) -> Result<Outcomes<Embedding>> {
        todo!()
    }

    /// Compares each `a` with each of its `b`, in the order given, by the model's similarity function
    /// (cosine unless configured).
    pub fn similarity(
        &self,
        _inputs: &[SimilarityInput<'_>],
        _request: &EmbedRequest,
    ) -> Result<Outcomes<Vec<IndexedScore>>> {
        todo!()
    }
}
