//! What the server says of itself.

use ettin_server::protocol::route::PATHS;
use serde_json::{Value, json};

use crate::support::{app, get, request, send};

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    for path in ["/v1/models", "/models"] {
        let list = get(path).await.good();
        let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
        assert!(list["object"] == "list" && ids.len() == 11 && ids[..2] == ["encoder", "decoder"], "{list}");
        assert_eq!(list["data"][0]["tasks"], json!(["embed", "fill-mask"]));
        assert!(list["data"][1]["max_model_len"].as_u64().unwrap() > 0);
    }
    let card = get("/v1/models/encoder").await.good();
    assert!(card["id"] == "encoder" && card["object"] == "model" && card["created"].as_u64().unwrap() > 1_700_000_000);
    for path in ["/v1/models/org/name", "/v1/models/org%2Fname", "/models/org/name"] {
        let answer = get(path).await;
        assert_eq!(answer.status, 404);
        assert!(answer.message(true).contains("\"org/name\""), "{}", answer.text);
        assert_eq!(answer.json()["error"]["code"], "model_not_found");
    }
}

#[tokio::test]
async fn info_has_the_keys_of_tei_and_the_limits() {
    let info = get("/info").await.good();
    for (key, value) in [
        ("model_sha", Value::Null),
        ("served_model_name", json!("encoder")),
        ("model_type", json!({"embedding": {"pooling": "mean"}})),
        ("max_batch_requests", Value::Null),
        ("auto_truncate", json!(true)),
        ("payload_limit", json!(16_000_000)),
        ("docker_label", Value::Null),
    ] {
        assert_eq!(info[key], value, "{key}");
    }
    assert!(info["model_id"].as_str().unwrap().ends_with("nano-encoder"));
    for key in [
        "max_concurrent_requests",
        "max_input_length",
        "max_batch_tokens",
        "max_client_batch_size",
        "tokenization_workers",
        "max_queue_tokens",
        "request_timeout",
    ] {
        assert!(info[key].as_u64().unwrap() > 0, "{key}");
    }
    let models = info["models"].as_array().unwrap();
    assert!(models.len() == 11 && models[2]["tasks"][0] == "rerank" && models[2]["state"] == "ready", "{info}");
}

#[tokio::test]
async fn health_version_load_and_metrics() {
    for path in ["/health", "/ping", "/"] {
        let answer = get(path).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{path}");
    }
    assert_eq!(get("/version").await.good(), json!({"version": env!("CARGO_PKG_VERSION")}));
    assert!(get("/load").await.good()["server_load"].is_u64());
    // Another part of the process has the recorder.
    let metrics = get("/metrics").await;
    assert_eq!(metrics.status, 501);
    assert_eq!(metrics.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn the_document_lists_every_route_and_only_those() {
    let document = get("/openapi.json").await.good();
    let paths = document["paths"].as_object().unwrap();
    for path in PATHS {
        assert!(paths[path]["post"]["requestBody"].is_object(), "{path}");
    }
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let answer = send(app().await, request(&method, path, "")).await;
            let lost = answer.status == 405 || answer.status == 404 && !path.contains("{id}");
            assert!(!lost, "{method} {path}: {}", answer.text);
        }
    }
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "no schema {name}");
    }
    assert_eq!(get("/api-doc/openapi.json").await.text, text);
}
