use serde_json::{Value, json};

use super::*;

/// The published dialect, with Ettin's values (17m).
fn older() -> Value {
    json!({
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": false,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": 256,
        "intermediate_size": 384,
        "layer_norm_eps": 1e-05,
        "local_attention": 128,
        "local_rope_theta": 160000.0,
        "max_position_embeddings": 7999,
        "model_type": "modernbert",
        "norm_eps": 1e-05,
        "num_attention_heads": 4,
        "num_hidden_layers": 7,
        "position_embedding_type": "sans_pos",
        "torch_dtype": "float32",
        "vocab_size": 50368,
    })
}

fn with(mut config: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn without(mut config: Value, keys: &[&str]) -> Value {
    let map = config.as_object_mut().unwrap();
    keys.iter().for_each(|key| drop(map.remove(*key)));
    config
}

fn read(config: &Value) -> Result<Config> {
    Config::from_json(config.to_string().as_bytes(), "config.json")
}

/// Reads the older config with `changes` and returns the refusal.
fn refusal(changes: Value) -> String {
    let text = read(&with(older(), changes.clone()));
    let text = text.expect_err(&changes.to_string()).to_string();
    assert!(text.starts_with("config.json: "), "{text}");
    text
}

fn decoder() -> Value {
    with(older(), json!({"model_type": "modernbert-decoder"}))
}

const FULL: Span = Span { left: None, right: None };

#[test]
fn the_older_dialect() {
    let config = read(&older()).unwrap();
    assert_eq!(config.objective, Objective::Encoder);
    assert_eq!((config.num_layers(), config.num_heads, config.head_dim()), (7, 4, 64));
    assert_eq!(config.architecture(), Some("ModernBertForMaskedLM"));
    assert_eq!(config.stored_dtype, Some(StoredDtype::F32));
    for (index, layer) in config.layers.iter().enumerate() {
        let local = Span { left: Some(64), right: Some(64) };
        assert_eq!(layer.span, if index % 3 == 0 { FULL } else { local }, "layer {index}");
        assert_eq!(layer.rope_theta, 160_000.0);
    }
}

#[test]
fn the_newer_dialect_says_the_same() {
    let older_keys =
        ["global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "local_attention", "layer_norm_eps"];
    let kinds = ["full_attention", "sliding_attention", "sliding_attention"];
    let newer = with(
        without(older(), &older_keys),
        json!({
            "layer_types": kinds.iter().cycle().take(7).collect::<Vec<_>>(),
            "rope_parameters": {
                "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 160000.0, "rope_type": "default"},
            },
        }),
    );
    assert_eq!(read(&newer).unwrap(), read(&older()).unwrap());
}

#[test]
fn absent_keys_take_the_defaults_of_transformers() {
    for (model_type, objective) in [("modernbert", Objective::Encoder), ("modernbert-decoder", Objective::Decoder)] {
        let config = read(&json!({"model_type": model_type})).unwrap();
        assert_eq!(config.objective, objective);
        assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (50_368, 768, 1152));
        assert_eq!((config.num_layers(), config.num_heads, config.max_position_embeddings), (22, 12, 8192));
        assert_eq!(config.norm_eps, 1e-5);
        assert!(!config.norm_bias && !config.attention_bias && !config.mlp_bias && !config.classifier_bias);
        assert!(config.decoder_bias && config.tie_word_embeddings);
        assert_eq!((config.hidden_activation, config.classifier_activation), (Activation::Gelu, Activation::Gelu));
        assert_eq!(config.classifier_pooling, ClassifierPooling::Cls);
        assert_eq!((config.pad_token_id, config.bos_token_id), (Some(50_283), Some(50_281)));
        assert_eq!((config.cls_token_id, config.sep_token_id), (Some(50_281), Some(50_282)));
        assert_eq!((config.unk_token_id, config.mask_token_id), (None, None));
        assert_eq!(config.eos_token_ids, [50_282]);
        assert_eq!(config.labels, ["LABEL_0", "LABEL_1"]);
        assert_eq!((config.problem_type, config.stored_dtype), (None, None));
        assert_eq!(config.layers[0].rope_theta, 160_000.0);
        assert_eq!(config.layers[1].rope_theta, 10_000.0);
    }
}

#[test]
fn spans_are_those_measured_on_transformers() {
    let config = read(&decoder()).unwrap();
    assert_eq!(config.layers[0].span, Span { left: None, right: Some(0) });
    assert_eq!(config.layers[1].span, Span { left: Some(63), right: Some(0) });
    // `sliding_window` is the half window on both types.
    for (base, left, right) in [(older(), 5, 5), (decoder(), 4, 0)] {
        let base = with(without(base, &["local_attention"]), json!({"sliding_window": 5}));
        let span = read(&base).unwrap().layers[1].span;
        assert_eq!(span, Span { left: Some(left), right: Some(right) });
    }
    // An odd width is halved downwards.
    let odd = with(older(), json!({"local_attention": 127}));
    assert_eq!(read(&odd).unwrap().layers[1].span.left, Some(63));
}

#[test]
fn a_model_can_be_read_under_the_other_objective() {
    let (encoder, decoder) = (read(&older()).unwrap(), read(&decoder()).unwrap());
    assert_eq!(encoder.clone().with_objective(Objective::Decoder), decoder);
    assert_eq!(decoder.with_objective(Objective::Encoder), encoder);
    assert_eq!(encoder.clone().with_objective(Objective::Encoder), encoder);
    assert_eq!(encoder.clone().with_span(1, FULL).unwrap().layers[1].span, FULL);
    assert!(encoder.with_span(7, FULL).is_err());
}

#[test]
fn layer_types_precede_the_older_pattern() {
    let types = ["full_attention"; 7];
    let config = read(&with(older(), json!({"layer_types": types}))).unwrap();
    assert!(config.layers.iter().all(|layer| layer.span == FULL));
    assert!(read(&with(older(), json!({"layer_types": null}))).is_ok());
}

#[test]
fn each_theta_comes_from_its_own_key() {
    let config = with(older(), json!({"global_rope_theta": 7.0, "local_rope_theta": 8.0}));
    let thetas = |config: &Value| {
        let layers = read(config).unwrap().layers;
        (layers[0].rope_theta, layers[1].rope_theta)
    };
    assert_eq!(thetas(&config), (7.0, 8.0));
    let bare = without(older(), &["global_rope_theta", "local_rope_theta"]);
    assert_eq!(thetas(&bare), (160_000.0, 10_000.0));
    let half = with(bare, json!({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5}}}));
    assert_eq!(thetas(&half), (5.0, 10_000.0));
    assert_eq!(thetas(&with(half, json!({"local_rope_theta": 9}))), (5.0, 9.0));
}

