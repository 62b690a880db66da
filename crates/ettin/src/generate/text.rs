//! From the tokens of one sequence to its text.

use std::sync::Arc;

use super::event::FinishReason;
use super::stop::StopFilter;
use crate::tokenizer::{Said, TextStream, Tokenizer};
use crate::{Error, Result};

/// The text of one sequence of an [`Engine`](super::Engine), token by token, up to the first stop string.
///
/// Text that is not certain is held back: characters that are not complete, and what may be the beginning of a stop
/// string. The engine is to [stop](super::Flow::Stop) the sequence at the token with which [`push`](Self::push) says
/// that it ends.
#[derive(Debug, Clone)]
pub struct TextSequence<'a> {
    stream: TextStream<'a>,
    stop: StopFilter,
    /// Whether spellings of special tokens are part of the text.
    special: bool,
}

/// What a token adds to a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Text {
    /// Text that is final with it; may be empty.
    pub text: String,
    /// Why the text ends here, if it does.
    pub finish: Option<FinishReason>,
}

impl Text {
    fn ends(text: String, reason: FinishReason) -> Self {
        Self { text, finish: Some(reason) }
    }
}

impl<'a> TextSequence<'a> {
    /// A text that goes on behind the tokens of a prompt, and ends before the first of the `stop` strings in it.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty stop string.
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32], stop: Arc<[String]>) -> Result<Self> {
        if stop.iter().any(String::is_empty) {
            return Err(Error::input("a stop string must not be empty"));
        }
        Ok(Self { stream: tokenizer.stream_behind(prompt), stop: StopFilter::new(stop), special: false })
    }

    /// With the spellings of special tokens in the text, but that of an end-of-text token that ends it; or without.
    #[must_use]
    pub fn with_special(mut self, special: bool) -> Self {
        self.special = special;
        self
    }

    /// The stop string that ended the text; of several that begin at one place, the first of the list.
    pub fn stopped_by(&self) -> Option<&str> {
        self.stop.found()
    }

    /// Takes the next token, and why the engine ends the sequence with it, if it does.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, token: u32, finish: Option<FinishReason>) -> Result<Text> {
        if finish == Some(FinishReason::Eos) {
            return self.end_at(token);
        }
        let Said { mut text, mut hidden } = self.stream.say(token)?;
        if self.special && !hidden.is_empty() {
            // What was held back stands before it.
            text = self.stream.finish()? + &text + &std::mem::take(&mut hidden);
        }
        // Text that is not final may complete a stop string all the same, alone or with a special token behind it.
        let held = if self.stop.is_off() { String::new() } else { self.stream.held()? };
        if text.is_empty()
            && let Some(text) = self.stop.complete_with(&held, &hidden)
        {
            return Ok(Text::ends(text, FinishReason::Stop));
        }
        let (text, stopped) = self.stop.push(&text, &hidden);
        if stopped {
            return Ok(Text::ends(text, FinishReason::Stop));
        }
        if let Some(more) = self.stop.complete_with(&held, "") {
            return Ok(Text::ends(text + &more, FinishReason::Stop));
        }
        match finish {
            None => Ok(Text { text, finish: None }),
            Some(reason) => {
                let rest = self.finish(reason)?;
                Ok(Text { text: text + &rest.text, ..rest })
            }
        }
    }

    /// Ends the text at an end-of-text token. Its own spelling ends nothing that has not ended, but a stop string may
    /// begin before it.
    fn end_at(&mut self, token: u32) -> Result<Text> {
        if self.stop.is_off() {
            return self.finish(FinishReason::Eos);
        }
        let held = self.stream.finish()?;
        let (mut text, stopped) = self.stop.push(&held, "");
        let mut reason = FinishReason::Stop;
        if !stopped {
            let waiting = self.stop.waiting();
            let (rest, stopped) = self.stop.push("", &self.stream.say(token)?.hidden);
            // The stop string is the token's own spelling: nothing is cut.
            if !stopped || rest.len() == waiting {
                reason = FinishReason::Eos;
            }
            text += &rest;
            text += &self.stop.finish();
        }
        Ok(Text::ends(text, reason))
    }

    /// Ends the text for `reason`, without a token, unless what was held back turns out to complete a stop string.
    /// Returns what is left of it.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self, reason: FinishReason) -> Result<Text> {
        let held = self.stream.finish()?;
        let (mut text, stopped) = self.stop.push(&held, "");
        if stopped {
            return Ok(Text::ends(text, FinishReason::Stop));
        }
        text += &self.stop.finish();
        Ok(Text::ends(text, reason))
    }
}
