//! Answers and errors on their way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::{ErrorKind, ServeError};
use crate::models::LoadedModel;
use crate::protocol::openai::AnswerHead;
use crate::protocol::tei::ComputeReport;
use crate::protocol::{ErrorForm, Fault, FaultAnswer, FaultKind};
use crate::service::Answered;

/// An answer's body, which is JSON, and what it cost.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) body: String,
    /// None where nothing was computed.
    pub(super) report: Option<ComputeReport>,
}

impl Reply {
    /// Of something that needs no model.
    pub(super) fn plain(body: String) -> Self {
        Self { body, report: None }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = json(StatusCode::OK, self.body);
        if let Some(report) = self.report {
            put(response.headers_mut(), report.headers());
        }
        response
    }
}

/// What is known of an answer beside its value.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Who gave it.
    pub(super) model: Arc<LoadedModel>,
    /// Tokens that were computed.
    pub(super) tokens: usize,
    report: ComputeReport,
}

impl Facts {
    /// Takes an answer apart.
    pub(super) fn of<T>(answered: Answered<T>) -> (T, Self) {
        let Answered { value, model, usage, times, total } = answered;
        let report = ComputeReport {
            compute_type: model.description.device,
            characters: usage.characters,
            tokens: usage.tokens,
            total,
            tokenization: times.tokenization,
            queue: times.queue,
            inference: times.inference,
            truncated: usage.truncated,
        };
        (value, Self { model, tokens: usage.tokens, report })
    }

    /// The head of an answer that has one.
    pub(super) fn head(&self, prefix: &str) -> AnswerHead {
        AnswerHead { id: answer_id(prefix), created: seconds(SystemTime::now()), model: self.model.name.to_string() }
    }

    /// The answer with this body.
    pub(super) fn reply(self, body: String) -> Reply {
        Reply { body, report: Some(self.report) }
    }
}

/// An id that no other answer of this process has, and hardly one of another.
pub(super) fn answer_id(prefix: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::LazyLock<u64> =
        std::sync::LazyLock::new(|| since_1970(SystemTime::now()).as_micros() as u64);
    format!("{prefix}-{:x}{:06x}", *START, NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn since_1970(time: SystemTime) -> Duration {
    // A clock before 1970 is a clock that nobody set.
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    since_1970(time).as_secs()
}

/// JSON text with a status.
pub(super) fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(body)).into_response()
}

/// An error in the form of its protocol.
pub(super) fn refused(fault: &Fault, form: ErrorForm) -> Response {
    sent(fault.answer(form))
}

/// An error whose form is decided already.
pub(super) fn sent(answer: FaultAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, answer.body);
    put(response.headers_mut(), answer.headers);
    response
}

fn put(headers: &mut HeaderMap, pairs: Vec<(&'static str, String)>) {
    for (name, value) in pairs {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

impl From<ServeError> for Fault {
    fn from(error: ServeError) -> Self {
        let kind = match error.kind {
            ErrorKind::Validation => FaultKind::Field,
            ErrorKind::TooLong => FaultKind::TooLong,
            ErrorKind::Tokenizer => FaultKind::Tokenizer,
            ErrorKind::Empty => FaultKind::Empty,
            ErrorKind::WrongModel => FaultKind::WrongModel,
            ErrorKind::NotFound => FaultKind::UnknownModel,
            ErrorKind::Backend => FaultKind::Backend,
            ErrorKind::Overloaded => FaultKind::Overloaded,
            ErrorKind::Deadline => FaultKind::Deadline,
            ErrorKind::Unhealthy => FaultKind::Unavailable,
            ErrorKind::Internal => FaultKind::Internal,
        };
        let fault = Fault::new(kind, error.message);
        match error.retry_after {
            Some(after) => fault.with_retry_after(after),
            None => fault,
        }
    }
}