#[test]
fn every_activation_by_its_name() {
    let names = [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("relu", Activation::Relu),
    ];
    for (name, activation) in names {
        let config = read(&with(older(), json!({"hidden_activation": name}))).unwrap();
        assert_eq!((config.hidden_activation, config.classifier_activation), (activation, Activation::Gelu));
        let config = read(&with(older(), json!({"classifier_activation": name}))).unwrap();
        assert_eq!((config.hidden_activation, config.classifier_activation), (Activation::Gelu, activation));
    }
}

#[test]
fn flags_are_read() {
    for key in ["norm_bias", "attention_bias", "mlp_bias", "decoder_bias", "classifier_bias", "tie_word_embeddings"] {
        for value in [true, false] {
            let config = read(&with(older(), json!({key: value}))).unwrap();
            let read = match key {
                "norm_bias" => config.norm_bias,
                "attention_bias" => config.attention_bias,
                "mlp_bias" => config.mlp_bias,
                "decoder_bias" => config.decoder_bias,
                "classifier_bias" => config.classifier_bias,
                _ => config.tie_word_embeddings,
            };
            assert_eq!(read, value, "{key}");
        }
        for value in [json!("true"), json!(1)] {
            assert!(refusal(json!({key: value})).contains(key));
        }
    }
}

