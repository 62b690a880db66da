//! Which request of a larger whole a request is: W3C's `traceparent`, and `x-request-id`.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderValue};

/// The longest id of a client's own that is taken up.
const MAX_ID: usize = 128;

/// The names of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TraceContext {
    /// 32 hexadecimal digits: the client's, or new ones.
    pub(super) trace: String,
    /// 16 hexadecimal digits of this request.
    pub(super) span: String,
    /// The span of the client that asked.
    pub(super) parent: Option<String>,
    flags: String,
    /// The client's `x-request-id`.
    own: Option<HeaderValue>,
}

impl TraceContext {
    /// Taken up from a request's headers; what is malformed is as if it were not there, as W3C has it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get("traceparent").and_then(|value| parse(value.to_str().ok()?));
        let fits = |id: &&HeaderValue| id.len() <= MAX_ID && id.as_bytes().iter().all(u8::is_ascii_graphic);
        let own = headers.get("x-request-id").filter(fits).cloned();
        let span = hexadecimal(1);
        match given {
            Some((trace, parent, flags)) => {
                Self { trace: trace.to_owned(), span, parent: Some(parent.to_owned()), flags: flags.to_owned(), own }
            }
            None => Self { trace: hexadecimal(2), span, parent: None, flags: "00".to_owned(), own },
        }
    }

    /// The id that a client is told, and that its line has.
    pub(super) fn request_id(&self) -> &str {
        self.own.as_ref().and_then(|own| own.to_str().ok()).unwrap_or(&self.trace)
    }

    /// Says it in an answer.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let traceparent = format!("00-{}-{}-{}", self.trace, self.span, self.flags);
        for (name, value) in [("traceparent", traceparent.as_str()), ("x-request-id", self.request_id())] {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        }
    }
}

/// `version-trace-parent-flags`; later versions may add parts.
fn parse(value: &str) -> Option<(&str, &str, &str)> {
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
    let well = is(version, 2) && version != "ff" && is(trace, 32) && is(parent, 16) && is(flags, 2);
    let ended = version != "00" || parts.next().is_none();
    (well && ended && not_zero(trace) && not_zero(parent)).then_some((trace, parent, flags))
}

/// Digits for so many words of 64 bits. They tell requests apart and keep no secret.
fn hexadecimal(words: usize) -> String {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut digits = String::with_capacity(16 * words);
    for _ in 0..words {
        let word = SEED.hash_one(NEXT.fetch_add(1, Ordering::Relaxed)).max(1);
        // A string takes everything.
        let _ = write!(digits, "{word:016x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(pairs: &[(&'static str, &str)]) -> TraceContext {
        let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        TraceContext::of(&HeaderMap::from_iter(pairs))
    }

    #[test]
    fn a_clients_trace_goes_on() {
        let context = of(&[("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01")), ("x-request-id", "mine")]);
        assert_eq!((context.trace.as_str(), context.parent.as_deref()), (TRACE, Some("00f067aa0ba902b7")));
        assert_eq!(context.request_id(), "mine");
        let mut headers = HeaderMap::new();
        context.tell(&mut headers);
        let told = headers["traceparent"].to_str().unwrap();
        let (trace, span, flags) = parse(told).unwrap();
        assert_eq!((trace, span, flags), (TRACE, context.span.as_str(), "01"));
        assert_ne!(span, "00f067aa0ba902b7");
    }

    #[test]
    fn what_is_malformed_begins_anew() {
        for bad in [
            "",
            "00",
            &format!("00-{TRACE}-00f067aa0ba902b7"),
            &format!("00-{TRACE}-0000000000000000-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
        ] {
            let context = of(&[("traceparent", bad), ("x-request-id", "has space")]);
            assert!(context.parent.is_none() && context.trace != TRACE, "{bad}");
            assert_eq!(context.request_id(), context.trace);
        }
        assert!(of(&[("traceparent", &format!("01-{TRACE}-00f067aa0ba902b7-01-more"))]).parent.is_some());
        assert_ne!(of(&[]).trace, of(&[]).trace);
    }
}
