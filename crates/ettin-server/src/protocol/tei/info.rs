//! `GET /info`: what is served, and its limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer of `/info`: TEI's keys, then ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// Where the model comes from.
    pub model_id: String,
    /// The commit of the model's repository.
    pub model_sha: Option<String>,
    /// The number format of the weights.
    #[schema(example = "float32")]
    pub model_dtype: String,
    /// The name that answers carry.
    pub served_model_name: String,
    /// What the model is.
    pub model_type: ModelType,
    /// Texts that may wait or run at once.
    pub max_concurrent_requests: usize,
    /// Tokens of a text, special ones included.
    pub max_input_length: usize,
    /// Tokens of a batch.
    pub max_batch_tokens: usize,
    /// Texts of a batch; null is no limit.
    pub max_batch_requests: Option<usize>,
    /// Texts of a request. TEI has 32; here the batch's token budget cuts any number.
    pub max_client_batch_size: usize,
    /// Whether over-long texts are cut unless a request says otherwise.
    pub auto_truncate: bool,
    /// Threads that tokenize.
    pub tokenization_workers: usize,
    /// The version of this server.
    pub version: String,
    /// The commit of this server.
    pub sha: Option<String>,
    /// The label of the container image.
    pub docker_label: Option<String>,
    /// Bytes of a body. Not of TEI.
    pub payload_limit: usize,
    /// Tokens that may wait for a model, which is what requests are let in by. Not of TEI.
    pub max_queue_tokens: usize,
    /// Seconds that a request may take. Not of TEI.
    pub request_timeout: u64,
    /// The other limits, by the names of their flags: bytes, numbers and seconds. Not of TEI.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// All models, those that do not answer included. Not of TEI.
    pub models: Vec<ServedModel>,
    /// What turns a classifier's logits into scores, as the model's own configuration says. Not of TEI, which takes
    /// softmax or sigmoid by the number of labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "identity")]
    pub activation: Option<String>,
}

/// One of several models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServedModel {
    /// The name that it is asked for by.
    pub name: String,
    /// `loading`, `ready` or `failed`.
    #[schema(example = "ready")]
    pub state: String,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The number format that it computes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Tokens of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input_length: Option<usize>,
    /// What it can do, what it is made for first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// Why it could not be loaded, or loaded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a model is. The first three are TEI's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    /// Vectors of texts.
    Embedding(EmbeddingInfo),
    /// Labels of texts.
    Classifier(ClassifierInfo),
    /// Scores of pairs.
    Reranker(ClassifierInfo),
    /// Words for masks.
    MaskedLanguageModel(Nothing),
    /// Labels of tokens.
    TokenClassifier(ClassifierInfo),
    /// Answers within texts.
    QuestionAnswering(Nothing),
    /// Text that goes on.
    Generator(Nothing),
}

/// How vectors are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingInfo {
    /// `cls`, `mean`, `last_token` or `splade`; other poolings by their name.
    #[schema(example = "mean")]
    pub pooling: String,
}

/// The labels of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassifierInfo {
    /// Names by number, which is a text in JSON.
    pub id2label: BTreeMap<String, String>,
    /// Numbers by name.
    pub label2id: BTreeMap<String, usize>,
}

impl ClassifierInfo {
    /// Of labels in order.
    pub fn of_labels<'a>(labels: impl IntoIterator<Item = &'a str>) -> Self {
        let mut info = Self { id2label: BTreeMap::new(), label2id: BTreeMap::new() };
        for (id, label) in labels.into_iter().enumerate() {
            info.id2label.insert(id.to_string(), label.to_owned());
            info.label2id.insert(label.to_owned(), id);
        }
        info
    }
}

/// `{}`: a kind of model with nothing to say about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nothing {}
