//! A connection that gives up on a client who sends or takes nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::options::Patience;

/// What a connection waits for: a number of the request, and in its lowest bits where that stands. Numbers tell two
/// waits of one kind apart.
#[derive(Debug)]
pub(super) struct Phase(AtomicU64);

/// The client has begun a request, or has just come.
const HEAD: u64 = 0;
/// The server is at work, or the body is on its way ([`intake`](super::intake) looks at the clock).
const SERVING: u64 = 1;
/// The next request has not begun.
const IDLE: u64 = 2;

impl Phase {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(HEAD)))
    }

    /// A head is complete. The answer is over when the guard is dropped.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        let number = (self.0.load(Ordering::Relaxed) >> 2) + 1;
        self.0.store(number << 2 | SERVING, Ordering::Relaxed);
        Serving(self.clone())
    }

    fn set(&self, phase: u64) {
        let number = self.0.load(Ordering::Relaxed) >> 2;
        self.0.store(number << 2 | phase, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Serving(Arc<Phase>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.set(IDLE);
    }
}

/// The stream.
pub(super) struct TimedStream<S> {
    stream: S,
    phase: Arc<Phase>,
    patience: Patience,
    /// What is being waited for, and until when.
    reading: Option<(u64, Pin<Box<Sleep>>)>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, phase: Arc<Phase>, patience: Patience) -> Self {
        Self { stream, phase, patience, reading: None, writing: None }
    }

    /// Nothing has come.
    fn starve(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.phase.get();
        let patience = match phase & 3 {
            SERVING => {
                self.reading = None;
                return Poll::Pending;
            }
            HEAD => self.patience.head,
            _ => self.patience.idle,
        };
        let until = || Box::pin(sleep_until(Instant::now() + patience));
        if self.reading.as_ref().is_none_or(|(waits_for, _)| *waits_for != phase) {
            self.reading = Some((phase, until()));
        }
        match &mut self.reading {
            Some((_, sleep)) => sleep.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }

    fn written<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let until = Instant::now() + self.patience.write;
        let sleep = self.writing.get_or_insert_with(|| Box::pin(sleep_until(until)));
        sleep.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            return self.starve(context);
        }
        if buffer.filled().len() > before && self.phase.get() & 3 == IDLE {
            self.phase.set(HEAD);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
