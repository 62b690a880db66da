//! Text to token ids and back: thin over the `tokenizers` crate.
//!
//! Padding and truncation settings inside `tokenizer.json` are ignored but for the side that is cut: batches are
//! packed, and the length policy is the caller's. What the files beside it add to it is `settings`.

mod check;
mod cleanup;
mod encoding;
mod limit;
mod parts;
mod settings;
mod special;
mod stream;

use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::tokenizer::PostProcessor as _;
use tokenizers::utils::truncation::{TruncationDirection, TruncationStrategy};
use tokenizers::{Decoder as _, ModelWrapper, NormalizerWrapper, Tokenizer as Inner};

use crate::files::{FileSource, ModelFiles, Subfolder};
use crate::metadata::TOKENIZER;
use crate::sentence_transformers::trunk_folder;
use crate::{Error, Result};

pub use encoding::Encoding;
pub(crate) use limit::TokenizerLimits;
pub use limit::{Limit, LimitOrigin, Side, Truncate};
pub(crate) use parts::{PairCut, PairIds, TextPart};
use settings::TokenizerSettings;
pub use special::SpecialIds;
use stream::DecoderKind;
pub(crate) use stream::Said;
pub use stream::TextStream;

/// A model's tokenizer with its special ids.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
/// use ettin::files::ModelFiles;
/// use ettin::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::load(&ModelFiles::folder(folder)?)?;
/// let encoding = tokenizer.encode("A cat.", None, true)?;
/// assert_eq!(encoding.ids.first(), tokenizer.special().cls.as_ref());
/// assert_eq!(tokenizer.decode(&encoding.ids, true)?, "A cat.");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    special: SpecialIds,
    /// Rows of the model's embedding; ids from here on cannot be looked up.
    vocab_size: Option<usize>,
    /// Whether decoded text is cleaned up.
    clean_up: bool,
    /// The side that `tokenizer.json`'s own truncation cuts, where it has one.
    truncation_side: Option<Side>,
    decoder: DecoderKind,
}

