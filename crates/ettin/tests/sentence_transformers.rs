//! Repositories of sentence-transformers, key by key: what the library makes of them, recorded by
//! `scripts/make_sentence_fixtures.py` (versions in the fixture). Every case is a tiny model with other files over it.

use std::path::Path;

use ettin::files::ModelFiles;
use ettin::tasks::{
    Activation, Classifier, ClassifyRequest, EmbedRequest, MultiVectorEncoder, Options, Outcome, Outcomes,
    PromptChoice, RerankInput, RerankRequest, Reranker, SearchSide, SimilarityInput, TagRequest, Tagger, TextEmbedder,
    TextInput, Truncate,
};
use ettin::weights::convert;
use serde_json::Value;

const TOLERANCE: f64 = 2e-5;

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn fixture() -> Value {
    let text = std::fs::read(root("tests/fixtures/pipelines/sentence_transformers.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn case(name: &str) -> Value {
    let fixture = fixture();
    let found = fixture["cases"].as_array().unwrap().iter().find(|case| case["name"] == name);
    found.unwrap_or_else(|| panic!("no case {name:?}")).clone()
}

/// The repository of a case, in a folder of its own.
fn lay_out(case: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let base = root(case["base"].as_str().unwrap());
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(base.join(name), folder.path().join(name)).unwrap();
    }
    for (name, content) in case["files"].as_object().unwrap() {
        put(folder.path(), name, content);
    }
    folder
}

fn put(folder: &Path, name: &str, content: &Value) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match content.get("hex") {
        Some(hex) => std::fs::write(path, bytes(hex.as_str().unwrap())).unwrap(),
        None if content.is_null() => drop(std::fs::remove_file(path)),
        None => std::fs::write(path, content.to_string()).unwrap(),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn options(run: &Value) -> Options {
    let truncate = match run["truncate"].as_str() {
        None => Truncate::Error,
        Some("model") => Truncate::Model,
        Some("right") => Truncate::Right,
        Some(other) => panic!("{other}"),
    };
    Options::default().with_truncate(truncate).with_batch_tokens(64)
}

fn prompt(run: &Value) -> PromptChoice {
    match run["options"]["prompt"].as_str() {
        Some(name) => PromptChoice::Named(name.to_owned()),
        None if run["options"]["no_prompt"] == true => PromptChoice::None,
        None => PromptChoice::Default,
    }
}

/// Results in the fixture's form, with whether any input was cut.
fn collected<T: serde::Serialize>(outcomes: Outcomes<T>) -> (Vec<Value>, bool) {
    let mut cut = false;
    let value = |outcome: ettin::Result<Outcome<T>>| {
        let outcome = outcome.unwrap();
        cut |= outcome.truncated;
        serde_json::to_value(outcome.value).unwrap()
    };
    let values = outcomes.into_iter().map(value).collect();
    (values, cut)
}

fn answer(files: &ModelFiles, run: &Value, options: &Options) -> (Value, bool) {
    let given = &run["options"];
    let embed = || {
        EmbedRequest::default()
            .with_prompt(prompt(run))
            .with_normalize(given["normalize_embeddings"].as_bool())
            .with_dimensions(given["truncate_dim"].as_u64().map(|size| size as usize))
            .with_per_token(given["per_token"] == true)
    };
    match run["task"].as_str().unwrap() {
        "embed" => {
            let task = TextEmbedder::load(files, options).unwrap();
            let (values, cut) = collected(task.run(&texts(&run["input"]), &embed()).unwrap());
            (values.into_iter().map(|value| value["embedding"].clone()).collect(), cut)
        }
        "similarity" => {
            let task = TextEmbedder::load(files, options).unwrap();
            let input = SimilarityInput { a: run["input"]["a"].as_str().unwrap(), b: texts(&run["input"]["b"]) };
            let (values, cut) = collected(task.similarity(&[input], &embed()).unwrap());
            (values[0].as_array().unwrap().iter().map(|scored| scored["score"].clone()).collect(), cut)
        }
        "rerank" => {
            let task = Reranker::load(files, options).unwrap();
            let input = RerankInput {
                query: run["input"]["query"].as_str().unwrap(),
                documents: texts(&run["input"]["documents"]),
            };
            let activation = (given["activation"] == "raw").then_some(Activation::Raw);
            let request = RerankRequest::default().with_activation(activation).with_prompt(prompt(run));
            let (values, cut) = collected(task.run(&[input], &request).unwrap());
            (values[0].clone(), cut)
        }
        "classify" => {
            let task = Classifier::load(files, options).unwrap();
            let request = ClassifyRequest::default().with_top_k(None).with_raw(true).with_prompt(prompt(run));
            let input = |value: &Value| (value["text"].as_str().unwrap().to_owned(), value["text_pair"].clone());
            let inputs: Vec<_> = run["input"].as_array().unwrap().iter().map(input).collect();
            let inputs: Vec<TextInput<'_>> =
                inputs.iter().map(|(text, pair)| TextInput { text, pair: pair.as_str() }).collect();
            let (values, cut) = collected(task.run(&inputs, &request).unwrap());
            (values.into(), cut)
        }
        "tag" => {
            let task = Tagger::load(files, options).unwrap();
            let request = TagRequest::default().with_all(true);
            let (values, cut) = collected(task.run(&texts(&run["input"]), &request).unwrap());
            (values.into(), cut)
        }
        other => panic!("{other}"),
    }
}

fn assert_same(ours: &Value, theirs: &Value, place: &str) {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "{place}: {a} is not {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                assert_same(a, b, &format!("{place}[{index}]"));
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            for (key, a) in a {
                assert_same(a, &b[key], &format!("{place}.{key}"));
            }
        }
        _ => assert_eq!(ours, theirs, "{place}"),
    }
}

