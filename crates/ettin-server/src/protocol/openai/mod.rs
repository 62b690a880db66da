//! The routes of OpenAI that these models can serve, with the extensions of vLLM, TEI and llama.cpp in use.

mod completion;
mod completion_answer;
mod embeddings;
mod logprobs;
mod models;
mod stream;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(in crate::protocol) use completion::check_range;
pub use completion::{CompletionRequest, Prompts, StreamOptions};
pub use completion_answer::{CompletionAnswer, CompletionChoice, FinishCause, StopReason};
pub use embeddings::{
    Embedding, EmbeddingVector, EmbeddingsAnswer, EmbeddingsRequest, EncodingFormat, base64_of, embeddings_answer,
};
pub use logprobs::{CompletionLogprobs, MIN_LOGPROB, ScoredToken, TopLogprobs};
pub use models::{ModelCard, ModelList};
pub(in crate::protocol) use stream::event_of;
pub use stream::{CompletionStream, DONE, PING};

/// What answers carry beside their content. The caller has the clock and the ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHead {
    /// The answer's id, with its prefix (`cmpl-`, `rerank-`, `classify-`, …).
    pub id: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
}

/// Tokens that a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenUsage {
    /// Tokens that were read, special ones included.
    pub prompt_tokens: usize,
    /// Both together.
    pub total_tokens: usize,
    /// Tokens that were generated; left out where nothing is generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<usize>,
}

impl TokenUsage {
    /// Of a request that generates nothing.
    pub fn of_prompt(tokens: usize) -> Self {
        Self { prompt_tokens: tokens, total_tokens: tokens, completion_tokens: None }
    }

    /// Of a request that generates.
    pub fn of_completion(prompt: usize, completion: usize) -> Self {
        Self { prompt_tokens: prompt, total_tokens: prompt + completion, completion_tokens: Some(completion) }
    }
}
