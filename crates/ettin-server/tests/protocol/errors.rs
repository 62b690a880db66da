//! Errors: one form per protocol, with the status, the class and the retry headers that clients act on.

use std::time::Duration;

use ettin_server::protocol::route::{error_form, receive};
use ettin_server::protocol::{ErrorForm, Fault, FaultKind, RootTask};
use serde_json::{Value, json};

use crate::wire::limits;

fn parsed(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

#[test]
fn each_kind_has_its_status_and_class() {
    use FaultKind::*;
    for (kind, tei, class, openai, openai_class, code) in [
        (Malformed, 400, "Validation", 400, "invalid_request_error", Some("invalid_json")),
        (Field, 422, "Validation", 400, "invalid_request_error", None),
        (Refused, 422, "Validation", 400, "invalid_request_error", Some("unsupported_parameter")),
        (TooLong, 422, "Validation", 400, "invalid_request_error", Some("context_length_exceeded")),
        (Empty, 400, "Empty", 400, "invalid_request_error", None),
        (Tokenizer, 422, "Tokenizer", 400, "invalid_request_error", None),
        (UnknownModel, 404, "Validation", 404, "invalid_request_error", Some("model_not_found")),
        (WrongModel, 424, "Backend", 400, "invalid_request_error", Some("model_not_supported")),
        (UnknownRoute, 404, "Validation", 404, "invalid_request_error", Some("unknown_url")),
        (Method, 405, "Validation", 405, "invalid_request_error", Some("method_not_allowed")),
        (MediaType, 415, "Validation", 415, "invalid_request_error", Some("unsupported_media_type")),
        (PayloadTooLarge, 413, "Validation", 413, "invalid_request_error", Some("payload_too_large")),
        (Unauthorized, 401, "Validation", 401, "authentication_error", Some("invalid_api_key")),
        (SlowClient, 408, "Validation", 408, "invalid_request_error", Some("request_timeout")),
        (Overloaded, 429, "Overloaded", 429, "rate_limit_error", Some("rate_limit_exceeded")),
        (Unavailable, 503, "Unhealthy", 503, "service_unavailable_error", Some("not_ready")),
        (Deadline, 503, "Unhealthy", 503, "service_unavailable_error", Some("deadline_exceeded")),
        (Backend, 424, "Backend", 424, "server_error", Some("backend_error")),
        (NotImplemented, 501, "Validation", 501, "not_implemented_error", Some("not_implemented")),
        (Internal, 500, "Backend", 500, "server_error", Some("internal_error")),
    ] {
        let fault = Fault::new(kind, "what and why").with_param("field");
        let answer = fault.answer(ErrorForm::Tei);
        assert_eq!(answer.status, tei, "{kind:?}");
        assert_eq!(parsed(&answer.body), json!({"error": "what and why", "error_type": class}), "{kind:?}");
        let answer = fault.answer(ErrorForm::OpenAi);
        assert_eq!(answer.status, openai, "{kind:?}");
        let error = json!({"message": "what and why", "type": openai_class, "param": "field", "code": code});
        assert_eq!(parsed(&answer.body), json!({"error": error}), "{kind:?}");
    }
}

#[test]
fn another_try_is_offered_where_it_may_succeed() {
    let headers = |fault: Fault| fault.answer(ErrorForm::OpenAi).headers;
    let after = |seconds: &str, milliseconds: &str| {
        let headers = [("retry-after", seconds), ("retry-after-ms", milliseconds), ("x-should-retry", "true")];
        headers.map(|(name, value)| (name, value.to_owned())).to_vec()
    };
    assert_eq!(headers(Fault::new(FaultKind::Overloaded, "")), after("1", "1000"));
    let soon = Fault::new(FaultKind::Overloaded, "").with_retry_after(Duration::from_millis(2100));
    assert_eq!(headers(soon), after("3", "2100"));
    let now = Fault::new(FaultKind::Unavailable, "").with_retry_after(Duration::ZERO);
    assert_eq!(headers(now), after("1", "1"));
    assert_eq!(headers(Fault::new(FaultKind::NotImplemented, "")), [("x-should-retry", "false".to_owned())]);
    assert_eq!(headers(Fault::new(FaultKind::Field, "")), []);
}

#[test]
fn the_path_and_where_needed_the_body_decide_the_form() {
    let form = |path: &str, body: Value| error_form(path, Some(&body));
    assert_eq!(form("/rerank", json!({"documents": []})), ErrorForm::OpenAi);
    assert_eq!(form("/rerank", json!({"texts": []})), ErrorForm::Tei);
    assert_eq!(form("/rerank", json!({"texts": [], "documents": []})), ErrorForm::Tei);
    assert_eq!(form("/v2/rerank", json!({"texts": []})), ErrorForm::OpenAi);
    assert_eq!(form("/tokenize", json!({"prompt": ""})), ErrorForm::OpenAi);
    assert_eq!(form("/tokenize", json!({"inputs": ""})), ErrorForm::Tei);
    assert_eq!(error_form("/v1/nothing", None), ErrorForm::OpenAi);
    assert_eq!(error_form("/nothing", None), ErrorForm::Tei);
    assert_eq!(error_form("/embeddings", None), ErrorForm::OpenAi);
}

#[test]
fn broken_json_and_unknown_routes_take_the_same_form() {
    let fault = |path: &str, body: &[u8]| receive(path, body, &limits(), |_| RootTask::Embed).unwrap_err();
    let broken = fault("/embed", b"{");
    assert_eq!((broken.status, &parsed(&broken.body)["error_type"]), (400, &json!("Validation")));
    let broken = fault("/v1/embeddings", b"\xff");
    assert_eq!((broken.status, &parsed(&broken.body)["error"]["code"]), (400, &json!("invalid_json")));
    let unknown = fault("/v1/chat/completions", b"{}");
    assert_eq!((unknown.status, &parsed(&unknown.body)["error"]["code"]), (404, &json!("unknown_url")));
    let unknown = fault("/embeddd", b"{}");
    assert_eq!((unknown.status, &parsed(&unknown.body)["error_type"]), (404, &json!("Validation")));
}
