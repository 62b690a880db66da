//! TEI's answers, from plain values. All are written by one function each, which refuses numbers that are not finite.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::protocol::fault::Fault;
use crate::protocol::json::{finite, text_of};
use crate::protocol::ranking::ranked;

/// The answer of `/embed`: a list of vectors, also for one text.
///
/// # Errors
/// A number is not finite.
pub fn embed_answer(vectors: &[Vec<f32>]) -> Result<String, Fault> {
    #[derive(Serialize)]
    #[serde(transparent)]
    struct WrittenRows<'a>(#[serde(serialize_with = "finite::rows")] &'a [Vec<f32>]);
    text_of(&WrittenRows(vectors))
}

/// The answer of `/embed_all`: for each text a list of vectors, one a token.
///
/// # Errors
/// A number is not finite.
pub fn embed_all_answer(matrices: &[Vec<Vec<f32>>]) -> Result<String, Fault> {
    #[derive(Serialize)]
    #[serde(transparent)]
    struct WrittenMatrices<'a>(#[serde(serialize_with = "finite::matrices")] &'a [Vec<Vec<f32>>]);
    text_of(&WrittenMatrices(matrices))
}

/// One weight of a sparse vector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SparseValue {
    /// The id in the vocabulary.
    pub index: usize,
    /// The weight.
    #[serde(serialize_with = "finite::number")]
    pub value: f32,
}

/// The answer of `/embed_sparse`. Each text has its pairs of id and weight in any order; zeros are left out, and ids
/// ascend.
///
/// # Errors
/// A number is not finite.
pub fn embed_sparse_answer(vectors: Vec<Vec<(usize, f32)>>) -> Result<String, Fault> {
    let sorted = |vector: Vec<(usize, f32)>| {
        let mut values: Vec<_> = vector
            .into_iter()
            .filter(|(_, value)| *value != 0.0)
            .map(|(index, value)| SparseValue { index, value })
            .collect();
        values.sort_by_key(|value| value.index);
        values
    };
    text_of(&vectors.into_iter().map(sorted).collect::<Vec<_>>())
}

/// A label and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// The score, as the model's own activation gives it; a logit with `raw_scores`.
    #[serde(serialize_with = "finite::number")]
    pub score: f32,
    /// The label.
    pub label: String,
}

impl Prediction {
    /// The labels of one text, best first; equal scores in the order of the labels.
    pub fn sorted(scores: Vec<(String, f32)>) -> Vec<Self> {
        let mut predictions: Vec<_> = scores.into_iter().map(|(label, score)| Self { score, label }).collect();
        predictions.sort_by(|a, b| b.score.total_cmp(&a.score));
        predictions
    }
}

/// The answer of `/predict`: flat for one text or pair, a list of lists for a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Predictions {
    /// For one text or pair.
    One(Vec<Prediction>),
    /// For a batch.
    Batch(Vec<Vec<Prediction>>),
}

/// The answer of `/predict`. `nested` is what the request decides: [`crate::protocol::route::nested_predictions`].
///
/// # Errors
/// A number is not finite.
pub fn predict_answer(scores: Vec<Vec<(String, f32)>>, nested: bool) -> Result<String, Fault> {
    let mut lists: Vec<_> = scores.into_iter().map(Prediction::sorted).collect();
    text_of(&match lists.len() {
        1 if !nested => Predictions::One(lists.remove(0)),
        _ => Predictions::Batch(lists),
    })
}

/// A text's place in the answer of `/rerank` with `texts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rank {
    /// The text's place in the request.
    pub index: usize,
    /// The text, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The score, as the model's own activation gives it; a logit with `raw_scores`.
    #[serde(serialize_with = "finite::number")]
    pub score: f32,
}

/// The answer of `/rerank` with `texts`: a list, best first. `texts` are given where the answer repeats them.
///
/// # Errors
/// A number is not finite.
pub fn rerank_answer(scores: &[f32], top_n: usize, texts: Option<&[String]>) -> Result<String, Fault> {
    let rank = |(index, score)| Rank { index, text: texts.and_then(|texts| texts.get(index).cloned()), score };
    text_of(&ranked(scores, top_n).map(rank).collect::<Vec<_>>())
}

/// The answer of `/similarity`: one cosine a sentence.
///
/// # Errors
/// A number is not finite.
pub fn similarity_answer(cosines: &[f32]) -> Result<String, Fault> {
    #[derive(Serialize)]
    #[serde(transparent)]
    struct WrittenList<'a>(#[serde(serialize_with = "finite::list")] &'a [f32]);
    text_of(&WrittenList(cosines))
}

/// A token in the answer of `/tokenize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SimpleToken {
    /// The id in the vocabulary.
    pub id: u32,
    /// The part of the text that the token covers; the token's own string for special ones.
    pub text: String,
    /// Whether the model's template added the token.
    pub special: bool,
    /// Where the token begins, in bytes of the text; null for special ones.
    pub start: Option<usize>,
    /// Where the token ends.
    pub stop: Option<usize>,
}

/// The answer of `/tokenize` with `inputs`: for each text a list of tokens.
///
/// # Errors
/// None that these types can cause.
pub fn tokenize_answer(tokens: &[Vec<SimpleToken>]) -> Result<String, Fault> {
    text_of(tokens)
}

/// The answer of `/vertex`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VertexAnswer {
    /// One answer an instance, each in its route's form.
    #[schema(value_type = Vec<Object>)]
    pub predictions: Vec<serde_json::Value>,
}

impl VertexAnswer {
    /// The answer made of those of the instances, each as JSON text, which is copied as it is.
    pub fn of_texts(answers: &[String]) -> String {
        format!("{{\"predictions\":[{}]}}", answers.join(","))
    }
}
