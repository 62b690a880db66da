//! Errors: each class in its protocol's form, and health after each.

use axum::body::Body;
use axum::http::Request;
use ettin_server::http::ServerOptions;
use ettin_server::models::{ModelSettings, ModelSource, Registry};
use ettin_server::service::Service;
use serde_json::{Value, json};

use crate::support::{app, assert_well, refused, request, router_of, send, service};

/// A path of each protocol with a body that it takes.
const PLAIN: (&str, &str) = ("/embed", r#"{"inputs": "a"}"#);
const NESTED: (&str, &str) = ("/v1/embeddings", r#"{"input": "a"}"#);

#[tokio::test]
async fn broken_bodies() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    for (path, open_ai) in [(PLAIN.0, false), (NESTED.0, true)] {
        for (body, word) in [
            (b"{".to_vec(), "not valid JSON"),
            (b"".to_vec(), "not valid JSON"),
            (b"{\"inputs\": \"a\"} x".to_vec(), "not valid JSON"),
            (b"{\"inputs\": \"\xff\xfe\"}".to_vec(), "not UTF-8"),
            (b"\xef\xbb\xbf{}".to_vec(), "not valid JSON"),
            (b"{\"inputs\": \"\\ud800\"}".to_vec(), "not valid JSON"),
            (b"{\"inputs\": \"a\", \"dimensions\": NaN}".to_vec(), "NaN"),
            (b"{\"inputs\": \"a\", \"dimensions\": -Infinity}".to_vec(), "Infinity"),
            (b"{\"inputs\": \"a\", \"x\": 1e999}".to_vec(), "out of range"),
            (b"{\"inputs\": \"a\", \"x\": 1e39}".to_vec(), "out of range"),
            (b"{\"inputs\": \"a\", \"inputs\": \"b\"}".to_vec(), "twice"),
            (deep("[", "]").into_bytes(), "within each other"),
            (deep("{\"a\":", "}").into_bytes(), "within each other"),
        ] {
            let answer = refused(path, body.clone()).await;
            let message = answer.message(open_ai);
            assert_eq!(answer.status, 400, "{message}");
            assert!(message.contains(word), "{message}");
            assert!(answer.text.len() < 1000);
        }
    }
}

#[tokio::test]
async fn wrong_fields() {
    for (path, body, status, open_ai, word) in [
        ("/embed", json!({}), 422, false, "inputs"),
        ("/embed", json!({"inputs": null}), 422, false, "inputs"),
        ("/embed", json!({"inputs": 5}), 422, false, "inputs"),
        ("/embed", json!([1]), 422, false, "object"),
        ("/embed", json!({"inputs": []}), 400, false, "empty"),
        ("/embed", json!({"inputs": ["a", ""]}), 400, false, "inputs[1]"),
        ("/embed", json!({"inputs": "a", "dimensions": 0}), 422, false, "dimensions"),
        ("/embed", json!({"inputs": "a", "prompt_name": "none such"}), 422, false, "none such"),
        ("/embed", json!({"inputs": [[-1]]}), 422, false, "inputs"),
        ("/embed", json!({"inputs": [[5_000_000_000u64]]}), 422, false, "32 bits"),
        ("/v1/embeddings", json!({}), 400, true, "input"),
        ("/v1/embeddings", json!({"input": "a", "encoding_format": "bytes"}), 400, true, "encoding_format"),
        ("/v1/embeddings", json!({"input": "a", "messages": []}), 400, true, "messages"),
        ("/v1/embeddings", json!({"input": "a", "truncate_prompt_tokens": 3}), 400, true, "truncate_prompt_tokens"),
        ("/v1/embeddings", json!({"input": "a", "add_special_tokens": false}), 400, true, "add_special_tokens"),
        ("/rerank", json!({"query": "q"}), 422, false, "documents"),
        ("/rerank", json!({"query": "q", "documents": []}), 400, true, "documents"),
        (
            "/rerank",
            json!({"query": "q", "documents": ["a"], "max_tokens_per_doc": 3}),
            400,
            true,
            "max_tokens_per_doc",
        ),
        ("/predict", json!({"inputs": ["a", "b", "c"], "model": "classify"}), 422, false, "batch"),
        ("/classify", json!({"input": [[1, 2]], "model": "classify"}), 400, true, "ids"),
        ("/pooling", json!({"input": "a", "task": "token_classify", "model": "tag"}), 400, true, "token_classify"),
        ("/score", json!({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}), 400, true, "as many"),
        ("/tokenize", json!({"inputs": [[1]]}), 422, false, "ids"),
        ("/tokenize", json!({"prompt": "a", "messages": []}), 400, true, "messages"),
        ("/decode", json!({"ids": [4_000_000_000u32]}), 422, false, "vocabulary"),
        ("/detokenize", json!({"tokens": [4_000_000_000u32]}), 400, true, "vocabulary"),
        ("/vertex", json!({"instances": [{"inputs": "a"}, {"inputs": 5}]}), 422, false, "instances[1]"),
        ("/", json!({"inputs": "a [MASK]", "parameters": {"targets": ["x"]}}), 422, false, "targets"),
        ("/", json!({"inputs": "no mask", "parameters": {"top_k": 2}, "model": "encoder"}), 422, false, "[MASK]"),
        ("/", json!({"inputs": {"question": "q", "context": "c"}, "parameters": {"top_k": 3}}), 422, false, "top_k"),
    ] {
        let answer = refused(path, body.to_string()).await;
        let message = answer.message(open_ai);
        assert_eq!(answer.status, status, "{path} {body}: {message}");
        assert!(message.contains(word), "{path} {body}: {message}");
    }
}

#[tokio::test]
async fn ids_of_another_tokenizer_are_refused_with_the_option_that_sends_them() {
    for (path, field, open_ai, status) in [("/v1/embeddings", "input", true, 400), ("/embed", "inputs", false, 422)] {
        let answer = refused(path, json!({field: [[9], [100_257]], "model": "encoder"}).to_string()).await;
        let message = answer.message(open_ai);
        assert_eq!(answer.status, status);
        for word in ["input 1", "100257", "check_embedding_ctx_length=False"] {
            assert!(message.contains(word), "{message}");
        }
    }
}

#[tokio::test]
async fn models_of_another_kind_and_unknown_names() {
    // A name that no model has means the one that fits.
    let body = json!({"model": "http://127.0.0.1:3000", "inputs": "a"});
    assert_eq!(send(app().await, request("POST", "/embed", body.to_string())).await.status, 200);
    for (path, body, status, open_ai) in [
        ("/rerank", json!({"query": "q", "texts": ["a"], "model": "encoder"}), 424, false),
        ("/rerank", json!({"query": "q", "documents": ["a"], "model": "encoder"}), 400, true),
        ("/embed", json!({"inputs": "a", "model": "tag"}), 424, false),
        ("/v1/embeddings", json!({"input": "a", "model": "tag"}), 400, true),
        ("/score", json!({"text_1": "a", "text_2": "b", "model": "colbert"}), 400, true),
    ] {
        let answer = refused(path, body.to_string()).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        answer.message(open_ai);
    }
}

#[tokio::test]
async fn routes_methods_and_media_types() {
    for (method, path, status, open_ai) in [
        ("GET", "/nowhere", 404, false),
        ("POST", "/v1/nowhere", 404, true),
        ("POST", "/embed/", 404, false),
        ("GET", "/embed", 405, false),
        ("DELETE", "/v1/embeddings", 405, true),
        ("POST", "/health", 405, false),
        ("POST", "/v1/models", 405, true),
    ] {
        let answer = send(app().await, request(method, path, "{}")).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        assert!(answer.message(open_ai).contains(path));
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}");
    }
    for ((path, body), open_ai) in [(PLAIN, false), (NESTED, true)] {
        for media_type in [Some("text/plain"), Some("application/x-www-form-urlencoded"), None] {
            let mut request = Request::post(path);
            if let Some(media_type) = media_type {
                request = request.header("content-type", media_type);
            }
            let answer = send(app().await, request.body(Body::from(body)).unwrap()).await;
            assert_eq!(answer.status, 415, "{media_type:?}");
            assert!(answer.message(open_ai).contains("application/json"));
        }
        let request =
            Request::post(path).header("content-type", "Application/vnd.x+JSON").body(Body::from(body)).unwrap();
        assert_eq!(send(app().await, request).await.status, 200);
    }
    assert_well().await;
}

