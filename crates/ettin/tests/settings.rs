//! The keys of a model's files mean what transformers makes of them
//! (`tests/fixtures/{tokenizer_settings,config_keys}.json`).

mod common;

use std::path::Path;

use common::{backend, root};
use ettin::config::Objective;
use ettin::files::ModelFiles;
use ettin::heads::{LanguageModel, SequenceClassifier};
use ettin::tokenizer::Tokenizer;
use ettin::{Config, Error, PackedBatch};
use serde_json::{Value, json};

fn fixture(name: &str) -> Value {
    let text = std::fs::read(root("tests/fixtures").join(name)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

/// A tokenizer with code of its own beside it: transformers then builds another class from the vocabulary, or runs the
/// code.
const REFUSED: [&str; 2] = ["auto_map beside GPTNeoXTokenizerFast", "auto_map beside BertTokenizer"];

/// Objects that lack `"__type": "AddedToken"`, on which transformers stops; what they mean is plain.
const LENIENT: [&str; 3] = [
    "additional tokens without a type",
    "a name without a type",
    "additional tokens of special_tokens_map.json with flags",
];

/// The case's folder, and the tokenizer in it.
fn load(folder: &Path, case: &Value, bases: &Value) -> ettin::Result<Tokenizer> {
    let base = root(bases[case["base"].as_str().unwrap()].as_str().unwrap());
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(base).unwrap()).unwrap();
    for (key, part) in case["tokenizer"].as_object().unwrap() {
        tokenizer[key] = part.clone();
    }
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in case["files"].as_object().unwrap() {
        std::fs::write(folder.join(name), content.to_string()).unwrap();
    }
    Tokenizer::load(&ModelFiles::folder(folder).unwrap())
}

#[test]
fn settings_beside_tokenizer_json_are_obeyed() {
    let fixture = fixture("tokenizer_settings.json");
    let mut seen = 0;
    for case in list(&fixture["cases"]) {
        let name = case["name"].as_str().unwrap();
        let place = format!("{name} ({})", case["base"].as_str().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let loaded = load(folder.path(), case, &fixture["bases"]);
        let answer = &fixture["answers"][case["answer"].as_u64().unwrap() as usize];
        let refused = answer["refused"].is_string();
        if REFUSED.contains(&name) || refused && !LENIENT.contains(&name) {
            let error = loaded.expect_err(&place);
            assert!(matches!(error, Error::Config { .. }), "{place}: {error}");
            continue;
        }
        let tokenizer = loaded.unwrap_or_else(|error| panic!("{place}: {error}"));
        if refused {
            continue;
        }
        seen += 1;
        assert_eq!(json!(tokenizer.vocab_size()), answer["size"], "{place}");
        let special = tokenizer.special();
        let ids = [
            ("pad", special.pad),
            ("unk", special.unk),
            ("cls", special.cls),
            ("sep", special.sep),
            ("mask", special.mask),
            ("bos", special.bos),
        ];
        // Where a file names no token, ours fall back on ids of config.json and the usual names.
        for (key, id) in ids.into_iter().filter(|(key, _)| !answer["special"][key].is_null()) {
            assert_eq!(json!(id), answer["special"][key], "{place}: {key}");
        }
        for (input, expected) in list(&fixture["inputs"]).iter().zip(list(&answer["texts"])) {
            let (text, pair) = (input[0].as_str().unwrap(), input[1].as_str());
            let encoding = tokenizer.encode(text, pair, true).unwrap();
            assert_eq!(json!(encoding.ids), expected["ids"], "{place}: {text:?}");
            assert_eq!(json!(encoding.offsets), expected["offsets"], "{place}: {text:?}");
            assert_eq!(json!(tokenizer.ids(text).unwrap()), expected["bare"], "{place}: {text:?}");
            for (skip, key) in [(false, "decoded"), (true, "skipped")] {
                assert_eq!(json!(tokenizer.decode(&encoding.ids, skip).unwrap()), expected[key], "{place}: {text:?}");
            }
        }
    }
    assert!(seen > 100);
}

/// Nulls are absent everywhere, where transformers takes some for a wrong type.
#[test]
fn null_settings_of_a_tokenizer_are_absent() {
    let fixture = fixture("tokenizer_settings.json");
    let plain = |case: &&Value| case["name"] == "names";
    let mut case = list(&fixture["cases"]).iter().find(plain).unwrap().clone();
    let read = |case: &Value| {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = load(folder.path(), case, &fixture["bases"]).unwrap();
        (tokenizer.encode("a [MASK] .", None, true).unwrap(), tokenizer.special().clone())
    };
    let expected = read(&case);
    for key in [
        "added_tokens_decoder",
        "additional_special_tokens",
        "auto_map",
        "bos_token",
        "clean_up_tokenization_spaces",
        "extra_special_tokens",
        "fast_tokenizer_files",
        "image_token",
        "model_specific_special_tokens",
        "post_processor",
        "split_special_tokens",
        "tokenizer_class",
    ] {
        case["files"]["tokenizer_config.json"][key] = Value::Null;
    }
    case["files"]["special_tokens_map.json"] = json!({"mask_token": null, "extra_special_tokens": null});
    case["files"]["added_tokens.json"] = json!({"[X]": null});
    assert_eq!(read(&case), expected);
}

#[test]
fn malformed_settings_of_a_tokenizer_are_named() {
    let fixture = fixture("tokenizer_settings.json");
    let plain = |case: &&Value| case["name"] == "names";
    let case = list(&fixture["cases"]).iter().find(plain).unwrap();
    let file = |name: &str, content: Value| {
        let mut case = case.clone();
        case["files"][name] = content;
        let folder = tempfile::tempdir().unwrap();
        load(folder.path(), &case, &fixture["bases"]).unwrap_err().to_string()
    };
    for (key, value) in [
        ("split_special_tokens", json!("yes")),
        ("added_tokens_decoder", json!([])),
        ("added_tokens_decoder", json!({"x": {"content": "a"}})),
        ("added_tokens_decoder", json!({"7": "a"})),
        ("extra_special_tokens", json!("a")),
        ("extra_special_tokens", json!([7])),
        ("mask_token", json!({})),
        ("mask_token", json!({"content": "a", "lstrip": "yes"})),
        ("fast_tokenizer_files", json!(["tokenizer.4.0.0.json"])),
        ("tokenizer_object", json!({})),
    ] {
        let text = file("tokenizer_config.json", json!({ key: value }));
        assert!(text.starts_with("tokenizer_config.json: ") && text.contains(key), "{text}");
    }
    let text = file("added_tokens.json", json!({"[X]": "one"}));
    assert!(text.starts_with("added_tokens.json: ") && text.contains("[X]"), "{text}");
    for name in ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"] {
        let text = file(name, json!([]));
        assert!(text.starts_with(name) && text.contains("found a list"), "{text}");
    }
}

#[test]
fn keys_of_config_json_mean_what_they_mean_to_transformers() {
    let fixture = fixture("config_keys.json");
    for case in list(&fixture["cases"]) {
        let mut config = fixture["base"].clone();
        config["model_type"] = case["model_type"].clone();
        for (key, value) in case["changes"].as_object().unwrap() {
            config[key] = value.clone();
        }
        let place = format!("{} {}", case["model_type"], case["changes"]);
        let answer = &fixture["answers"][case["answer"].as_u64().unwrap() as usize];
        let read = Config::from_json(config.to_string().as_bytes(), "config.json");
        if answer["refused"].is_string() {
            assert!(read.is_err(), "{place}");
            continue;
        }
        let config = read.unwrap_or_else(|error| panic!("{place}: {error}"));
        let half = answer["half_window"].as_u64().unwrap() as usize;
        for (layer, kind) in config.layers.iter().zip(list(&answer["layer_types"])) {
            let (span, theta) = match kind.as_str().unwrap() {
                "full_attention" => (config.objective.global_span(), &answer["thetas"][0]),
                _ => (config.objective.local_span(half), &answer["thetas"][1]),
            };
            assert_eq!((layer.span, f64::from(layer.rope_theta)), (span, theta.as_f64().unwrap()), "{place}");
        }
        assert_eq!(config.layers.len(), list(&answer["layer_types"]).len(), "{place}");
        assert_eq!(config.norm_eps, answer["norm_eps"].as_f64().unwrap() as f32, "{place}");
        let flags = json!({
            "tie_word_embeddings": config.tie_word_embeddings, "norm_bias": config.norm_bias,
            "mlp_bias": config.mlp_bias,
            "attention_bias": config.attention_bias, "classifier_bias": config.classifier_bias,
        });
        assert_eq!(flags, answer["flags"], "{place}");
        // transformers keeps ids that the vocabulary does not hold, and warns.
        let held = |value: &Value| match value {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).filter(|&id| id < 64).collect(),
            id => Vec::from_iter(id.as_u64().filter(|&id| id < 64)),
        };
        for (key, ours) in [
            ("pad", Vec::from_iter(config.pad_token_id)),
            ("bos", Vec::from_iter(config.bos_token_id)),
            ("cls", Vec::from_iter(config.cls_token_id)),
            ("sep", Vec::from_iter(config.sep_token_id)),
            ("eos", config.eos_token_ids.clone()),
        ] {
            assert_eq!(
                ours.into_iter().map(u64::from).collect::<Vec<_>>(),
                held(&answer["ids"][key]),
                "{place}: {key}"
            );
        }
        config.check_classifier().unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(json!(config.labels), answer["labels"], "{place}");
        assert_eq!(json!(config.stored_dtype.map(|dtype| dtype.name())), answer["dtype"], "{place}");
        assert_eq!(config.objective == Objective::Decoder, case["model_type"] == "modernbert-decoder");
    }
}

