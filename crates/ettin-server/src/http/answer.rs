//! Answers and errors of this slice of routes; the protocols' own forms take their place.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::error::{ErrorKind, ServeError};
use crate::service::Answered;

/// An error as TEI writes it.
#[derive(Debug)]
pub(super) struct TeiRefusal(pub(super) ServeError);

/// An error as OpenAI writes it.
#[derive(Debug)]
pub(super) struct OpenAiRefusal(pub(super) ServeError);

impl From<ServeError> for TeiRefusal {
    fn from(error: ServeError) -> Self {
        Self(error)
    }
}

impl From<ServeError> for OpenAiRefusal {
    fn from(error: ServeError) -> Self {
        Self(error)
    }
}

impl IntoResponse for TeiRefusal {
    fn into_response(self) -> Response {
        use ErrorKind::*;
        let (status, class) = match self.0.kind {
            Empty => (StatusCode::BAD_REQUEST, "Empty"),
            Validation | TooLong => (StatusCode::UNPROCESSABLE_ENTITY, "Validation"),
            Tokenizer => (StatusCode::UNPROCESSABLE_ENTITY, "Tokenizer"),
            NotFound => (StatusCode::NOT_FOUND, "Validation"),
            Overloaded => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
            Unhealthy | Deadline => (StatusCode::SERVICE_UNAVAILABLE, "Unhealthy"),
            Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Backend"),
            WrongModel | Backend => (StatusCode::FAILED_DEPENDENCY, "Backend"),
        };
        let body = json!({ "error": self.0.message, "error_type": class });
        (status, retry(self.0.retry_after), Json(body)).into_response()
    }
}

impl IntoResponse for OpenAiRefusal {
    fn into_response(self) -> Response {
        use ErrorKind::*;
        let (status, class) = match self.0.kind {
            Empty | Validation | TooLong | Tokenizer | WrongModel => (StatusCode::BAD_REQUEST, "invalid_request_error"),
            NotFound => (StatusCode::NOT_FOUND, "not_found_error"),
            Overloaded => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
            Unhealthy | Deadline => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"),
            Backend | Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        };
        let error = json!({ "message": self.0.message, "type": class, "param": null, "code": self.0.kind.name() });
        (status, retry(self.0.retry_after), Json(json!({ "error": error }))).into_response()
    }
}

/// Whole seconds, at least one.
fn retry(after: Option<Duration>) -> Option<[(HeaderName, HeaderValue); 1]> {
    after.map(|after| [(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64))])
}

/// An answer with TEI's headers.
pub(super) fn measured<T>(answer: &Answered<T>, body: impl Serialize) -> Response {
    let milliseconds = |time: Duration| time.as_millis() as u64;
    let numbers: [(&str, u64); 7] = [
        ("x-compute-characters", answer.usage.characters as u64),
        ("x-compute-tokens", answer.usage.tokens as u64),
        ("x-compute-time", milliseconds(answer.total)),
        ("x-total-time", milliseconds(answer.total)),
        ("x-tokenization-time", milliseconds(answer.times.tokenization)),
        ("x-queue-time", milliseconds(answer.times.queue)),
        ("x-inference-time", milliseconds(answer.times.inference)),
    ];
    let mut response = Json(body).into_response();
    let headers = response.headers_mut();
    headers.insert("x-compute-type", HeaderValue::from_static("cpu"));
    for (name, number) in numbers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(number));
    }
    if answer.usage.truncated > 0 {
        headers.insert("x-truncated", HeaderValue::from(answer.usage.truncated as u64));
    }
    response
}