#[tokio::test]
async fn a_body_that_breaks_off() {
    for (path, open_ai) in [(PLAIN.0, false), (NESTED.0, true)] {
        let pieces = [Ok("{\"inputs\": "), Err(std::io::Error::other("gone"))];
        let body = Body::from_stream(tokio_stream::iter(pieces));
        let answer = refused(path, body).await;
        assert_eq!(answer.status, 400);
        assert!(answer.message(open_ai).contains("broke off after 11 bytes"), "{}", answer.text);
    }
}

#[tokio::test]
async fn texts_over_the_limit_are_cut_and_told_or_refused() {
    let long = "word ".repeat(9_000);
    for (path, field, open_ai, status) in [("/embed", "inputs", false, 422), ("/v1/embeddings", "input", true, 400)] {
        let body = json!({field: [long, "a"], "model": "chain"}).to_string();
        let answer = send(app().await, request("POST", path, body.clone())).await;
        assert_eq!((answer.status, answer.header("x-truncated")), (200, Some("1")), "{}", answer.text);
        let router = router_of(service(&["chain"], ModelSettings::default()).await, strict());
        let answer = send(router, request("POST", path, body)).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.message(open_ai).contains("128"), "{}", answer.text);
    }
    let sides = |side: &str| json!({"inputs": format!("{long}end"), "model": "chain", "truncation_direction": side});
    let mut vectors = Vec::new();
    for side in ["Left", "right"] {
        vectors.push(send(app().await, request("POST", "/embed", sides(side).to_string())).await.good());
    }
    assert_ne!(vectors[0], vectors[1]);
}

