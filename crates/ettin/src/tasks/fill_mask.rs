//! Fill-mask: the most likely tokens at each mask.

use serde::Serialize;

use super::{Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;
use crate::tokenizer::Tokenizer;

/// Predicts the masked tokens of a text with a masked language model.
#[derive(Debug)]
pub struct FillMask {}

/// One filling of one mask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Probability over the whole vocabulary.
    pub score: f32,
    /// The token's id.
    pub token: u32,
    /// The token as text, leading space included.
    pub token_str: String,
    /// The text with the mask filled; special tokens are left out when the text has one mask only.
    pub sequence: String,
}

/// The fillings of one input: a list for a single mask, a list per mask for several.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Fills {
    /// The text has one mask.
    One(Vec<Candidate>),
    /// The text has several masks; each list fills one of them and leaves the others.
    Many(Vec<Vec<Candidate>>),
}

impl FillMask {
    /// Loads a masked language model.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// The tokenizer, for example for the mask's spelling.
    pub fn tokenizer(&self) -> &Tokenizer {
        todo!()
    }

    /// The `top_k` best fillings of every mask of every text. A text without a mask is an error.
    pub fn run(&self, _texts: &[&str], _top_k: usize) -> Result<Outcomes<Fills>> {
        todo!()
    }
}
