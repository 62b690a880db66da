//! What is refused, by name and with the field's path.

use ettin_server::protocol::hugging_face::TextOrTexts;
use ettin_server::protocol::route::route;
use ettin_server::protocol::{Call, Fault, FaultKind, RootTask};
use serde_json::{Value, json};

fn fault(path: &str, body: Value) -> Fault {
    match route(path, body.clone(), |_| RootTask::Embed) {
        Ok(call) => panic!("{path} {body} became {call:?}"),
        Err(fault) => fault,
    }
}

/// A body with one more field.
fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

#[test]
fn wrong_fields_are_named_by_their_path() {
    for (path, body, param) in [
        ("/embed", json!({}), "inputs"),
        ("/embed", json!({"inputs": "a", "normalize": "yes"}), "normalize"),
        ("/embed", json!({"inputs": "a", "dimensions": 0}), "dimensions"),
        ("/embed", json!({"inputs": "a", "dimensions": -1}), "dimensions"),
        ("/embed", json!({"inputs": "a", "truncation_direction": "up"}), "truncation_direction"),
        ("/embed", json!({"inputs": [1, "a"]}), "inputs"),
        ("/embed", json!({"inputs": ["a", 1]}), "inputs"),
        ("/embed", json!({"inputs": [[1.5]]}), "inputs"),
        ("/embed", json!({"inputs": [-1]}), "inputs"),
        ("/embed", json!({"inputs": [4_294_967_296_u64]}), "inputs"),
        ("/embed", json!({"inputs": {"a": 1}}), "inputs"),
        ("/predict", json!({"inputs": ["a", "b", "c"]}), "inputs"),
        ("/predict", json!({"inputs": [["a", "b", "c"]]}), "inputs"),
        ("/similarity", json!({"inputs": {"source_sentence": "a"}}), "inputs.sentences"),
        ("/rerank", json!({"query": "q"}), "documents"),
        ("/rerank", json!({"documents": ["a"]}), "query"),
        ("/rerank", json!({"query": "q", "documents": ["a"], "top_n": -1}), "top_n"),
        ("/score", json!({"text_1": ["a", "b"], "text_2": ["c"]}), "text_1"),
        ("/v1/embeddings", json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        ("/v1/embeddings", json!({"input": "a", "embd_normalize": 1}), "embd_normalize"),
        ("/v1/embeddings", json!({"input": "a", "truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
        (
            "/",
            json!({"inputs": "a", "parameters": {"aggregation_strategy": "some"}}),
            "parameters.aggregation_strategy",
        ),
        (
            "/",
            json!({"inputs": "a", "parameters": {"candidate_labels": "x", "hypothesis_template": "no"}}),
            "parameters.hypothesis_template",
        ),
        ("/", json!({"inputs": "a", "parameters": {"max_new_tokens": 0}}), "parameters.max_new_tokens"),
        (
            "/vertex",
            json!({"instances": [{"inputs": "a"}, {"inputs": "a", "dimensions": 0}]}),
            "instances[1].dimensions",
        ),
    ] {
        let fault = fault(path, body.clone());
        assert_eq!(fault.kind, FaultKind::Field, "{body}: {fault}");
        let found = fault.param.as_deref().unwrap_or("");
        assert!(found == param || found.starts_with(&format!("{param}[")), "{body}: {found}: {fault}");
        let last = param.rsplit('.').next().unwrap();
        assert!(fault.message.contains(last), "{body}: {fault}");
    }
}

#[test]
fn an_element_is_named_by_its_place() {
    let fault = fault("/embed", json!({"inputs": ["a", "b", true]}));
    assert_eq!(fault.param.as_deref(), Some("inputs[2]"));
    assert!(fault.message.contains("a string, a token id or a list of token ids"), "{fault}");
}

#[test]
fn bodies_that_are_no_objects_are_errors() {
    for body in [json!([]), json!("a"), json!(1), json!(true), json!(null)] {
        for path in ["/", "/embed", "/rerank", "/tokenize", "/v1/completions", "/vertex"] {
            let fault = fault(path, body.clone());
            assert!(fault.message.contains("expected a JSON object"), "{path} {body}: {fault}");
        }
    }
}

#[test]
fn empty_inputs_are_errors_of_their_own() {
    for (path, body) in [
        ("/embed", json!({"inputs": ""})),
        ("/embed", json!({"inputs": []})),
        ("/embed", json!({"inputs": ["a", ""]})),
        ("/embed", json!({"inputs": [[]]})),
        ("/predict", json!({"inputs": [["a"], [""]]})),
        ("/predict", json!({"inputs": []})),
        ("/rerank", json!({"query": "", "texts": ["a"]})),
        ("/rerank", json!({"query": "q", "texts": []})),
        ("/rerank", json!({"query": "q", "documents": []})),
        ("/decode", json!({"ids": []})),
        ("/v1/embeddings", json!({"input": []})),
        ("/v1/completions", json!({"prompt": [[]]})),
        ("/vertex", json!({"instances": []})),
        ("/", json!({"inputs": "a", "parameters": {"candidate_labels": " , "}})),
    ] {
        assert_eq!(fault(path, body.clone()).kind, FaultKind::Empty, "{body}");
    }
    for (path, body) in [("/v1/embeddings", json!({"input": ""})), ("/v1/completions", json!({"prompt": ""}))] {
        assert!(route(path, body, |_| RootTask::Embed).is_ok(), "an empty text is a text at {path}");
    }
}

#[test]
fn what_has_no_meaning_is_refused_by_name() {
    let completion = json!({"prompt": "a"});
    let embeddings = json!({"input": "a"});
    let rerank = json!({"query": "q", "documents": ["a"]});
    for (path, body, field, value) in [
        ("/v1/completions", &completion, "suffix", json!("b")),
        ("/v1/completions", &completion, "messages", json!([])),
        ("/v1/completions", &completion, "prompt_logprobs", json!(1)),
        ("/v1/completions", &completion, "guided_json", json!({"type": "object"})),
        ("/v1/completions", &completion, "response_format", json!({"type": "json_object"})),
        ("/v1/completions", &completion, "tools", json!([{}])),
        ("/v1/embeddings", &embeddings, "encoding_format", json!("bytes")),
        ("/v1/embeddings", &embeddings, "normalize", json!(false)),
        ("/v1/embeddings", &embeddings, "embed_dtype", json!("float16")),
        ("/v1/embeddings", &embeddings, "endianness", json!("big")),
        ("/v1/embeddings", &embeddings, "messages", json!([])),
        ("/v1/embeddings", &embeddings, "modality", json!("image")),
        ("/rerank", &rerank, "rank_fields", json!(["title"])),
        ("/v1/rerank", &rerank, "max_chunks_per_doc", json!(10)),
    ] {
        let fault = fault(path, with(body.clone(), field, value));
        assert_eq!(fault.param.as_deref(), Some(field), "{fault}");
        assert!(fault.message.contains(field), "{fault}");
        assert!(fault.kind == FaultKind::Refused || field == "encoding_format", "{fault:?}");
    }
    let grammar = json!({"inputs": "a", "parameters": {"max_new_tokens": 1, "grammar": {"type": "json", "value": {}}}});
    assert_eq!(fault("/", grammar).param.as_deref(), Some("parameters.grammar"));
}

#[test]
fn penalties_and_allowed_tokens_are_checked_and_carried() {
    for (field, value) in [
        ("presence_penalty", json!(2.5)),
        ("frequency_penalty", json!(-3)),
        ("allowed_token_ids", json!([])),
        ("bad_words", json!([""])),
    ] {
        let fault = fault("/v1/completions", with(json!({"prompt": "a"}), field, value));
        assert!(fault.param.as_deref() == Some(field) && fault.message.contains(field), "{fault}");
    }
    let body = json!({"prompt": "a", "presence_penalty": 1, "frequency_penalty": -0.5, "allowed_token_ids": [3, 1]});
    let Ok(Call::Completion(request)) = route("/completions", body, |_| RootTask::Embed) else { panic!() };
    let decoding = request.decoding().unwrap();
    assert_eq!((decoding.presence_penalty, decoding.frequency_penalty), (1.0, -0.5));
    assert_eq!(decoding.allowed_ids, Some(vec![3, 1]));
}

#[test]
fn values_that_ask_for_nothing_are_let_through() {
    for (field, value) in [
        ("suffix", json!("")),
        ("presence_penalty", json!(0)),
        ("frequency_penalty", json!(0.0)),
        ("response_format", json!({"type": "text"})),
        ("use_beam_search", json!(false)),
        ("length_penalty", json!(1.0)),
        ("tools", json!([])),
        ("user", json!("u")),
        ("stop", json!([])),
        ("stream_options", Value::Null),
    ] {
        let mut body = json!({"prompt": "a"});
        if !value.is_null() {
            body[field] = value;
        }
        assert!(route("/v1/completions", body, |_| RootTask::Embed).is_ok(), "{field}");
    }
}

#[test]
fn completions_check_ranges_and_contradictions() {
    for (field, extra) in [
        ("max_tokens", json!({"max_tokens": 0})),
        ("temperature", json!({"temperature": -0.1})),
        ("top_p", json!({"top_p": 0})),
        ("top_p", json!({"top_p": 1.1})),
        ("top_k", json!({"top_k": -2})),
        ("min_p", json!({"min_p": 2})),
        ("repetition_penalty", json!({"repetition_penalty": 0})),
        ("n", json!({"n": 0})),
        ("n", json!({"n": 1000})),
        ("best_of", json!({"n": 2, "best_of": 1})),
        ("best_of", json!({"best_of": 2, "stream": true})),
        ("logprobs", json!({"logprobs": 21})),
        ("logprobs", json!({"logprobs": true})),
        ("logit_bias", json!({"logit_bias": {"5": 101}})),
        ("logit_bias", json!({"logit_bias": {"x": 1}})),
        ("stream_options", json!({"stream_options": {"include_usage": true}})),
        ("min_tokens", json!({"min_tokens": 17})),
        ("seed", json!({"seed": 1.5})),
        ("stop", json!({"stop": 1})),
    ] {
        let mut body = json!({"prompt": "a"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let fault = fault("/v1/completions", body);
        let param = fault.param.as_deref().unwrap_or("");
        assert!(param.starts_with(field), "{extra}: {param}: {fault}");
    }
    let echo = json!({"prompt": "a", "max_tokens": 0, "echo": true, "logprobs": 0});
    assert!(route("/v1/completions", echo, |_| RootTask::Embed).is_ok());
}

fn completion(body: Value) -> ettin_server::protocol::decoding::Decoding {
    match route("/v1/completions", body, |_| RootTask::Embed) {
        Ok(Call::Completion(request)) => request.decoding().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn neutral_settings_of_a_completion_are_off() {
    let decoding = completion(json!({"prompt": "a", "top_k": -1, "top_p": 1, "min_p": 0}));
    assert_eq!((decoding.top_k, decoding.top_p, decoding.min_p), (None, None, None));
    assert_eq!((decoding.temperature, decoding.max_new_tokens), (1.0, 16));
    let decoding = completion(json!({
        "prompt": "a", "top_k": 5, "top_p": 0.5, "min_p": 0.1, "stop": ["", "x"], "seed": 7,
        "logit_bias": {"100": 1, "20": -1},
    }));
    assert_eq!((decoding.top_k, decoding.top_p, decoding.min_p), (Some(5), Some(0.5), Some(0.1)));
    assert_eq!(decoding.stop, ["x"]);
    assert_eq!(decoding.seed, Some(7));
    assert_eq!(decoding.logit_bias, [(20, -1.0), (100, 1.0)], "by number, not by text");
}

#[test]
fn generation_is_greedy_until_sampling_is_asked_for() {
    let temperature = |parameters: Value| match route("/", json!({"inputs": "a", "parameters": parameters}), |_| {
        RootTask::Generate
    }) {
        Ok(Call::Generation(request)) => request.decoding().temperature,
        other => panic!("{other:?}"),
    };
    assert_eq!(temperature(json!({})), 0.0);
    assert_eq!(temperature(json!({"temperature": 1.0})), 0.0);
    assert_eq!(temperature(json!({"do_sample": true})), 1.0);
    assert_eq!(temperature(json!({"temperature": 0.5})), 0.5);
    assert_eq!(temperature(json!({"top_k": 3})), 1.0);
    assert_eq!(temperature(json!({"top_p": 1.0, "top_k": 0})), 0.0);
}

#[test]
fn both_names_of_stop_texts_count() {
    let body = json!({"inputs": "a", "parameters": {"stop": ["x"], "stop_sequences": ["y"], "max_new_tokens": 1}});
    match route("/", body, |_| RootTask::Generate) {
        Ok(Call::Generation(request)) => assert_eq!(request.decoding().stop, ["x", "y"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_of_texts_is_a_batch_for_hugging_faces_clients() {
    let body = json!({"inputs": ["a", "b", "c"], "parameters": {}});
    match route("/", body, |_| RootTask::Predict) {
        Ok(Call::Classification(request)) => {
            assert_eq!(request.inputs, TextOrTexts::Many(vec!["a".into(), "b".into(), "c".into()]))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn pairs_are_one_with_each_or_side_by_side() {
    let pairs = |body: Value| match route("/score", body, |_| RootTask::Embed) {
        Ok(Call::Score(request)) => request.into_pairs(),
        other => panic!("{other:?}"),
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(pairs(json!({"text_1": "q", "text_2": "a"})), [pair("q", "a")]);
    assert_eq!(pairs(json!({"queries": ["q"], "documents": ["a", {"text": "b"}]})), [pair("q", "a"), pair("q", "b")]);
    assert_eq!(pairs(json!({"data_1": ["q", "r"], "data_2": ["a", "b"]})), [pair("q", "a"), pair("r", "b")]);
}
