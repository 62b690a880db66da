//! Which path is answered by what.

use std::convert::Infallible;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

use super::answer::TeiRefusal;
use super::{AppState, completion, continuation, generation, openai, tei};
use crate::error::{ErrorKind, ServeError};
use crate::models::{Ability, ModelState};
use crate::protocol::route::receive;
use crate::protocol::{BodyLimits, Call, Fault, FaultKind, RootTask};
use crate::scheduler::Caller;

/// All routes.
pub fn router(state: AppState) -> Router {
    let limit = state.options.payload_limit;
    Router::new()
        .route("/health", get(health))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .route("/embed", post(tei::embed))
        .route("/rerank", post(tei::rerank))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/", post(generate))
        .route("/completions", post(generate))
        .route("/v1/completions", post(generate))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(limit))
        .layer(CatchPanicLayer::custom(|_| {
            TeiRefusal(ServeError::internal("the request made the server panic; please report it")).into_response()
        }))
        .layer(TraceLayer::new_for_http())
        .with_state(state)
}

/// Whatever generates, by path and body.
async fn generate(State(state): State<AppState>, connection: Connection, uri: Uri, body: Bytes) -> Response {
    let limits = BodyLimits::of_bytes(state.options.payload_limit);
    let received = match receive(uri.path(), &body, &limits, |_| RootTask::Generate) {
        Ok(received) => received,
        Err(answer) => return continuation::refused(answer),
    };
    let caller = caller(&state, connection);
    match received.call {
        Call::Completion(request) => completion::completion(&state, caller, received.model, *request).await,
        Call::Generation(request) => generation::generation(&state, caller, received.model, request).await,
        _ => continuation::refusal(&Fault::new(FaultKind::NotImplemented, "`/` generates, so far"), received.form),
    }
}

/// The number of a connection; every request of one has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection(pub u64);

impl<S: Sync> FromRequestParts<S> for Connection {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or_default())
    }
}

/// Who asks, and until when.
pub(super) fn caller(state: &AppState, Connection(client): Connection) -> Caller {
    Caller { client, deadline: Some(Instant::now() + state.options.request_timeout) }
}

/// A body that is what it should be.
///
/// # Errors
/// What is wrong with it.
pub(super) fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, ServeError> {
    let Json(body) = body.map_err(|rejection| ServeError::new(ErrorKind::Validation, rejection.body_text()))?;
    Ok(body)
}

async fn health(State(state): State<AppState>) -> Result<StatusCode, TeiRefusal> {
    state.service.health()?;
    Ok(StatusCode::OK)
}

async fn metrics(State(state): State<AppState>) -> Response {
    match state.metrics {
        Some(handle) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn info(State(state): State<AppState>) -> Json<Value> {
    let status = state.service.registry().status();
    let models = status.iter().map(|status| match &status.state {
        ModelState::Loading(since) => {
            json!({ "name": status.name, "state": "loading", "seconds": since.elapsed().as_secs_f32() })
        }
        ModelState::Failed(error) => json!({ "name": status.name, "state": "failed", "reason": error.message }),
        ModelState::Ready(model) => json!({
            "name": status.name,
            "state": "ready",
            "model_id": model.description.id,
            "model_sha": model.description.revision,
            "dtype": model.description.dtype,
            "max_input_length": model.description.max_input_length,
            "abilities": model.abilities.0.iter().map(|ability| ability.name()).collect::<Vec<_>>(),
            "labels": model.description.labels,
            "reload_error": status.reload_error.as_ref().map(|error| &error.message),
        }),
    });
    let first = status.iter().find_map(|status| match &status.state {
        ModelState::Ready(model) => Some(model),
        _ => None,
    });
    // As TEI describes its one model.
    let kind = first.map(|model| match model.abilities.main() {
        Some(Ability::Rerank) => json!({ "reranker": labels(&model.description.labels) }),
        Some(Ability::Classify) => json!({ "classifier": labels(&model.description.labels) }),
        _ => json!({ "embedding": { "pooling": model.description.pooling.as_deref().unwrap_or("mean") } }),
    });
    let of_first = first.map(|model| &model.description);
    Json(json!({
        "model_id": of_first.map(|first| &first.id),
        "model_sha": of_first.and_then(|first| first.revision.as_ref()),
        "model_dtype": of_first.map(|first| &first.dtype),
        "served_model_name": first.map(|model| &*model.name),
        "model_type": kind,
        "max_input_length": of_first.map(|first| first.max_input_length),
        "max_queue_tokens": first.map(|model| model.admission.limit()),
        "payload_limit": state.options.payload_limit,
        "auto_truncate": state.options.auto_truncate,
        "tokenization_workers": state.options.tokenization_workers,
        "version": env!("CARGO_PKG_VERSION"),
        "models": models.collect::<Vec<_>>(),
    }))
}

fn labels(labels: &[String]) -> Value {
    let by_number = labels.iter().enumerate().map(|(number, label)| (number.to_string(), json!(label)));
    let by_label = labels.iter().enumerate().map(|(number, label)| (label.clone(), json!(number)));
    json!({
        "id2label": by_number.collect::<serde_json::Map<_, _>>(),
        "label2id": by_label.collect::<serde_json::Map<_, _>>(),
    })
}

async fn unknown() -> Response {
    let error = ServeError::new(ErrorKind::NotFound, "there is no such route");
    (StatusCode::NOT_FOUND, TeiRefusal(error)).into_response()
}

async fn not_allowed() -> Response {
    let error = ServeError::new(ErrorKind::Validation, "the route has another method");
    (StatusCode::METHOD_NOT_ALLOWED, TeiRefusal(error)).into_response()
}
