//! Entity extraction: what gliner finds, recorded by `scripts/make_extraction_fixtures.py` (versions in the fixture).
//! Every case is a tiny model with other keys in its `gliner_config.json`.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use common::root;
use ettin::Error;
use ettin::files::ModelFiles;
use ettin::tasks::*;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

/// Scores are probabilities.
const TOLERANCE: f64 = 1e-5;
const BI: &str = "models/tiny-gliner-bi";
const UNI: &str = "models/tiny-gliner-uni";
const TEXT: &str = "The cat sat on the mat, and it was happy , too: \u{1f600} emoji, then e\u{301} and ٣.";

fn cases() -> Vec<Value> {
    let text = fs::read(root("tests/fixtures/pipelines/extraction.json")).unwrap();
    let fixture: Value = serde_json::from_slice(&text).unwrap();
    fixture["cases"].as_array().unwrap().clone()
}

/// A model with keys of its configuration replaced.
fn lay_out(base: &str, keys: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    common::copy(&root(base), folder.path());
    let file = folder.path().join("gliner_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(&file, config.to_string()).unwrap();
    folder
}

fn files(folder: &Path) -> ModelFiles {
    ModelFiles::folder(folder).unwrap()
}

fn options() -> Options {
    Options::default().with_truncate(Truncate::Model).with_batch_tokens(150)
}

fn load(base: &str, keys: &Value) -> ettin::Result<EntityExtractor> {
    let folder = lay_out(base, keys);
    EntityExtractor::load(&files(folder.path()), &options())
}

fn refused(base: &str, keys: &Value) -> String {
    load(base, keys).map(drop).unwrap_err().to_string()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn request(options: &Value) -> EntityRequest {
    EntityRequest::default()
        .with_threshold(options["threshold"].as_f64().unwrap_or(0.5) as f32)
        .with_nested(options["flat_ner"] == false)
        .with_multi_label(options["multi_label"] == true)
}

fn scalars(text: &str, start: usize, end: usize) -> String {
    text.chars().skip(start).take(end - start).collect()
}

fn assert_spans(what: &str, ours: &[Entity], theirs: &Value) {
    let theirs = theirs.as_array().unwrap();
    assert_eq!(ours.len(), theirs.len(), "{what}: {ours:?} instead of {theirs:?}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(json!([ours.start, ours.end, ours.label]), json!([theirs[0], theirs[1], theirs[2]]), "{what}");
        let score = theirs[3].as_f64().unwrap();
        assert!((f64::from(ours.score) - score).abs() <= TOLERANCE, "{what}: {} instead of {score}", ours.score);
    }
}

#[test]
fn spans_are_those_of_gliner() {
    for case in cases() {
        let base = format!("models/{}", case["base"].as_str().unwrap());
        let extractor = load(&base, &case["keys"]).unwrap();
        for run in case["runs"].as_array().unwrap() {
            let text = run["text"].as_str().unwrap();
            let what = format!("{}: {text:?} {} {}", case["name"], run["labels"], run["options"]);
            let labels = extractor.labels(&texts(&run["labels"])).unwrap();
            let outcome = extractor.run(&[text], &labels, &request(&run["options"])).unwrap().remove(0).unwrap();
            assert_spans(&what, &outcome.value, &run["spans"]);
            for entity in outcome.value {
                assert_eq!(entity.text, scalars(text, entity.start, entity.end), "{what}");
            }
        }
    }
}

/// Hexadecimal digits of f32, little-endian.
fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn write_vectors(file: &Path, vectors: &HashMap<String, (Vec<usize>, Vec<u8>)>) {
    let view = |(name, (shape, data)): (&String, &(Vec<usize>, Vec<u8>))| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), Box::leak(data.clone().into_boxed_slice())).unwrap())
    };
    serialize_to_file(vectors.iter().map(view), None, file).unwrap();
}

fn recorded_vectors() -> HashMap<String, (Vec<usize>, Vec<u8>)> {
    let case = cases().remove(0);
    let vectors = case["label_vectors"].as_object().unwrap();
    vectors.iter().map(|(label, hex)| (label.clone(), (vec![bytes(hex).len() / 4], bytes(hex)))).collect()
}