#[test]
fn what_would_change_numbers_is_refused_by_key_and_value() {
    let cases = [
        (json!({"model_type": "bert"}), "`model_type` is \"bert\"; supported: \"modernbert\""),
        (json!({"model_type": null}), "model_type"),
        (json!({"hidden_activation": "gelu_fast"}), "`hidden_activation` is \"gelu_fast\"; supported: \"gelu\""),
        (json!({"classifier_activation": 3}), "classifier_activation"),
        (json!({"hidden_act": "relu"}), "hidden_act"),
        (json!({"position_embedding_type": "relative_key"}), "position_embedding_type"),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"per_layer_config": {"0": {}}}), "per_layer_config"),
        (json!({"pruned_heads": {"0": [1]}}), "pruned_heads"),
        (json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}), "rope_scaling"),
        (json!({"rope_scaling": {"type": "yarn"}}), "`rope_scaling.type` is \"yarn\""),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 1.0}}), "`rope_scaling.rope_type` is \"yarn\""),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 1.0}}), "`rope_scaling.type` is \"dynamic\""),
        (json!({"rope_scaling": {"rope_type": "linear"}}), "`rope_scaling.rope_type` is \"linear\""),
        (json!({"rope_scaling": {"rope_type": "default", "factor": 2.0}}), "`rope_scaling.factor` is 2.0"),
        (json!({"rope_scaling": {"factor": 4}}), "`rope_scaling.factor` is 4"),
        (json!({"rope_scaling": {"rope_theta": 7.0}}), "`rope_scaling.rope_theta` is 7.0"),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}), "`rope_parameters.rope_type`"),
        (
            json!({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}),
            "`rope_parameters.full_attention.rope_type` is \"yarn\"; supported: \"default\"",
        ),
        (json!({"rope_parameters": {"sliding_attention": {"factor": 2}}}), "rope_parameters.sliding_attention.factor"),
        (json!({"rope_parameters": {"full_attention": {"rope_theta": 5}}}), "global_rope_theta"),
        (json!({"rope_parameters": {"chunked_attention": {}}}), "chunked_attention"),
        (json!({"rope_parameters": {"full_attention": 3}}), "expected an object"),
        (json!({"rope_theta": 10000.0}), "rope_theta"),
        (json!({"local_rope_theta": 0}), "local_rope_theta"),
        (json!({"local_rope_theta": -1}), "local_rope_theta"),
        (json!({"global_rope_theta": 1e300}), "global_rope_theta"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"layer_types": ["full_attention"]}), "7 layers"),
        (json!({"layer_types": vec!["chunked_attention"; 7]}), "chunked_attention"),
        (json!({"layer_types": "full_attention"}), "layer_types"),
        (json!({"layer_types": [1, 2]}), "layer_types"),
        (json!({"global_attn_every_n_layers": 0}), "global_attn_every_n_layers"),
        (json!({"local_attention": 0}), "local_attention"),
        (json!({"local_attention": 1}), "local_attention"),
        (json!({"sliding_window": -1}), "sliding_window"),
        (json!({"norm_eps": 0}), "norm_eps"),
        (json!({"norm_eps": 1.0}), "norm_eps"),
        (json!({"norm_eps": "1e-5"}), "norm_eps"),
        (json!({"pad_token_id": "x"}), "pad_token_id"),
        (json!({"cls_token_id": 1.5}), "cls_token_id"),
        (json!({"eos_token_id": [1, "x"]}), "eos_token_id"),
        (json!({"is_causal": true}), "`is_causal` is true; attention that looks another way"),
        (json!({"is_causal": "yes"}), "is_causal"),
        (json!({"attribute_map": {"hidden_size": "intermediate_size"}}), "attribute_map"),
        (json!({"configuration_files": ["config.json", "config.4.0.0.json"]}), "configuration_files"),
        (json!({"architectures": "ModernBertModel"}), "architectures"),
    ];
    for (changes, expected) in cases {
        let text = refusal(changes);
        assert!(text.contains(expected), "{text} should say {expected}");
    }
    let eps = with(without(older(), &["norm_eps"]), json!({"layer_norm_eps": 1e-3}));
    assert!(read(&eps).unwrap_err().to_string().contains("layer_norm_eps"));
    // Beside `norm_eps` it does not count.
    assert_eq!(read(&with(older(), json!({"layer_norm_eps": 1e-3}))).unwrap().norm_eps, 1e-5);
}

#[test]
fn dimensions_are_bounded() {
    let keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "local_attention",
    ];
    for key in keys {
        for value in [json!(0), json!(-1), json!(u64::MAX), json!(1_u64 << 40), json!(1.5), json!("8")] {
            assert!(refusal(json!({key: value})).contains(key));
        }
    }
    assert!(refusal(json!({"hidden_size": 250})).contains("divide `hidden_size` (250)"));
    assert!(refusal(json!({"hidden_size": 252, "num_attention_heads": 4})).contains("odd head size"));
    assert!(refusal(json!({"head_dim": 32})).contains("supported: 64"));
    assert!(refusal(json!({"num_key_value_heads": 2})).contains("supported: 4"));
    assert!(read(&with(older(), json!({"head_dim": 64, "num_key_value_heads": 4}))).is_ok());
}

