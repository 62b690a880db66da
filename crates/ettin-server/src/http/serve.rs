//! The listener: bound at once, drained at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::routes::Connection;
use super::{AppState, ServerOptions, router};
use crate::error::ServeError;
use crate::metrics;
use crate::models::{ModelSettings, ModelSource, Registry};
use crate::service::Service;

/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Threads that hear connections. They never compute: two keep up with any number of answers that a CPU makes.
const REACTORS: usize = 2;

/// How often what was recorded is counted.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long a listener that cannot accept (no file descriptors) waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server that is bound and not serving yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    router: Router,
    options: Arc<ServerOptions>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What answers.
    pub service: Service,
}

/// Binds, and begins to load the models. Until they are loaded, requests are answered by 503.
///
/// # Errors
/// For models that make no sense together; where the address cannot be bound or threads cannot be started.
pub async fn serve(
    sources: Vec<ModelSource>,
    settings: ModelSettings,
    options: ServerOptions,
) -> Result<Bound, ServeError> {
    let registry = Registry::new(sources, settings)?;
    let cannot = |error: io::Error| {
        let address = options.address;
        ServeError::internal(format!("cannot listen on {address}: {error}"))
    };
    let listener = TcpListener::bind(options.address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let service = Service::new(registry.clone(), options.tokenization_workers)?;
    let options = Arc::new(options);
    let recorder = metrics::install();
    if let Some(recorder) = recorder.clone() {
        tokio::spawn(async move {
            // What is recorded waits in a list until it is counted: without a reader it would grow for ever.
            loop {
                tokio::time::sleep(UPKEEP).await;
                recorder.run_upkeep();
            }
        });
    }
    let state = AppState { service: service.clone(), options: options.clone(), metrics: recorder };
    registry.load_all()?;
    Ok(Bound { listener, router: router(state), options, address, service })
}

/// Serves on threads of its own until the process is told to end (SIGTERM, SIGINT), and waits for that. `listening` is
/// told the address. Returns whether everything was answered.
///
/// # Errors
/// As [`serve`].
pub fn run(
    sources: Vec<ModelSource>,
    settings: ModelSettings,
    options: ServerOptions,
    listening: impl FnOnce(SocketAddr),
) -> Result<bool, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(REACTORS)
        .thread_name("ettin-http")
        .enable_all()
        .build()
        .map_err(|error| ServeError::internal(format!("threads for connections cannot be started: {error}")))?;
    let all_answered = runtime.block_on(async {
        let end = told_to_end().map_err(|error| ServeError::internal(format!("no signals can be heard: {error}")))?;
        let bound = serve(sources, settings, options).await?;
        listening(bound.address);
        Ok(bound.run(end).await)
    });
    // What still computes is of use to nobody.
    runtime.shutdown_background();
    all_answered
}

/// Waits for the first signal to end.
fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        // Where nothing can be heard, nothing ends it but the system.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

impl Bound {
    /// Serves until `end`. Then nothing more is accepted, and what is in flight has the time of
    /// [`drain_timeout`](ServerOptions::drain_timeout). Returns whether all of it was answered.
    pub async fn run(self, end: impl Future<Output = ()>) -> bool {
        let (graceful, connections) = (GracefulShutdown::new(), AtomicU64::new(1));
        let mut end = std::pin::pin!(end);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut end => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.connect(stream, connections.fetch_add(1, Ordering::Relaxed), &graceful),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        let (open, limit) = (graceful.count(), self.options.drain_timeout);
        tracing::info!(open, "ending; waiting for what is in flight");
        tokio::time::timeout(limit, graceful.shutdown()).await.is_ok()
    }

    fn connect(&self, stream: TcpStream, number: u64, graceful: &GracefulShutdown) {
        // Answers are small, and clients wait for them.
        let _ = stream.set_nodelay(true);
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(Connection(number));
            router.clone().oneshot(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}