/// A model whose labels are encoded by a BERT.
fn with_bert() -> tempfile::TempDir {
    let folder = lay_out(BI, &json!({"labels_encoder_config": {"model_type": "bert", "hidden_size": 16}}));
    fs::remove_dir_all(folder.path().join("labels_tokenizer")).unwrap();
    folder
}

#[test]
fn labels_of_another_encoder_come_from_a_file() {
    let folder = with_bert();
    let file = folder.path().join("labels.safetensors");
    let vectors = recorded_vectors();
    write_vectors(&file, &vectors);
    let without = EntityExtractor::load(&files(folder.path()), &options()).unwrap();
    let error = without.labels(&["person"]).map(drop).unwrap_err();
    assert!(lacks_label_vectors(&error) && error.to_string().contains("bert (tiny)"), "{error}");
    let extractor = without.with_label_vectors(LabelVectors::open(&file).unwrap()).unwrap();
    let case = cases().remove(0);
    for run in case["runs"].as_array().unwrap() {
        let labels = extractor.labels(&texts(&run["labels"])).unwrap();
        let text = run["text"].as_str().unwrap();
        let outcome = extractor.run(&[text], &labels, &request(&run["options"])).unwrap().remove(0).unwrap();
        assert_spans(text, &outcome.value, &run["spans"]);
    }
    let lacking = extractor.labels(&["person", "planet"]).map(drop).unwrap_err().to_string();
    assert!(lacking.contains("no vector of the label \"planet\"") && lacking.contains("\"person\""), "{lacking}");
}

#[test]
fn label_vectors_are_those_of_gliner() {
    let extractor = load(BI, &json!({})).unwrap();
    let model = extractor.model();
    let folder = lay_out(BI, &json!({}));
    let tokenizer = fs::read(folder.path().join("labels_tokenizer/tokenizer.json")).unwrap();
    let tokenizer = ettin::tokenizer::Tokenizer::from_bytes(&tokenizer).unwrap();
    for (label, (_, theirs)) in recorded_vectors() {
        let ids = tokenizer.encode(&label, None, true).unwrap().ids;
        let batch = ettin::PackedBatch::new(&[ids]).unwrap();
        let ours = model.label_vectors(&batch).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let theirs: Vec<f32> = theirs.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        common::assert_close(&label, &ours, &theirs, TOLERANCE);
    }
}

