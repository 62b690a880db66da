//! `GET /v1/models` and `/v1/models/{id}`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// All models that are loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The models.
    pub data: Vec<ModelCard>,
}

impl ModelList {
    /// Of these models.
    pub fn new(data: Vec<ModelCard>) -> Self {
        Self { object: "list".to_owned(), data }
    }
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelCard {
    /// The model's name. It may have slashes: `/v1/models/{id}` is the rest of the path.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Who serves it.
    pub owned_by: String,
    /// Where it comes from (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Tokens of a text (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<usize>,
    /// What it can do, in the words of the command line (`embed`, `rerank`, `generate`, …). Of no other server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
}

impl ModelCard {
    /// A model of this name, loaded at this time.
    pub fn new(id: impl Into<String>, created: u64) -> Self {
        Self {
            id: id.into(),
            object: "model".to_owned(),
            created,
            owned_by: "ettin-run".to_owned(),
            root: None,
            max_model_len: None,
            tasks: Vec::new(),
        }
    }
}
