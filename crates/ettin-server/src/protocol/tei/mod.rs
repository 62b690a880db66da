//! The routes of text-embeddings-inference (TEI 1.9), which Hugging Face's clients use too.

mod answers;
mod headers;
mod info;
mod requests;

pub use answers::{
    Prediction, Predictions, Rank, SimpleToken, SparseValue, VertexAnswer, embed_all_answer, embed_answer,
    embed_sparse_answer, predict_answer, rerank_answer, similarity_answer, tokenize_answer,
};
pub use headers::{ComputeReport, X_TRUNCATED};
pub use info::{ClassifierInfo, EmbeddingInfo, Info, ModelType, Nothing, ServedModel};
pub(in crate::protocol) use requests::check_dimensions;
pub use requests::{
    DecodeRequest, EmbedAllRequest, EmbedRequest, EmbedSparseRequest, IdLists, PredictRequest, SimilarityInputs,
    SimilarityParameters, SimilarityRequest, TextRerankRequest, TokenizeRequest, TruncationDirection, VertexRequest,
};
