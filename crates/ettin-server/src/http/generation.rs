//! Generation in Hugging Face's form, at `/`.

use axum::response::Response;

use super::AppState;
use super::answer::refused;
use crate::protocol::hugging_face::GenerationRequest;
use crate::protocol::{ErrorForm, Fault, FaultKind};
use crate::scheduler::Caller;

/// Continues a text; not yet.
pub(super) async fn generation(_: &AppState, _: Caller, _: Option<String>, _: GenerationRequest) -> Response {
    refused(&Fault::new(FaultKind::NotImplemented, "generation is not part of this build"), ErrorForm::Tei)
}
