//! Which protocol and which request a body is: by its path and, where several protocols share one, by its shape.

use serde::Serialize;
use serde_json::{Map, Value};

use super::fault::{ErrorForm, Fault, FaultAnswer, FaultKind};
use super::hugging_face::{
    ClassificationRequest, FillMaskRequest, GenerationRequest, QuestionRequest, TagRequest, ZeroShotRequest,
};
use super::input::PredictInputs;
use super::json::{BodyLimits, parse_body, read};
use super::openai::{CompletionRequest, EmbeddingsRequest};
use super::rerank::DocumentRerankRequest;
use super::tei::{
    DecodeRequest, EmbedAllRequest, EmbedRequest, EmbedSparseRequest, PredictRequest, SimilarityRequest,
    TextRerankRequest, TokenizeRequest, VertexRequest,
};
use super::vllm::{ClassifyRequest, DetokenizeRequest, PoolingRequest, PromptTokenizeRequest, ScoreRequest};

/// A request, typed and checked as far as it can be without a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Call {
    /// TEI: vectors.
    Embed(EmbedRequest),
    /// TEI: vectors of tokens.
    EmbedAll(EmbedAllRequest),
    /// TEI: sparse vectors.
    EmbedSparse(EmbedSparseRequest),
    /// TEI: labels.
    Predict(PredictRequest),
    /// TEI: a ranking of texts.
    TextRerank(TextRerankRequest),
    /// TEI, Hugging Face: cosines.
    Similarity(SimilarityRequest),
    /// TEI: tokens of texts.
    Tokenize(TokenizeRequest),
    /// TEI: texts of ids.
    Decode(DecodeRequest),
    /// TEI: several requests in one.
    Vertex(Vec<Call>),
    /// OpenAI: vectors.
    Embeddings(EmbeddingsRequest),
    /// OpenAI: continuations.
    Completion(Box<CompletionRequest>),
    /// Cohere, Jina, vLLM, infinity: a ranking of documents.
    DocumentRerank(DocumentRerankRequest),
    /// vLLM: scores of pairs.
    Score(ScoreRequest),
    /// vLLM, infinity: labels.
    Classify(ClassifyRequest),
    /// vLLM: the last layer.
    Pooling(PoolingRequest),
    /// vLLM: tokens of a prompt.
    PromptTokenize(PromptTokenizeRequest),
    /// vLLM: the text of ids.
    Detokenize(DetokenizeRequest),
    /// Hugging Face: labels, from a client that sends `parameters`.
    Classification(ClassificationRequest),
    /// Hugging Face: words for masks.
    FillMask(FillMaskRequest),
    /// Hugging Face: labels of tokens.
    Tag(TagRequest),
    /// Hugging Face: an answer within a text.
    Question(QuestionRequest),
    /// Hugging Face: labels that the request brings.
    ZeroShot(ZeroShotRequest),
    /// Hugging Face: a continuation.
    Generation(GenerationRequest),
}

/// What `/` does with a body whose shape does not say its task: what the model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RootTask {
    /// Vectors.
    Embed,
    /// Sparse vectors.
    EmbedSparse,
    /// Labels.
    Predict,
    /// Scores of pairs.
    Rerank,
    /// Cosines.
    Similarity,
    /// Words for masks.
    FillMask,
    /// Labels of tokens.
    Tag,
    /// Answers within texts.
    Question,
    /// Continuations.
    Generate,
}

/// A request as it was received.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Received {
    /// The model that the body names, on any route. The name may be anything: some clients send an address.
    pub model: Option<String>,
    /// The request.
    pub call: Call,
    /// How an error of it is written.
    pub form: ErrorForm,
}

/// The paths of POST requests.
pub const PATHS: [&str; 24] = [
    "/",
    "/classify",
    "/completions",
    "/decode",
    "/detokenize",
    "/embed",
    "/embed_all",
    "/embed_sparse",
    "/embeddings",
    "/invocations",
    "/pooling",
    "/predict",
    "/rerank",
    "/reranking",
    "/score",
    "/similarity",
    "/tokenize",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/reranking",
    "/v1/score",
    "/v2/rerank",
    "/vertex",
];

/// Bytes to a request. `root` says what the named model (or the first one) is for; it is asked only for `/` and its
/// like.
///
/// # Errors
/// What is to be sent instead of an answer, in the form of the protocol.
pub fn receive(
    path: &str,
    body: &[u8],
    limits: &BodyLimits,
    root: impl Fn(Option<&str>) -> RootTask,
) -> Result<Received, FaultAnswer> {
    let body = parse_body(body, limits).map_err(|fault| fault.answer(error_form(path, None)))?;
    let form = error_form(path, Some(&body));
    let model = model_of(&body).map(str::to_owned);
    let call = route(path, body, root).map_err(|fault| fault.answer(form))?;
    Ok(Received { model, call, form })
}

/// The model that a body names. TEI's routes have no such field; it is read on all of them.
pub fn model_of(body: &Value) -> Option<&str> {
    body.get("model")?.as_str()
}

/// How errors on a path are written; `body` decides where two protocols share the path.
pub fn error_form(path: &str, body: Option<&Value>) -> ErrorForm {
    let has = |key: &str| body.is_some_and(|body| body.get(key).is_some());
    let nested = match path {
        "/completions" | "/embeddings" | "/score" | "/classify" | "/pooling" | "/detokenize" | "/tokenizer_info"
        | "/models" => true,
        "/rerank" | "/reranking" => has("documents") && !has("texts"),
        "/tokenize" => has("prompt") || has("messages"),
        _ => path.starts_with("/v1/") || path.starts_with("/v2/"),
    };
    if nested { ErrorForm::OpenAi } else { ErrorForm::Tei }
}

