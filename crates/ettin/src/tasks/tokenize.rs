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

/// Encodes one text or pair, of any length.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
/// use ettin::files::ModelFiles;
/// use ettin::tasks::tokenize;
/// use ettin::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::load(&ModelFiles::folder(folder)?)?;
/// let tokenized = tokenize(&tokenizer, "The cat sat.".into(), true)?;
/// assert_eq!(tokenized.tokens, ["[CLS]", "The", "Ġcat", "Ġsat", ".", "[SEP]"]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Tokenizer::encode`].
pub fn tokenize(tokenizer: &Tokenizer, input: TextInput<'_>, special_tokens: bool) -> Result<Tokenized> {
    let encoding = tokenizer.encode(input.text, input.pair, special_tokens)?;
    Ok(Tokenized { ids: encoding.ids, tokens: encoding.tokens, offsets: encoding.offsets })
}
