//! Token classification: named entities, parts of speech.

use serde::Serialize;

use super::{Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;

/// Labels the tokens of a text.
#[derive(Debug)]
pub struct Tagger {}

/// How tokens are joined to entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aggregation {
    /// One tag per token.
    #[default]
    None,
    /// Neighbouring tokens with the same tag are one entity; a `B-` tag starts a new one.
    Simple,
    /// As `Simple` over words, a word being labelled as its first token.
    First,
    /// As `Simple` over words, by the mean of their tokens' probabilities.
    Average,
    /// As `Simple` over words, by the token with the highest probability.
    Max,
}

/// What to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TagRequest {
    /// How tokens are joined.
    pub aggregation: Aggregation,
    /// Report the label `O` too.
    pub all: bool,
}

/// One labelled token or entity. Offsets count Unicode scalars of the input.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Tag {
    /// A token, from [`Aggregation::None`].
    Token {
        /// The label.
        entity: String,
        /// Its probability.
        score: f32,
        /// Index of the token in the encoded text, special tokens counted.
        index: usize,
        /// The token as the vocabulary spells it.
        word: String,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Joined tokens.
    Group {
        /// The label without its `B-` or `I-`.
        entity_group: String,
        /// Mean probability.
        score: f32,
        /// The decoded text.
        word: String,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
    },
}

impl Tagger {
    /// Loads a token classifier.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// The tags of every text, in text order.
    pub fn run(&self, _texts: &[&str], _request: &TagRequest) -> Result<Outcomes<Vec<Tag>>> {
        todo!()
    }
}
