//! The body of a request: JSON, and no more of it than is let in.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use tokio_stream::StreamExt;

use crate::protocol::{Fault, FaultKind};

/// How many times the limit is still read, and thrown away, of a body that is too large: a client that is sending hears
/// no answer before it is done. Above, the connection is closed.
const READ_ALL_THE_SAME: usize = 4;

/// Bytes that are made room for before they come: what is announced need not come.
const READ_AHEAD: usize = 1 << 16;

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// [`FaultKind::MediaType`], [`FaultKind::PayloadTooLarge`]; [`FaultKind::Malformed`] where the connection breaks.
pub(super) async fn read(request: Request, limit: usize) -> Result<Vec<u8>, Fault> {
    let (parts, body) = request.into_parts();
    let announced = announced(&parts.headers);
    let wrong_type = !is_json(parts.headers.get(header::CONTENT_TYPE));
    // A client that asks first has sent nothing yet.
    let asks = parts.headers.contains_key(header::EXPECT);
    let hopeless = announced.is_some_and(|bytes| bytes > limit.saturating_mul(READ_ALL_THE_SAME));
    let too_large = announced.is_some_and(|bytes| bytes > limit);
    if hopeless || asks && (too_large || wrong_type) {
        return Err(if wrong_type { media_type(&parts.headers) } else { payload_too_large(limit) });
    }
    let mut bytes = Vec::with_capacity(announced.unwrap_or_default().min(READ_AHEAD));
    let (mut chunks, mut length) = (body.into_data_stream(), 0usize);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            Fault::new(FaultKind::Malformed, format!("the body broke off after {length} bytes: {error}"))
        })?;
        length = length.saturating_add(chunk.len());
        if length > limit.saturating_mul(READ_ALL_THE_SAME) {
            break;
        }
        if length <= limit && !wrong_type {
            bytes.extend_from_slice(&chunk);
        }
    }
    match (wrong_type, length > limit) {
        (true, _) => Err(media_type(&parts.headers)),
        (_, true) => Err(payload_too_large(limit)),
        _ => Ok(bytes),
    }
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `application/json`, or a type that is written in JSON (`application/problem+json`), whatever parameters it has.
fn is_json(value: Option<&HeaderValue>) -> bool {
    let essence = value.and_then(|value| value.to_str().ok()?.split(';').next());
    essence.is_some_and(|essence| {
        let essence = essence.trim().to_ascii_lowercase();
        essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
    })
}

fn media_type(headers: &HeaderMap) -> Fault {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let found = found.map_or_else(|| "has no content type".to_owned(), |found| format!("is {found:?}"));
    Fault::new(FaultKind::MediaType, format!("the body {found}; send JSON with `content-type: application/json`"))
}

fn payload_too_large(limit: usize) -> Fault {
    Fault::new(
        FaultKind::PayloadTooLarge,
        format!("the body has more bytes than the limit of {limit} (`payload_limit` in /info); send less at once"),
    )
}
