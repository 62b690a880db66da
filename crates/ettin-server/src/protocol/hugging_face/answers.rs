//! Answers to Hugging Face's inference clients, in the form of transformers' pipelines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::protocol::fault::Fault;
use crate::protocol::json::{finite, text_of};

/// A word for a mask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FilledMask {
    /// The word's probability.
    #[serde(serialize_with = "finite::number")]
    pub score: f32,
    /// The word's id.
    pub token: u32,
    /// The word.
    pub token_str: String,
    /// The text with the word in it.
    pub sequence: String,
}

/// One result without a list for a request of one text; all in a list for a list of texts.
fn one_or_all<T: Serialize>(mut results: Vec<T>, one: bool) -> Result<String, Fault> {
    match results.len() {
        1 if one => text_of(&results.remove(0)),
        _ => text_of(&results),
    }
}

/// The answer to a request to fill masks: words of each mask of each text. A text of one mask has its words in a
/// list, a text of several a list of those. `one` is [`super::TextOrTexts::is_one`].
///
/// # Errors
/// A number is not finite.
pub fn fill_mask_answer(texts: Vec<Vec<Vec<FilledMask>>>, one: bool) -> Result<String, Fault> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Masks {
        One(Vec<FilledMask>),
        Several(Vec<Vec<FilledMask>>),
    }
    let masks = |mut masks: Vec<Vec<FilledMask>>| match masks.len() {
        1 => Masks::One(masks.remove(0)),
        _ => Masks::Several(masks),
    };
    one_or_all(texts.into_iter().map(masks).collect(), one)
}

/// A labelled token or group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaggedSpan {
    /// The label of a token, without aggregation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// The label of a group, with aggregation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity_group: Option<String>,
    /// The label's probability.
    #[serde(serialize_with = "finite::number")]
    pub score: f32,
    /// The token's place, without aggregation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The token or the group's text.
    pub word: String,
    /// Where the span begins, in Unicode scalars of the text.
    pub start: usize,
    /// Where the span ends.
    pub end: usize,
}

/// The answer to a request for labels of tokens. `one` is [`super::TextOrTexts::is_one`].
///
/// # Errors
/// A number is not finite.
pub fn token_classification_answer(texts: Vec<Vec<TaggedSpan>>, one: bool) -> Result<String, Fault> {
    one_or_all(texts, one)
}

/// An answer within a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FoundAnswer {
    /// The answer's probability.
    #[serde(serialize_with = "finite::number")]
    pub score: f32,
    /// Where the answer begins, in Unicode scalars of the text.
    pub start: usize,
    /// Where the answer ends.
    pub end: usize,
    /// The answer.
    pub answer: String,
}

/// The answer to a question: an object, or a list where the request has `top_k`.
///
/// # Errors
/// A number is not finite.
pub fn question_answer(answers: Vec<FoundAnswer>, top_k: Option<usize>) -> Result<String, Fault> {
    one_or_all(answers, top_k.is_none_or(|k| k == 1))
}

/// A label of the request and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// The score.
    #[serde(serialize_with = "finite::number")]
    pub score: f32,
}

/// The answer to a zero-shot request: a list of labels, best first, as the hosted API gives it since 2025 and the
/// clients of today read it (transformers' own pipeline has `{sequence, labels, scores}`). `one` is
/// [`super::TextOrTexts::is_one`].
///
/// # Errors
/// A number is not finite.
pub fn zero_shot_answer(texts: Vec<Vec<(String, f32)>>, one: bool) -> Result<String, Fault> {
    let sorted = |scores: Vec<(String, f32)>| {
        let mut labels: Vec<_> = scores.into_iter().map(|(label, score)| LabelScore { label, score }).collect();
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels
    };
    one_or_all(texts.into_iter().map(sorted).collect(), one)
}
