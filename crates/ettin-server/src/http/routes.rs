//! Which path is answered by what.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use serde_json::json;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

use super::answer::{Reply, refused};
use super::{AppState, dispatch, info, openai, openapi, page, vllm};
use crate::protocol::route::{PATHS, error_form};
use crate::protocol::{ErrorForm, Fault, FaultKind};

/// All routes.
pub fn router(state: AppState) -> Router {
    let mut router = Router::new();
    for path in PATHS {
        let methods = match path {
            "/" => post(dispatch::answer).get(health),
            _ => post(dispatch::answer),
        };
        router = guarded(router, path, methods);
    }
    let of_state = |answer: fn(&AppState) -> Result<Reply, Fault>| {
        get(move |State(state): State<AppState>, uri: Uri| async move { written(answer(&state), uri.path()) })
    };
    for (path, methods) in [
        ("/health", get(health)),
        ("/ping", get(health)),
        ("/ready", get(health)),
        ("/metrics", get(metrics)),
        ("/info", of_state(info::info)),
        ("/v1/models", of_state(openai::models)),
        ("/models", of_state(openai::models)),
        ("/v1/models/{*id}", get(model)),
        ("/models/{*id}", get(model)),
        ("/tokenizer_info", of_state(vllm::tokenizer_info)),
        ("/version", get(version)),
        ("/load", get(load)),
        ("/openapi.json", get(openapi::document)),
        ("/api-doc/openapi.json", get(openapi::document)),
    ] {
        router = guarded(router, path, methods);
    }
    let requests = Requests::default();
    router
        .merge(page::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        // The handler has a limit of its own, which answers in the protocol's form.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(requests.clone(), counted))
        .layer(Extension(requests))
        // What fails is told where it fails; a 503 while models load is no failure.
        .layer(TraceLayer::new_for_http().on_failure(()))
        .with_state(state)
}

/// Adds a route whose panics are answered in its own form.
fn guarded(router: Router<AppState>, path: &str, methods: MethodRouter<AppState>) -> Router<AppState> {
    let form = error_form(path, None);
    let panicked = move |_: Box<dyn Any + Send>| {
        tracing::error!("a request made the server panic");
        let message = "the request made the server panic; please report it";
        refused(&Fault::new(FaultKind::Internal, message), form)
    };
    router.route(path, methods.layer(CatchPanicLayer::custom(panicked)))
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

/// How many requests are being answered.
#[derive(Debug, Clone, Default)]
struct Requests(Arc<AtomicUsize>);

/// One of them, until it is dropped.
struct Counted(Requests);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn counted(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    requests.0.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(requests);
    next.run(request).await
}

fn written(answer: Result<Reply, Fault>, path: &str) -> Response {
    match answer {
        Ok(reply) => reply.into_response(),
        Err(fault) => refused(&fault, error_form(path, None)),
    }
}

async fn health(State(state): State<AppState>) -> Response {
    match state.service.health() {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => refused(&error.into(), ErrorForm::Tei),
    }
}

async fn metrics(State(state): State<AppState>) -> Response {
    match state.metrics {
        Some(handle) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response()
        }
        None => {
            let message = "this process has no recorder of its own for metrics";
            refused(&Fault::new(FaultKind::NotImplemented, message), ErrorForm::Tei)
        }
    }
}

async fn model(State(state): State<AppState>, uri: Uri, Path(id): Path<String>) -> Response {
    written(openai::model(&state, &id), uri.path())
}

async fn version() -> Response {
    Reply::plain(json!({ "version": env!("CARGO_PKG_VERSION") }).to_string()).into_response()
}

/// As vLLM has it: requests that are being answered, this one not counted.
async fn load(Extension(requests): Extension<Requests>) -> Response {
    let others = requests.0.load(Ordering::Relaxed).saturating_sub(1);
    Reply::plain(json!({ "server_load": others }).to_string()).into_response()
}

async fn unknown(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("there is no route {method} {path}; /openapi.json lists all of them");
    refused(&Fault::new(FaultKind::UnknownRoute, message), error_form(path, None))
}

async fn not_allowed(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} has no method {method}; the header `allow` names those it has");
    refused(&Fault::new(FaultKind::Method, message), error_form(path, None))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;

    use super::*;
    use crate::error::ServeError;
    use crate::http::ServerOptions;
    use crate::models::{ModelSettings, ModelSource, Registry};
    use crate::service::Service;

    async fn broken() -> StatusCode {
        panic!("of a test")
    }

    #[tokio::test]
    async fn a_panic_is_answered_in_the_form_of_its_path() {
        let source = ModelSource::new("m", || Err(ServeError::internal("never asked for")));
        let registry = Registry::new(vec![source], ModelSettings::default()).unwrap();
        let service = Service::new(registry, 1).unwrap();
        let state = AppState { service, options: Arc::new(ServerOptions::default()), metrics: None };
        for (path, start) in [("/embed", r#"{"error":"the request"#), ("/v1/embeddings", r#"{"error":{"message":"the"#)]
        {
            let router = guarded(Router::new(), path, get(broken)).with_state(state.clone());
            let response = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            let body = to_bytes(response.into_body(), 1000).await.unwrap();
            assert!(body.starts_with(start.as_bytes()), "{body:?}");
        }
    }
}
