//! `POST /v1/embeddings`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AnswerHead, TokenUsage};
use crate::protocol::fault::Fault;
use crate::protocol::input::Inputs;
use crate::protocol::json::{Refused, WireRequest, finite, text_of};
use crate::protocol::rerank::check_truncation;
use crate::protocol::tei::TruncationDirection;

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// Lists of numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floats, which OpenAI's SDKs ask for unless told otherwise.
    Base64,
}

/// A request for vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Texts or token ids. Ids are used as they are.
    pub input: Inputs,
    /// How vectors are written.
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    /// How many numbers of each vector are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// Whether the model's template is put around texts (vLLM). Left out: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_special_tokens: Option<bool>,
    /// Texts are cut to so many tokens; −1 is the model's limit (vLLM). Left out: the server's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
    /// Which end is cut (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_side: Option<TruncationDirection>,
    /// False leaves vectors as long as the model made them (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_activation: Option<bool>,
    /// 2 is unit length, −1 leaves vectors as they are (llama.cpp).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embd_normalize: Option<i64>,
    /// A prompt of the model, by name, that is put before each text. Of no other server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
}

impl EmbeddingsRequest {
    /// Whether vectors get unit length; they do unless a request says otherwise.
    pub fn normalized(&self) -> bool {
        self.use_activation != Some(false) && self.embd_normalize != Some(-1)
    }
}

impl WireRequest for EmbeddingsRequest {
    const REFUSED: &'static [Refused] = &[
        Refused::always("messages", "these models have no chat template; send `input`"),
        Refused::unless("modality", |value| value == "text", "only texts are embedded"),
        Refused::unless(
            "embed_dtype",
            |value| value == "float32",
            "vectors are 32-bit floats; quantise them after reading",
        ),
        Refused::unless(
            "endianness",
            |value| value == "little" || value == "native",
            "base64 is of little-endian floats",
        ),
        Refused::unless(
            "normalize",
            |value| value.as_bool() == Some(true),
            "vectors of this route have unit length; send `use_activation: false` or use /embed",
        ),
        Refused::unless("task", |value| value == "embed", "this route embeds; other tasks are at /pooling"),
    ];

    fn validate(&self) -> Result<(), Fault> {
        self.input.check_ids_not_empty("input")?;
        crate::protocol::tei::check_dimensions(self.dimensions)?;
        if let Some(norm) = self.embd_normalize.filter(|norm| ![-1, 2].contains(norm)) {
            let message = format!("`embd_normalize` is {norm}; 2 (Euclidean) and -1 (none) are supported");
            return Err(Fault::field("embd_normalize", message));
        }
        check_truncation(self.truncate_prompt_tokens)
    }
}

/// The answer to an [`EmbeddingsRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingsAnswer {
    /// Always `list`.
    pub object: String,
    /// The answer's id (vLLM and infinity have one).
    pub id: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Vectors in the order of the inputs.
    pub data: Vec<Embedding>,
    /// Tokens that were read.
    pub usage: TokenUsage,
}

/// The vector of one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Embedding {
    /// Always `embedding`.
    pub object: String,
    /// The input's place in the request.
    pub index: usize,
    /// The vector.
    pub embedding: EmbeddingVector,
}

/// A vector in one of the formats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// Numbers.
    Numbers(#[serde(serialize_with = "finite::list")] Vec<f32>),
    /// Base64 of little-endian 32-bit floats.
    Base64(String),
}

impl EmbeddingVector {
    /// The vector in this format.
    ///
    /// # Errors
    /// A number is not finite.
    pub fn new(vector: Vec<f32>, format: EncodingFormat) -> Result<Self, Fault> {
        match format {
            EncodingFormat::Float => Ok(Self::Numbers(vector)),
            EncodingFormat::Base64 => base64_of(&vector).map(Self::Base64),
        }
    }
}

/// Base64 of little-endian 32-bit floats.
///
/// # Errors
/// A number is not finite.
pub fn base64_of(vector: &[f32]) -> Result<String, Fault> {
    if vector.iter().any(|number| !number.is_finite()) {
        return Err(Fault::not_finite());
    }
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    Ok(STANDARD.encode(bytes))
}

/// The answer, from vectors in the order of the inputs and the tokens of all of them.
///
/// # Errors
/// A number is not finite.
pub fn embeddings_answer(
    head: AnswerHead,
    vectors: Vec<Vec<f32>>,
    format: EncodingFormat,
    tokens: usize,
) -> Result<String, Fault> {
    let embedding = |(index, vector)| {
        EmbeddingVector::new(vector, format).map(|embedding| Embedding {
            object: "embedding".to_owned(),
            index,
            embedding,
        })
    };
    let data = vectors.into_iter().enumerate().map(embedding).collect::<Result<_, _>>()?;
    let AnswerHead { id, created, model } = head;
    text_of(&EmbeddingsAnswer {
        object: "list".to_owned(),
        id,
        created,
        model,
        data,
        usage: TokenUsage::of_prompt(tokens),
    })
}
