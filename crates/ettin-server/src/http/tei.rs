//! Routes of text-embeddings-inference: the first of them.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::Response;
use ettin::tasks::{Activation, EmbedRequest, RerankRequest, TextVectors, Truncate};
use serde::{Deserialize, Serialize};

use super::AppState;
use super::answer::{TeiRefusal, measured};
use super::routes::{Connection, body, caller};
use crate::error::ServeError;
use crate::service::{EmbedCall, InputText, RerankCall};

/// A text or a list of texts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum TextList {
    One(String),
    // Before ids: an empty list is no input, not one without tokens.
    Texts(Vec<String>),
    Ids(Vec<u32>),
    IdLists(Vec<Vec<u32>>),
}

impl TextList {
    pub(super) fn into_inputs(self) -> Vec<InputText> {
        match self {
            Self::One(text) => vec![InputText::Text(text)],
            Self::Ids(ids) => vec![InputText::Ids(ids)],
            Self::Texts(texts) => texts.into_iter().map(InputText::Text).collect(),
            Self::IdLists(lists) => lists.into_iter().map(InputText::Ids).collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct EmbedBody {
    inputs: TextList,
    normalize: Option<bool>,
    truncate: Option<bool>,
    dimensions: Option<usize>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RerankBody {
    query: String,
    texts: Vec<String>,
    truncate: Option<bool>,
    raw_scores: Option<bool>,
    return_text: Option<bool>,
}

#[derive(Debug, Serialize)]
struct RankedText {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// What becomes of longer texts.
pub(super) fn truncate(asked: Option<bool>, state: &AppState) -> Truncate {
    if asked.unwrap_or(state.options.auto_truncate) { Truncate::Model } else { Truncate::Error }
}

pub(super) async fn embed(
    State(state): State<AppState>,
    connection: Connection,
    request: Result<Json<EmbedBody>, JsonRejection>,
) -> Result<Response, TeiRefusal> {
    let request = body(request)?;
    let embed = EmbedRequest::default()
        .with_normalize(request.normalize.unwrap_or(true))
        .with_dimensions(request.dimensions)
        .with_truncate(truncate(request.truncate, &state));
    let call = EmbedCall { model: None, inputs: request.inputs.into_inputs(), request: embed };
    let answer = state.service.embed(call, caller(&state, connection)).await?;
    let vectors = dense(&answer.value)?;
    Ok(measured(&answer, vectors))
}

pub(super) async fn rerank(
    State(state): State<AppState>,
    connection: Connection,
    request: Result<Json<RerankBody>, JsonRejection>,
) -> Result<Response, TeiRefusal> {
    let RerankBody { query, texts, truncate: asked, raw_scores, return_text } = body(request)?;
    let activation = raw_scores.unwrap_or(false).then_some(Activation::Raw);
    let request = RerankRequest::default().with_activation(activation).with_truncate(truncate(asked, &state));
    let kept = return_text.unwrap_or(false).then(|| texts.clone());
    let call = RerankCall { model: None, query, documents: texts, request };
    let answer = state.service.rerank(call, caller(&state, connection)).await?;
    let text = |index: usize| kept.as_ref().and_then(|texts| texts.get(index).cloned());
    let ranked =
        answer.value.iter().map(|one| RankedText { index: one.index, score: one.score, text: text(one.index) });
    let ranked: Vec<RankedText> = ranked.collect();
    Ok(measured(&answer, ranked))
}

/// Vectors of a dense model.
///
/// # Errors
/// Where there are others.
pub(super) fn dense(vectors: &[TextVectors]) -> Result<Vec<&[f32]>, ServeError> {
    vectors.iter().map(pooled).collect()
}

fn pooled(vectors: &TextVectors) -> Result<&[f32], ServeError> {
    match vectors {
        TextVectors::Pooled(vector) => Ok(vector),
        _ => Err(ServeError::internal("one dense vector per text was asked for")),
    }
}
