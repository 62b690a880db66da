//! Keys, their order and their values are those of the reference's pipelines, for every fixture.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{assert_close, assert_close_vectors, pipe, read_json};

/// Runs all cases of a fixture file, those with the same model and options in one process, and hands each result and
/// its case to `check`.
fn each_case(
    task: &str,
    file: &str,
    flags: impl Fn(&Value) -> Option<Vec<String>>,
    record: impl Fn(&Value) -> Value,
    check: impl Fn(&Value, &Value, &str),
) {
    let fixture = read_json(format!("tests/fixtures/pipelines/{file}.json"));
    let mut groups: BTreeMap<(String, Vec<String>), Vec<&Value>> = BTreeMap::new();
    for case in fixture["cases"].as_array().unwrap() {
        if let Some(flags) = flags(case) {
            let model = case["model"].as_str().unwrap().to_owned();
            groups.entry((model, flags)).or_default().push(case);
        }
    }
    assert!(!groups.is_empty());
    for ((model, flags), cases) in groups {
        let mut arguments = vec![task, "--model", &model];
        arguments.extend(flags.iter().map(String::as_str));
        let input: String = cases.iter().map(|case| format!("{}\n", record(&case["input"]))).collect();
        let results = pipe(&arguments, input).lines(0);
        assert_eq!(results.len(), cases.len(), "{arguments:?}");
        for (result, case) in results.iter().zip(cases) {
            check(result, case, &format!("{arguments:?} {}", case["input"]));
        }
    }
}

fn text(input: &Value) -> Value {
    json!({ "text": input })
}

fn equals_output(result: &Value, case: &Value, what: &str) {
    assert_close(result, &case["output"], what);
}

#[test]
fn fill_mask() {
    let flags = |case: &Value| Some(vec!["--top-k".into(), case["options"]["top_k"].to_string()]);
    each_case("fill-mask", "fill_mask", flags, text, equals_output);
}

#[test]
fn classify() {
    let flags = |case: &Value| {
        let options = case["options"].as_object().unwrap();
        let mut flags = Vec::new();
        match options.get("top_k") {
            // The pipeline's own default; ours is all labels.
            None => flags.extend(["--top-k".into(), "1".into()]),
            Some(Value::Null) => {}
            Some(k) => flags.extend(["--top-k".into(), k.to_string()]),
        }
        if options.contains_key("function_to_apply") {
            flags.push("--raw".into());
        }
        Some(flags)
    };
    each_case("classify", "classify", flags, Value::clone, equals_output);
}

#[test]
fn tag() {
    let flags = |case: &Value| {
        let options = &case["options"];
        let mut flags = vec!["--aggregation".into(), options["aggregation_strategy"].as_str()?.into()];
        if options["ignore_labels"] == json!([]) {
            flags.push("--all".into());
        }
        Some(flags)
    };
    each_case("tag", "tag", flags, text, equals_output);
}

#[test]
fn answer() {
    // The command gives the best answer; the pipeline's list of it has one entry.
    let flags = |case: &Value| (case["options"] == json!({})).then(Vec::new);
    each_case("answer", "answer", flags, Value::clone, |result, case, what| {
        assert_close(result, &case["output"][0], what);
    });
}

#[test]
fn answer_or_none() {
    let flags = |case: &Value| case["options"].get("top_k").is_none().then(|| vec!["--no-answer".into()]);
    each_case("answer", "no_answer", flags, Value::clone, |result, case, what| {
        assert_close(result, &case["output"][0], what);
    });
}

#[test]
fn rerank() {
    let flags = |case: &Value| {
        Some(match case["options"]["activation"].as_str() {
            Some(activation) => vec!["--activation".into(), activation.into()],
            None => Vec::new(),
        })
    };
    each_case("rerank", "rerank", flags, Value::clone, equals_output);
}

