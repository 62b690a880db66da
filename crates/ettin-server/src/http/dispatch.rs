//! From the bytes of a request to its answer: one way for all paths.

use std::pin::Pin;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::answer::{Reply, refused, sent};
use super::asked::Asked;
use super::routes::Connection;
use super::{AppState, body, completion, generation, hugging_face, openai, root, tei, vllm};
use crate::logs;
use crate::metrics;
use crate::protocol::route::{self, Received, error_form};
use crate::protocol::tei::{ComputeReport, VertexAnswer};
use crate::protocol::{BodyLimits, Call, Fault, FaultAnswer, FaultKind};

/// Instances of one request that are answered at the same time.
const INSTANCES_AT_ONCE: usize = 64;

/// Answers a POST request.
pub(super) async fn answer(State(state): State<AppState>, connection: Connection, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let of_path = error_form(&path, None);
    let bytes = match body::read(request, state.options.payload_limit).await {
        Ok(bytes) => bytes,
        Err(fault) => {
            metrics::refused();
            return refused(&fault, of_path);
        }
    };
    let asked = Asked::new(&state, connection, None);
    let understood = asked.apart(bytes.len(), move || Ok(understand(&state, &path, &bytes))).await;
    let Received { model, call, form, .. } = match understood {
        Ok(Ok(received)) => received,
        Ok(Err(answer)) => {
            metrics::refused();
            return sent(answer);
        }
        Err(fault) => return refused(&fault, of_path),
    };
    let asked = Asked { model, ..asked };
    let answered = match call {
        Call::Completion(request) => {
            return completion::completion(&asked.state, asked.caller, asked.model, *request).await;
        }
        Call::Generation(request) => {
            return generation::generation(&asked.state, asked.caller, asked.model, request).await;
        }
        call => answer_to(asked, call).await.map(Reply::into_response),
    };
    answered.unwrap_or_else(|fault| refused(&fault, form))
}

fn understand(state: &AppState, path: &str, bytes: &[u8]) -> Result<Received, FaultAnswer> {
    let limits = BodyLimits::of_bytes(state.options.payload_limit);
    route::receive(path, bytes, &limits, |body: &Value| root::task(state.service.registry(), body))
}

/// A request that is being answered. It has a type of its own because requests may hold others.
type Answering = Pin<Box<dyn Future<Output = Result<Reply, Fault>> + Send>>;

/// The answer to anything but generation, which may stream.
fn answer_to(asked: Asked, call: Call) -> Answering {
    Box::pin(answer_once(asked, call))
}

async fn answer_once(asked: Asked, call: Call) -> Result<Reply, Fault> {
    let nested = route::nested_predictions(&call);
    match call {
        Call::Embed(request) => tei::embed(&asked, request).await,
        Call::EmbedAll(request) => tei::embed_all(&asked, request).await,
        Call::EmbedSparse(request) => tei::embed_sparse(&asked, request).await,
        Call::Predict(request) => tei::predict(&asked, request, nested).await,
        Call::TextRerank(request) => tei::rerank(&asked, request).await,
        Call::Similarity(request) => tei::similarity(&asked, request).await,
        Call::Tokenize(request) => tei::tokenize(&asked, request).await,
        Call::Decode(request) => tei::decode(&asked, request).await,
        Call::Vertex(calls) => vertex(&asked, calls).await,
        Call::Embeddings(request) => openai::embeddings(&asked, request).await,
        Call::DocumentRerank(request) => vllm::rerank(&asked, request).await,
        Call::Score(request) => vllm::score(&asked, request).await,
        Call::Classify(request) => vllm::classify(&asked, request).await,
        Call::Pooling(request) => vllm::pooling(&asked, request).await,
        Call::PromptTokenize(request) => vllm::tokenize(&asked, request).await,
        Call::Detokenize(request) => vllm::detokenize(&asked, request).await,
        Call::Classification(request) => hugging_face::classification(&asked, request, nested).await,
        Call::FillMask(request) => hugging_face::fill_mask(&asked, request).await,
        Call::Tag(request) => hugging_face::tag(&asked, request).await,
        Call::Question(request) => hugging_face::question(&asked, request).await,
        Call::ZeroShot(request) => hugging_face::zero_shot(&asked, request).await,
        Call::Completion(_) | Call::Generation(_) => {
            let message = "generation is not supported within a request of several; send it to its own route";
            Err(Fault::new(FaultKind::NotImplemented, message))
        }
    }
}

/// Several requests in one. The first that fails, in their order, fails all.
async fn vertex(asked: &Asked, calls: Vec<Call>) -> Result<Reply, Fault> {
    let mut answers = Vec::with_capacity(calls.len());
    let mut total = ComputeReport::default();
    let mut calls = calls.into_iter().enumerate().peekable();
    while calls.peek().is_some() {
        // Tasks of a set end with it: a client that is gone leaves nothing behind.
        let mut running = tokio::task::JoinSet::new();
        for (index, call) in calls.by_ref().take(INSTANCES_AT_ONCE) {
            let asked = asked.clone();
            running.spawn(logs::carried(async move { (index, answer_to(asked, call).await) }));
        }
        let mut done = Vec::with_capacity(running.len());
        while let Some(one) = running.join_next().await {
            done.push(one.map_err(|error| Fault::new(FaultKind::Internal, format!("an instance failed: {error}")))?);
        }
        done.sort_by_key(|(index, _)| *index);
        for (index, answer) in done {
            let answer = answer.map_err(|fault| fault.of_instance(index))?;
            if let Some(report) = answer.report {
                add(&mut total, report);
            }
            answers.push(answer.body);
        }
    }
    Ok(Reply { body: VertexAnswer::of_texts(&answers), report: Some(total) })
}

fn add(total: &mut ComputeReport, one: ComputeReport) {
    total.compute_type = one.compute_type;
    total.characters += one.characters;
    total.tokens += one.tokens;
    total.truncated += one.truncated;
    // They ran side by side.
    total.total = total.total.max(one.total);
    total.tokenization = total.tokenization.max(one.tokenization);
    total.queue = total.queue.max(one.queue);
    total.inference = total.inference.max(one.inference);
}
