//! TEI's requests. Defaults are TEI's; `truncate` left out means the server's own policy.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::protocol::fault::Fault;
use crate::protocol::input::{Inputs, PredictInputs, TextOrIds};
use crate::protocol::json::{WireRequest, yes};

/// Which end of an over-long text is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TruncationDirection {
    /// The beginning.
    #[serde(rename = "Left", alias = "left")]
    Left,
    /// The end.
    #[serde(rename = "Right", alias = "right")]
    Right,
}

/// `POST /embed`: one vector a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbedRequest {
    /// Texts or token ids.
    pub inputs: Inputs,
    /// Whether over-long texts are cut; the server's policy if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Which end is cut; the model's own side if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_direction: Option<TruncationDirection>,
    /// A prompt of the model, by name, that is put before each text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
    /// Whether vectors get unit length, after they are cut to `dimensions`.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub normalize: bool,
    /// How many numbers of each vector are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
}

impl WireRequest for EmbedRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty("inputs")?;
        check_dimensions(self.dimensions)
    }
}

/// Refuses vectors of no numbers.
pub(in crate::protocol) fn check_dimensions(dimensions: Option<usize>) -> Result<(), Fault> {
    match dimensions {
        Some(0) => Err(Fault::field("dimensions", "`dimensions` must be 1 or more")),
        _ => Ok(()),
    }
}

/// `POST /embed_all`: one vector a token, special tokens included, not normalised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbedAllRequest {
    /// Texts or token ids.
    pub inputs: Inputs,
    /// Whether over-long texts are cut; the server's policy if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Which end is cut; the model's own side if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_direction: Option<TruncationDirection>,
    /// A prompt of the model, by name, that is put before each text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
}

impl WireRequest for EmbedAllRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty("inputs")
    }
}

/// `POST /embed_sparse`: a weight for each word piece of the vocabulary that has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbedSparseRequest {
    /// Texts or token ids.
    pub inputs: Inputs,
    /// Whether over-long texts are cut; the server's policy if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Which end is cut; the model's own side if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_direction: Option<TruncationDirection>,
    /// A prompt of the model, by name, that is put before each text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
}

impl WireRequest for EmbedSparseRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty("inputs")
    }
}

/// `POST /predict`: labels and scores of texts or pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictRequest {
    /// A text, a pair, or a batch.
    pub inputs: PredictInputs,
    /// Whether over-long texts are cut; the server's policy if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Which end is cut; the model's own side if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_direction: Option<TruncationDirection>,
    /// Whether scores are logits.
    #[serde(default)]
    pub raw_scores: bool,
}

impl WireRequest for PredictRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty("inputs")
    }
}

/// `POST /rerank` with `texts`: TEI's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TextRerankRequest {
    /// What is asked.
    pub query: String,
    /// What is ranked.
    pub texts: Vec<String>,
    /// Whether over-long pairs are cut; the server's policy if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Which end is cut; the model's own side if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_direction: Option<TruncationDirection>,
    /// Whether scores are logits.
    #[serde(default)]
    pub raw_scores: bool,
    /// Whether the answer repeats the texts.
    #[serde(default)]
    pub return_text: bool,
    /// How many of the best are answered; not of TEI, llama.cpp has it. 0 and left out: all.
    #[serde(default)]
    pub top_n: usize,
}

impl WireRequest for TextRerankRequest {
    fn validate(&self) -> Result<(), Fault> {
        if self.query.is_empty() {
            return Err(Fault::empty("query"));
        }
        if self.texts.is_empty() || self.texts.iter().any(String::is_empty) {
            return Err(Fault::empty("texts"));
        }
        Ok(())
    }
}

/// `POST /similarity`: cosines of one text with others. InferenceClient's `sentence_similarity` sends the same to `/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SimilarityRequest {
    /// The texts.
    pub inputs: SimilarityInputs,
    /// How they are read.
    #[serde(default)]
    pub parameters: SimilarityParameters,
}

/// The texts of a [`SimilarityRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SimilarityInputs {
    /// The text that is compared.
    pub source_sentence: String,
    /// The texts it is compared with.
    pub sentences: Vec<String>,
}

/// The parameters of a [`SimilarityRequest`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SimilarityParameters {
    /// Whether over-long texts are cut; the server's policy if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Which end is cut; the model's own side if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_direction: Option<TruncationDirection>,
    /// A prompt of the model, by name, that is put before each text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
}

impl WireRequest for SimilarityRequest {
    fn validate(&self) -> Result<(), Fault> {
        if self.inputs.source_sentence.is_empty() {
            return Err(Fault::empty("inputs.source_sentence"));
        }
        if self.inputs.sentences.is_empty() || self.inputs.sentences.iter().any(String::is_empty) {
            return Err(Fault::empty("inputs.sentences"));
        }
        Ok(())
    }
}

/// `POST /tokenize` with `inputs`: TEI's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// Texts; ids are refused, they are tokens already.
    pub inputs: Inputs,
    /// Whether the tokens that the model's template adds are shown.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub add_special_tokens: bool,
    /// A prompt of the model, by name, that is put before each text. Offsets count from the prompt's beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
}

impl WireRequest for TokenizeRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty("inputs")?;
        let ids = |input: &TextOrIds| matches!(input, TextOrIds::Ids(_));
        if self.inputs.as_slice().iter().any(ids) {
            return Err(Fault::field("inputs", "`inputs` are token ids already; send texts, or ids to /decode"));
        }
        Ok(())
    }
}

/// One list of ids or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a list of token ids, or a list of such lists")]
pub enum IdLists {
    /// The ids of one text.
    One(Vec<u32>),
    /// The ids of several texts.
    Many(Vec<Vec<u32>>),
}

impl IdLists {
    /// All lists in order.
    pub fn into_lists(self) -> Vec<Vec<u32>> {
        match self {
            Self::One(ids) => vec![ids],
            Self::Many(lists) => lists,
        }
    }
}

/// `POST /decode`: ids to texts, always answered by a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecodeRequest {
    /// Token ids.
    pub ids: IdLists,
    /// Whether special tokens are left out of the text.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub skip_special_tokens: bool,
}

impl WireRequest for DecodeRequest {
    fn validate(&self) -> Result<(), Fault> {
        let empty = match &self.ids {
            IdLists::One(ids) => ids.is_empty(),
            IdLists::Many(lists) => lists.is_empty() || lists.iter().any(Vec::is_empty),
        };
        if empty { Err(Fault::empty("ids")) } else { Ok(()) }
    }
}

/// `POST /vertex`: several requests in one, each as its route's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VertexRequest {
    /// The requests.
    #[schema(value_type = Vec<Object>)]
    pub instances: Vec<Map<String, Value>>,
}

impl WireRequest for VertexRequest {
    fn validate(&self) -> Result<(), Fault> {
        if self.instances.is_empty() { Err(Fault::empty("instances")) } else { Ok(()) }
    }
}
