//! Bodies that real clients sent, over HTTP.

use serde_json::{Map, Value, json};

use crate::support::{Answer, app, assert_well, request, send};

/// The model that a recorded body of `/` was meant for.
fn model(root: &str) -> &str {
    match root {
        "predict" => "classify",
        "rerank" => "rerank",
        "generate" => "decoder",
        _ => "encoder",
    }
}

/// What this server does not do, by the word that its answer has.
fn refused_for(client: &str) -> Option<&'static str> {
    match client {
        "huggingface_hub fill_mask" => Some("targets"),
        // Ids of another vocabulary, beyond this one.
        "langchain-openai 1.7.4 embeddings" => Some("check_embedding_ctx_length"),
        "vLLM embeddings, extras" => Some("add_special_tokens"),
        _ => None,
    }
}

fn inputs(body: &Value, key: &str) -> usize {
    match &body[key] {
        Value::Array(list) if list.first().is_some_and(Value::is_number) => 1,
        Value::Array(list) => list.len(),
        _ => 1,
    }
}

#[tokio::test]
async fn recorded_bodies_get_what_their_clients_read() {
    let list: Vec<Map<String, Value>> = serde_json::from_str(include_str!("../protocol/requests.json")).unwrap();
    assert!(list.len() > 60);
    for entry in list {
        let (client, path) = (entry["client"].as_str().unwrap(), entry["path"].as_str().unwrap());
        let call = entry["call"].as_object().unwrap().keys().next().unwrap().as_str();
        if ["completion", "generation"].contains(&call) {
            continue; // Streams and sampling have tests of their own.
        }
        let mut body = entry["body"].clone();
        if body.get("model").is_none() && ["/", "/invocations"].contains(&path) {
            body["model"] = model(entry["root"].as_str().unwrap()).into();
            if ["similarity", "question", "tag", "zero_shot"].contains(&call) {
                body.as_object_mut().unwrap().remove("model");
            }
        }
        let answer = send(app().await, request("POST", path, body.to_string())).await;
        if let Some(word) = refused_for(client) {
            assert!(answer.status >= 400 && answer.text.contains(word), "{client}: {}", answer.text);
            continue;
        }
        assert_eq!(answer.status, 200, "{client}: {body} {}", answer.text);
        check(client, call, &body, &answer);
    }
    assert_well().await;
}

/// Whether the answer has what clients of this call read.
fn check(client: &str, call: &str, body: &Value, answer: &Answer) {
    let value = answer.json();
    let count = |list: &Value| list.as_array().unwrap_or_else(|| panic!("{client}: {value}")).len();
    let numbers =
        |list: &Value| list.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_number));
    let place = |one: &Value, score: &str| one["index"].is_u64() && one[score].is_number();
    let label = |one: &Value| one["label"].is_string() && one["score"].is_number();
    let good = match call {
        "embed" => count(&value) == inputs(body, "inputs") && numbers(&value[0]),
        "embed_all" => numbers(&value[0][0]),
        "embed_sparse" => value[0][0]["index"].is_u64() && value[0][0]["value"].is_number(),
        "predict" => match body["inputs"].is_array() && body["inputs"][0].is_array() {
            true => count(&value) == inputs(body, "inputs") && label(&value[0][0]),
            false => label(&value[0]),
        },
        "classification" => label(&value[0][0]),
        "text_rerank" => place(&value[0], "score") && value[0].get("text").is_some() == (body["return_text"] == true),
        "document_rerank" => {
            let results = &value["results"];
            let kept = body["top_n"].as_u64().map_or(inputs(body, "documents"), |n| n as usize);
            let repeated = body["return_documents"] == true;
            count(results) == kept
                && place(&results[0], "relevance_score")
                && (results[0].get("document").is_some() == repeated)
        }
        "similarity" => numbers(&value),
        "tokenize" => value[0][0]["id"].is_u64(),
        "prompt_tokenize" => value["tokens"][0].is_u64() && value["count"] == json!(count(&value["tokens"])),
        "decode" => value[0].is_string(),
        "detokenize" => value["prompt"].is_string(),
        "vertex" => count(&value["predictions"]) == inputs(body, "instances"),
        "embeddings" => {
            let data = &value["data"];
            let vector = &data[0]["embedding"];
            let base64 = body["encoding_format"] == "base64";
            count(data) == inputs(body, "input") && if base64 { vector.is_string() } else { numbers(vector) }
        }
        "score" => count(&value["data"]) >= 1 && value["data"][0]["score"].is_number(),
        "classify" if body.get("raw_scores").is_some() => label(&value["data"][0][0]),
        "classify" => numbers(&value["data"][0]["probs"]) && value["data"][0]["label"].is_string(),
        "pooling" => !value["data"][0]["data"].is_null(),
        "fill_mask" => value[0]["token_str"].is_string(),
        "tag" => value.is_array(),
        "question" => value["answer"].is_string(),
        "zero_shot" => label(&value[0]),
        other => panic!("no check of {other}"),
    };
    assert!(good, "{client}: {value}");
    if ["embed", "embed_all", "embed_sparse", "predict", "text_rerank", "similarity", "embeddings"].contains(&call) {
        assert!(answer.header("x-compute-tokens").is_some(), "{client}");
    }
}
