//! `GET /openapi.json`: every route with its requests and answers.

use std::sync::LazyLock;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::answer::json as json_response;
use crate::protocol::ErrorForm;
use crate::protocol::route::error_form;
use crate::protocol::schemas::ProtocolSchemas;

/// A route as it is described.
struct Described {
    method: &'static str,
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    /// The schemas of its request, any of which will do.
    requests: &'static [&'static str],
    /// Those of its answer; none for an answer that is not JSON.
    answers: &'static [&'static str],
}

const fn post(
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    requests: &'static [&'static str],
    answers: &'static [&'static str],
) -> Described {
    Described { method: "post", path, tag, summary, requests, answers }
}

const fn get(
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    answers: &'static [&'static str],
) -> Described {
    Described { method: "get", path, tag, summary, requests: &[], answers }
}

/// What `/` takes.
const BY_SHAPE: &[&str] = &[
    "EmbedRequest",
    "EmbedAllRequest",
    "EmbedSparseRequest",
    "PredictRequest",
    "TextRerankRequest",
    "DocumentRerankRequest",
    "SimilarityRequest",
    "ClassificationRequest",
    "FillMaskRequest",
    "TagRequest",
    "QuestionRequest",
    "ZeroShotRequest",
    "GenerationRequest",
];
const RERANK: &[&str] = &["TextRerankRequest", "DocumentRerankRequest"];
const RANKED: &[&str] = &["Ranks", "DocumentRerankAnswer"];
const ANY: &[&str] = &["Anything"];

const ROUTES: [Described; 39] = [
    post("/", "Hugging Face", "The task that the body's shape or the model says", BY_SHAPE, ANY),
    post("/invocations", "Hugging Face", "The same", BY_SHAPE, ANY),
    post("/embed", "TEI", "A vector per text", &["EmbedRequest"], &["Vectors"]),
    post("/embed_all", "TEI", "A vector per token", &["EmbedAllRequest"], &["TokenVectors"]),
    post("/embed_sparse", "TEI", "A sparse vector per text", &["EmbedSparseRequest"], &["SparseVectors"]),
    post("/predict", "TEI", "Labels of texts or pairs", &["PredictRequest"], &["Predictions"]),
    post("/similarity", "TEI", "Cosines of a text with others", &["SimilarityRequest"], &["Cosines"]),
    post(
        "/tokenize",
        "TEI",
        "Tokens of texts",
        &["TokenizeRequest", "PromptTokenizeRequest"],
        &["Tokens", "PromptTokens"],
    ),
    post("/decode", "TEI", "Texts of tokens", &["DecodeRequest"], &["Texts"]),
    post("/vertex", "TEI", "Several requests in one", &["VertexRequest"], &["VertexAnswer"]),
    post("/rerank", "Rerank", "Texts or documents, best first", RERANK, RANKED),
    post("/reranking", "Rerank", "The same", RERANK, RANKED),
    post("/v1/rerank", "Rerank", "The same", RERANK, RANKED),
    post("/v1/reranking", "Rerank", "The same", RERANK, RANKED),
    post("/v2/rerank", "Rerank", "The same", RERANK, RANKED),
    post("/v1/embeddings", "OpenAI", "A vector per text", &["EmbeddingsRequest"], &["EmbeddingsAnswer"]),
    post("/embeddings", "OpenAI", "The same", &["EmbeddingsRequest"], &["EmbeddingsAnswer"]),
    post("/v1/completions", "OpenAI", "Texts that go on", &["CompletionRequest"], &["CompletionAnswer"]),
    post("/completions", "OpenAI", "The same", &["CompletionRequest"], &["CompletionAnswer"]),
    post("/score", "vLLM", "Scores of pairs", &["ScoreRequest"], &["ScoreAnswer"]),
    post("/v1/score", "vLLM", "The same", &["ScoreRequest"], &["ScoreAnswer"]),
    post("/classify", "vLLM", "Labels of texts", &["ClassifyRequest"], &["ClassifyAnswer", "ClassifyListAnswer"]),
    post("/pooling", "vLLM", "What the model gives for texts", &["PoolingRequest"], &["PoolingAnswer"]),
    post("/detokenize", "vLLM", "The text of tokens", &["DetokenizeRequest"], &["Detokenized"]),
    get("/tokenizer_info", "vLLM", "Special tokens", ANY),
    get("/version", "vLLM", "The server's version", ANY),
    get("/load", "vLLM", "Requests that are being answered", ANY),
    get("/v1/models", "OpenAI", "Models that answer", &["ModelList"]),
    get("/models", "OpenAI", "The same", &["ModelList"]),
    get("/v1/models/{id}", "OpenAI", "One model", &["ModelCard"]),
    get("/models/{id}", "OpenAI", "The same", &["ModelCard"]),
    get("/info", "TEI", "What is served, and its limits", &["Info"]),
    get("/health", "Operation", "Empty when all models answer", &[]),
    get("/ping", "Operation", "The same", &[]),
    get("/ready", "Operation", "The same", &[]),
    get("/", "Operation", "The same", &[]),
    get("/metrics", "Operation", "Numbers for Prometheus", &[]),
    get("/openapi.json", "Operation", "This document", ANY),
    get("/api-doc/openapi.json", "Operation", "The same", ANY),
];

