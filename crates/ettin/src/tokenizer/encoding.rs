//! An encoded text in plain vectors.

/// An encoded text or pair; all vectors have one entry per token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary spells them.
    pub tokens: Vec<String>,
    /// Start and end in the token's own text, in Unicode scalars; `(0, 0)` for special tokens of the template.
    pub offsets: Vec<(usize, usize)>,
    /// 0 for the first text, 1 for the second, none for special tokens of the template.
    pub sequences: Vec<Option<usize>>,
    /// Which word of its text the token is part of, as the pre-tokenizer splits it.
    pub words: Vec<Option<u32>>,
    /// Whether the template added the token; a special token written in the text is not marked.
    pub special: Vec<bool>,
    /// Whether a part of the input was cut off.
    pub truncated: bool,
}

impl Encoding {
    pub(super) fn new(encoding: tokenizers::Encoding, truncated: bool) -> Self {
        Self {
            sequences: encoding.get_sequence_ids(),
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
            words: encoding.get_word_ids().to_vec(),
            special: encoding.get_special_tokens_mask().iter().map(|&mask| mask != 0).collect(),
            truncated,
        }
    }
}
