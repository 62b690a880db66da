//! Which pages of other origins may ask from a browser.

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::error::{ErrorKind, ServeError};

/// Headers of an answer that a page may read.
const EXPOSED: [&str; 11] = [
    "retry-after",
    "traceparent",
    "x-compute-characters",
    "x-compute-time",
    "x-compute-tokens",
    "x-inference-time",
    "x-queue-time",
    "x-request-id",
    "x-tokenization-time",
    "x-total-time",
    "x-truncated",
];

/// The origins whose pages may ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AllowedOrigins {
    /// All, as TEI and vLLM have it. Nothing is at stake but computing: there are no cookies.
    #[default]
    Any,
    /// These, such as `https://example.org`.
    Only(Vec<HeaderValue>),
}

impl AllowedOrigins {
    /// These origins; `*` among them is all.
    ///
    /// # Errors
    /// For what is no origin.
    pub fn new<O: AsRef<str>>(origins: impl IntoIterator<Item = O>) -> Result<Self, ServeError> {
        let mut known = Vec::new();
        for origin in origins {
            let origin = origin.as_ref();
            if origin == "*" {
                return Ok(Self::Any);
            }
            let host = origin.split_once("://").map(|(_, host)| host);
            if !host.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
                let message = format!("{origin:?} is no origin: it is written as https://example.org, without a path");
                return Err(ServeError::new(ErrorKind::Validation, message));
            }
            let value = origin
                .parse()
                .map_err(|_| ServeError::new(ErrorKind::Validation, format!("{origin:?} cannot stand in a header")))?;
            known.push(value);
        }
        Ok(Self::Only(known))
    }

    /// What answers preflights and says on answers who may read them.
    pub(super) fn layer(&self) -> CorsLayer {
        let origins = match self {
            Self::Any => AllowOrigin::any(),
            Self::Only(origins) => AllowOrigin::list(origins.iter().cloned()),
        };
        // SDKs in a browser send headers of their own.
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED.map(HeaderName::from_static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_a_scheme_and_no_path() {
        assert!(AllowedOrigins::new(["https://example.org", "http://localhost:8080"]).is_ok());
        assert_eq!(AllowedOrigins::new(["https://example.org", "*"]).unwrap(), AllowedOrigins::Any);
        for origin in ["example.org", "https://example.org/", "", "https://", "https://a\u{7f}"] {
            assert!(AllowedOrigins::new([origin]).is_err(), "{origin}");
        }
    }
}