/// Checks every answer of the cases that `wanted` names; there must be some.
fn check(wanted: impl Fn(&str) -> bool) {
    let fixture = fixture();
    let mut checked = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if !wanted(name) {
            continue;
        }
        let folder = lay_out(case);
        let files = ModelFiles::folder(folder.path()).unwrap();
        for (index, run) in case["runs"].as_array().unwrap().iter().enumerate() {
            let place = format!("{name}, run {index}");
            let (ours, cut) = answer(&files, run, &options(run));
            assert_same(&ours, &run["output"], &place);
            assert_eq!(cut, run["truncate"].is_string(), "{place}: whether an input was cut");
            checked += 1;
        }
    }
    assert!(checked > 0);
}

fn is_length(name: &str) -> bool {
    [
        "length",
        "max_len",
        "positions",
        "limit",
        "truncation",
        "truncate\u{20}",
        "version 0",
        "sentence_bert",
        "processing",
    ]
    .iter()
    .any(|word| name.contains(word))
}

#[test]
fn texts_are_cut_where_the_library_cuts_them() {
    check(|name| is_length(name) || name == "no special tokens");
}

#[test]
fn rerankers_of_every_layout_score_as_in_the_library() {
    check(|name| !is_length(name) && (name.contains("module,") || name == "one module" || name == "three labels"));
}

#[test]
fn chains_run_every_module_and_obey_every_key() {
    check(|name| !is_length(name) && name != "no special tokens" && !name.contains("module") && name != "three labels");
}

