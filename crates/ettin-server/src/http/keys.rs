//! Who may ask: keys in a header.

use std::fmt;
use std::hint::black_box;

use axum::http::{HeaderMap, Method, header};
use sha2::{Digest, Sha256};

use crate::error::{ErrorKind, ServeError};

/// A key's digest: nothing that is compared or kept is the key.
type KeyDigest = [u8; 32];

/// The keys of which a request needs one. Without any, everybody is let in.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ApiKeys(Vec<KeyDigest>);

impl ApiKeys {
    /// These keys.
    ///
    /// # Errors
    /// For a key that no client can send: an empty one, or one with white space or beyond ASCII.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Result<Self, ServeError> {
        let digest = |key: K| {
            let key = key.as_ref();
            // The key itself is not told: the message may end up in a log.
            let unfit = if key.is_empty() {
                "an API key is empty"
            } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                "an API key has white space or other characters that no header can hold"
            } else {
                return Ok(Sha256::digest(key.as_bytes()).into());
            };
            Err(ServeError::new(ErrorKind::Validation, unfit))
        };
        keys.into_iter().map(digest).collect::<Result<_, _>>().map(Self)
    }

    /// Whether any key is asked for.
    pub fn are_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether a request with these headers is let in: `authorization: Bearer KEY`, or `x-api-key: KEY`.
    pub(super) fn let_in(&self, headers: &HeaderMap) -> bool {
        if !self.are_required() {
            return true;
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let own = headers.get("x-api-key").map(|value| value.as_bytes());
        [bearer, own].into_iter().flatten().any(|key| self.knows(key))
    }

    /// Takes the same time whichever key is right, and however much of one is.
    fn knows(&self, key: &[u8]) -> bool {
        let key: KeyDigest = Sha256::digest(key).into();
        let differs = |known: &KeyDigest| known.iter().zip(key).fold(0, |differs, (a, b)| black_box(differs | (a ^ b)));
        self.0.iter().fold(false, |found, known| black_box(found | (differs(known) == 0)))
    }
}

/// The scheme's name is not case sensitive.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Whether a path is answered without a key: what balancers and scrapers ask, and the page, which holds nothing and has
/// no way to send a key before it is loaded.
pub(super) fn is_open(method: &Method, path: &str) -> bool {
    let reads = method == Method::GET || method == Method::HEAD;
    reads && (matches!(path, "/" | "/health" | "/ready" | "/ping" | "/metrics" | "/ui") || path.starts_with("/ui/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn any_key_opens_and_nothing_else_does() {
        let keys = ApiKeys::new(["one", "another"]).unwrap();
        for (name, value) in
            [("authorization", "Bearer one"), ("authorization", "bearer  another"), ("x-api-key", "another")]
        {
            assert!(keys.let_in(&headers(name, value)), "{name}: {value}");
        }
        for (name, value) in [
            ("authorization", "Bearer on"),
            ("authorization", "Bearer "),
            ("authorization", "one"),
            ("authorization", "Basic one"),
            ("x-api-key", "onee"),
            ("x-api-key", ""),
        ] {
            assert!(!keys.let_in(&headers(name, value)), "{name}: {value}");
        }
        assert!(!keys.let_in(&HeaderMap::new()) && ApiKeys::default().let_in(&HeaderMap::new()));
        assert_eq!(format!("{keys:?}"), "2 keys");
    }

    #[test]
    fn keys_that_no_header_holds_are_refused_untold() {
        for key in ["", "a b", "schlüssel", "a\n"] {
            let error = ApiKeys::new([key]).unwrap_err();
            assert!(key.is_empty() || !error.message.contains(key), "{error}");
        }
    }

    #[test]
    fn what_balancers_ask_needs_no_key() {
        for path in ["/health", "/ready", "/ping", "/metrics", "/", "/ui/app.js"] {
            assert!(is_open(&Method::GET, path) && !is_open(&Method::POST, path), "{path}");
        }
        for path in ["/info", "/embed", "/uix", "/healthy", "/v1/models"] {
            assert!(!is_open(&Method::GET, path), "{path}");
        }
    }
}