#[test]
fn score() {
    let flags = |case: &Value| {
        let mut flags = vec!["--method".into(), case["options"]["method"].as_str()?.into()];
        if case["options"]["bos"] == json!(false) {
            flags.push("--no-bos".into());
        }
        Some(flags)
    };
    each_case("score", "score", flags, Value::clone, equals_output);
    let joined = |case: &Value| flags(case).map(|flags| [flags, vec!["--join".into()]].concat());
    each_case("score", "score_join", joined, Value::clone, equals_output);
}

#[test]
fn tokenize() {
    let flags = |case: &Value| {
        Some(match case["options"]["special_tokens"] {
            Value::Bool(false) => vec!["--no-special-tokens".into()],
            _ => Vec::new(),
        })
    };
    each_case("tokenize", "tokenize", flags, Value::clone, equals_output);
}

#[test]
fn generate() {
    let flags = |case: &Value| {
        let options = &case["options"];
        let mut flags = vec!["--max-new-tokens".into(), options["max_new_tokens"].to_string()];
        if let Some(penalty) = options.get("repetition_penalty") {
            flags.extend(["--repetition-penalty".into(), penalty.to_string()]);
        }
        Some(flags)
    };
    let record = |input: &Value| json!({ "prompt": input });
    each_case("generate", "generate", flags, record, |result, case, what| {
        let keys: Vec<&String> = result.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["prompt", "text", "tokens", "finish_reason", "timings"]);
        let timings: Vec<&String> = result["timings"].as_object().unwrap().keys().collect();
        assert_eq!(timings, ["prompt_tokens", "prompt_ms", "generated_tokens", "generate_ms"]);
        assert_eq!(result["prompt"], case["input"], "{what}");
        for key in ["text", "tokens", "finish_reason"] {
            assert_eq!(result[key], case["output"][key], "{what}: {key}");
        }
        let count = |value: &Value| value.as_array().unwrap().len();
        assert_eq!(result["timings"]["prompt_tokens"], count(&case["prompt_ids"]));
        assert_eq!(result["timings"]["generated_tokens"], count(&case["output"]["tokens"]));
    });
}

#[test]
fn embed_plain() {
    for pooling in ["cls", "mean", "last", "weighted-mean", "max"] {
        let flags = |_: &Value| Some(vec!["--pooling".into(), pooling.into()]);
        each_case("embed", "embed_plain", flags, text, |result, case, what| {
            let keys: Vec<&String> = result.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["index", "embedding"]);
            let expected = &case["output"][pooling];
            assert_close(&result["embedding"], expected, what);
        });
    }
}

#[test]
fn embed_chains() {
    let flags = |case: &Value| {
        let options = &case["options"];
        if options.get("similarity").is_some() {
            return None;
        }
        let mut flags = Vec::new();
        if let Some(name) = options["prompt_name"].as_str() {
            flags.extend(["--prompt".into(), name.into()]);
        }
        if let Some(dimensions) = options["truncate_dim"].as_u64() {
            flags.extend(["--dimensions".into(), dimensions.to_string()]);
        }
        if options["normalize_embeddings"] == json!(true) {
            flags.push("--normalize".into());
        }
        Some(flags)
    };
    each_case("embed", "embed_chains", flags, text, |result, case, what| {
        let (ours, mut expected) = (floats(&result["embedding"]), floats(&case["output"]));
        // What was normalised is so again after truncation; sentence-transformers leaves it short.
        let truncated = case["options"].get("truncate_dim").is_some();
        if truncated && (norm(&ours) - 1.0).abs() < 1e-5 {
            let norm = norm(&expected);
            expected.iter_mut().for_each(|x| *x /= norm);
        }
        assert_eq!(ours.len(), expected.len(), "{what}");
        assert_close_vectors(&ours, &expected, what);
    });
}

fn floats(values: &Value) -> Vec<f64> {
    let values = values.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn similarity() {
    let flags = |case: &Value| case["options"].get("similarity").map(|_| Vec::new());
    each_case("similarity", "embed_chains", flags, Value::clone, |result, case, what| {
        let scores = case["output"].as_array().unwrap().iter().enumerate();
        let expected: Value = scores.map(|(index, score)| json!({ "index": index, "score": score })).collect();
        assert_close(result, &expected, what);
    });
}
