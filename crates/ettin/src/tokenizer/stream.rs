//! Decoding one token at a time.

use super::Tokenizer;
use crate::Result;

/// Turns tokens into text as they come. Tokens of byte-level BPE may end inside a character: such an end is held back
/// until the character is complete, so the pieces add up to what decoding all tokens at once gives.
#[derive(Debug, Clone)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens not yet returned as text.
    held: Vec<u32>,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, held: Vec::new() }
    }

    /// Takes a token and returns the text that it completes; special tokens have none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.held.push(id);
        let text = self.tokenizer.decode(&self.held, true)?;
        // An incomplete character decodes to the replacement character.
        if !text.ends_with(char::REPLACEMENT_CHARACTER) {
            self.held.clear();
            return Ok(text);
        }
        // A token without text must not stand between the bytes of a character.
        if self.tokenizer.decode(&[id], true)?.is_empty() {
            self.held.pop();
            return Ok(String::new());
        }
        // It has at most three bytes, and so tokens. What comes before is final where decoding it alone changes nothing:
        // bytes that never become a character are not held forever.
        let Some(certain) = self.held.len().checked_sub(3).filter(|&certain| certain > 0) else {
            return Ok(String::new());
        };
        let (before, rest) = self.held.split_at(certain);
        let before = self.tokenizer.decode(before, true)?;
        if text.strip_prefix(&before) != Some(&self.tokenizer.decode(rest, true)?) {
            return Ok(String::new());
        }
        self.held.drain(..certain);
        Ok(before)
    }

    /// The text still held back.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.held, true)?;
        self.held.clear();
        Ok(text)
    }
}
