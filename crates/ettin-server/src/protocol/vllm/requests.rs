//! vLLM's requests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::protocol::fault::Fault;
use crate::protocol::input::{Documents, Inputs};
use crate::protocol::json::{Refused, WireRequest, yes};
use crate::protocol::openai::EncodingFormat;
use crate::protocol::rerank::check_truncation;
use crate::protocol::tei::check_dimensions;

/// `POST /score`, `/v1/score`: scores of pairs. The two sides have three pairs of names on the wire; here they have
/// one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The first of each pair; also `queries`, `data_1`.
    #[serde(alias = "queries", alias = "data_1")]
    pub text_1: Documents,
    /// The second of each pair; also `documents`, `data_2`.
    #[serde(alias = "documents", alias = "data_2")]
    pub text_2: Documents,
    /// Whether the activation is applied.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub use_activation: bool,
    /// Tokens of a pair; −1 is the model's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
}

impl ScoreRequest {
    /// The pairs: one with each of the other side, or side by side where both have as many.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        let (first, second) = (self.text_1.into_texts(), self.text_2.into_texts());
        match first.as_slice() {
            [one] => second.into_iter().map(|other| (one.clone(), other)).collect(),
            _ => first.into_iter().zip(second).collect(),
        }
    }
}

impl WireRequest for ScoreRequest {
    fn validate(&self) -> Result<(), Fault> {
        match (self.text_1.len(), self.text_2.len()) {
            (0, _) => Err(Fault::empty("text_1")),
            (_, 0) => Err(Fault::empty("text_2")),
            (1, _) => check_truncation(self.truncate_prompt_tokens),
            (n, m) if n == m => check_truncation(self.truncate_prompt_tokens),
            (n, m) => Err(Fault::field(
                "text_1",
                format!("`text_1` has {n} texts and `text_2` {m}: send one, or as many on both sides"),
            )),
        }
    }
}

/// `POST /classify`: probabilities of labels. With `raw_scores` it is infinity's, which has another answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassifyRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Texts or token ids.
    pub input: Inputs,
    /// Whether the activation is applied.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub use_activation: bool,
    /// Whether scores are logits. Whoever sends it, true or false, gets infinity's answer: vLLM does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_scores: Option<bool>,
    /// Tokens of a text; −1 is the model's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
}

impl ClassifyRequest {
    /// Whether scores are logits.
    pub fn raw(&self) -> bool {
        self.raw_scores == Some(true) || !self.use_activation
    }
}

impl WireRequest for ClassifyRequest {
    const REFUSED: &'static [Refused] =
        &[Refused::always("messages", "these models have no chat template; send `input`")];

    fn validate(&self) -> Result<(), Fault> {
        self.input.check_ids_not_empty("input")?;
        check_truncation(self.truncate_prompt_tokens)
    }
}

/// What `/pooling` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolingTask {
    /// A vector a text.
    Embed,
    /// A vector a token.
    TokenEmbed,
    /// Probabilities of labels.
    Classify,
    /// Probabilities of labels of each token.
    TokenClassify,
    /// Scores of pairs; here of texts with a reranker's one label.
    Score,
}

/// `POST /pooling`: what the model's last layer gives, before any protocol makes something of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolingRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Texts or token ids.
    pub input: Inputs,
    /// What is given; by the model's kind if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<PoolingTask>,
    /// How numbers are written.
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    /// How many numbers of each vector are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// Whether vectors get unit length or logits become probabilities. Left out: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_activation: Option<bool>,
    /// Tokens of a text; −1 is the model's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
}

impl WireRequest for PoolingRequest {
    const REFUSED: &'static [Refused] = &[
        Refused::always("messages", "these models have no chat template; send `input`"),
        Refused::unless("embed_dtype", |value| value == "float32", "numbers are 32-bit floats"),
        Refused::unless(
            "endianness",
            |value| value == "little" || value == "native",
            "base64 is of little-endian floats",
        ),
    ];

    fn validate(&self) -> Result<(), Fault> {
        self.input.check_ids_not_empty("input")?;
        check_dimensions(self.dimensions)?;
        check_truncation(self.truncate_prompt_tokens)
    }
}

/// `POST /tokenize` with `prompt`: vLLM's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokenizeRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A text.
    pub prompt: String,
    /// Whether the model's template is put around the text.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub add_special_tokens: bool,
    /// Whether the answer has the tokens' strings.
    #[serde(default)]
    pub return_token_strs: bool,
}

impl WireRequest for PromptTokenizeRequest {
    const REFUSED: &'static [Refused] =
        &[Refused::always("messages", "these models have no chat template; send `prompt`")];
}

/// `POST /detokenize`: ids to a text, special tokens included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

impl WireRequest for DetokenizeRequest {}
