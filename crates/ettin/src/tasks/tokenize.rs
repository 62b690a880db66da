//! Tokenisation, as a task of its own.

use serde::Serialize;

use super::TextInput;
use crate::Result;
use crate::tokenizer::Tokenizer;

/// An encoded text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tokenized {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary spells them.
    pub tokens: Vec<String>,
    /// Start and end of each token in its text, in Unicode scalars; `(0, 0)` for special tokens added.
    pub offsets: Vec<(usize, usize)>,
}

/// Encodes one text or pair.
pub fn tokenize(
    _tokenizer: &Tokenizer,
    _input: TextInput<'_>,
    _special_tokens: bool,
) -> Result<Tokenized> {
    todo!()
}