#[test]
fn over_long_text_is_an_error_that_says_where_the_limit_is() {
    for (name, origin, side) in [
        ("max_seq_length of the older layout", "max_seq_length of sentence_bert_config.json", "right"),
        ("max_seq_length as 6.2 saves it", "model_max_length of tokenizer_config.json", "right"),
        ("positions where nothing else limits", "max_position_embeddings of config.json", "right"),
        ("processing_kwargs over query_length", "processing_kwargs", "right"),
        ("model_max_length among the tokenizer's arguments", "tokenizer's arguments", "right"),
        ("truncation_side", "model_max_length of tokenizer_config.json", "left"),
        ("truncation_side of tokenizer.json alone, whose max_length counts nowhere", "model_max_length", "left"),
    ] {
        let case = case(name);
        let folder = lay_out(&case);
        let task = TextEmbedder::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
        let long = case["runs"][0]["input"][1].as_str().unwrap();
        let mut outcomes = task.run(&[long], &EmbedRequest::default()).unwrap();
        let message = outcomes.remove(0).unwrap_err().to_string();
        assert!(message.contains(origin) && message.contains(&format!("own is {side}")), "{name}: {message}");
    }
    let case = case("query_length and document_length");
    let folder = lay_out(&case);
    let task = TextEmbedder::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
    for name in ["query", "document"] {
        let long = case["runs"][0]["input"][1].as_str().unwrap();
        let request = EmbedRequest::default().with_prompt(PromptChoice::Named(name.to_owned()));
        let message = task.run(&[long], &request).unwrap().remove(0).unwrap_err().to_string();
        assert!(message.contains(&format!("{name}_length")), "{message}");
    }
}

/// transformers computes what its tokenizer calls too long, and says so; so does a plain classifier here.
#[test]
fn a_plain_classifier_computes_texts_over_model_max_length() {
    let case = case("a plain classifier's model_max_length");
    let folder = lay_out(&case);
    let files = ModelFiles::folder(folder.path()).unwrap();
    let long = "The ball was in the park. ".repeat(10);
    let run = |options: &Options| {
        let task = Classifier::load(&files, options).unwrap();
        task.run(&[long.as_str().into()], &ClassifyRequest::default()).unwrap().remove(0).unwrap()
    };
    let whole = run(&Options::default());
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(whole, run(&Options::default()), "its tokenizer's limit changes nothing");
    put(folder.path(), "tokenizer_config.json", &case["files"]["tokenizer_config.json"]);
    let cut = run(&Options::default().with_truncate(Truncate::Right));
    assert!(cut.truncated && !whole.truncated && cut.value != whole.value);
}

#[test]
fn an_explicit_side_wins_over_the_model_s() {
    let case = case("truncation_side");
    let folder = lay_out(&case);
    let files = ModelFiles::folder(folder.path()).unwrap();
    let run = &case["runs"][0];
    let vectors = |truncate| answer(&files, run, &Options::default().with_truncate(truncate)).0;
    assert_eq!(vectors(Truncate::Model), vectors(Truncate::Left));
    assert_ne!(vectors(Truncate::Right), vectors(Truncate::Left));
}

#[test]
fn a_limit_asked_for_is_one_more_limit() {
    let folder = lay_out(&case("max_seq_length of the older layout"));
    let files = ModelFiles::folder(folder.path()).unwrap();
    for (asked, limit) in [(6, 6), (100, 12)] {
        let options = Options::default().with_max_length(asked);
        let task = TextEmbedder::load(&files, &options).unwrap();
        let long = "The ball was in the park. ".repeat(4);
        let error = task.run(&[long.as_str()], &EmbedRequest::default()).unwrap().remove(0).unwrap_err();
        assert!(matches!(error, ettin::Error::TooLong { limit: found, .. } if found == limit), "{error}");
    }
}

#[test]
fn a_text_without_tokens_is_an_error_of_its_own() {
    let folder = lay_out(&case("no special tokens"));
    let task = TextEmbedder::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
    let outcomes = task.run(&["A cat.", "", "A dog."], &EmbedRequest::default()).unwrap();
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
}

/// What a task does with a case's repository after one file was changed.
fn refused(name: &str, file: &str, content: &Value, task: &str) -> String {
    let folder = lay_out(&case(name));
    put(folder.path(), file, content);
    let files = ModelFiles::folder(folder.path()).unwrap();
    let options = Options::default();
    match task {
        "embed" => TextEmbedder::load(&files, &options).unwrap_err(),
        "rerank" => Reranker::load(&files, &options).unwrap_err(),
        "classify" => Classifier::load(&files, &options).unwrap_err(),
        other => panic!("{other}"),
    }
    .to_string()
}