#[test]
fn harmless_keys_are_ignored() {
    let changes = json!({
        "attention_dropout": 0.1, "deterministic_flash_attn": true, "embedding_dropout": 0.5,
        "gradient_checkpointing": false,
        "initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "reference_compile": null,
        "repad_logits_with_grad": false,
        "rope_scaling": null, "sparse_pred_ignore_index": -100, "sparse_prediction": true, "transformers_version": "9",
        "use_cache": false, "pruned_heads": {}, "_name_or_path": "x", "auto_map": {"AutoModel": "m.M"}, "invented": [1],
    });
    assert_eq!(read(&with(older(), changes)).unwrap(), read(&older()).unwrap());
    // ModernBERT-base says so although no model of this type embeds positions.
    assert!(read(&with(older(), json!({"position_embedding_type": "absolute"}))).is_ok());
    assert!(read(&with(decoder(), json!({"classifier_pooling": "last"}))).is_ok());
}

/// transformers 5.0 saved the older dialect's keys as null beside the newer ones; other tools do so with others.
#[test]
fn null_keys_are_absent() {
    let keys = [
        "architectures attention_bias attribute_map classifier_activation classifier_bias classifier_pooling",
        "compression_config configuration_files decoder_bias dtype global_attn_every_n_layers global_rope_theta \
         head_dim",
        "hidden_act hidden_activation hidden_size id2label intermediate_size is_causal is_encoder_decoder label2id",
        "layer_norm_eps layer_types local_attention local_rope_theta max_position_embeddings mlp_bias norm_bias \
         norm_eps",
        "num_attention_heads num_hidden_layers num_key_value_heads num_labels partial_rotary_factor per_layer_config",
        "position_embedding_type problem_type pruned_heads quantization_config rope_parameters rope_scaling rope_theta",
        "sbert_ce_default_activation_function sentence_transformers sliding_window text_config tie_word_embeddings",
        "torch_dtype vocab_size",
    ];
    for objective in [Objective::Encoder, Objective::Decoder] {
        let bare = json!({ "model_type": objective.model_type() });
        let expected = read(&bare).unwrap();
        let mut all = bare.clone();
        for key in keys.iter().flat_map(|line| line.split(' ')) {
            assert_eq!(read(&with(bare.clone(), json!({key: null}))).unwrap(), expected, "{key}");
            all[key] = Value::Null;
        }
        assert_eq!(read(&all).unwrap(), expected);
        let rope = |parameters: Value| read(&with(bare.clone(), json!({ "rope_parameters": parameters }))).unwrap();
        let sliding = json!({"rope_type": null, "rope_theta": null, "factor": null});
        let kinds = json!({"full_attention": null, "sliding_attention": sliding});
        assert_eq!(rope(kinds), expected);
    }
}