#[test]
fn hostile_files_of_label_vectors() {
    let folder = with_bert();
    let task = |vectors: LabelVectors| {
        let extractor = EntityExtractor::load(&files(folder.path()), &options()).unwrap();
        extractor.with_label_vectors(vectors).unwrap()
    };
    let file = folder.path().join("labels.safetensors");
    let floats = |count: usize, value: f32| value.to_le_bytes().repeat(count);
    let bad = [
        ("person", vec![23], floats(23, 0.5), "[24] values"),
        ("person", vec![1, 24], floats(24, 0.5), "[1, 24]"),
        ("person", vec![0], Vec::new(), "[24] values"),
        ("person", vec![24], floats(24, f32::NAN), "not finite"),
        ("other", vec![24], floats(24, 0.5), "\"other\""),
    ];
    for (label, shape, data, message) in bad {
        write_vectors(&file, &HashMap::from([(label.to_owned(), (shape, data))]));
        let error = task(LabelVectors::open(&file).unwrap()).labels(&["person"]).map(drop).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    // The names under which parts of models are known.
    for label in ["layers.0", "model.x", "head."] {
        write_vectors(&file, &HashMap::from([(label.to_owned(), (vec![24], floats(24, 0.5)))]));
        task(LabelVectors::open(&file).unwrap()).labels(&[label]).unwrap();
    }
    for garbage in [&b""[..], b"{}", &[255; 40], b"\x08\0\0\0\0\0\0\0{\"a\":1}"] {
        fs::write(&file, garbage).unwrap();
        assert!(matches!(LabelVectors::open(&file), Err(Error::Weights { .. })), "{garbage:?}");
    }
    assert!(LabelVectors::open(folder.path()).is_err());
    let gone = LabelVectors::open(&folder.path().join("gone.safetensors")).map(drop).unwrap_err();
    assert!(gone.to_string().contains("no such file"), "{gone}");
    write_vectors(&file, &HashMap::from([("a".to_owned(), (vec![24], floats(24, 0.5)))]));
    let uni = load(UNI, &json!({})).unwrap().with_label_vectors(LabelVectors::open(&file).unwrap()).map(drop);
    assert!(uni.unwrap_err().to_string().contains("together with the text"));
}

#[test]
fn a_text_has_the_same_entities_in_any_batch() {
    let texts = [TEXT, "x", "", "Ada Lovelace was born in London.", "  ", TEXT, "The sea, the sea!"];
    let all = EntityRequest::default().with_threshold(0.0).with_nested(true).with_multi_label(true);
    for base in [BI, UNI] {
        let folder = lay_out(base, &json!({}));
        let mut alone: Option<Vec<Vec<Entity>>> = None;
        for budget in [1, 40, 150, 4096] {
            let options = options().with_batch_tokens(budget);
            let extractor = EntityExtractor::load(&files(folder.path()), &options).unwrap();
            let labels = extractor.labels(&["person", "place"]).unwrap();
            let run = |texts: &[&str]| {
                let outcomes = extractor.run(texts, &labels, &all).unwrap().into_iter();
                outcomes.map(|outcome| outcome.unwrap().value).collect::<Vec<_>>()
            };
            let alone = alone.get_or_insert_with(|| texts.iter().flat_map(|text| run(&[text])).collect());
            assert_eq!(&run(&texts), alone, "{base} {budget}");
        }
        let alone = alone.unwrap();
        assert!(alone[2].is_empty() && alone[4].is_empty() && !alone[1].is_empty());
        // The score of a label changes with the others only where they are read together.
        let extractor = EntityExtractor::load(&files(folder.path()), &options()).unwrap();
        let labels = extractor.labels(&["person"]).unwrap();
        let one = extractor.run(&[TEXT], &labels, &all).unwrap().remove(0).unwrap().value;
        let shared = one.iter().filter(|entity| alone[0].contains(entity)).count();
        assert_eq!(shared > 0, base == BI, "{base}: {shared} of {}", one.len());
    }
}

#[test]
fn texts_over_a_limit_are_errors_or_cut_between_words() {
    let words = |truncate| {
        let folder = lay_out(BI, &json!({"max_len": 3}));
        let extractor =
            EntityExtractor::load(&files(folder.path()), &Options::default().with_truncate(truncate)).unwrap();
        let labels = extractor.labels(&["person", "place"]).unwrap();
        let all = EntityRequest::default().with_threshold(0.0).with_nested(true).with_multi_label(true);
        extractor.run(&["one two three four five"], &labels, &all).unwrap().remove(0)
    };
    assert!(matches!(words(Truncate::Error), Err(Error::TooManyWords { words: 5, limit: 3 })));
    for (truncate, first, last) in [(Truncate::Right, 0, 13), (Truncate::Left, 8, 23), (Truncate::Model, 0, 13)] {
        let outcome = words(truncate).unwrap();
        assert!(outcome.truncated);
        assert_eq!(outcome.value.iter().map(|entity| entity.start).min(), Some(first), "{truncate:?}");
        assert_eq!(outcome.value.iter().map(|entity| entity.end).max(), Some(last), "{truncate:?}");
    }
    // Tokens: the limit counts the labels that stand before the text.
    let folder = lay_out(UNI, &json!({}));
    let run = |tokens: usize, truncate| {
        let options = Options::default().with_truncate(truncate).with_max_length(tokens);
        let extractor = EntityExtractor::load(&files(folder.path()), &options).unwrap();
        let labels = extractor.labels(&["person"]).unwrap();
        extractor.run(&[TEXT, "", "x"], &labels, &EntityRequest::default()).unwrap()
    };
    let cut = run(20, Truncate::Right);
    assert!(cut[0].as_ref().unwrap().truncated && !cut[1].as_ref().unwrap().truncated);
    let strict = run(20, Truncate::Error);
    assert!(matches!(strict[0], Err(Error::TooLong { limit: 20, .. })) && strict[2].is_ok());
    assert!(matches!(run(5, Truncate::Right)[0], Err(Error::NoRoom { limit: 5, .. })));
}

#[test]
fn labels_that_cannot_be_looked_for() {
    for base in [BI, UNI] {
        let extractor = load(base, &json!({})).unwrap();
        let error = |labels: &[&str]| extractor.labels(labels).map(drop).unwrap_err().to_string();
        assert!(error(&[]).contains("no labels"));
        assert!(error(&["a", ""]).contains("empty"));
        assert_eq!(extractor.labels(&["b", "a", "b"]).unwrap().names(), ["b", "a"]);
    }
    let extractor = load(UNI, &json!({})).unwrap();
    let error = extractor.extract("A text", &["a <<ENT>> b"]).unwrap_err().to_string();
    assert!(error.contains("<<ENT>>"), "{error}");
    // In a text it is five words.
    extractor.extract("A <<ENT>> b <<SEP>>", &["a"]).unwrap();
}

#[test]
fn kinds_of_gliner_that_are_not_run_are_named() {
    for (keys, named) in [
        (json!({"span_mode": "token_level"}), "token-level"),
        (json!({"span_mode": "markerV1"}), "span_mode"),
        (json!({"span_mode": "conv_share"}), "conv_share"),
        (json!({"labels_decoder": "gpt2"}), "decoder of labels"),
        (json!({"relations_layer": "biaffine"}), "relations"),
        (json!({"model_type": "gliner_streaming_span"}), "streaming"),
        (json!({"post_fusion_schema": "l2l-l2t"}), "post_fusion_schema"),
        (json!({"fuse_layers": true}), "fuse_layers"),
        (json!({"span_encoder_config": {"model_type": "rnn"}}), "span_encoder_config"),
        (json!({"words_splitter_type": "spacy"}), "words_splitter_type"),
        (json!({"precomputed_prompts_mode": true}), "precomputed_prompts_mode"),
        (json!({"encoder_config": {"model_type": "deberta-v2"}}), "deberta-v2"),
        (json!({"encoder_config": {}}), "deberta-v2"),
        (json!({"encoder_config": null}), "encoder_config"),
    ] {
        let error = refused(BI, &keys);
        assert!(error.contains(named), "{keys}: {error}");
        let folder = lay_out(BI, &keys);
        let told = ettin::identity::describe(&files(folder.path())).unwrap().unwrap().to_string();
        assert!(told.contains("a GLiNER model") && told.contains(named), "{told}");
    }
    assert!(ettin::identity::describe(&files(&root(BI))).unwrap().is_none());
    let other = TextEmbedder::load(&files(&root(BI)), &options()).map(drop).unwrap_err().to_string();
    assert!(other.contains("GLiNER") && other.contains("fits extract"), "{other}");
    let adapter = files(&root("models/tiny-adapters/list"));
    let adapted = files(&root(BI)).with_adapter("x", adapter).unwrap();
    let adapted = EntityExtractor::load(&adapted, &options()).map(drop).unwrap_err().to_string();
    assert!(adapted.contains("an adapter on the GLiNER model"), "{adapted}");
    let plain = EntityExtractor::load(&files(&root("models/tiny-text-chain-mean")), &options()).map(drop);
    assert!(plain.unwrap_err().to_string().contains("gliner_config.json"));
    let tagger = EntityExtractor::load(&files(&root("models/tiny-text-tag")), &options()).map(drop);
    assert!(tagger.unwrap_err().to_string().contains("which fits tag"));
}

#[test]
fn hostile_configurations() {
    for (keys, named) in [
        (json!({"max_width": 0}), "max_width"),
        (json!({"max_width": -1}), "max_width"),
        (json!({"max_width": 4_000_000_000u64}), "max_width"),
        (json!({"max_len": 0}), "max_len"),
        (json!({"max_len": 1e300}), "max_len"),
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": 25}), "[25, 32]"),
        (json!({"hidden_size": 1_000_000}), "hidden_size"),
        (json!({"subtoken_pooling": "sum"}), "subtoken_pooling"),
        (json!({"encoder_config": [1]}), "encoder_config"),
        (json!({"encoder_config": {"model_type": "modernbert", "hidden_size": 7}}), "num_attention_heads"),
        (json!({"labels_encoder": 3}), "labels_encoder"),
        (json!({"span_mode": 3}), "span_mode"),
    ] {
        let error = refused(BI, &keys);
        assert!(error.contains(named), "{keys}: {error}");
    }
    for (keys, named) in [
        (json!({"class_token_index": -1}), "class_token_index"),
        (json!({"class_token_index": 3}), "class_token_index is 3"),
        (json!({"ent_token": "[NO]"}), "[NO]"),
        (json!({"num_rnn_layers": 3}), "rnn.lstm.weight_ih_l2"),
        (json!({"num_rnn_layers": 1e9}), "num_rnn_layers"),
    ] {
        let error = refused(UNI, &keys);
        assert!(error.contains(named), "{keys}: {error}");
    }
    for text in ["", "[]", "{\"max_width\": NaN}", "{\"a\": 1, \"a\": 2}"] {
        let folder = lay_out(BI, &json!({}));
        fs::write(folder.path().join("gliner_config.json"), text).unwrap();
        let error = EntityExtractor::load(&files(folder.path()), &options()).map(drop).unwrap_err();
        assert!(error.to_string().contains("gliner_config.json"), "{error}");
    }
}

#[test]
fn hostile_weights() {
    let tensors = fs::read(root(BI).join("model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    let all = || read.tensors().into_iter().collect::<HashMap<_, _>>();
    let attempt = |tensors: HashMap<String, TensorView<'_>>| {
        let folder = lay_out(BI, &json!({}));
        serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
        EntityExtractor::load(&files(folder.path()), &options()).map(drop)
    };
    attempt(all()).unwrap();
    for name in [
        "token_rep_layer.bert_layer.model.layers.0.attn.Wo.weight",
        "token_rep_layer.labels_encoder.model.final_norm.weight",
        "token_rep_layer.projection.bias",
        "token_rep_layer.labels_projection.weight",
        "span_rep_layer.span_rep_layer.project_end.3.bias",
        "span_rep_layer.span_rep_layer.out_project.0.weight",
        "span_rep_layer.span_rep_layer.out_project.3.bias",
        "prompt_rep_layer.0.weight",
    ] {
        let end = name.rsplit("model.").next().unwrap();
        let mut missing = all();
        missing.remove(name).unwrap();
        let error = attempt(missing).unwrap_err().to_string();
        assert!(error.contains(end) && error.contains("missing"), "{error}");
        let mut lying = all();
        let other = lying["rnn.lstm.bias_ih_l0"].clone();
        lying.insert(name.to_owned(), other);
        let error = attempt(lying).unwrap_err().to_string();
        assert!(error.contains(end) && error.contains("expected"), "{error}");
    }
    // Labels encoded apart have no use for an LSTM.
    let mut without = all();
    without.retain(|name, _| !name.starts_with("rnn."));
    attempt(without).unwrap();
}

#[test]
fn another_number_format_is_close() {
    let exact = load(BI, &json!({})).unwrap();
    let labels = exact.labels(&["person", "place"]).unwrap();
    let all = EntityRequest::default().with_threshold(0.0).with_nested(true).with_multi_label(true);
    let find = |extractor: &EntityExtractor, labels: &EntityLabels| {
        let mut found = extractor.run(&["x y"], labels, &all).unwrap().remove(0).unwrap().value;
        found.sort_by(|a, b| (a.start, a.end, &a.label).cmp(&(b.start, b.end, &b.label)));
        found
    };
    let reference = find(&exact, &labels);
    let bf16 = Options::default().with_dtype(ettin::Dtype::Bf16);
    let folder = lay_out(BI, &json!({}));
    let extractor = EntityExtractor::load(&files(folder.path()), &bf16).unwrap();
    let close = find(&extractor, &extractor.labels(&["person", "place"]).unwrap());
    assert_eq!(close.len(), reference.len());
    for (close, exact) in close.iter().zip(&reference) {
        assert!((close.score - exact.score).abs() < 0.1, "{close:?} instead of {exact:?}");
    }
}