pub(super) async fn document() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| written().to_string());
    json_response(StatusCode::OK, DOCUMENT.clone())
}

fn written() -> Value {
    let mut document = serde_json::to_value(ProtocolSchemas::openapi()).unwrap_or_default();
    document["info"] = json!({
        "title": "ettin-run serve",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Null is absence, and unknown fields are ignored, on every route.",
    });
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.extend(lists());
    }
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation(&route);
    }
    document["paths"] = paths.into();
    document
}

/// Answers that are bare lists.
fn lists() -> Map<String, Value> {
    let list = |items: Value| json!({ "type": "array", "items": items });
    let (number, text) = (json!({ "type": "number" }), json!({ "type": "string" }));
    let schemas = [
        ("Vectors", list(list(number.clone()))),
        ("TokenVectors", list(list(list(number.clone())))),
        ("SparseVectors", list(list(reference("SparseValue")))),
        ("Ranks", list(reference("Rank"))),
        ("Cosines", list(number)),
        ("Tokens", list(list(reference("SimpleToken")))),
        ("Texts", list(text)),
        ("Anything", json!({})),
    ];
    schemas.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

fn operation(route: &Described) -> Value {
    let error = match error_form(route.path, None) {
        ErrorForm::Tei => "TeiErrorBody",
        ErrorForm::OpenAi => "OpenAiErrorBody",
    };
    let mut error = content(&[error]);
    // Where two protocols share a path, the body decides.
    if ["/rerank", "/reranking", "/tokenize"].contains(&route.path) {
        error = content(&["TeiErrorBody", "OpenAiErrorBody"]);
    }
    let mut operation = json!({
        "tags": [route.tag],
        "summary": route.summary,
        "operationId": format!("{}{}", route.method, route.path.replace(['/', '{', '}', '.'], "_")),
        "responses": {
            "200": { "description": "The answer" },
            "default": { "description": "An error", "content": error },
        },
    });
    if !route.answers.is_empty() {
        operation["responses"]["200"]["content"] = content(route.answers);
    }
    if !route.requests.is_empty() {
        operation["requestBody"] = json!({ "required": true, "content": content(route.requests) });
    }
    if route.path.ends_with("{id}") {
        let schema = json!({ "type": "string" });
        operation["parameters"] = json!([{ "name": "id", "in": "path", "required": true, "schema": schema }]);
    }
    operation
}

fn content(schemas: &[&str]) -> Value {
    let schema = match schemas {
        [one] => reference(one),
        several => json!({ "anyOf": several.iter().copied().map(reference).collect::<Vec<_>>() }),
    };
    json!({ "application/json": { "schema": schema } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