/// Only what transformers looks at, and that means another model, is refused.
#[test]
fn objects_of_other_tools_are_ignored() {
    let foreign = json!({"hidden_size": 8, "model_type": "bert", "vocab_size": 3});
    let names = "transformers.js_config training_config peft_config vision_config encoder text_encoder \
                 generation_config task_specific_params sentence_transformers_config label2id custom";
    for name in names.split_whitespace() {
        for base in [older(), decoder()] {
            assert_eq!(read(&with(base.clone(), json!({name: foreign}))).unwrap(), read(&base).unwrap(), "{name}");
        }
    }
    for name in ["decoder", "generator", "text_config"] {
        assert_eq!(read(&with(older(), json!({name: foreign}))).unwrap(), read(&older()).unwrap(), "{name}");
        let error = read(&with(decoder(), json!({name: foreign}))).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}` is ")) && error.contains("nested in another"), "{error}");
    }
    let empty = json!({"per_layer_config": {}, "attribute_map": {}, "configuration_files": ["config.json"]});
    assert_eq!(read(&with(older(), empty)).unwrap(), read(&older()).unwrap());
    let error = |changes| read(&with(decoder(), changes)).unwrap_err().to_string();
    assert!(error(json!({"is_causal": false})).contains("is_causal"));
    assert!(error(json!({"is_encoder_decoder": true})).contains("is_encoder_decoder"));
}

/// What only a classifier reads stops no other task, and stops a classifier by name.
#[test]
fn keys_of_a_classifier_are_checked_where_there_is_one() {
    let cases = [
        (json!({"classifier_pooling": "max"}), "classifier_pooling"),
        (json!({"problem_type": "ranking"}), "problem_type"),
        (json!({"problem_type": 3}), "problem_type"),
        (json!({"problem_type": "single_label_classification", "num_labels": 1}), "problem_type"),
        (json!({"id2label": {"0": "a", "5": "b"}}), "id2label.5"),
        (json!({"id2label": {"0": "a", "00": "b"}}), "id2label.00"),
        (json!({"id2label": {"x": "a"}}), "id2label.x"),
        (json!({"id2label": {"0": ["a"]}}), "id2label.0"),
        (json!({"id2label": {"0": null}}), "`id2label.0` is null; a label"),
        (json!({"id2label": {"0": null, "1": "B", "2": "C"}}), "`id2label.0` is null; a label"),
        (json!({"id2label": {"0": "A", "1": null}, "num_labels": 2}), "`id2label.1` is null; a label"),
        (json!({"id2label": {}}), "id2label"),
        (json!({"id2label": ["a", "b"]}), "id2label"),
        (json!({"id2label": {"0": "a"}, "num_labels": 2}), "num_labels"),
        (json!({"num_labels": -1}), "num_labels"),
        (json!({"num_labels": "3"}), "num_labels"),
        (json!({"sentence_transformers": "5.0"}), "sentence_transformers"),
    ];
    for (changes, expected) in cases {
        let config = read(&with(older(), changes)).unwrap();
        let text = config.check_classifier().unwrap_err().to_string();
        assert!(text.starts_with("config.json: `") && text.contains(expected), "{text}");
        assert_eq!(config.layers, read(&older()).unwrap().layers);
    }
    assert!(read(&older()).unwrap().check_classifier().is_ok());
}

#[test]
fn rope_scaling_by_a_factor_of_one_changes_nothing() {
    let linear = json!({"rope_type": "linear", "factor": 1.0});
    let both = json!({"full_attention": linear, "sliding_attention": {"type": "linear", "factor": 1}});
    for changes in [
        json!({"rope_scaling": linear}),
        json!({"rope_scaling": {"type": "linear", "factor": 1}}),
        json!({"rope_scaling": {"rope_type": "default", "factor": 1.0}}),
        json!({"rope_scaling": {"factor": 1.0}}),
        json!({"rope_scaling": {}}),
        json!({ "rope_parameters": both }),
    ] {
        let config = read(&with(older(), changes.clone())).unwrap_or_else(|error| panic!("{changes}: {error}"));
        assert_eq!(config.layers, read(&older()).unwrap().layers, "{changes}");
    }
}

#[test]
fn the_half_window_counts_where_both_are_stated() {
    for (base, left) in [(older(), 10), (decoder(), 9)] {
        let config = read(&with(base, json!({"sliding_window": 10}))).unwrap();
        assert_eq!(config.layers[1].span.left, Some(left));
    }
}

#[test]
fn labels_may_be_numbers() {
    let named = json!({"id2label": {"0": 1, "1": 2.5, "2": true, "3": "d"}});
    assert_eq!(read(&with(older(), named)).unwrap().labels, ["1", "2.5", "true", "d"]);
}

#[test]
fn labels_come_in_output_order() {
    let named = json!({"id2label": {"2": "c", "0": "a", "1": "b"}, "num_labels": 3});
    assert_eq!(read(&with(older(), named)).unwrap().labels, ["a", "b", "c"]);
    assert_eq!(read(&with(older(), json!({"num_labels": 1}))).unwrap().labels, ["LABEL_0"]);
}

#[test]
fn token_ids_may_be_none_or_many() {
    let config =
        read(&with(older(), json!({"eos_token_id": [1, 2], "pad_token_id": null, "mask_token_id": 4}))).unwrap();
    assert_eq!((config.eos_token_ids, config.pad_token_id, config.mask_token_id), (vec![1, 2], None, Some(4)));
    let none = read(&with(older(), json!({"eos_token_id": null}))).unwrap();
    assert!(none.eos_token_ids.is_empty());
    // An id that a small vocabulary does not hold is no token, stated or not.
    let stated = json!({
        "vocab_size": 100, "cls_token_id": 50_281, "eos_token_id": 50_282, "sep_token_id": -1, "mask_token_id": 100,
        "pad_token_id": 99,
    });
    for changes in [json!({"vocab_size": 100}), stated.clone()] {
        let small = read(&with(older(), changes)).unwrap();
        assert_eq!((small.cls_token_id, small.sep_token_id, small.eos_token_ids), (None, None, vec![]));
        assert_eq!(small.mask_token_id, None);
    }
    assert_eq!(read(&with(older(), stated)).unwrap().pad_token_id, Some(99));
    let some = read(&with(older(), json!({"eos_token_id": [1, 60_000, -5]}))).unwrap();
    assert_eq!(some.eos_token_ids, [1]);
}

