//! `POST /v1/completions`.

use axum::response::Response;

use super::AppState;
use super::answer::refused;
use crate::protocol::openai::CompletionRequest;
use crate::protocol::{ErrorForm, Fault, FaultKind};
use crate::scheduler::Caller;

/// Continues a text; not yet.
pub(super) async fn completion(_: &AppState, _: Caller, _: Option<String>, _: CompletionRequest) -> Response {
    refused(&Fault::new(FaultKind::NotImplemented, "completions are not part of this build"), ErrorForm::OpenAi)
}
