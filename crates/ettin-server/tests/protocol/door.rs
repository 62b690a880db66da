//! What the door lets in, and how it says no.

use std::time::{Duration, Instant};

use ettin_server::protocol::json::parse_body;
use ettin_server::protocol::{BodyLimits, FaultKind};
use serde_json::json;

use crate::wire::limits;

fn refused(body: &[u8]) -> (FaultKind, String) {
    let fault = parse_body(body, &limits()).expect_err("a fault");
    (fault.kind, fault.message)
}

#[test]
fn null_is_dropped_from_objects_only() {
    let value = parse_body(br#"{"a": null, "b": [null, {"c": null, "d": 1}]}"#, &limits()).unwrap();
    assert_eq!(value, json!({"b": [null, {"d": 1}]}));
}

#[test]
fn numbers_keep_their_kind() {
    let value = parse_body(b"[1, -1, 1.5, 1e3, 18446744073709551615]", &limits()).unwrap();
    assert_eq!(value.to_string(), "[1,-1,1.5,1000.0,18446744073709551615]");
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    for (body, word) in [
        (r#"{"temperature": NaN}"#, "NaN"),
        (r#"{"temperature": Infinity}"#, "Infinity"),
        (r#"{"temperature": -Infinity}"#, "Infinity"),
        ("{\n\"top_p\": NaN}", "NaN at line 2"),
    ] {
        let (kind, message) = refused(body.as_bytes());
        assert_eq!(kind, FaultKind::Malformed);
        assert!(message.contains(word) && message.contains("not JSON"), "{body}: {message}");
    }
}

#[test]
fn numbers_beyond_range_are_errors() {
    for body in ["1e400", "-1e400", "[1e39]", r#"{"a": -3.5e38}"#] {
        let (kind, message) = refused(body.as_bytes());
        assert_eq!(kind, FaultKind::Malformed);
        assert!(message.contains("out of range"), "{body}: {message}");
    }
    assert!(parse_body(b"3.4e38", &limits()).is_ok());
}

#[test]
fn a_key_twice_is_an_error() {
    for body in [r#"{"a": 1, "a": 1}"#, r#"{"a": null, "a": 1}"#, r#"[{"a": {"b": 1, "b": 2}}]"#] {
        let (kind, message) = refused(body.as_bytes());
        assert_eq!(kind, FaultKind::Malformed);
        assert!(message.contains("appears twice"), "{body}: {message}");
    }
}

#[test]
fn broken_text_is_an_error_with_its_place() {
    let (kind, message) = refused(b"{\"a\": \"\xff\"}");
    assert_eq!(kind, FaultKind::Malformed);
    assert!(message.contains("not UTF-8") && message.contains('7'), "{message}");
    for body in ["", "{", "{\"a\": 1}}", "{\"a\" 1}", "nul", "\"\\ud800\"", "{'a': 1}", "[1,]"] {
        let (kind, message) = refused(body.as_bytes());
        assert_eq!(kind, FaultKind::Malformed);
        assert!(message.contains("not valid JSON") && message.contains("line"), "{body}: {message}");
    }
}

#[test]
fn depth_bombs_end_early() {
    let deep = |open: &str, n: usize| open.repeat(n).into_bytes();
    for body in [deep("[", 20 << 20), deep("{\"a\":", 4 << 20)] {
        let start = Instant::now();
        let (kind, message) = refused(&body);
        assert_eq!(kind, FaultKind::Malformed);
        assert!(message.contains("within each other"), "{message}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    let at_limit = format!("{}1{}", "[".repeat(32), "]".repeat(32));
    assert!(parse_body(at_limit.as_bytes(), &limits()).is_ok());
    let beyond = format!("{}1{}", "[".repeat(33), "]".repeat(33));
    assert!(parse_body(beyond.as_bytes(), &limits()).is_err());
}

#[test]
fn large_bodies_end_early() {
    let body = vec![b' '; 20 << 20];
    let start = Instant::now();
    let fault = parse_body(&body, &BodyLimits::of_bytes(2_000_000)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::PayloadTooLarge);
    assert!(fault.message.contains("2000000") && fault.message.contains("20971520"), "{}", fault.message);
    assert!(start.elapsed() < Duration::from_millis(100));

    let numbers = format!("[{}1]", "1,".repeat(10 << 20));
    let start = Instant::now();
    let (kind, message) = refused(numbers.as_bytes());
    assert_eq!(kind, FaultKind::Malformed);
    assert!(message.contains("values; split the request"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn long_messages_are_cut() {
    let body = json!({"inputs": "a", "normalize": "é".repeat(1 << 20)}).to_string();
    let root = |_: &serde_json::Value| ettin_server::protocol::RootTask::Embed;
    let fault = ettin_server::protocol::route::receive("/embed", body.as_bytes(), &limits(), root).unwrap_err();
    assert!(fault.body.len() < 1000 && fault.body.contains("normalize"), "{}", fault.body);
}
