//! HTTP: options, routes, the listener, and how it ends.

mod answer;
mod asked;
mod body;
mod completion;
mod continuation;
mod cors;
mod dispatch;
mod event_stream;
mod gate;
mod generation;
mod held_body;
mod hugging_face;
mod info;
mod intake;
mod keys;
mod listener;
mod openai;
mod openapi;
mod options;
mod page;
mod request_log;
mod root;
mod routes;
mod serve;
mod signals;
mod tei;
mod timed_stream;
mod trace_context;
mod vllm;

pub use cors::AllowedOrigins;
pub use keys::ApiKeys;
pub use listener::Endpoint;
pub use options::{Patience, ServerOptions};
pub use routes::router;
pub use serve::{Bound, run, serve};

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::service::Service;

/// What routes share.
#[derive(Debug, Clone)]
pub struct AppState {
    /// What answers.
    pub service: Service,
    /// How the server was started.
    pub options: Arc<ServerOptions>,
    /// The recorder; none where the process has another one.
    pub metrics: Option<PrometheusHandle>,
}
