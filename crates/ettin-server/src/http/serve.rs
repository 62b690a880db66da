//! The server: bound at once, drained at the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tower::ServiceExt;

use super::gate::{self, Gate};
use super::held_body::HeldBody;
use super::listener::{Accepted, Endpoint, Listener};
use super::routes::Connection;
use super::signals::{self, EndSignals};
use super::timed_stream::{Phase, TimedStream};
use super::{AppState, ServerOptions, request_log, router};
use crate::error::ServeError;
use crate::metrics;
use crate::models::{ModelSettings, ModelSource, Registry};
use crate::protocol::{ErrorForm, Fault, FaultKind};
use crate::service::{Service, ServiceDefaults};

/// Threads that hear connections. They never compute: two keep up with any number of answers that a CPU makes.
const REACTORS: usize = 2;

/// How long a listener that cannot accept (no file descriptors) waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often numbers are taken that nothing else would tell, and samples put together: those of a server that nobody
/// asks for metrics would pile up.
const UPKEEP: Duration = Duration::from_secs(1);

/// A server that is bound and not serving yet.
#[derive(Debug)]
pub struct Bound {
    listener: Listener,
    router: Router,
    options: Arc<ServerOptions>,
    /// Where it listens.
    pub endpoint: Endpoint,
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
    let (listener, endpoint) = Listener::bind(&options).await?;
    let defaults = ServiceDefaults {
        max_inputs: options.max_client_batch_size,
        prompt: options.default_prompt.clone(),
        pooling: options.default_pooling,
    };
    let service = Service::new(registry.clone(), options.tokenization_workers)?.with_defaults(defaults);
    let options = Arc::new(options);
    let metrics = metrics::install();
    let state = AppState { service: service.clone(), options: options.clone(), metrics: metrics.clone() };
    // From the outside in: the request's line, browsers' preflights, keys and bodies.
    let router = router(state)
        .layer(middleware::from_fn_with_state(Gate::new(&options), gate::pass))
        .layer(options.origins.layer())
        .layer(middleware::from_fn(request_log::log));
    if let Some(recorder) = metrics {
        let registry = Arc::downgrade(&registry);
        tokio::spawn(async move {
            while let Some(registry) = registry.upgrade() {
                metrics::observe(&registry);
                // What is recorded waits in a list until it is counted: without a reader it would grow for ever.
                recorder.run_upkeep();
                drop(registry);
                tokio::time::sleep(UPKEEP).await;
            }
        });
    }
    registry.load_all()?;
    Ok(Bound { listener, router, options, endpoint, service })
}

/// Serves on threads of its own until the process is told to end (SIGTERM, SIGINT), and waits for that; told a second
/// time, it ends at once. SIGHUP loads the models again. `listening` is told where. Returns whether everything was
/// answered.
///
/// # Errors
/// As [`serve`]; for a model that cannot be loaded when the server is started. (One that cannot be loaded *again* is
/// told in `/info`, and the old one goes on.)
pub fn run(
    sources: Vec<ModelSource>,
    settings: ModelSettings,
    options: ServerOptions,
    listening: impl FnOnce(&Endpoint),
) -> Result<bool, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(REACTORS)
        .thread_name("ettin-http")
        .enable_all()
        .build()
        .map_err(|error| ServeError::internal(format!("threads for connections cannot be started: {error}")))?;
    let all_answered = runtime.block_on(async {
        let deaf = |error: io::Error| ServeError::internal(format!("no signals can be heard: {error}"));
        let mut signals = EndSignals::listen().map_err(deaf)?;
        let bound = serve(sources, settings, options).await?;
        signals::reload_when_told(bound.service.registry()).map_err(deaf)?;
        listening(&bound.endpoint);
        let registry = bound.service.registry().clone();
        let failed = async {
            match registry.loaded().await {
                Err(error) => error,
                Ok(()) => std::future::pending().await,
            }
        };
        let (end, told) = oneshot::channel::<()>();
        let serving = bound.run(async { drop(told.await) });
        let ending = async {
            signals.next().await;
            // The server hears it, or is gone.
            let _ = end.send(());
            signals.next().await;
        };
        tokio::select! {
            all = serving => Ok(all),
            () = ending => {
                tracing::warn!("told to end once more: what is in flight is given up");
                Ok(false)
            }
            error = failed => Err(error),
        }
    });
    // What still computes is of use to nobody.
    runtime.shutdown_background();
    all_answered
}

impl Bound {
    /// Serves until `end`. Then nothing more is accepted, and what is in flight has the time of
    /// [`drain_timeout`](ServerOptions::drain_timeout). Returns whether all of it was answered.
    pub async fn run(self, end: impl Future<Output = ()>) -> bool {
        let (graceful, connections) = (GracefulShutdown::new(), AtomicU64::new(1));
        let most = self.options.max_connections.min(Semaphore::MAX_PERMITS);
        let (places, full) = (Arc::new(Semaphore::new(most)), full(most));
        let mut end = std::pin::pin!(end);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut end => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                metrics::turned_away();
                stream.turn_away(&full);
                continue;
            };
            let number = connections.fetch_add(1, Ordering::Relaxed);
            match stream {
                Accepted::Tcp(stream) => self.connect(stream, number, place, &graceful),
                #[cfg(unix)]
                Accepted::Unix(stream) => self.connect(stream, number, place, &graceful),
            }
        }
        drop(self.listener);
        let (open, limit) = (graceful.count(), self.options.drain_timeout);
        tracing::info!(open, "ending; waiting for what is in flight");
        tokio::time::timeout(limit, graceful.shutdown()).await.is_ok()
    }

    fn connect<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        number: u64,
        place: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
    ) {
        let (router, phase) = (self.router.clone(), Phase::new());
        let stream = TimedStream::new(stream, phase.clone(), self.options.patience);
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(Connection(number));
            let (router, serving) = (router.clone(), phase.serve());
            async move { router.oneshot(request).await.map(|answer| answer.map(|body| HeldBody::new(body, serving))) }
        });
        let mut connection = hyper::server::conn::http1::Builder::new();
        // The stream has clocks for every part of a request.
        connection.header_read_timeout(None::<Duration>);
        let connection = connection.serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        metrics::connections(1.0);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended");
            }
            metrics::connections(-1.0);
            drop(place);
        });
    }
}

/// What one connection too many is told.
fn full(most: usize) -> Vec<u8> {
    let message = format!("{most} connections are open, as many as may be; try again later");
    let answer = Fault::new(FaultKind::Unavailable, message).answer(ErrorForm::Tei);
    let headers: String = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\
         connection: close\r\n\r\n{}",
        answer.body.len(),
        answer.body
    )
    .into_bytes()
}
