//! `POST /v1/completions`: the answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AnswerHead, CompletionLogprobs, TokenUsage};
use crate::protocol::fault::Fault;
use crate::protocol::json::text_of;

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishCause {
    /// At a stop text, a stop token or the end of text.
    Stop,
    /// At the limit of tokens.
    Length,
}

/// What ended a generation: the stop text or the id of the stop token (vLLM).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StopReason {
    /// A stop text.
    Text(String),
    /// A stop token.
    Token(u32),
}

/// The answer to a [`super::CompletionRequest`], or one chunk of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionAnswer {
    /// The answer's id; all chunks of a stream have the same.
    pub id: String,
    /// Always `text_completion`.
    pub object: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Continuations, or pieces of them.
    pub choices: Vec<CompletionChoice>,
    /// Tokens that were read and generated. Null in the chunks of a stream before its last one.
    pub usage: Option<TokenUsage>,
}

/// A continuation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// Prompt × `n` + sample.
    pub index: usize,
    /// The text, with `echo` after the prompt's.
    pub text: String,
    /// Log-probabilities, if asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; null while it goes on.
    pub finish_reason: Option<FinishCause>,
    /// What ended it, if a stop text or a stop token of the request did (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// The ids of the generated tokens, if asked for (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// The ids of the prompt, if asked for (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

impl CompletionAnswer {
    /// The whole answer; choices by ascending index.
    pub fn new(head: AnswerHead, mut choices: Vec<CompletionChoice>, usage: TokenUsage) -> Self {
        choices.sort_by_key(|choice| choice.index);
        let AnswerHead { id, created, model } = head;
        Self { id, object: "text_completion".to_owned(), created, model, choices, usage: Some(usage) }
    }

    /// The answer as it is sent.
    ///
    /// # Errors
    /// A log-probability is not finite.
    pub fn to_json(&self) -> Result<String, Fault> {
        text_of(self)
    }
}