#[test]
fn what_a_folder_is_not_for_is_refused_by_what_it_is() {
    let nothing = &Value::Null;
    for (name, task, words) in [
        ("one module", "embed", ["classif", "rerank"]),
        ("a reranker's chain with a default prompt", "embed", ["is a reranker with one score", "fits rerank"]),
        ("Dropout", "rerank", ["scores", "embed"]),
        ("three labels", "rerank", ["3", "classify"]),
        ("a reranker's chain with a default prompt", "classify", ["one score", "fits rerank"]),
        ("Dropout", "classify", ["an embedder", "fits embed"]),
    ] {
        let message = refused(name, "no.file", nothing, task);
        assert!(words.iter().all(|word| message.contains(word)), "{name}, {task}: {message}");
    }
}

/// No task sends to another that refuses as well.
#[test]
fn a_chain_with_several_scores_is_for_classify_and_other_tasks_say_so() {
    let name = "a reranker's chain without an activation";
    let case = case(name);
    let folder = lay_out(&case);
    let mut config = case["files"]["2_Dense/config.json"].clone();
    config["out_features"] = 3.into();
    config["bias"] = false.into();
    put(folder.path(), "2_Dense/config.json", &config);
    let header = r#"{"linear.weight":{"dtype":"F32","shape":[3,32],"data_offsets":[0,384]}}"#;
    let tensors = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 384]].concat();
    std::fs::write(folder.path().join("2_Dense/model.safetensors"), tensors).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    let options = Options::default();
    for error in [
        TextEmbedder::load(&files, &options).unwrap_err(),
        Reranker::load(&files, &options).unwrap_err(),
        Tagger::load(&files, &options).unwrap_err(),
    ] {
        let message = error.to_string();
        assert!(message.contains("3 scores") && message.contains("fits classify"), "{message}");
        assert!(!message.contains("try "), "{message}");
    }
    let classifier = Classifier::load(&files, &options).unwrap();
    assert_eq!(classifier.labels(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    let request = ClassifyRequest::default().with_top_k(None);
    let labels = classifier.run(&[("a", "b").into()], &request).unwrap().remove(0).unwrap().value;
    assert!(labels.iter().all(|label| label.score == labels[0].score), "weights of 0: {labels:?}");
}

#[test]
fn a_trunk_in_a_folder_of_its_own_is_its_chain_s_alone() {
    let folder = lay_out(&case("Dropout"));
    let files = ModelFiles::folder(folder.path()).unwrap();
    let inner = folder.path().join("0_Transformer");
    std::fs::create_dir(&inner).unwrap();
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"]
    {
        std::fs::rename(folder.path().join(name), inner.join(name)).unwrap();
    }
    let modules = std::fs::read_to_string(folder.path().join("modules.json")).unwrap();
    let modules = modules.replacen(r#""path":"""#, r#""path":"./0_Transformer/""#, 1);
    assert!(modules.contains("0_Transformer"), "{modules}");
    std::fs::write(folder.path().join("modules.json"), modules).unwrap();
    TextEmbedder::load(&files, &Options::default()).unwrap();
    let message = Classifier::load(&files, &Options::default()).unwrap_err().to_string();
    assert!(message.contains("embedder") && message.contains("fits embed"), "{message}");
}

#[test]
fn modules_that_are_not_run_are_refused_by_name() {
    let with = |path: &str, class: &str| {
        let entry = |path: &str, class: &str| serde_json::json!({"path": path, "type": class});
        let first = entry("", "sentence_transformers.models.Transformer");
        serde_json::json!([first, entry("1_Pooling", "sentence_transformers.models.Pooling"), entry(path, class)])
    };
    for class in ["sentence_transformers.models.CNN", "sentence_transformers.models.WordEmbeddings", "custom.Normalize"]
    {
        let message = refused("null everywhere", "modules.json", &with("2_X", class), "embed");
        assert!(message.contains(class.rsplit('.').next().unwrap()), "{message}");
    }
    // A layer norm on nothing, and a chain that ends before it has pooled.
    let transformer = serde_json::json!([{"path": "", "type": "sentence_transformers.models.Transformer"}]);
    assert!(refused("null everywhere", "modules.json", &transformer, "embed").contains("Pooling"));
    let early = serde_json::json!([
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_LayerNorm", "type": "sentence_transformers.models.LayerNorm"},
    ]);
    assert!(refused("null everywhere", "modules.json", &early, "embed").contains("sentence_embedding"));
}

/// Scores over the vocabulary are no vectors, and vectors no scores.
#[test]
fn modules_stand_behind_the_trunk_that_they_are_for() {
    let chain = |trunk: &str, second: &str| {
        let entry = |path: &str, class: &str| serde_json::json!({"path": path, "type": format!("sentence_transformers.models.{class}")});
        serde_json::json!([entry("", trunk), entry("1_Pooling", second), entry("2_Normalize", "Normalize")])
    };
    for (trunk, second, words) in [
        ("Transformer", "SpladePooling", ["SpladePooling", "\"fill-mask\""]),
        ("Transformer", "LogitScore", ["LogitScore", "\"text-generation\""]),
        ("MLMTransformer", "Pooling", ["Pooling", "take for vectors"]),
        ("MLMTransformer", "Dense", ["Dense", "take for vectors"]),
    ] {
        let folder = lay_out(&case("null everywhere"));
        put(folder.path(), "modules.json", &chain(trunk, second));
        // The head of a language model is there.
        let words_model = root("models/tiny-words-masked");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(words_model.join(name), folder.path().join(name)).unwrap();
        }
        let files = ModelFiles::folder(folder.path()).unwrap();
        let message = TextEmbedder::load(&files, &Options::default()).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{trunk} {second}: {message}");
    }
}

#[test]
fn a_dense_module_uses_every_tensor_it_has() {
    let case = case("residual of two widths");
    let mut config = case["files"]["2_Dense/config.json"].clone();
    config.as_object_mut().unwrap().remove("use_residual");
    let message = refused("residual of two widths", "2_Dense/config.json", &config, "embed");
    assert!(message.contains("residual.weight"), "{message}");
}

#[test]
fn a_prompt_that_a_model_lacks_is_named_with_those_it_has() {
    let folder = lay_out(&case("one module, prompts"));
    let task = Reranker::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
    // Every embedder has prompts for queries and documents; a reranker has its own alone.
    let request = RerankRequest::default().with_prompt(PromptChoice::Named("query".to_owned()));
    let message = task.run(&[], &request).unwrap_err().to_string();
    assert!(message.contains("none, web"), "{message}");
}

#[test]
fn an_activation_that_is_not_implemented_is_refused_unless_another_is_asked_for() {
    let case = case("one module");
    let mut settings = case["files"]["config_sentence_transformers.json"].clone();
    settings["activation_fn"] = "torch.nn.modules.activation.Hardtanh".into();
    let folder = lay_out(&case);
    put(folder.path(), "config_sentence_transformers.json", &settings);
    let task = Reranker::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
    let input = RerankInput { query: "Who?", documents: vec!["Ada."] };
    let message = task.run(std::slice::from_ref(&input), &RerankRequest::default()).unwrap_err().to_string();
    assert!(message.contains("Hardtanh"), "{message}");
    let raw = RerankRequest::default().with_activation(Activation::Raw);
    assert!(task.run(&[input], &raw).unwrap()[0].is_ok());
}

#[test]
fn a_chain_whose_folder_has_a_dot_converts_to_the_same_model() {
    let case = case("a folder called 2.Dense");
    let folder = lay_out(&case);
    let files = ModelFiles::folder(folder.path()).unwrap();
    let converted = tempfile::tempdir().unwrap();
    convert(&files, converted.path(), None, &mut |_| ()).unwrap();
    let run = &case["runs"][0];
    let (ours, _) = answer(&ModelFiles::folder(converted.path()).unwrap(), run, &options(run));
    assert_same(&ours, &run["output"], "converted");
}

/// SPLADE without a chain, and `do_lower_case` in every kind of model (`scripts/make_splade_fixtures.py`).
mod splade {
    use super::*;

    fn cases() -> Vec<Value> {
        let text = std::fs::read(root("tests/fixtures/pipelines/splade.json")).unwrap();
        let fixture: Value = serde_json::from_slice(&text).unwrap();
        fixture["cases"].as_array().unwrap().clone()
    }

    fn case(name: &str) -> Value {
        cases().into_iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("no case {name:?}"))
    }

    fn embedder(files: &ModelFiles, options: &Options) -> TextEmbedder {
        TextEmbedder::load_splade(files, options).unwrap()
    }

    /// Vectors as the fixture has them.
    fn sparse(embedder: &TextEmbedder, texts: &[&str], active: Option<usize>) -> Vec<Value> {
        let request = EmbedRequest::default().with_max_active_dims(active);
        let outcomes = embedder.run(texts, &request).unwrap().into_iter();
        outcomes.map(|outcome| serde_json::to_value(outcome.unwrap().value.embedding).unwrap()).collect()
    }

    fn tokens(files: &ModelFiles, options: &Options, side: SearchSide, texts: &[&str]) -> Vec<Value> {
        let encoder = MultiVectorEncoder::load(files, options).unwrap();
        let vectors = encoder.encode(texts, side).unwrap();
        vectors.iter().map(|vectors| serde_json::to_value(vectors.rows().collect::<Vec<_>>()).unwrap()).collect()
    }

    #[test]
    fn answers_are_those_of_the_library() {
        for case in cases() {
            let folder = lay_out(&case);
            let files = ModelFiles::folder(folder.path()).unwrap();
            // As the library does: longer texts are cut.
            let options = Options::default().with_truncate(Truncate::Model).with_batch_tokens(64);
            for (index, run) in case["runs"].as_array().unwrap().iter().enumerate() {
                let place = format!("{}, run {index}", case["name"]);
                let input = &run["input"];
                let ours: Value = match run["task"].as_str().unwrap() {
                    "sparse" => {
                        let active = run["options"]["max_active_dims"].as_u64().map(|active| active as usize);
                        sparse(&embedder(&files, &options), &texts(input), active).into()
                    }
                    "sparse-similarity" => {
                        let input = SimilarityInput { a: input["a"].as_str().unwrap(), b: texts(&input["b"]) };
                        let outcome = embedder(&files, &options)
                            .similarity(&[input], &EmbedRequest::default())
                            .unwrap()
                            .remove(0);
                        outcome.unwrap().value.iter().map(|scored| Value::from(scored.score)).collect()
                    }
                    "tokens-query" => tokens(&files, &options, SearchSide::Query, &texts(input)).into(),
                    "tokens-document" => tokens(&files, &options, SearchSide::Document, &texts(input)).into(),
                    _ => answer(&files, run, &options).0,
                };
                assert_same(&ours, &run["output"], &place);
            }
        }
    }

    #[test]
    fn a_texts_sparse_vector_is_the_same_alone_and_in_any_company() {
        let case = case("bare");
        let folder = lay_out(&case);
        let files = ModelFiles::folder(folder.path()).unwrap();
        let texts = texts(&case["runs"][0]["input"]);
        let together = sparse(&embedder(&files, &Options::default().with_batch_tokens(4096)), &texts, None);
        let alone = embedder(&files, &Options::default());
        for (text, vector) in texts.iter().zip(together) {
            assert_eq!(sparse(&alone, &[text], None)[0], vector);
        }
    }

    #[test]
    fn what_is_no_masked_language_model_is_refused() {
        let load = |files: ModelFiles| TextEmbedder::load_splade(&files, &Options::default()).unwrap_err().to_string();
        let of = |folder: &str| load(ModelFiles::folder(root("models").join(folder)).unwrap());
        for (folder, words) in [
            ("nano-decoder", "masked language model"),
            ("tiny-text-classify-single", "ModernBertForSequenceClassification"),
            ("tiny-text-chain-mean", "modules.json describes another kind"),
            ("tiny-text-stanford", "Stanford ColBERT"),
            ("tiny-text-late-interaction", "ModernBertModel"),
        ] {
            let error = of(folder);
            assert!(error.contains(words), "{folder}: {error}");
        }
    }
}
