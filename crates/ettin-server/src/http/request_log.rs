//! One line for each request, when its answer is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use super::keys;
use super::routes::Connection;
use super::trace_context::TraceContext;
use crate::logs::{self, RequestRecord};

/// What is said where the client was gone before there was an answer; nginx's number, which is never sent.
const CLIENT_GONE: u16 = 499;

/// The longest part of a path that is said.
const MAX_PATH: usize = 200;

/// A request on its way; its line is written when this is dropped.
struct RequestLine {
    begun: Instant,
    method: Method,
    path: String,
    connection: u64,
    trace: TraceContext,
    record: Arc<RequestRecord>,
    status: Option<StatusCode>,
}

/// Writes the line, and says in the answer which request it was.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let mut line = RequestLine {
        begun: Instant::now(),
        method: request.method().clone(),
        path: request.uri().path().chars().take(MAX_PATH).collect(),
        connection: request.extensions().get::<Connection>().map_or(0, |Connection(number)| *number),
        trace: TraceContext::of(request.headers()),
        record: Arc::default(),
        status: None,
    };
    let mut response = logs::recorded(line.record.clone(), next.run(request)).await;
    line.status = Some(response.status());
    line.trace.tell(response.headers_mut());
    response.map(|body| Body::new(LoggedBody { body, line }))
}

/// The body of an answer. What is noted while it is made is part of the line.
struct LoggedBody {
    body: Body,
    line: RequestLine,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let record = self.line.record.clone();
        logs::recorded_now(record, || Pin::new(&mut self.body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestLine {
    fn drop(&mut self) {
        let noted = self.record.noted();
        let status = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
        let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        macro_rules! write_line {
            ($level:ident) => {
                tracing::$level!(
                    method = %self.method,
                    path = %self.path,
                    status,
                    model = noted.model.as_deref(),
                    error = noted.error,
                    inputs = noted.usage.map(|usage| usage.inputs),
                    tokens = noted.usage.map(|usage| usage.tokens),
                    generated = (noted.generated > 0).then_some(noted.generated),
                    truncated = noted.usage.map(|usage| usage.truncated),
                    total_ms = milliseconds(self.begun.elapsed()),
                    tokenization_ms = noted.times.map(|times| milliseconds(times.tokenization)),
                    queue_ms = noted.times.map(|times| milliseconds(times.queue)),
                    inference_ms = noted.times.map(|times| milliseconds(times.inference)),
                    connection = self.connection,
                    request_id = self.trace.request_id(),
                    trace_id = %self.trace.trace,
                    span_id = %self.trace.span,
                    parent_id = self.trace.parent.as_deref(),
                    "request"
                )
            };
        }
        match status {
            // Balancers and scrapers ask every few seconds.
            ..400 if keys::is_open(&self.method, &self.path) => write_line!(debug),
            503 if keys::is_open(&self.method, &self.path) => write_line!(debug),
            500.. => write_line!(warn),
            _ => write_line!(info),
        }
    }
}
