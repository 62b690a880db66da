//! Routes of OpenAI: the first of them.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ettin::tasks::EmbedRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::AppState;
use super::answer::{OpenAiRefusal, measured};
use super::routes::{Connection, body, caller};
use super::tei::{TextList, dense, truncate};
use crate::error::{ErrorKind, ServeError};
use crate::service::EmbedCall;

#[derive(Debug, Deserialize)]
pub(super) struct EmbeddingsBody {
    model: Option<String>,
    input: TextList,
    encoding_format: Option<String>,
    dimensions: Option<usize>,
}

pub(super) async fn embeddings(
    State(state): State<AppState>,
    connection: Connection,
    request: Result<Json<EmbeddingsBody>, JsonRejection>,
) -> Result<Response, OpenAiRefusal> {
    let EmbeddingsBody { model, input, encoding_format, dimensions } = body(request)?;
    let base64 = match encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("`encoding_format` is float or base64, not {other:?}");
            return Err(ServeError::new(ErrorKind::Validation, message).into());
        }
    };
    let request =
        EmbedRequest::default().with_normalize(true).with_dimensions(dimensions).with_truncate(truncate(None, &state));
    let call = EmbedCall { model, inputs: input.into_inputs(), request };
    let answer = state.service.embed(call, caller(&state, connection)).await?;
    let embedding = |vector: &[f32]| match base64 {
        false => json!(vector),
        true => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Value::String(STANDARD.encode(bytes))
        }
    };
    let datum = |(index, vector): (usize, &&[f32])| {
        let embedding = embedding(vector);
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    };
    let vectors = dense(&answer.value)?;
    let tokens = answer.usage.tokens;
    let body = json!({
        "object": "list",
        "data": vectors.iter().enumerate().map(datum).collect::<Vec<_>>(),
        "model": *answer.model.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    Ok(measured(&answer, body))
}