fn strict() -> ServerOptions {
    let mut options = ServerOptions::default();
    options.auto_truncate = false;
    options
}

#[tokio::test]
async fn a_full_queue_and_models_that_are_not_there() {
    let mut settings = ModelSettings::default();
    settings.max_queue_tokens = 1;
    let service = service(&["chain"], settings).await;
    let model = service.registry().choose(None, ettin_server::models::Ability::Embed).unwrap();
    let held = model.admission.reserve(1).unwrap();
    let router = router_of(service, ServerOptions::default());
    for ((path, body), open_ai) in [(PLAIN, false), (NESTED, true)] {
        let answer = send(router.clone(), request("POST", path, body)).await;
        assert_eq!(answer.status, 429, "{}", answer.text);
        answer.message(open_ai);
        let (seconds, milliseconds) = (answer.header("retry-after").unwrap(), answer.header("retry-after-ms").unwrap());
        assert!(seconds.parse::<u64>().unwrap() >= 1 && milliseconds.parse::<u64>().unwrap() >= 1);
    }
    drop(held);
    assert_eq!(send(router.clone(), request("POST", PLAIN.0, PLAIN.1)).await.status, 200);

    // Never told to load.
    let gone = ModelSource::new("m", || Ok(ettin::files::ModelFiles::folder("/no/such")?));
    let registry = Registry::new(vec![gone], ModelSettings::default()).unwrap();
    let router = router_of(Service::new(registry, 1).unwrap(), ServerOptions::default());
    for (method, path, body, open_ai) in [
        ("GET", "/health", "", false),
        ("GET", "/info", "", false),
        ("GET", "/v1/models/m", "", true),
        ("POST", PLAIN.0, PLAIN.1, false),
        ("POST", NESTED.0, NESTED.1, true),
        ("POST", "/", PLAIN.1, false),
    ] {
        let answer = send(router.clone(), request(method, path, body)).await;
        assert_eq!(answer.status, 503, "{path}: {}", answer.text);
        assert!(answer.message(open_ai).contains("load"), "{}", answer.text);
        assert!(answer.header("retry-after").is_some());
    }
    let list: Value = send(router, request("GET", "/v1/models", "")).await.good();
    assert_eq!(list["data"], json!([]));
}

#[tokio::test]
async fn a_request_whose_time_is_over() {
    let mut options = ServerOptions::default();
    options.request_timeout = std::time::Duration::ZERO;
    let router = router_of(service(&["chain"], ModelSettings::default()).await, options);
    for ((path, body), open_ai) in [(PLAIN, false), (NESTED, true)] {
        let answer = send(router.clone(), request("POST", path, body)).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.message(open_ai).contains("deadline"));
    }
}
