//! Context and text as tokens, within the length limit.

use super::{ScoreInput, ScoreMethod, ScoreRequest, Scorer};
use crate::tokenizer::{Side, Tokenizer};
use crate::{Error, Result};

/// The tokens of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    /// What comes first and is not scored: bos or cls, then the context.
    pub(super) before: Vec<u32>,
    /// What is scored; at least one token.
    pub(super) text: Vec<u32>,
    pub(super) truncated: bool,
}

impl Scorer {
    pub(super) fn pieces(&self, input: &ScoreInput<'_>, method: ScoreMethod, request: &ScoreRequest) -> Result<Pieces> {
        let tokenizer = &self.preprocessor.tokenizer;
        let (context, text) = without_trailing_space(input.context.unwrap_or_default(), input.text);
        let (mut context, mut text) = match request.join {
            false => (tokenizer.ids(context)?, tokenizer.ids(&text)?),
            true => joined(tokenizer, context, &text)?,
        };
        if text.is_empty() {
            return Err(Error::input("the text is empty: there is nothing to score"));
        }
        let first = match method {
            ScoreMethod::Causal if !request.bos => None,
            ScoreMethod::Causal => Some(self.special("bos", tokenizer.special().bos)?),
            _ => Some(self.special("cls", tokenizer.special().cls)?),
        };
        // Tokens beside context and text in the longest sequence that is computed.
        let added = match method {
            ScoreMethod::Causal => usize::from(first.is_some()),
            ScoreMethod::Pll => 2,
            ScoreMethod::LeftToRight => 5,
        };
        let tokens = context.len() + text.len() + added;
        let limit = self.preprocessor.limit;
        let excess = tokens.saturating_sub(limit.tokens);
        if excess > 0 {
            let side = limit.cut().filter(|_| added < limit.tokens).ok_or_else(|| limit.too_long(tokens))?;
            cut(&mut context, &mut text, excess, side == Side::Left);
        }
        if method == ScoreMethod::LeftToRight {
            text.push(self.special("sep", tokenizer.special().sep)?);
        }
        Ok(Pieces { before: first.into_iter().chain(context).collect(), text, truncated: excess > 0 })
    }

    pub(super) fn special(&self, name: &str, id: Option<u32>) -> Result<u32> {
        id.ok_or_else(|| Error::Tokenizer(format!("the model's files name no {name} token, which scoring needs")))
    }
}

/// The tokens of the context alone, and those of both as one string behind as many (`_encode_pair` of
/// lm-evaluation-harness 0.4). What of the whole is before them is not read, even where it is not the context's tokens.
fn joined(tokenizer: &Tokenizer, context: &str, text: &str) -> Result<(Vec<u32>, Vec<u32>)> {
    let context_ids = tokenizer.ids(context)?;
    let whole = tokenizer.ids(&[context, text].concat())?;
    match whole.get(context_ids.len()..) {
        Some(rest) if !rest.is_empty() => Ok((context_ids, rest.to_vec())),
        _ if text.is_empty() => Ok((context_ids, Vec::new())),
        _ => Err(Error::input(format!(
            "context and text as one string have {} tokens, and the context alone has {}: there is nothing left to \
             score; encode them separately",
            whole.len(),
            context_ids.len()
        ))),
    }
}

/// Moves white space from the end of the context to the text; what counts is what Python's `rstrip` takes.
fn without_trailing_space<'a>(context: &'a str, text: &str) -> (&'a str, String) {
    let space = |c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}');
    let bare = context.trim_end_matches(space);
    (bare, [&context[bare.len()..], text].concat())
}

/// Drops tokens from the beginning of both, or from the end; one token of the text stays.
fn cut(context: &mut Vec<u32>, text: &mut Vec<u32>, excess: usize, left: bool) {
    if left {
        let of_context = excess.min(context.len());
        context.drain(..of_context);
        text.drain(..excess - of_context);
    } else {
        let of_text = excess.min(text.len() - 1);
        text.truncate(text.len() - of_text);
        context.truncate(context.len() - (excess - of_text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_space_moves_to_the_text() {
        assert_eq!(without_trailing_space("a b \t", "c"), ("a b", " \tc".to_owned()));
        assert_eq!(without_trailing_space("a\u{1f}\u{a0}", "c"), ("a", "\u{1f}\u{a0}c".to_owned()));
        assert_eq!(without_trailing_space("", " c"), ("", " c".to_owned()));
    }

    #[test]
    fn tokens_are_cut_from_the_side_asked_for() {
        let cases = [
            (2, true, (vec![3], vec![4, 5, 6])),
            (4, true, (vec![], vec![5, 6])),
            (2, false, (vec![1, 2, 3], vec![4])),
            (4, false, (vec![1], vec![4])),
        ];
        for (excess, left, expected) in cases {
            let (mut context, mut text) = (vec![1, 2, 3], vec![4, 5, 6]);
            cut(&mut context, &mut text, excess, left);
            assert_eq!((context, text), expected, "{excess} {left}");
        }
    }
}
