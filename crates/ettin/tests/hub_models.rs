//! Real models against numbers that others published for them.
//!
//! These download from the Hub (or read its cache), so they run only when asked:
//! `ETTIN_HUB_TESTS=1 cargo test -p ettin --features hub --test hub_models`.
#![cfg(feature = "hub")]

mod common;

use common::{assert_close, root, values};
use ettin::{
    Backend, PackedBatch,
    files::ModelFiles,
    heads::{Embedder, LanguageModel},
    hub::{HubOptions, resolve},
    tasks::{FillMask, Options, RerankInput, RerankRequest, Reranker},
    tokenizer::Tokenizer,
};
use serde_json::Value;

/// The model's files, or `None` where Hub tests were not asked for.
fn hub(name: &str) -> Option<ModelFiles> {
    if std::env::var_os("ETTIN_HUB_TESTS").is_none_or(|value| value != "1") {
        println!("skipped: needs {name} from the Hub (ETTIN_HUB_TESTS=1)");
        return None;
    }
    Some(resolve(name, None, &HubOptions::from_env()).unwrap())
}

fn published(key: &str) -> Value {
    let file = std::fs::read(root("tests/fixtures/published_outputs.json")).unwrap();
    let all: Value = serde_json::from_slice(&file).unwrap();
    all[key].clone()
}

fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

/// The first three columns of the first three rows, as the transformers tests print them.
fn corner(tensor: &candle_core::Tensor) -> Vec<f32> {
    values(&tensor.narrow(0, 0, 3).unwrap().narrow(1, 0, 3).unwrap())
}

#[test]
fn encoder_32m_fills_the_mask_as_its_onnx_export_does() {
    let Some(files) = hub("ettin-encoder-32m") else {
        return;
    };
    let expected = [
        (" Paris", 7785, 0.5151872),
        (" Lyon", 42268, 0.0337251),
        (" Nancy", 23397, 0.031234),
        (" Brussels", 30167, 0.0207514),
        (" Geneva", 31955, 0.0189622),
    ];
    let model = FillMask::load(&files, &Options::default()).unwrap();
    let outcomes = model.run(&["The capital of France is [MASK]."], 5).unwrap();
    let answer = serde_json::to_value(&outcomes[0].as_ref().unwrap().value).unwrap();
    for (ours, (text, token, score)) in answer.as_array().unwrap().iter().zip(expected) {
        assert_eq!(ours["token_str"], text);
        assert_eq!(ours["token"], token);
        let ours = ours["score"].as_f64().unwrap();
        assert!((ours - score).abs() < 1e-4, "{text}: {ours}, published {score}");
    }
}

#[test]
fn reranker_17m_scores_as_published() {
    let published = published("reranker_17m_v1");
    let Some(files) = hub(published["model"].as_str().unwrap()) else {
        return;
    };
    let tolerance = published["tolerance_used_upstream"].as_f64().unwrap();
    let model = Reranker::load(&files, &Options::default()).unwrap();
    for case in published["cases"].as_array().unwrap() {
        let query = case["query"].as_str().unwrap();
        let documents = vec![case["doc"].as_str().unwrap()];
        let outcomes = model.run(&[RerankInput { query, documents }], &RerankRequest::default()).unwrap();
        let score = f64::from(outcomes[0].as_ref().unwrap().value[0].score);
        let expected = case["score"].as_f64().unwrap();
        assert!((score - expected).abs() <= tolerance, "{query:?}: {score}, published {expected}");
    }
}

#[test]
fn reranker_17m_hidden_states_are_as_published() {
    let Some(files) = hub("cross-encoder/ettin-reranker-17m-v1") else {
        return;
    };
    let published = published("reranker_17m_v1_trunk_hidden");
    let model = Embedder::load(&files, &Backend::cpu().unwrap()).unwrap();
    let batch = PackedBatch::new(&[ids(&published["input_ids"])]).unwrap();
    let first = values(&model.token_embeddings(&batch, None).unwrap().narrow(0, 0, 1).unwrap());
    let expected = numbers(&published["final_norm_output_position0_first16"]);
    assert_close("position 0", &first[..expected.len()], &expected, 1e-4);
}

#[test]
fn decoder_of_the_transformers_tests_gives_their_numbers() {
    let published = published("transformers_modernbert_decoder_test");
    let Some(files) = hub(published["model"].as_str().unwrap()) else {
        return;
    };
    let model = LanguageModel::load(&files, &Backend::cpu().unwrap()).unwrap();
    let batch = PackedBatch::new(&[ids(&published["ids_tf4"])]).unwrap();
    let logits = model.logits(&batch, &[0, 1, 2]).unwrap();
    assert_close("logits", &corner(&logits), &numbers(&published["logits[0,:3,:3]"]), 1e-4);
    let hidden = common::forward(model.trunk(), &batch);
    let expected = numbers(&published["last_hidden_state[0,:3,:3]"]);
    // Four decimals are printed of values below 0.4.
    assert_close("hidden states", &corner(&hidden), &expected, 5e-4);
}

#[test]
fn modernbert_base_gives_the_numbers_of_the_transformers_tests() {
    let name = "answerdotai/ModernBERT-base";
    let Some(files) = hub(name) else { return };
    let published = published("transformers_modernbert_test");
    let model = LanguageModel::load(&files, &Backend::cpu().unwrap()).unwrap();
    let tokenizer = Tokenizer::load(&files).unwrap();
    let batch = PackedBatch::new(&[tokenizer.encode("Hello World!", None, true).unwrap().ids]).unwrap();
    let text = "'Hello World!'";
    let logits = model.logits(&batch, &[0, 1, 2]).unwrap();
    let expected = numbers(&published[format!("{name} {text} MLM logits[0,:3,:3]")]);
    assert_close("logits", &corner(&logits), &expected, 1e-4);
    let hidden = common::forward(model.trunk(), &batch);
    let expected = numbers(&published[format!("{name} {text} last_hidden_state[0,:3,:3]")]);
    assert_close("hidden states", &corner(&hidden), &expected, 1e-4);
}

#[test]
fn tiny_random_decoder_gives_the_numbers_of_bumblebee() {
    let name = "onnx-internal-testing/tiny-random-ModernBertDecoderForCausalLM";
    let Some(files) = hub(name) else { return };
    let published = published("bumblebee");
    let model = LanguageModel::load(&files, &Backend::cpu().unwrap()).unwrap();
    let batch = PackedBatch::new(&[[10u32, 20, 30, 40, 50, 60, 70, 80]]).unwrap();
    let middle = |tensor: &candle_core::Tensor| values(&tensor.narrow(0, 1, 3).unwrap().narrow(1, 1, 3).unwrap());
    let logits = model.logits(&batch, &(0..8).collect::<Vec<_>>()).unwrap();
    let expected = numbers(&published["decoder tiny logits[0,1:4,1:4]"]);
    assert_close("logits", &middle(&logits), &expected, 1e-4);
    let hidden = common::forward(model.trunk(), &batch);
    let expected = numbers(&published[format!("decoder tiny {name} hidden[0,1:4,1:4]")]);
    assert_close("hidden states", &middle(&hidden), &expected, 1e-4);
}
