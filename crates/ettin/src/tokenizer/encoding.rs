//! An encoded text in plain vectors.

/// An encoded text or pair; all vectors have one entry per token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary spells them ([`Tokenizer::token`](super::Tokenizer::token) of the ids), not as the
    /// text does: an unknown word is the unknown token, an added token is without the spaces that it took in. An id
    /// that the vocabulary lacks, which only a template can add, has the template's spelling. What the text has there
    /// is at `offsets`.
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
    /// Ids that come without a text: nothing else is known of them.
    pub(crate) fn of_ids(ids: &[u32], truncated: bool) -> Self {
        let (tokens, offsets, sequences, words, special) = Default::default();
        Self { ids: ids.to_vec(), tokens, offsets, sequences, words, special, truncated }
    }

    /// Puts in a token that stands for nothing in the text, like those of the template.
    ///
    /// # Panics
    /// If `at` is behind the end.
    pub(crate) fn insert(&mut self, at: usize, id: u32, token: &str) {
        self.ids.insert(at, id);
        self.tokens.insert(at, token.to_owned());
        self.offsets.insert(at, (0, 0));
        self.sequences.insert(at, None);
        self.words.insert(at, None);
        self.special.insert(at, true);
    }

    /// `spelling` is the vocabulary's, by id: the encoding itself has what an added or unknown token matched in the
    /// text.
    pub(super) fn new(
        encoding: &tokenizers::Encoding,
        truncated: bool,
        spelling: impl Fn(u32) -> Option<String>,
    ) -> Self {
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens());
        Self {
            sequences: encoding.get_sequence_ids(),
            ids: encoding.get_ids().to_vec(),
            tokens: tokens.map(|(&id, matched)| spelling(id).unwrap_or_else(|| matched.clone())).collect(),
            offsets: encoding.get_offsets().to_vec(),
            words: encoding.get_word_ids().to_vec(),
            special: encoding.get_special_tokens_mask().iter().map(|&mask| mask != 0).collect(),
            truncated,
        }
    }
}