/// A copy of a model of the fixtures with changes to its config.json.
fn changed(model: &str, changes: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root(model)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

/// Null keys of the older dialect, objects of other tools, special ids of another vocabulary, a broken label map: none
/// of them stops a masked language model, or changes a number of it.
#[test]
fn keys_that_mean_nothing_stop_no_model_without_a_classifier() {
    let logits = |folder: &Path| {
        let model = LanguageModel::load(&ModelFiles::folder(folder).unwrap(), &backend()).unwrap();
        let batch = PackedBatch::new(&[vec![2, 17, 5, 90, 33, 41, 8, 120, 77, 3]]).unwrap();
        model.logits(&batch, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap().to_vec2::<f32>().unwrap()
    };
    let model = "models/tiny-layouts/safetensors";
    let expected = logits(&root(model));
    for changes in [
        json!({
            "global_rope_theta": null, "local_rope_theta": null, "rope_theta": null, "global_attn_every_n_layers": null
        }),
        json!({"norm_eps": null, "hidden_activation": null, "tie_word_embeddings": null, "num_labels": null}),
        json!({
            "transformers.js_config": {"dtype": "fp32"}, "training_config": {"hidden_size": 1}, "text_config": {"a": 1}
        }),
        json!({"bos_token_id": 50281, "cls_token_id": 50281, "eos_token_id": 50282, "sep_token_id": 50282}),
        json!({"id2label": {"a": "b"}, "num_labels": 7, "problem_type": "ranking", "classifier_pooling": "last"}),
    ] {
        assert!(logits(changed(model, &changes).path()) == expected, "{changes}");
    }
}

#[test]
fn a_broken_label_map_stops_classifiers_by_name() {
    let load = |changes: Value| {
        let folder = changed("models/tiny-encoder-sequence-cls", &changes);
        let loaded = SequenceClassifier::load(&ModelFiles::folder(folder.path()).unwrap(), &backend());
        loaded.map(|model| model.config().labels.clone())
    };
    assert_eq!(load(json!({"id2label": {"0": 1, "1": 2, "2": 3.5}})).unwrap(), ["1", "2", "3.5"]);
    for (changes, key) in [
        (json!({"id2label": {"0": "a", "1": "b", "5": "c"}}), "id2label.5"),
        (json!({"num_labels": 2}), "num_labels"),
        (json!({"problem_type": "ranking"}), "problem_type"),
        (json!({"classifier_pooling": "max"}), "classifier_pooling"),
    ] {
        let error = load(changes).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(key), "{error}");
    }
}

#[test]
fn a_key_of_config_json_that_appears_twice_stops_models_and_no_tokenizer() {
    let folder = changed("models/tiny-text-classify-single", &json!({}));
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    // Python takes the last of the two; what is computed with either is not for us to guess.
    let twice = format!("{{\"vocab_size\": 7, {}", config.trim_start().trim_start_matches('{'));
    std::fs::write(&path, twice).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    assert!(Tokenizer::load(&files).unwrap().encode("Some text.", None, true).unwrap().ids.len() > 2);
    let error = SequenceClassifier::load(&files, &backend()).unwrap_err().to_string();
    assert!(error.contains("`vocab_size` appears twice"), "{error}");
}
