//! Bodies on their way in: how large, how slow, and how many at once.
//!
//! A body is read to its end before anything is done with it, so a client that sends slowly holds a connection and
//! what it has sent, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::ServerOptions;
use super::options::Patience;
use crate::protocol::{Fault, FaultKind};

/// What is read of a body that is refused, so that its client, which may read nothing before it has sent all, sees why.
const DISCARDED: usize = 32 << 20;

/// How long another try waits where the bodies of others take all the room.
const RETRY: Duration = Duration::from_secs(1);

/// The door for bodies.
#[derive(Debug)]
pub(super) struct Intake {
    limit: usize,
    patience: Patience,
    room: Arc<BodyRoom>,
}

/// The bytes that are there.
#[derive(Debug)]
struct BodyRoom {
    limit: usize,
    taken: AtomicUsize,
}

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct ReceivedBody {
    pub(super) bytes: Bytes,
    pub(super) held: HeldRoom,
}

/// Room for a body, until it is dropped.
#[derive(Debug)]
pub(super) struct HeldRoom {
    room: Arc<BodyRoom>,
    bytes: usize,
}

impl HeldRoom {
    /// Takes more; false where there is none.
    fn grow(&mut self, bytes: usize) -> bool {
        let before = self.room.taken.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        // The largest body comes in where there is no other.
        before == self.bytes - bytes || before + bytes <= self.room.limit
    }
}

impl Drop for HeldRoom {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Intake {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let room = Arc::new(BodyRoom { limit: options.body_memory, taken: AtomicUsize::new(0) });
        Self { limit: options.payload_limit, patience: options.patience, room }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// For one that is too large or comes too slowly; where there is no room; where its client breaks off.
    pub(super) async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<ReceivedBody, Fault> {
        let mut held = HeldRoom { room: self.room.clone(), bytes: 0 };
        if body.is_end_stream() {
            return Ok(ReceivedBody { bytes: Bytes::new(), held });
        }
        let mut clock = Clock::start(self.patience);
        let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let mut chunks = body.into_data_stream();
        if told.is_some_and(|length| length > self.limit) {
            // One who asks first has sent nothing yet; one with very much is cut off.
            let asks = headers.contains_key(header::EXPECT);
            if !asks && told.is_some_and(|length| length <= self.limit.saturating_add(DISCARDED)) {
                clock.discard(&mut chunks).await;
            }
            return Err(self.too_large(told));
        }
        let mut first: Option<Bytes> = None;
        let mut all: Vec<u8> = Vec::new();
        while let Some(chunk) = clock.next(&mut chunks).await? {
            let come = held.bytes + chunk.len();
            if come > self.limit {
                clock.discard(&mut chunks).await;
                return Err(self.too_large(told));
            }
            if !held.grow(chunk.len()) {
                let message = "the bodies of other requests take all the room there is; try again later";
                return Err(Fault::new(FaultKind::Overloaded, message).with_retry_after(RETRY));
            }
            // Most bodies come in one piece, which need not be copied.
            if first.is_none() && all.is_empty() {
                first = Some(chunk);
            } else {
                all.extend_from_slice(&first.take().unwrap_or_default());
                all.extend_from_slice(&chunk);
            }
        }
        Ok(ReceivedBody { bytes: first.unwrap_or_else(|| all.into()), held })
    }

    /// Reads what is of no use, for a while.
    pub(super) async fn discard(&self, body: Body) {
        if !body.is_end_stream() {
            Clock::start(self.patience).discard(&mut body.into_data_stream()).await;
        }
    }

    fn too_large(&self, told: Option<usize>) -> Fault {
        let limit = self.limit;
        let size = told.map_or_else(|| "more bytes than".to_owned(), |told| format!("{told} bytes, more than"));
        let message = format!("the body has {size} the limit of {limit} (payload_limit in /info); send less at once");
        Fault::new(FaultKind::PayloadTooLarge, message)
    }
}

/// How long the rest of a body may take.
struct Clock {
    begun: Instant,
    patience: Patience,
    come: usize,
}

impl Clock {
    fn start(patience: Patience) -> Self {
        Self { begun: Instant::now(), patience, come: 0 }
    }

    async fn next<S>(&mut self, chunks: &mut S) -> Result<Option<Bytes>, Fault>
    where
        S: tokio_stream::Stream<Item = Result<Bytes, axum::Error>> + Unpin,
    {
        let rate = self.patience.body_rate.max(1);
        let earned = Duration::from_secs_f64(self.come as f64 / rate as f64);
        let slow = |_| {
            let (seconds, come) = (self.patience.body.as_secs(), self.come);
            let message = format!(
                "the body came too slowly: {come} bytes in {:.0} s; it may take {seconds} s and one more for each \
                 {rate} bytes",
                self.begun.elapsed().as_secs_f64()
            );
            Fault::new(FaultKind::SlowClient, message)
        };
        let chunk = tokio::time::timeout_at(self.begun + self.patience.body + earned, chunks.next());
        let chunk = chunk.await.map_err(slow)?.transpose();
        let chunk = chunk.map_err(|error| Fault::new(FaultKind::Malformed, format!("the body broke off: {error}")))?;
        self.come += chunk.as_ref().map_or(0, Bytes::len);
        Ok(chunk)
    }

    async fn discard<S>(&mut self, chunks: &mut S)
    where
        S: tokio_stream::Stream<Item = Result<Bytes, axum::Error>> + Unpin,
    {
        let end = self.come + DISCARDED;
        while self.come < end && matches!(self.next(chunks).await, Ok(Some(_))) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake(limit: usize, memory: usize) -> Intake {
        let mut options = ServerOptions { payload_limit: limit, body_memory: memory, ..ServerOptions::default() };
        options.patience.body = Duration::from_millis(50);
        Intake::new(&options)
    }

    fn pieces(pieces: &[&'static [u8]]) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, axum::Error>(Bytes::from_static(piece))).collect();
        Body::from_stream(tokio_stream::iter(pieces))
    }

    #[tokio::test]
    async fn pieces_become_one_body() {
        let intake = intake(10, 100);
        let bodies: [(&'static [&'static [u8]], &[u8]); 3] =
            [(&[], b""), (&[b"one"], b"one"), (&[b"a", b"bc", b"d"], b"abcd")];
        for (sent, whole) in bodies {
            let received = intake.receive(&HeaderMap::new(), pieces(sent)).await.unwrap();
            assert_eq!(received.bytes, whole);
        }
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_has_a_limit() {
        let fault = intake(10, 100).receive(&HeaderMap::new(), pieces(&[b"12345678", b"901"])).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::PayloadTooLarge);
        assert!(fault.message.contains("10"), "{fault}");
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = Body::from_stream(tokio_stream::pending::<Result<Bytes, axum::Error>>());
        let fault = intake(10, 100).receive(&HeaderMap::new(), never).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::SlowClient);
    }

    #[tokio::test]
    async fn all_bodies_share_their_room() {
        let intake = intake(10, 12);
        let first = intake.receive(&HeaderMap::new(), pieces(&[b"1234567890"])).await.unwrap();
        let fault = intake.receive(&HeaderMap::new(), pieces(&[b"123"])).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Overloaded);
        drop(first);
        assert!(intake.receive(&HeaderMap::new(), pieces(&[b"123"])).await.is_ok());
        assert_eq!(intake.room.taken.load(Ordering::Relaxed), 0);
    }
}
