//! vLLM's routes for models that do not generate, and its tokenizer routes, which lm-eval reads.

mod answers;
mod requests;

pub use answers::{
    ClassifyAnswer, ClassifyDatum, ClassifyListAnswer, Detokenized, PooledData, PoolingAnswer, PoolingDatum,
    PromptTokens, ScoreAnswer, ScoreDatum, classify_answer, classify_list_answer, pooling_answer, score_answer,
};
pub use requests::{
    ClassifyRequest, DetokenizeRequest, PoolingRequest, PoolingTask, PromptTokenizeRequest, ScoreRequest,
};
