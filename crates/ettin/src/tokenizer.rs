//! Text to token ids and back: thin over the `tokenizers` crate.

use crate::Result;
use crate::files::ModelFiles;

/// What happens to an input over the length limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncate {
    /// It is an error.
    #[default]
    Error,
    /// Its end is cut off.
    Right,
    /// Its beginning is cut off.
    Left,
}

/// A model's tokenizer with its special ids.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// Loads `tokenizer.json` with the special tokens that the model's files name.
    pub fn load(_files: &ModelFiles) -> Result<Self> {
        todo!()
    }

    /// From the bytes of a `tokenizer.json` alone.
    pub fn from_bytes(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }
}