#[test]
fn a_cross_encoders_activation_is_read_from_either_key() {
    let name = "torch.nn.modules.linear.Identity";
    for changes in [
        json!({"sentence_transformers": {"activation_fn": name, "version": "5.0.0"}}),
        json!({"sbert_ce_default_activation_function": name}),
    ] {
        assert_eq!(read(&with(older(), changes)).unwrap().activation_fn.as_deref(), Some(name));
    }
    for (nested, expected) in [(json!({"activation_fn": null}), None), (json!({"version": "5.0.0"}), Some(name))] {
        let changes = json!({"sentence_transformers": nested, "sbert_ce_default_activation_function": name});
        let found = read(&with(older(), changes)).unwrap().activation_fn;
        assert_eq!(found.as_deref(), expected, "the newer key counts where it is there, null included: {nested}");
    }
}

/// As transformers keeps it: in the file's order, and only beside `id2label`.
#[test]
fn label2id_is_kept_where_it_says_more_than_id2label() {
    let ids = |changes: Value| read(&with(older(), changes)).unwrap().label_ids;
    let names = json!({"0": "no", "1": "yes"});
    let id = |name: &str, id: Option<i64>| (name.to_owned(), id);
    assert_eq!(ids(json!({"id2label": names, "label2id": {"no": 0, "yes": 1}})), None);
    assert_eq!(ids(json!({"id2label": names})), None);
    assert_eq!(ids(json!({"id2label": names, "label2id": ["no"]})), None);
    assert_eq!(ids(json!({"label2id": {"no": 1, "yes": 0}})), None);
    let turned = ids(json!({"id2label": names, "label2id": {"yes": 1, "no": 0}}));
    assert_eq!(turned, Some(vec![id("yes", Some(1)), id("no", Some(0))]));
    let odd = ids(json!({"id2label": names, "label2id": {"yes": "1", "no": 0.5, "else": -1}}));
    assert_eq!(odd, Some(vec![id("yes", None), id("no", None), id("else", Some(-1))]));
    let twice = read(&with(older(), json!({"id2label": {"0": "a", "1": "a"}}))).unwrap();
    assert_eq!(Config::from_json(twice.to_json().unwrap().as_bytes(), "written").unwrap(), twice);
}

#[test]
fn what_is_written_reads_back_the_same() {
    let changes = json!({
        "activation_fn": null, "classifier_bias": true, "classifier_pooling": "mean", "eos_token_id": [1, 2],
        "hidden_activation": "silu", "id2label": {"0": "no", "1": "yes", "2": "?"}, "local_attention": 20,
        "label2id": {"yes": -2, "no": "0", "?": 2},
        "local_rope_theta": 1e4, "mask_token_id": 9, "problem_type": "multi_label_classification",
        "sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}, "tie_word_embeddings": false, "norm_eps": 3e-6,
    });
    for base in [older(), decoder()] {
        for config in [base.clone(), with(base, changes.clone())] {
            let config = read(&config).unwrap();
            let text = config.to_json().unwrap();
            assert!(text.contains("\"layer_types\""));
            assert_eq!(Config::from_json(text.as_bytes(), "written").unwrap(), config);
        }
    }
    let odd = read(&older()).unwrap().with_span(2, Span { left: Some(3), right: Some(3) }).unwrap();
    assert!(matches!(odd.to_json(), Err(Error::Unsupported(_))));
}

#[test]
fn no_cut_or_flipped_byte_makes_it_panic() {
    let text = older().to_string().into_bytes();
    for end in 0..text.len() {
        assert!(Config::from_json(&text[..end], "config.json").is_err(), "cut at {end}");
    }
    let mut state = 1_u64;
    for _ in 0..10_000 {
        let mut bytes = text.clone();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % bytes.len();
        bytes[at] = (state >> 20) as u8;
        let _ = Config::from_json(&bytes, "config.json");
    }
}
