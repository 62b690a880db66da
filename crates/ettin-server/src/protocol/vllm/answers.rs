//! vLLM's answers, and infinity's where both share a path.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::protocol::fault::Fault;
use crate::protocol::json::{finite, text_of};
use crate::protocol::openai::{AnswerHead, EncodingFormat, TokenUsage, base64_of};
use crate::protocol::tei::Prediction;

/// The answer of `/score`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreAnswer {
    /// The answer's id.
    pub id: String,
    /// Always `list`.
    pub object: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// One score a pair, in the order of the pairs.
    pub data: Vec<ScoreDatum>,
    /// Tokens that were read.
    pub usage: TokenUsage,
}

/// The score of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreDatum {
    /// The pair's place.
    pub index: usize,
    /// Always `score`.
    pub object: String,
    /// The score.
    #[serde(serialize_with = "finite::number")]
    pub score: f32,
}

/// The answer of `/score`, from one score a pair.
///
/// # Errors
/// A number is not finite.
pub fn score_answer(head: AnswerHead, scores: &[f32], tokens: usize) -> Result<String, Fault> {
    let datum = |(index, &score)| ScoreDatum { index, object: "score".to_owned(), score };
    let AnswerHead { id, created, model } = head;
    text_of(&ScoreAnswer {
        id,
        object: "list".to_owned(),
        created,
        model,
        data: scores.iter().enumerate().map(datum).collect(),
        usage: TokenUsage::of_prompt(tokens),
    })
}

/// The answer of `/classify`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassifyAnswer {
    /// The answer's id.
    pub id: String,
    /// Always `list`.
    pub object: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// One entry a text, in the order of the request.
    pub data: Vec<ClassifyDatum>,
    /// Tokens that were read.
    pub usage: TokenUsage,
}

/// What a classifier says of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassifyDatum {
    /// The text's place in the request.
    pub index: usize,
    /// The likeliest label; null where the model names none.
    pub label: Option<String>,
    /// One number a label, in the model's order.
    #[serde(serialize_with = "finite::list")]
    pub probs: Vec<f32>,
    /// How many labels there are.
    pub num_classes: usize,
}

/// The answer of `/classify` in vLLM's form: labels in the model's order, numbers of each text in the same.
///
/// # Errors
/// A number is not finite.
pub fn classify_answer(
    head: AnswerHead,
    labels: &[String],
    probs: Vec<Vec<f32>>,
    tokens: usize,
) -> Result<String, Fault> {
    let datum = |(index, probs): (usize, Vec<f32>)| {
        // Of equal ones the first, as argmax has it.
        let best = (0..probs.len()).reduce(|best, i| if probs[i] > probs[best] { i } else { best });
        let label = best.and_then(|best| labels.get(best).cloned());
        ClassifyDatum { index, label, num_classes: probs.len(), probs }
    };
    let AnswerHead { id, created, model } = head;
    text_of(&ClassifyAnswer {
        id,
        object: "list".to_owned(),
        created,
        model,
        data: probs.into_iter().enumerate().map(datum).collect(),
        usage: TokenUsage::of_prompt(tokens),
    })
}

/// The answer of `/classify` in infinity's form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassifyListAnswer {
    /// Always `classify`.
    pub object: String,
    /// For each text its labels, best first.
    pub data: Vec<Vec<Prediction>>,
    /// The model's name.
    pub model: String,
    /// Tokens that were read.
    pub usage: TokenUsage,
    /// The answer's id.
    pub id: String,
    /// When, in seconds since 1970.
    pub created: u64,
}

/// The answer of `/classify` to a request with `raw_scores`.
///
/// # Errors
/// A number is not finite.
pub fn classify_list_answer(head: AnswerHead, scores: Vec<Vec<(String, f32)>>, tokens: usize) -> Result<String, Fault> {
    let AnswerHead { id, created, model } = head;
    text_of(&ClassifyListAnswer {
        object: "classify".to_owned(),
        data: scores.into_iter().map(Prediction::sorted).collect(),
        model,
        usage: TokenUsage::of_prompt(tokens),
        id,
        created,
    })
}

/// The answer of `/pooling`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolingAnswer {
    /// The answer's id.
    pub id: String,
    /// Always `list`.
    pub object: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// One entry a text, in the order of the request.
    pub data: Vec<PoolingDatum>,
    /// Tokens that were read.
    pub usage: TokenUsage,
}

/// What the model gives for a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolingDatum {
    /// The text's place in the request.
    pub index: usize,
    /// Always `pooling`.
    pub object: String,
    /// The numbers.
    pub data: PooledData,
}

/// Numbers of a text: a vector, or one a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PooledData {
    /// A vector.
    Vector(#[serde(serialize_with = "finite::list")] Vec<f32>),
    /// A vector a token.
    Rows(#[serde(serialize_with = "finite::rows")] Vec<Vec<f32>>),
    /// Either as base64 of little-endian floats; rows follow each other.
    Base64(String),
}

impl PooledData {
    /// The same in this format.
    fn written(self, format: EncodingFormat) -> Result<Self, Fault> {
        match (format, self) {
            (EncodingFormat::Base64, Self::Vector(vector)) => base64_of(&vector).map(Self::Base64),
            (EncodingFormat::Base64, Self::Rows(rows)) => base64_of(&rows.concat()).map(Self::Base64),
            (_, data) => Ok(data),
        }
    }
}

/// The answer of `/pooling`, from vectors or rows in the order of the texts.
///
/// # Errors
/// A number is not finite.
pub fn pooling_answer(
    head: AnswerHead,
    data: Vec<PooledData>,
    format: EncodingFormat,
    tokens: usize,
) -> Result<String, Fault> {
    let datum = |(index, data): (usize, PooledData)| {
        data.written(format).map(|data| PoolingDatum { index, object: "pooling".to_owned(), data })
    };
    let data = data.into_iter().enumerate().map(datum).collect::<Result<_, _>>()?;
    let AnswerHead { id, created, model } = head;
    text_of(&PoolingAnswer {
        id,
        object: "list".to_owned(),
        created,
        model,
        data,
        usage: TokenUsage::of_prompt(tokens),
    })
}

/// The answer of `/tokenize` with `prompt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokens {
    /// How many tokens there are.
    pub count: usize,
    /// Tokens of a text at most.
    pub max_model_len: usize,
    /// The ids.
    pub tokens: Vec<u32>,
    /// The tokens' strings, if asked for.
    pub token_strs: Option<Vec<String>>,
}

/// The answer of `/detokenize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detokenized {
    /// The text.
    pub prompt: String,
}