/// A parsed body to a request.
///
/// # Errors
/// [`FaultKind::UnknownRoute`]; what [`read`] finds.
pub fn route(path: &str, body: Value, root: impl Fn(Option<&str>) -> RootTask) -> Result<Call, Fault> {
    match path {
        "/embed" => read(body).map(Call::Embed),
        "/embed_all" => read(body).map(Call::EmbedAll),
        "/embed_sparse" => read(body).map(Call::EmbedSparse),
        "/predict" => read(body).map(Call::Predict),
        "/similarity" => read(body).map(Call::Similarity),
        "/decode" => read(body).map(Call::Decode),
        "/embeddings" | "/v1/embeddings" => read(body).map(Call::Embeddings),
        "/completions" | "/v1/completions" => read(body).map(|request| Call::Completion(Box::new(request))),
        "/score" | "/v1/score" => read(body).map(Call::Score),
        "/classify" => read(body).map(Call::Classify),
        "/pooling" => read(body).map(Call::Pooling),
        "/detokenize" => read(body).map(Call::Detokenize),
        "/rerank" | "/reranking" | "/v1/rerank" | "/v1/reranking" | "/v2/rerank" => rerank(body),
        "/tokenize" => tokenize(body),
        "/" | "/invocations" => by_shape(body, &root),
        "/vertex" => {
            let VertexRequest { instances } = read(body)?;
            let call = |(index, instance)| {
                by_shape(Value::Object(instance), &root).map_err(|fault| fault.within(&format!("instances[{index}]")))
            };
            instances.into_iter().enumerate().map(call).collect::<Result<_, _>>().map(Call::Vertex)
        }
        _ => Err(Fault::new(
            FaultKind::UnknownRoute,
            format!("there is no route POST {path}; /openapi.json lists all of them"),
        )),
    }
}

/// TEI's ranking has `texts`, everybody else's `documents`; with both it is TEI's, as in llama.cpp.
fn rerank(body: Value) -> Result<Call, Fault> {
    match &body {
        Value::Object(map) if map.contains_key("texts") => read(body).map(Call::TextRerank),
        Value::Object(map) if map.contains_key("documents") => read(body).map(Call::DocumentRerank),
        Value::Object(_) => {
            Err(Fault::field("documents", "send what is to be ranked as `documents`, or `texts` (TEI)"))
        }
        _ => read(body).map(Call::TextRerank),
    }
}

/// TEI's request has `inputs`, vLLM's `prompt`.
fn tokenize(body: Value) -> Result<Call, Fault> {
    match &body {
        Value::Object(map) if map.contains_key("prompt") || map.contains_key("messages") => {
            read(body).map(Call::PromptTokenize)
        }
        _ => read(body).map(Call::Tokenize),
    }
}

/// Parameters that only generation has.
const OF_GENERATION: [&str; 12] = [
    "max_new_tokens",
    "do_sample",
    "return_full_text",
    "temperature",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "stop",
    "stop_sequences",
    "best_of",
    "details",
    "decoder_input_details",
];

/// The body of `/`: its shape says the task, or the model does.
fn by_shape(body: Value, root: &impl Fn(Option<&str>) -> RootTask) -> Result<Call, Fault> {
    let Value::Object(map) = &body else { return read(body).map(Call::Embed) };
    if let Some(Value::Object(inputs)) = map.get("inputs") {
        if inputs.contains_key("source_sentence") {
            return read(body).map(Call::Similarity);
        }
        if inputs.contains_key("question") {
            return read(body).map(Call::Question);
        }
    }
    if map.contains_key("texts") || map.contains_key("documents") {
        return rerank(body);
    }
    if let Some(task) = task_of(map) {
        return task(body);
    }
    let parameters = map.contains_key("parameters");
    match root(model_of(&body)) {
        RootTask::Embed => read(body).map(Call::Embed),
        RootTask::EmbedSparse => read(body).map(Call::EmbedSparse),
        RootTask::Predict if parameters => read(body).map(Call::Classification),
        RootTask::Predict => read(body).map(Call::Predict),
        RootTask::Rerank if body.get("inputs").is_some() => read(body).map(Call::Predict),
        RootTask::Rerank => rerank(body),
        RootTask::Similarity => read(body).map(Call::Similarity),
        RootTask::FillMask => read(body).map(Call::FillMask),
        RootTask::Tag => read(body).map(Call::Tag),
        RootTask::Question => read(body).map(Call::Question),
        RootTask::Generate => read(body).map(Call::Generation),
    }
}

/// The task that `parameters` belong to, where only one has them.
fn task_of(map: &Map<String, Value>) -> Option<fn(Value) -> Result<Call, Fault>> {
    let parameters = map.get("parameters").and_then(Value::as_object);
    let has = |key: &str| parameters.is_some_and(|parameters| parameters.contains_key(key));
    if has("candidate_labels") {
        return Some(|body| read(body).map(Call::ZeroShot));
    }
    if has("aggregation_strategy") || has("ignore_labels") {
        return Some(|body| read(body).map(Call::Tag));
    }
    if has("targets") {
        return Some(|body| read(body).map(Call::FillMask));
    }
    if has("function_to_apply") {
        return Some(|body| read(body).map(Call::Classification));
    }
    if map.contains_key("stream") || OF_GENERATION.iter().any(|key| has(key)) {
        return Some(|body| read(body).map(Call::Generation));
    }
    None
}

/// Whether the labels of one text are answered as `[[…]]`. TEI nests those of a batch. Hugging Face's clients, known by
/// their `parameters`, read the first element of what they get, and need the outer list for one text, too.
pub fn nested_predictions(call: &Call) -> bool {
    match call {
        Call::Predict(request) => matches!(request.inputs, PredictInputs::Batch(_)),
        Call::Classification(_) => true,
        _ => false,
    }
}
