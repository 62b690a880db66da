//! Lines about what happens, on stderr: one for each request, and what operators want to know beside.
//!
//! The line of a request says what it cost, never what it held: no text, no header, no message of an error that may
//! quote either. What only [`service`](crate::service) knows, it `note`s; the line is written by `http` when the
//! answer is over.

use std::env;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;

use crate::error::ServeError;
use crate::scheduler::CallTimes;
use crate::service::Usage;

/// Begins to write them: as JSON, or for people. `RUST_LOG`, else `LOG_LEVEL` (TEI's variable) chooses which, as
/// `tracing` reads it; without them, what operators want to know. Does nothing where somebody else has begun.
pub fn begin(json: bool) {
    let chosen = ["RUST_LOG", "LOG_LEVEL"].into_iter().find_map(|name| env::var(name).ok().filter(|it| !it.is_empty()));
    let filter = chosen.and_then(|chosen| EnvFilter::try_new(chosen).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Where somebody else has begun, those lines are theirs.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
}

/// What is known of a request, for its line.
#[derive(Debug, Default)]
pub(crate) struct RequestRecord(Mutex<Noted>);

/// See [`RequestRecord`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Noted {
    /// The model that answers.
    pub(crate) model: Option<Arc<str>>,
    /// What it used, where it was answered.
    pub(crate) usage: Option<Usage>,
    /// Tokens that were generated.
    pub(crate) generated: usize,
    /// How long its parts took.
    pub(crate) times: Option<CallTimes>,
    /// What kind of error it ended with.
    pub(crate) error: Option<&'static str>,
}

tokio::task_local! {
    static RECORD: Arc<RequestRecord>;
}

impl RequestRecord {
    /// Adds to it.
    pub(crate) fn note(&self, add: impl FnOnce(&mut Noted)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All of it.
    pub(crate) fn noted(&self) -> Noted {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Carries a request out; what is noted meanwhile is noted in `record`.
pub(crate) fn recorded<F: Future>(record: Arc<RequestRecord>, request: F) -> impl Future<Output = F::Output> {
    RECORD.scope(record, request)
}

/// Carries a part of a request out on a task of its own; what is noted there is noted for the request.
pub(crate) fn carried<F: Future>(part: F) -> impl Future<Output = F::Output> {
    let record = RECORD.try_with(Arc::clone).ok();
    async move {
        match record {
            Some(record) => RECORD.scope(record, part).await,
            None => part.await,
        }
    }
}

/// Does a part of a request, such as the next piece of a stream; what is noted meanwhile is noted in `record`.
pub(crate) fn recorded_now<T>(record: Arc<RequestRecord>, part: impl FnOnce() -> T) -> T {
    RECORD.sync_scope(record, part)
}

/// The model that answers the request that is being carried out.
pub(crate) fn model() -> Option<Arc<str>> {
    RECORD.try_with(|record| record.noted().model).ok().flatten()
}

/// Notes something of the request that is being carried out, if one is.
pub(crate) fn note(add: impl FnOnce(&mut Noted)) {
    // Outside a request (a caller of the library) there is nobody to tell.
    let _ = RECORD.try_with(|record| record.note(add));
}

/// Notes an answer. A request may make several calls: what they used adds up.
pub(crate) fn answered(model: &Arc<str>, usage: Usage, times: CallTimes) {
    note(|noted| {
        noted.model = Some(model.clone());
        noted.usage = Some(noted.usage.unwrap_or_default().plus(usage));
        noted.times = Some(noted.times.unwrap_or_default().plus(times));
    });
}

/// Notes a failure, by its kind alone.
pub(crate) fn failed(error: &ServeError) {
    note(|noted| noted.error = Some(error.kind.name()));
}
