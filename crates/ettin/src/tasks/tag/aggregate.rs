//! From token probabilities to tags, as the token-classification pipeline of transformers 5.23 joins them.

use super::{Aggregation, Tag};
use crate::Result;
use crate::tasks::numbers::argmax;
use crate::tokenizer::{Encoding, Tokenizer};

/// A token of the text.
#[derive(Debug, Clone)]
pub(super) struct TaggedToken {
    word: String,
    probabilities: Vec<f32>,
    index: usize,
    start: usize,
    end: usize,
    /// Whether it continues the word before it.
    is_subword: bool,
}

/// A labelled token or word.
#[derive(Debug, Clone)]
struct Labelled<'a> {
    label: &'a str,
    score: f32,
    word: String,
    start: usize,
    end: usize,
}

/// The tokens of a text without the special ones of the template.
///
/// Where the vocabulary marks tokens that continue a word (`marked`), a token does when it is spelled longer or
/// shorter than its part of the text. Other tokenizers know no words: there a token continues one when there is no
/// space at its start or just before it. Both are the pipeline's own heuristics.
pub(super) fn tokens(
    text: &str,
    encoding: &Encoding,
    unk: Option<u32>,
    marked: bool,
    probabilities: impl Fn(usize) -> Vec<f32>,
) -> Vec<TaggedToken> {
    let scalars: Vec<char> = text.chars().collect();
    let indices = (0..encoding.ids.len()).filter(|&index| !encoding.special[index]);
    indices
        .map(|index| {
            let (start, end) = encoding.offsets[index];
            let unknown = Some(encoding.ids[index]) == unk;
            let continues = match marked {
                true => encoding.tokens[index].chars().count() != end - start,
                false => {
                    let border = &scalars[start.saturating_sub(1)..scalars.len().min(start + 1)];
                    start > 0 && !border.contains(&' ')
                }
            };
            TaggedToken {
                word: if unknown { scalars[start..end].iter().collect() } else { encoding.tokens[index].clone() },
                probabilities: probabilities(index),
                index,
                start,
                end,
                is_subword: !unknown && continues,
            }
        })
        .collect()
}

/// The tags of a text, `O` included.
pub(super) fn tags(
    tokens: &[TaggedToken],
    labels: &[String],
    aggregation: Aggregation,
    tokenizer: &Tokenizer,
) -> Result<Vec<Tag>> {
    let single = |token: &TaggedToken| {
        let best = argmax(&token.probabilities);
        (labels[best].as_str(), token.probabilities[best])
    };
    let labelled = match aggregation {
        Aggregation::None => {
            let tag = |token: &TaggedToken| {
                let (label, score) = single(token);
                let TaggedToken { index, start, end, .. } = *token;
                Tag::Token { entity: label.to_owned(), score, index, word: token.word.clone(), start, end }
            };
            return Ok(tokens.iter().map(tag).collect());
        }
        Aggregation::Simple => tokens
            .iter()
            .map(|token| {
                let (label, score) = single(token);
                Labelled { label, score, word: token.word.clone(), start: token.start, end: token.end }
            })
            .collect(),
        Aggregation::First | Aggregation::Average | Aggregation::Max => tokens
            .chunk_by(|_, next| next.is_subword)
            .map(|word| label_word(word, labels, aggregation, tokenizer))
            .collect::<Result<Vec<_>>>()?,
    };
    labelled.chunk_by(|one, next| continues(one.label, next.label)).map(|group| join(group, tokenizer)).collect()
}

fn label_word<'a>(
    word: &[TaggedToken],
    labels: &'a [String],
    aggregation: Aggregation,
    tokenizer: &Tokenizer,
) -> Result<Labelled<'a>> {
    let best = |token: &TaggedToken| token.probabilities[argmax(&token.probabilities)];
    let probabilities = match aggregation {
        Aggregation::Average => mean(word),
        Aggregation::Max => {
            // The first of equals.
            let surer = |one, other| if best(other) > best(one) { other } else { one };
            word.iter().reduce(surer).map_or_else(Vec::new, |token| token.probabilities.clone())
        }
        _ => word[0].probabilities.clone(),
    };
    let label = argmax(&probabilities);
    Ok(Labelled {
        label: &labels[label],
        score: probabilities[label],
        word: tokenizer.join(word.iter().map(|token| token.word.clone()).collect())?,
        start: word[0].start,
        end: word[word.len() - 1].end,
    })
}

fn mean(word: &[TaggedToken]) -> Vec<f32> {
    let label_mean = |label: usize| {
        let sum: f64 = word.iter().map(|token| f64::from(token.probabilities[label])).sum();
        (sum / word.len() as f64) as f32
    };
    (0..word[0].probabilities.len()).map(label_mean).collect()
}

/// Whether a label goes on with the entity of the label before it.
fn continues(label: &str, next: &str) -> bool {
    fn tag(label: &str) -> &str {
        label.strip_prefix("B-").or_else(|| label.strip_prefix("I-")).unwrap_or(label)
    }
    !next.starts_with("B-") && tag(label) == tag(next)
}

fn join(group: &[Labelled<'_>], tokenizer: &Tokenizer) -> Result<Tag> {
    let sum: f64 = group.iter().map(|one| f64::from(one.score)).sum();
    let label = group[0].label;
    Ok(Tag::Group {
        // What follows the first hyphen, whatever comes before it.
        entity_group: label.split_once('-').map_or(label, |(_, tag)| tag).to_owned(),
        score: (sum / group.len() as f64) as f32,
        word: tokenizer.join(group.iter().map(|one| one.word.clone()).collect())?,
        start: group[0].start,
        end: group[group.len() - 1].end,
    })
}