impl Tokenizer {
    /// Loads `tokenizer.json` with what `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` add
    /// to it, as transformers 5.23 loads a tokenizer of this model type.
    ///
    /// # Errors
    /// [`Error::MissingFile`] without `tokenizer.json`; [`Error::Tokenizer`] or [`Error::Config`] for a malformed file.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        // Old sentence-transformers saves keep the trunk and its tokenizer in a folder of their own.
        let folder = trunk_folder(files)?;
        Self::load_in(&Subfolder { files, folder: &folder })
    }

    /// The same out of one folder.
    pub(crate) fn load_in(files: &Subfolder<'_>) -> Result<Self> {
        let Some(bytes) = files.get(TOKENIZER)? else {
            return Err(Error::MissingFile { place: files.place(), file: TOKENIZER.to_owned() });
        };
        let Parsed { mut inner, pad, truncation } = parse(&bytes)?;
        let truncation_side = truncation.map(|(_, side)| side);
        let settings = TokenizerSettings::load(files, &inner, pad.as_deref())?;
        settings.apply(&mut inner)?;
        let (special, vocab_size) = special::load(files, &inner, &settings)?;
        let clean_up = settings.cleans_up(&inner);
        let decoder = DecoderKind::of(inner.get_decoder());
        Ok(Self { inner, special, vocab_size, clean_up, truncation_side, decoder })
    }

    /// The same with texts in lower case, before its own normaliser sees them; special tokens keep their case. As
    /// `do_lower_case` of sentence-transformers 6.2: nothing changes where the normaliser lowers case itself.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where its added tokens cannot be normalised.
    pub(crate) fn lower_cased(mut self) -> Result<Self> {
        let mut steps = match self.inner.get_normalizer() {
            None => Vec::new(),
            Some(NormalizerWrapper::Sequence(steps)) => steps.as_ref().to_vec(),
            Some(one) => vec![one.clone()],
        };
        if !steps.iter().any(|step| matches!(step, NormalizerWrapper::Lowercase(_))) {
            steps.insert(0, Lowercase.into());
            self.inner.with_normalizer(Some(Sequence::new(steps))).map_err(tokenizer_error)?;
        }
        Ok(self)
    }

    /// From the bytes of a `tokenizer.json` alone; special tokens are known by their usual names.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for malformed bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Ok(Self::bare(bytes)?.0)
    }

    /// The same, with the length that it cuts to itself.
    pub(crate) fn bare(bytes: &[u8]) -> Result<(Self, Option<usize>)> {
        let Parsed { inner, truncation, .. } = parse(bytes)?;
        let (length, truncation_side) = truncation.unzip();
        let special = special::by_usual_names(&inner, None);
        let decoder = DecoderKind::of(inner.get_decoder());
        let tokenizer = Self { inner, special, vocab_size: None, clean_up: false, truncation_side, decoder };
        Ok((tokenizer, length))
    }

    /// The side of a longer text that `tokenizer.json` itself would cut, where it says one: transformers keeps its
    /// tokenizer's side there.
    pub(crate) fn truncation_side(&self) -> Option<Side> {
        self.truncation_side
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// How many tokens it knows, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Encodes a text or a pair, with the special tokens of the model's own template or without any.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the text cannot be encoded or holds a token outside the model's vocabulary.
    pub fn encode(&self, text: &str, pair: Option<&str>, special_tokens: bool) -> Result<Encoding> {
        let encoding = match pair {
            None => self.inner.encode_char_offsets(text, special_tokens),
            Some(pair) => self.inner.encode_char_offsets((text, pair), special_tokens),
        };
        self.checked(&encoding.map_err(tokenizer_error)?, false)
    }

    /// Encodes words each by itself, as if nothing stood before them, with the special tokens of the model's template
    /// around them all or without any; `words` of the encoding are their numbers.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(crate) fn encode_words(&self, words: &[&str], special_tokens: bool) -> Result<Encoding> {
        let encoding = self.inner.encode_char_offsets(words, special_tokens);
        self.checked(&encoding.map_err(tokenizer_error)?, false)
    }

    /// Encodes with special tokens under a length limit.
    ///
    /// Of a pair the longer text is cut first (`longest_first` of transformers).
    ///
    /// # Errors
    /// [`Error::TooLong`] for an input over the limit under [`Truncate::Error`], [`Error::NoRoom`] when the limit
    /// leaves none beside the special tokens; otherwise as [`encode`](Self::encode).
    pub fn encode_within(&self, text: &str, pair: Option<&str>, limit: Limit) -> Result<Encoding> {
        self.within(text, pair, true, limit)
    }

    /// As [`encode_within`](Self::encode_within), with special tokens or without any.
    pub(crate) fn within(
        &self,
        text: &str,
        pair: Option<&str>,
        special_tokens: bool,
        limit: Limit,
    ) -> Result<Encoding> {
        let encoding = self.encode(text, pair, special_tokens)?;
        if encoding.ids.len() <= limit.tokens {
            return Ok(encoding);
        }
        let strategy = TruncationStrategy::LongestFirst;
        let params = self.truncation(strategy, pair.is_some(), special_tokens, limit, encoding.ids.len())?;
        let (first, second) = (self.plain(text)?, pair.map(|pair| self.plain(pair)).transpose()?);
        self.checked(&self.truncated(first, second, special_tokens, &params)?, true)
    }

    /// Encodes a pair of which the second text is cut into windows that overlap by `overlap` tokens, so that each
    /// encoded pair has at most `limit` tokens.
    ///
    /// # Errors
    /// [`Error::TooLong`] when the first text leaves no room; otherwise as [`encode`](Self::encode).
    pub fn encode_windows(&self, text: &str, long: &str, limit: Limit, overlap: usize) -> Result<Vec<Encoding>> {
        let (first, mut second) = (self.plain(text)?, self.plain(long)?);
        let taken = first.len() + self.added_tokens(true);
        if taken >= limit.tokens {
            return Err(limit.too_long(taken + second.len()));
        }
        let room = limit.tokens - taken;
        second.truncate(room, overlap.min(room - 1), TruncationDirection::Right);
        let rest = second.take_overflowing();
        std::iter::once(second)
            .chain(rest)
            .map(|window| {
                let pair = self.inner.post_process(first.clone(), Some(window), true).map_err(tokenizer_error)?;
                self.checked(&pair, false)
            })
            .collect()
    }

    /// Token ids of a text without special tokens.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(tokenizer_error)?;
        self.check_ids(encoding.get_ids())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the decoder refuses.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = if skip_special { self.decode_tokens(ids) } else { self.decode_raw(ids) }?;
        Ok(if self.clean_up { cleanup::clean_up(&text) } else { text })
    }

    /// The text of token ids before it is cleaned up, without special tokens.
    fn decode_tokens(&self, ids: &[u32]) -> Result<String> {
        // Some decoders fail on no tokens at all.
        match ids.iter().all(|&id| self.is_silent(id)) {
            true => Ok(String::new()),
            false => self.inner.decode(ids, true).map_err(tokenizer_error),
        }
    }

    /// As [`decode_tokens`](Self::decode_tokens), with special tokens.
    fn decode_raw(&self, ids: &[u32]) -> Result<String> {
        match ids.iter().all(|&id| self.inner.id_to_token(id).is_none()) {
            true => Ok(String::new()),
            false => self.inner.decode(ids, false).map_err(tokenizer_error),
        }
    }

    /// The text of tokens in the vocabulary's spelling.
    pub(crate) fn join(&self, tokens: Vec<String>) -> Result<String> {
        match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(tokenizer_error),
            None => Ok(tokens.join(" ")),
        }
    }

    /// A token in the vocabulary's spelling.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token in the vocabulary's spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A decoder that takes one token at a time.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self, &[])
    }

    /// As [`stream`](Self::stream), for a text that goes on behind another one: its first word has the space in front
    /// that stands between the two, where a decoder would leave it out at a text's beginning.
    pub fn stream_behind(&self, ids: &[u32]) -> TextStream<'_> {
        TextStream::new(self, ids)
    }

    /// Whether a token is no part of a decoded text: special, or no token at all.
    fn is_silent(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_none_or(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// Whether a token is special.
    fn is_special(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// Whether a token is a single byte for a byte-fallback decoder.
    fn is_byte(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some_and(|token| {
            let digits = token.strip_prefix("<0x").and_then(|token| token.strip_suffix('>'));
            token.len() == 6 && digits.is_some_and(|digits| u8::from_str_radix(digits, 16).is_ok())
        })
    }

    /// Whether its tokens tell where a word goes on, by a prefix of their own (`##`).
    pub(crate) fn marks_continuations(&self) -> bool {
        match self.inner.get_model() {
            ModelWrapper::WordPiece(model) => !model.continuing_subword_prefix.is_empty(),
            ModelWrapper::BPE(model) => {
                model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty())
            }
            _ => false,
        }
    }

    fn decoder_kind(&self) -> DecoderKind {
        self.decoder
    }

    fn cleans_up(&self) -> bool {
        self.clean_up
    }

    /// Special tokens that the template adds.
    fn added_tokens(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    fn plain(&self, text: &str) -> Result<tokenizers::Encoding> {
        self.inner.encode_char_offsets(text, false).map_err(tokenizer_error)
    }

    fn checked(&self, encoding: &tokenizers::Encoding, truncated: bool) -> Result<Encoding> {
        self.check_ids(encoding.get_ids())?;
        Ok(Encoding::new(encoding, truncated, |id| self.token(id)))
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let Some(vocab_size) = self.vocab_size else {
            return Ok(());
        };
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(&id) => Err(Error::Tokenizer(format!(
                "token {id} ({:?}) is outside the model's vocabulary of {vocab_size}",
                self.token(id).unwrap_or_default()
            ))),
        }
    }
}

/// What a `tokenizer.json` holds.
struct Parsed {
    inner: Inner,
    /// The token that its padding names.
    pad: Option<String>,
    /// The length that it cuts to, and the side that it cuts.
    truncation: Option<(usize, Side)>,
}

fn parse(bytes: &[u8]) -> Result<Parsed> {
    check::before_parsing(bytes)?;
    let mut inner = Inner::from_bytes(bytes).map_err(|error| Error::Tokenizer(format!("tokenizer.json: {error}")))?;
    let pad = inner.get_padding().map(|padding| padding.pad_token.clone());
    let truncation = inner.get_truncation().map(|truncation| (truncation.max_length, truncation.direction.into()));
    inner.with_truncation(None).map_err(tokenizer_error)?;
    inner.with_padding(None);
    Ok(Parsed { inner, pad, truncation })
}

fn tokenizer_error(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests;
