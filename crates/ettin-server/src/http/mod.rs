//! HTTP: options, routes, the listener, and how it ends.

mod answer;
mod completion;
mod continuation;
mod event_stream;
mod generation;
mod openai;
mod options;
mod routes;
mod serve;
mod tei;

pub use options::ServerOptions;
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
