//! Answers that come in pieces: server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::protocol::openai::PING;
use crate::scheduler::GenerationEvent;
use crate::service::Generation;

/// Events on their way to a client that reads. A client that does not holds back its generation's events, not the
/// generation of others.
const CHANNEL: usize = 16;

/// How long a stream may be silent: proxies close connections after a minute.
const PING_AFTER: Duration = Duration::from_secs(15);

/// Where events are written.
pub(super) struct EventSender(mpsc::Sender<String>);

/// The client hung up.
pub(super) struct Gone;

/// A stream and its response.
pub(super) fn event_stream() -> (EventSender, Response) {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<String, Infallible>));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx collect answers otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (EventSender(sender), response)
}

impl EventSender {
    /// Writes an event.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(super) async fn send(&self, event: String) -> Result<(), Gone> {
        self.0.send(event).await.map_err(|_| Gone)
    }

    /// The next event of a generation; none at its end. A client that waits long is told that there is somebody.
    ///
    /// # Errors
    /// When nobody reads any more: known at once, so that dropping the generation ends it.
    pub(super) async fn next(&self, generation: &mut Generation) -> Result<Option<GenerationEvent>, Gone> {
        loop {
            tokio::select! {
                biased;
                () = self.0.closed() => return Err(Gone),
                event = generation.next() => return Ok(event),
                () = tokio::time::sleep(PING_AFTER) => self.send(PING.to_owned()).await?,
            }
        }
    }
}
