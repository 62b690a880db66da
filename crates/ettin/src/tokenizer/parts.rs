//! Parts of an input: encoded apart, cut to a limit, put together as the tokenizer's template has them.
//!
//! A tokenizer encodes the texts of a pair each for itself and then puts them together, so that a text may be encoded
//! once for many pairs.

use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy, truncate_encodings};

use super::{Limit, Tokenizer, tokenizer_error};
use crate::{Error, Result};

/// A text without special tokens, to be either side of pairs.
#[derive(Debug, Clone)]
pub(crate) struct TextPart(tokenizers::Encoding);

/// Which text of a pair over the limit is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PairCut {
    /// The longer one first (`longest_first` of transformers).
    LongestFirst,
    /// The first alone (`only_first`).
    FirstAlone {
        /// A first text that is too short to make room leaves the pair whole, as it is in transformers' zero-shot
        /// pipeline; up to this many tokens, which the model can compute.
        whole: usize,
    },
}

/// A pair as a model takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PairIds {
    /// Token ids.
    pub(crate) ids: Vec<u32>,
    /// Whether a part of it was cut off.
    pub(crate) truncated: bool,
}

impl Tokenizer {
    /// Encodes a text that is to be a side of pairs.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), but for tokens outside the model's vocabulary, which [`pair`](Self::pair) finds.
    pub(crate) fn part(&self, text: &str) -> Result<TextPart> {
        self.plain(text).map(TextPart)
    }

    /// Puts two texts together: the ids of [`encode`](Self::encode) of the pair, cut to the limit where they are over
    /// it.
    ///
    /// # Errors
    /// As [`encode_within`](Self::encode_within); [`Error::TooLong`] where the text that may be cut is too short to
    /// make room.
    pub(crate) fn pair(
        &self,
        first: &TextPart,
        second: &TextPart,
        special_tokens: bool,
        cut: PairCut,
        limit: Limit,
    ) -> Result<PairIds> {
        let whole = self.inner.post_process(first.0.clone(), Some(second.0.clone()), special_tokens);
        let whole = self.checked_ids(&whole.map_err(tokenizer_error)?, false)?;
        if whole.ids.len() <= limit.tokens {
            return Ok(whole);
        }
        let tokens = whole.ids.len();
        let strategy = match cut {
            PairCut::LongestFirst => TruncationStrategy::LongestFirst,
            PairCut::FirstAlone { .. } => TruncationStrategy::OnlyFirst,
        };
        let params = self.truncation(strategy, true, special_tokens, limit, tokens)?;
        if let PairCut::FirstAlone { whole: most } = cut
            && second.0.len() >= params.max_length
        {
            return match tokens <= most {
                true => Ok(whole),
                false => Err(Error::input(format!(
                    "the second text is never cut, and its {} tokens leave none of the {} ({}) to the first; shorten \
                     it, or raise the limit",
                    second.0.len(),
                    limit.tokens,
                    limit.origin
                ))),
            };
        }
        let cut = self.truncated(first.0.clone(), Some(second.0.clone()), special_tokens, &params)?;
        self.checked_ids(&cut, true)
    }

    /// How an input of `tokens` tokens is cut to the limit that it is over.
    ///
    /// # Errors
    /// [`Error::TooLong`] where nothing is to be cut, [`Error::NoRoom`] where the limit leaves no room beside the
    /// special tokens.
    pub(super) fn truncation(
        &self,
        strategy: TruncationStrategy,
        pair: bool,
        special_tokens: bool,
        limit: Limit,
        tokens: usize,
    ) -> Result<TruncationParams> {
        let added = if special_tokens { self.added_tokens(pair) } else { 0 };
        let side = limit.cut().ok_or_else(|| limit.too_long(tokens))?;
        match limit.tokens.saturating_sub(added) {
            0 => Err(Error::NoRoom { limit: limit.tokens, origin: limit.origin, special: added }),
            max_length => Ok(TruncationParams { direction: side.into(), max_length, strategy, stride: 0 }),
        }
    }

    /// Texts cut and put together.
    pub(super) fn truncated(
        &self,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        special_tokens: bool,
        params: &TruncationParams,
    ) -> Result<tokenizers::Encoding> {
        let (mut first, mut second) = truncate_encodings(first, second, params).map_err(tokenizer_error)?;
        // The parts cut off would otherwise be combined with one another.
        first.take_overflowing();
        if let Some(second) = &mut second {
            second.take_overflowing();
        }
        self.inner.post_process(first, second, special_tokens).map_err(tokenizer_error)
    }

    fn checked_ids(&self, encoding: &tokenizers::Encoding, truncated: bool) -> Result<PairIds> {
        self.check_ids(encoding.get_ids())?;
        Ok(PairIds { ids: encoding.get_ids().to_vec(), truncated })
    }
}
