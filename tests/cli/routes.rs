//! Models with routes, and models without a trunk, on the command line.

use serde_json::{Value, json};

use crate::support::{pipe, read_json, repository, run};

/// A folder of the fixtures of routes.
fn saved(name: &str) -> tempfile::TempDir {
    let fixture = read_json("tests/fixtures/pipelines/routes.json");
    let case = fixture["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (path, entry) in case["files"].as_object().unwrap() {
        let entry = entry.get("pool").map_or(entry, |key| &fixture["pool"][key.as_str().unwrap()]);
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match (entry["of"].as_str(), entry["hex"].as_str()) {
            (Some(source), _) => drop(std::fs::copy(repository().join("models").join(source), path).unwrap()),
            (_, Some(hex)) => std::fs::write(path, bytes(hex)).unwrap(),
            _ => std::fs::write(path, entry.to_string()).unwrap(),
        }
    }
    folder
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_side_of_a_search_chooses_the_route() {
    let folder = saved("router static query");
    let name = folder.path().to_str().unwrap();
    let vector = |flags: &[&str]| {
        let line = run(&[&["embed", "-q", "-m", name], flags, &["The cat sat."]].concat()).lines(0).remove(0);
        assert_eq!(keys(&line), ["index", "embedding"]);
        line["embedding"].clone()
    };
    assert_eq!(vector(&[]), vector(&["--as", "document"]), "the default route");
    assert_ne!(vector(&["--as", "query"]), vector(&["--as", "document"]));
    assert_eq!(vector(&["--task", "query"]), vector(&["--as", "query"]));
    assert_eq!(vector(&["--as", "query", "--dimensions", "3"]).as_array().unwrap().len(), 3);
    let bits = vector(&["--as", "query", "--precision", "ubinary"]);
    assert_eq!(bits.as_array().unwrap().len(), 2);
    // A query without tokens has a vector: zeros.
    let empty = pipe(&["embed", "-q", "-m", name, "--as", "query"], r#"{"text": ""}"#).lines(0).remove(0);
    assert!(empty["embedding"].as_array().unwrap().iter().all(|value| value.as_f64() == Some(0.0)));

    let refused = run(&["embed", "-q", "-m", name, "--task", "clustering", "x"]);
    assert!(refused.status == Some(1) && refused.err.contains("query, document"), "{}", refused.err);
    let refused = run(&["embed", "-q", "-m", name, "--task", "query", "--as", "query", "x"]);
    assert_eq!(refused.status, Some(2), "{}", refused.err);
    let refused = run(&["embed", "-q", "-m", name, "--as", "query", "--layer", "1", "x"]);
    assert!(refused.status == Some(1) && refused.err.contains("without a trunk"), "{}", refused.err);
}

#[test]
fn routes_called_otherwise_have_their_tasks() {
    let folder = saved("asym legacy");
    let name = folder.path().to_str().unwrap();
    let vector = |flags: &[&str]| run(&[&["embed", "-q", "-m", name], flags, &["x"]].concat()).lines(0).remove(0);
    assert_eq!(vector(&[]), vector(&["--as", "query"]), "the first route is the default one");
    assert_ne!(vector(&["--task", "doc"]), vector(&["--as", "query"]));
    let refused = run(&["embed", "-q", "-m", name, "--as", "document", "x"]);
    assert!(refused.status == Some(1) && refused.err.contains("query, doc"), "{}", refused.err);
}

#[test]
fn queries_without_inference_are_compared_with_documents() {
    let folder = saved("splade inference-free");
    let name = folder.path().to_str().unwrap();
    let query = run(&["embed", "-q", "-m", name, "--as", "query", "--decode", "the cat the cat"]).lines(0).remove(0);
    assert_eq!(keys(&query), ["index", "indices", "values", "tokens"]);
    let document = run(&["embed", "-q", "-m", name, "the cat the cat"]).lines(0).remove(0);
    assert_eq!(document, run(&["embed", "-q", "-m", name, "--as", "document", "the cat the cat"]).lines(0)[0]);
    assert!(document["indices"].as_array().unwrap().len() > query["indices"].as_array().unwrap().len());

    let documents = ["The cat sat.", "x", "Where was it?"];
    let scores = run(&[&["similarity", "-q", "-m", name, "Where was it?"], &documents[..]].concat()).lines(0);
    let ranked = run(&[&["rerank", "-q", "-m", name, "Where was it?"], &documents[..]].concat()).lines(0);
    for entry in ranked[0].as_array().unwrap() {
        assert_eq!(entry["score"], scores[0][entry["index"].as_u64().unwrap() as usize]["score"]);
    }
}

#[test]
fn info_describes_routes_and_tables() {
    let folder = saved("splade inference-free");
    let name = folder.path().to_str().unwrap();
    let table = run(&["info", "-m", name, "-f", "table"]);
    for part in [
        "query: SparseStaticEmbedding",
        "document, the default: Transformer (fill-mask), SpladePooling (max, relu)",
        "dot",
        "in the folder document_0_Transformer",
    ] {
        assert!(table.text(0).contains(part), "{part}: {}", table.text(0));
    }
    let record = run(&["info", "-m", name, "-f", "json"]);
    let record: Value = serde_json::from_str(record.text(0)).unwrap();
    let routes = record["model"]["chain"]["routes"].as_array().unwrap();
    assert_eq!(routes[0]["modules"], json!(["SparseStaticEmbedding"]));
    assert_eq!((&routes[1]["name"], &routes[1]["default"]), (&json!("document"), &json!(true)));
    assert_eq!(routes[1]["sides"], json!(["document"]));

    let folder = saved("model2vec");
    let name = folder.path().to_str().unwrap();
    let table = run(&["info", "-m", name, "-f", "table"]);
    for part in ["static embeddings", "StaticEmbedding, Normalize", "embed, similarity"] {
        assert!(table.text(0).contains(part), "{part}: {}", table.text(0));
    }
    assert_eq!(run(&["similarity", "-q", "-m", name, "a cat", "a cat"]).lines(0)[0][0]["index"], 0);
    let refused = run(&["info", "-m", name, "--check"]);
    assert!(refused.status == Some(1) && refused.err.contains("no trunk"), "{}", refused.err);
}

#[test]
fn an_adapter_on_a_model_without_a_trunk_is_refused() {
    let folder = saved("static alone");
    let name = folder.path().to_str().unwrap();
    let adapter = repository().join("models/tiny-adapters/list");
    let refused = run(&["embed", "-q", "-m", name, "--adapter", adapter.to_str().unwrap(), "x"]);
    assert!(refused.status == Some(1) && refused.err.contains("no trunk"), "{}", refused.err);
}
