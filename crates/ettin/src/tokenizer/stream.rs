//! Decoding one token at a time.

use tokenizers::DecoderWrapper;

use super::Tokenizer;
use super::cleanup::Cleaner;
use crate::Result;

/// How a decoder depends on what stands beside a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DecoderKind {
    /// Tokens are bytes and may end inside a character.
    byte_level: bool,
    /// Tokens such as `<0xE2>` are bytes: a run of them is text if it is as a whole.
    byte_fallback: bool,
    /// A token's text does not depend on the tokens before it.
    free: bool,
}

impl DecoderKind {
    pub(super) fn of(decoder: Option<&DecoderWrapper>) -> Self {
        match decoder {
            Some(DecoderWrapper::ByteLevel(_)) => Self { byte_level: true, byte_fallback: false, free: true },
            Some(DecoderWrapper::ByteFallback(_)) => Self { byte_level: false, byte_fallback: true, free: false },
            Some(DecoderWrapper::Sequence(sequence)) => {
                let mut kind = Self::default();
                for part in sequence.get_decoders().iter().map(|part| Self::of(Some(part))) {
                    kind.byte_level |= part.byte_level;
                    kind.byte_fallback |= part.byte_fallback;
                }
                kind
            }
            _ => Self::default(),
        }
    }
}

/// Turns tokens into text as they come. The pieces add up to what decoding all tokens at once gives, special tokens
/// left out.
///
/// What is not certain is held back: a character whose bytes are not all there, and, with a byte-fallback decoder, a
/// run of byte tokens until another token ends it, as one wrong byte makes the library replace all of the run.
///
/// Decoders treat a text's first token otherwise than the rest (Metaspace leaves its space out, WordPiece its join), so
/// a token is decoded behind the one before it: the work for a token does not grow with the text.
#[derive(Debug, Clone)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last token of a text that this one goes on from, until something is said.
    behind: Option<u32>,
    /// The last token said, and its text when it stands alone.
    before: Option<(u32, String)>,
    /// Tokens not yet returned as text; none of them is special.
    held: Vec<u32>,
    /// Where the model's files ask for it.
    cleaner: Option<Cleaner>,
}

/// What a token adds to a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Said {
    /// Text that is final with it.
    pub(crate) text: String,
    /// The spelling of a special token, which is no part of the text.
    pub(crate) hidden: String,
}

impl<'a> TextStream<'a> {
    /// A text of its own, or one that goes on behind the tokens of another one. Its first word then has the space in
    /// front that stands between the two.
    pub(super) fn new(tokenizer: &'a Tokenizer, behind: &[u32]) -> Self {
        let behind = match tokenizer.decoder_kind().free {
            true => None,
            false => behind.iter().rev().copied().find(|&id| !tokenizer.is_silent(id)),
        };
        let cleaner = tokenizer.cleans_up().then(Cleaner::default);
        Self { tokenizer, behind, before: None, held: Vec::new(), cleaner }
    }

    /// Takes a token and returns the text that it completes; special tokens have none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.is_silent(id) {
            return Ok(String::new());
        }
        self.held.push(id);
        let kind = self.tokenizer.decoder_kind();
        if kind.byte_fallback && self.tokenizer.is_byte(id) {
            return Ok(String::new());
        }
        let text = self.decode(&self.held)?;
        // An incomplete character decodes to the replacement character.
        if !(kind.byte_level && text.ends_with(char::REPLACEMENT_CHARACTER)) {
            return self.release(self.held.len(), text);
        }
        // It has at most three bytes, and so tokens. What comes before is final where decoding it alone changes
        // nothing: bytes that never become a character are not held forever.
        let Some(certain) = self.held.len().checked_sub(3).filter(|&certain| certain > 0) else {
            return Ok(String::new());
        };
        let (first, rest) = self.held.split_at(certain);
        let first = self.decode(first)?;
        if text.strip_prefix(&first) != Some(&self.tokenizer.decode_tokens(rest)?) {
            return Ok(String::new());
        }
        self.release(certain, first)
    }

    /// The text still held back.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let text = match self.held.len() {
            0 => String::new(),
            count => self.release(count, self.decode(&self.held)?)?,
        };
        Ok(text + &self.cleaner.as_mut().map(Cleaner::finish).unwrap_or_default())
    }

    /// As [`push`](Self::push), with the spelling of a special token.
    pub(crate) fn say(&mut self, id: u32) -> Result<Said> {
        let hidden = match self.tokenizer.is_special(id) {
            true => self.spelling(id)?,
            false => String::new(),
        };
        Ok(Said { text: self.push(id)?, hidden })
    }

    /// What [`finish`](Self::finish) would return now, unless a character is incomplete.
    pub(crate) fn held(&self) -> Result<String> {
        if self.held.is_empty() && self.cleaner.as_ref().is_none_or(Cleaner::is_empty) {
            return Ok(String::new());
        }
        let text = self.clone().finish()?;
        Ok(if text.ends_with(char::REPLACEMENT_CHARACTER) { String::new() } else { text })
    }

    /// The text of a special token behind what has been said, with the space that its decoder puts in front.
    fn spelling(&self, id: u32) -> Result<String> {
        let last = self.held.last().copied().or(self.before.as_ref().map(|&(id, _)| id)).or(self.behind);
        let Some(last) = last else {
            return self.tokenizer.decode_raw(&[id]);
        };
        let (alone, both) = (self.tokenizer.decode_raw(&[last])?, self.tokenizer.decode_raw(&[last, id])?);
        match both.strip_prefix(&alone) {
            Some(text) => Ok(text.to_owned()),
            None => self.tokenizer.decode_raw(&[id]),
        }
    }

    /// The text of tokens behind what has been said.
    fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some((before, alone)) = &self.before {
            let text = self.tokenizer.decode_tokens(&[&[*before], ids].concat())?;
            if let Some(text) = text.strip_prefix(alone.as_str()) {
                return Ok(text.to_owned());
            }
        }
        let text = self.tokenizer.decode_tokens(ids)?;
        // The first word: only what its decoder leaves out at a text's beginning is taken from what stands before.
        let Some(behind) = self.behind.filter(|_| self.before.is_none()) else {
            return Ok(text);
        };
        let (alone, both) =
            (self.tokenizer.decode_tokens(&[behind])?, self.tokenizer.decode_tokens(&[&[behind], ids].concat())?);
        let space = both.strip_prefix(&alone).and_then(|whole| whole.strip_suffix(&text));
        Ok(match space.filter(|space| space.chars().all(char::is_whitespace)) {
            Some(space) => space.to_owned() + &text,
            None => text,
        })
    }

    /// Lets go of the first `count` tokens held, whose text this is.
    fn release(&mut self, count: usize, text: String) -> Result<String> {
        if !self.tokenizer.decoder_kind().free {
            let last = self.held[count - 1];
            self.before = Some((last, self.tokenizer.decode_tokens(&[last])?));
        }
        self.held.drain(..count);
        Ok(match &mut self.cleaner {
            Some(cleaner) => cleaner.push(&text),
            None => text,
        })
    }
}
