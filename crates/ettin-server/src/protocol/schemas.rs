//! The schemas of all requests, answers and errors, for `/openapi.json`.

use utoipa::OpenApi;

use super::{fault, hugging_face, openai, rerank, tei, vllm};

/// All schemas as components of a document without paths; the HTTP layer merges it with its own.
#[derive(Debug, OpenApi)]
#[openapi(components(schemas(
    fault::OpenAiErrorBody,
    fault::TeiErrorBody,
    hugging_face::ClassificationRequest,
    hugging_face::FillMaskRequest,
    hugging_face::FilledMask,
    hugging_face::FoundAnswer,
    hugging_face::GeneratedText,
    hugging_face::GenerationRequest,
    hugging_face::GenerationStep,
    hugging_face::LabelScore,
    hugging_face::QuestionRequest,
    hugging_face::TagRequest,
    hugging_face::TaggedSpan,
    hugging_face::ZeroShotRequest,
    openai::CompletionAnswer,
    openai::CompletionRequest,
    openai::EmbeddingsAnswer,
    openai::EmbeddingsRequest,
    openai::ModelList,
    rerank::DocumentRerankAnswer,
    rerank::DocumentRerankRequest,
    tei::DecodeRequest,
    tei::EmbedAllRequest,
    tei::EmbedRequest,
    tei::EmbedSparseRequest,
    tei::Info,
    tei::PredictRequest,
    tei::Predictions,
    tei::Rank,
    tei::SimilarityRequest,
    tei::SimpleToken,
    tei::SparseValue,
    tei::TextRerankRequest,
    tei::TokenizeRequest,
    tei::VertexAnswer,
    tei::VertexRequest,
    vllm::ClassifyAnswer,
    vllm::ClassifyListAnswer,
    vllm::ClassifyRequest,
    vllm::DetokenizeRequest,
    vllm::Detokenized,
    vllm::PoolingAnswer,
    vllm::PoolingRequest,
    vllm::PromptTokenizeRequest,
    vllm::PromptTokens,
    vllm::ScoreAnswer,
    vllm::ScoreRequest,
)))]
pub struct ProtocolSchemas;
