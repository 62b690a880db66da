//! HTTP: options, routes, the listener, and how it ends.

mod answer;
mod asked;
mod body;
mod completion;
mod dispatch;
mod generation;
mod hugging_face;
mod info;
mod openai;
mod openapi;
mod options;
mod page;
mod root;
mod routes;
mod serve;
mod tei;
mod vllm;

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
