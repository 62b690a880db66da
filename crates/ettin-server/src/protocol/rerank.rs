//! `POST /rerank`, `/v1/rerank`, `/v2/rerank` with `documents`: the form of Cohere, Jina, vLLM, infinity and llama.cpp.
//! With `texts` the same path carries TEI's ([`super::tei::TextRerankRequest`]).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fault::Fault;
use super::input::Document;
use super::json::{Refused, WireRequest, finite, text_of};
use super::openai::{AnswerHead, TokenUsage};
use super::ranking::ranked;

/// A query and documents to rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentRerankRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What is asked.
    pub query: String,
    /// What is ranked: strings, or objects with `text`.
    pub documents: Vec<Document>,
    /// How many of the best are answered. 0 and left out: all.
    #[serde(default)]
    pub top_n: usize,
    /// Whether the answer repeats the documents, as `{"text"}`.
    #[serde(default)]
    pub return_documents: bool,
    /// Whether scores are logits (infinity's name for it).
    #[serde(default)]
    pub raw_scores: bool,
    /// Whether the activation is applied (vLLM's name for it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_activation: Option<bool>,
    /// Tokens of a pair; −1 is the model's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
    /// Tokens of a document. 0 and left out: no limit but the pair's.
    #[serde(default)]
    pub max_tokens_per_doc: usize,
}

impl DocumentRerankRequest {
    /// Whether scores are logits.
    pub fn raw(&self) -> bool {
        self.raw_scores || self.use_activation == Some(false)
    }
}

impl WireRequest for DocumentRerankRequest {
    const REFUSED: &'static [Refused] = &[
        Refused::unless_empty("rank_fields", "documents are ranked by their `text`; join fields into it"),
        Refused::unless(
            "max_chunks_per_doc",
            |value| value.as_u64() == Some(1),
            "a document is scored as one piece; split it and take the best piece",
        ),
        Refused::unless_empty("mm_processor_kwargs", "documents are texts"),
    ];

    fn validate(&self) -> Result<(), Fault> {
        if self.query.is_empty() {
            return Err(Fault::empty("query"));
        }
        if self.documents.is_empty() {
            return Err(Fault::empty("documents"));
        }
        check_truncation(self.truncate_prompt_tokens)
    }
}

/// Checks vLLM's `truncate_prompt_tokens`.
pub(super) fn check_truncation(tokens: Option<i64>) -> Result<(), Fault> {
    match tokens {
        Some(tokens) if tokens < -1 || tokens == 0 => Err(Fault::field(
            "truncate_prompt_tokens",
            format!("`truncate_prompt_tokens` is {tokens}; it must be 1 or more, or -1 for the model's limit"),
        )),
        _ => Ok(()),
    }
}

/// The answer to a [`DocumentRerankRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentRerankAnswer {
    /// The answer's id.
    #[schema(example = "rerank-1f")]
    pub id: String,
    /// Always `rerank`.
    pub object: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Tokens that were read.
    pub usage: TokenUsage,
    /// Documents, best first.
    pub results: Vec<RankedDocument>,
}

/// A document's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RankedDocument {
    /// The document's place in the request.
    pub index: usize,
    /// The document, if asked for. Left out otherwise: clients differ in whether they take null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentText>,
    /// The score, as the model's own activation gives it; a logit if asked for.
    #[serde(serialize_with = "finite::number")]
    pub relevance_score: f32,
}

/// A document as an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentText {
    /// The text.
    pub text: String,
}

/// The answer, from one score a document. `documents` are given where the answer repeats them.
///
/// # Errors
/// A number is not finite.
pub fn document_rerank_answer(
    head: AnswerHead,
    scores: &[f32],
    top_n: usize,
    documents: Option<&[Document]>,
    tokens: usize,
) -> Result<String, Fault> {
    let text = |index: usize| Some(DocumentText { text: documents?.get(index)?.0.clone() });
    let results = ranked(scores, top_n)
        .map(|(index, relevance_score)| RankedDocument { index, document: text(index), relevance_score })
        .collect();
    let AnswerHead { id, created, model } = head;
    text_of(&DocumentRerankAnswer {
        id,
        object: "rerank".to_owned(),
        created,
        model,
        usage: TokenUsage::of_prompt(tokens),
        results,
    })
}
