//! Late interaction: what PyLate makes of its folders and sentence-transformers of its own, recorded by
//! `scripts/make_late_interaction_fixtures.py` and `scripts/make_multi_vector_fixtures.py` (versions in the fixtures), and
//! what Stanford's colbert-ai makes of its own (`scripts/make_stanford_fixtures.py`). Every case is one tiny trunk with
//! other files over it.

use std::path::{Path, PathBuf};

use ettin::files::ModelFiles;
use ettin::heads::MultiVectorModel;
use ettin::tasks::{
    Embeddings, MultiVectorEncoder, MultiVectorRequest, Options, PromptChoice, RerankInput, SearchSide, TextEmbedder,
    Truncate,
};
use ettin::{Backend, Dtype, PackedBatch, Team};
use serde_json::{Value, json};

const TOLERANCE: f32 = 1e-5;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn cases() -> Vec<Value> {
    let of_file = |name: &str| {
        let text = std::fs::read(root("tests/fixtures/pipelines").join(name)).unwrap();
        let fixture: Value = serde_json::from_slice(&text).unwrap();
        fixture["cases"].as_array().unwrap().clone()
    };
    ["late_interaction.json", "multi_vector.json", "stanford.json"].into_iter().flat_map(of_file).collect()
}

fn case(name: &str) -> Value {
    cases().into_iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("no case {name:?}"))
}

/// The folder of a case.
fn lay_out(case: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let base = root("models").join(case["base"].as_str().unwrap_or("tiny-text-late-interaction"));
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(base.join(name), folder.path().join(name)).unwrap();
    }
    for (name, content) in case["files"].as_object().unwrap() {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.get("hex") {
            Some(hex) => std::fs::write(path, bytes(hex)).unwrap(),
            None => std::fs::write(path, content.to_string()).unwrap(),
        }
    }
    folder
}

fn bytes(hex: &Value) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_str().unwrap().as_bytes().chunks(2).map(byte).collect()
}

fn files(folder: &tempfile::TempDir) -> ModelFiles {
    ModelFiles::folder(folder.path()).unwrap()
}

/// As the library does: longer texts are cut.
fn options() -> Options {
    Options::default().with_batch_tokens(64).with_truncate(Truncate::Model)
}

fn loaded(case: &Value) -> MultiVectorEncoder {
    MultiVectorEncoder::load(&files(&lay_out(case)), &options()).unwrap()
}

/// Texts of a side with the shapes and vectors that the library gives.
fn expected(case: &Value, side: SearchSide) -> Vec<(String, [usize; 2], Vec<f32>)> {
    let of = |text: &Value| {
        let floats = bytes(&text["hex"]).chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let shape = [0, 1].map(|i| text["shape"][i].as_u64().unwrap() as usize);
        (text["text"].as_str().unwrap().to_owned(), shape, floats)
    };
    let key = if side == SearchSide::Query { "queries" } else { "documents" };
    case[key].as_array().unwrap().iter().map(of).collect()
}

fn request(case: &Value, side: SearchSide) -> MultiVectorRequest {
    let prompt = case["options"]["prompt_name"].as_str().map(|name| PromptChoice::Named(name.to_owned()));
    MultiVectorRequest::default()
        .with_side(side)
        .with_prompt(prompt.unwrap_or_default())
        .with_pool_factor(case["options"]["pool_factor"].as_f64())
        .with_protected_tokens(case["options"]["protected_tokens"].as_u64().unwrap_or(1) as usize)
}

fn run(encoder: &MultiVectorEncoder, texts: &[&str], request: &MultiVectorRequest) -> Vec<Embeddings> {
    let outcomes = encoder.run(texts, request).unwrap();
    outcomes.into_iter().map(|outcome| outcome.unwrap().value.vectors).collect()
}

const SIDES: [SearchSide; 2] = [SearchSide::Query, SearchSide::Document];

#[test]
fn vectors_are_those_of_the_library() {
    let mut worst = 0.0f32;
    for case in cases() {
        let encoder = loaded(&case);
        for side in SIDES {
            let expected = expected(&case, side);
            let texts: Vec<&str> = expected.iter().map(|(text, ..)| text.as_str()).collect();
            for (vectors, (text, shape, want)) in run(&encoder, &texts, &request(&case, side)).iter().zip(&expected) {
                assert_eq!(vectors.shape, *shape, "{}, {side:?} {text:?}", case["name"]);
                let largest = want.iter().fold(1.0f32, |most, x| most.max(x.abs()));
                let error = vectors.values.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
                assert!(error <= TOLERANCE, "{}, {side:?} {text:?}: {error:e}", case["name"]);
                worst = worst.max(error);
            }
        }
    }
    println!("{worst:e}");
}

#[test]
fn scores_are_those_of_the_library() {
    for case in cases().iter().filter(|case| case["scores"].is_array()) {
        let encoder = loaded(case);
        let of_side = |side| {
            let texts: Vec<String> = expected(case, side).into_iter().map(|(text, ..)| text).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            run(&encoder, &texts, &request(case, side))
        };
        let documents = of_side(SearchSide::Document);
        for (query, want) in of_side(SearchSide::Query).iter().zip(case["scores"].as_array().unwrap()) {
            let scores = encoder.scores(query, &documents).unwrap();
            for (score, want) in scores.iter().zip(want.as_array().unwrap()) {
                let want = want.as_f64().unwrap() as f32;
                assert!((score - want).abs() <= 2e-5 * want.abs().max(1.0), "{}: {score} {want}", case["name"]);
            }
        }
    }
}

#[test]
fn the_reference_path_gives_the_same() {
    let folder = lay_out(&case("three layers with residuals"));
    let vectors = |backend: &Backend| {
        let model = MultiVectorModel::load(&files(&folder), backend).unwrap();
        // Of the first sequence, most rows see nothing in the layers with a window.
        let ids: Vec<u32> = (2..60).collect();
        let batch = PackedBatch::new(&[&ids[..], &ids[3..9], &ids[..20]]).unwrap();
        let batch = batch.with_unseen(vec![50, 0, 1]).unwrap();
        let rows: Vec<usize> = (0..batch.tokens()).collect();
        model.vectors(&batch, &rows).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let fused = vectors(&Backend::cpu().unwrap());
    let reference = vectors(&Backend::reference(&ettin::candle::Device::Cpu, Dtype::F32).unwrap());
    let error = fused.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error <= TOLERANCE && fused.len() == reference.len(), "{error:e}");
}

#[test]
fn a_texts_vectors_are_the_same_alone_and_in_any_company() {
    for name in [
        "expansion far behind the text",
        "expansion that is attended to",
        "three layers with residuals",
        "minimal expansion",
        "pooled on both sides",
        "Stanford: far behind the text",
        "Stanford: special tokens in texts",
    ] {
        let case = case(name);
        for team in [Team::single(), Team::with_threads(3).unwrap()] {
            let folder = lay_out(&case);
            let alone = loaded(&case);
            let together = options().with_batch_tokens(4096).with_team(team);
            let together = MultiVectorEncoder::load(&files(&folder), &together).unwrap();
            for side in SIDES {
                let texts: Vec<String> = expected(&case, side).into_iter().map(|(text, ..)| text).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let request = MultiVectorRequest::default().with_side(side);
                let all = run(&together, &texts, &request);
                for (text, vectors) in texts.iter().zip(&all) {
                    assert_eq!(run(&alone, &[text], &request)[0], *vectors, "{name}, {side:?} {text:?}");
                }
            }
        }
    }
}

#[test]
fn documents_are_ranked_by_the_sum_of_the_best_products() {
    let case = case("expansion that nobody sees");
    let encoder = loaded(&case);
    let texts: Vec<String> = expected(&case, SearchSide::Document).into_iter().map(|(text, ..)| text).collect();
    let documents: Vec<&str> = texts.iter().map(String::as_str).collect();
    let inputs = ["Where was the ball?", "x"].map(|query| RerankInput { query, documents: documents.clone() });
    let ranked = encoder.rerank(&inputs, &PromptChoice::Default).unwrap();
    for (input, ranked) in inputs.iter().zip(ranked) {
        let ranked = ranked.unwrap().value;
        assert!(ranked.is_sorted_by(|a, b| a.score >= b.score) && ranked.len() == documents.len());
        let query = &encoder.encode(&[input.query], SearchSide::Query).unwrap()[0];
        for scored in ranked {
            let document = &encoder.encode(&[documents[scored.index]], SearchSide::Document).unwrap()[0];
            let dot = |q: &[f32], d: &[f32]| q.iter().zip(d).map(|(&q, &d)| f64::from(q) * f64::from(d)).sum::<f64>();
            let best = |q: &[f32]| document.rows().map(|d| dot(q, d)).fold(f64::NEG_INFINITY, f64::max);
            let want: f64 = query.rows().map(best).sum();
            assert!((f64::from(scored.score) - want).abs() < 1e-5, "{} {want}", scored.score);
        }
    }
    let nothing = Embeddings::default();
    let query = &encoder.encode(&["x"], SearchSide::Query).unwrap()[0];
    assert_eq!(encoder.scores(query, &[nothing]).unwrap(), [-1e9]);
}

#[test]
fn long_texts_are_errors_unless_they_are_to_be_cut() {
    let case = case("no expansion");
    let encoder = MultiVectorEncoder::load(&files(&lay_out(&case)), &Options::default()).unwrap();
    let long = "The ball was in the park, and the cat sat on it all day. ".repeat(3);
    let request = MultiVectorRequest::default().with_side(SearchSide::Query);
    let error = encoder.run(&[&long, "x"], &request).unwrap().remove(0).unwrap_err().to_string();
    assert!(error.contains("the limit is 11 (query_length of config_sentence_transformers.json"), "{error}");
    let outcomes = MultiVectorEncoder::load(&files(&lay_out(&case)), &options().with_truncate(Truncate::Right));
    let outcomes = outcomes.unwrap().run(&[&long, "x"], &request).unwrap();
    let shapes: Vec<_> = outcomes.iter().map(|o| o.as_ref().map(|o| (o.value.vectors.shape, o.truncated))).collect();
    assert_eq!(shapes[0].as_ref().unwrap(), &([12, 8], true));
    assert!(!shapes[1].as_ref().unwrap().1);
}

#[test]
fn one_pooled_vector_is_refused_and_other_models_are_told_apart() {
    let case = case("no expansion");
    let folder = lay_out(&case);
    let error = TextEmbedder::load(&files(&folder), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("late-interaction") && error.contains("pylate.models.Dense"), "{error}");
    assert!(MultiVectorEncoder::fits(&files(&folder)).unwrap());
    assert_eq!(ettin::identity::describe(&files(&folder)).unwrap(), None);
    assert_eq!(ettin::identity::before_conversion(&files(&folder)).unwrap(), None);
    let nano = ModelFiles::folder(root("models/nano-encoder")).unwrap();
    assert!(!MultiVectorEncoder::fits(&nano).unwrap());
    let error = MultiVectorEncoder::load(&nano, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("describe no such model"), "{error}");
}

/// Settings and files that lie, with words of the refusal.
#[test]
fn hostile_folders_are_errors() {
    let load = |change: &dyn Fn(&Path)| {
        let folder = lay_out(&case("three layers with residuals"));
        change(folder.path());
        let loaded = MultiVectorEncoder::load(&files(&folder), &Options::default());
        loaded.err().map_or("none".to_owned(), |error| error.to_string())
    };
    let settings = |key: &'static str, value: Value| {
        load(&|folder| {
            let path = folder.join("config_sentence_transformers.json");
            let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            settings[key] = value.clone();
            std::fs::write(path, settings.to_string()).unwrap();
        })
    };
    let modules = |change: &dyn Fn(&mut Value)| {
        load(&|folder| {
            let path = folder.join("modules.json");
            let mut modules: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            change(&mut modules);
            std::fs::write(path, modules.to_string()).unwrap();
        })
    };
    for (refusal, words) in [
        (settings("query_prefix", json!("[nowhere] ")), "no such token"),
        (settings("query_length", json!(0)), "query_length"),
        (settings("document_length", json!(1_000_000_000_000u64)), "document_length"),
        (settings("query_length", json!("12")), "query_length"),
        (settings("do_query_expansion", json!("yes")), "do_query_expansion"),
        (settings("skiplist_words", json!([1])), "skiplist_words"),
        (settings("default_prompt_name", json!("none such")), "default_prompt_name"),
        (settings("unheard_of", json!(true)), "unheard_of"),
        (modules(&|modules| modules[1]["path"] = json!("../1_Dense")), "path"),
        (modules(&|modules| modules[1]["type"] = json!("elsewhere.Dense")), "elsewhere.Dense"),
        (modules(&|modules| modules[2]["type"] = json!("sentence_transformers.models.CNN")), "CNN"),
        (modules(&|modules| modules[0]["type"] = json!("pylate.models.Dense.Dense")), "first module"),
        (modules(&|modules| modules.as_array_mut().unwrap().swap(1, 2)), "features"),
        (modules(&|modules| modules[3]["path"] = json!("3_Nothing")), "3_Nothing"),
        (load(&|folder| std::fs::write(folder.join("1_Dense/model.safetensors"), b"junk").unwrap()), "safetensors"),
        (
            load(&|folder| {
                let other = std::fs::read(folder.join("3_Dense/model.safetensors")).unwrap();
                std::fs::write(folder.join("1_Dense/model.safetensors"), other).unwrap();
            }),
            "linear.weight",
        ),
        (modules(&|modules| modules.as_array_mut().unwrap().truncate(1)), "random weights"),
        (load(&|folder| std::fs::write(folder.join("adapter_config.json"), "{}").unwrap()), "adapter"),
        (
            load(&|folder| {
                std::fs::write(folder.join("sentence_bert_config.json"), "{\"do_lower_case\": 1}").unwrap();
            }),
            "do_lower_case",
        ),
    ] {
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
}

/// The same of an `artifact.metadata`, and of weights that it does not fit.
#[test]
fn hostile_folders_of_stanford_are_errors() {
    let load = |change: &dyn Fn(&Path)| {
        let folder = lay_out(&case("Stanford: as saved"));
        change(folder.path());
        let loaded = MultiVectorEncoder::load(&files(&folder), &Options::default());
        loaded.err().map_or("none".to_owned(), |error| error.to_string())
    };
    let json = |name: &'static str, change: &dyn Fn(&mut Value)| {
        load(&|folder| {
            let mut content: Value = serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap();
            change(&mut content);
            std::fs::write(folder.join(name), content.to_string()).unwrap();
        })
    };
    let artifact = |key: &str, value: Value| json("artifact.metadata", &|content| content[key] = value.clone());
    for (refusal, words) in [
        (artifact("query_token_id", json!("[unused0]")), "no such token"),
        (artifact("query_token_id", json!(7)), "query_token_id"),
        (artifact("doc_token_id", json!(null)), "doc_token_id"),
        (artifact("doc_token_id", json!("")), "no such token"),
        (artifact("dim", json!(9)), "expected [9, 32]"),
        (artifact("dim", json!(0)), "dim"),
        (artifact("dim", json!(1u64 << 60)), "dim"),
        (artifact("query_maxlen", json!(1u64 << 40)), "query_maxlen"),
        (artifact("query_maxlen", json!(-1)), "query_maxlen"),
        (artifact("doc_maxlen", json!(null)), "doc_maxlen"),
        (artifact("doc_maxlen", json!("220")), "doc_maxlen"),
        (artifact("mask_punctuation", json!("yes")), "mask_punctuation"),
        (artifact("attend_to_mask_tokens", json!(1)), "attend_to_mask_tokens"),
        (artifact("similarity", json!("l2")), "similarity"),
        (artifact("interaction", json!("flipr")), "interaction"),
        (artifact("reranker", json!(true)), "reranker"),
        (artifact("config", json!([])), "config"),
        (json("tokenizer_config.json", &|content| content["pad_token"] = json!("[MASK]")), "padding"),
        // A marker whose id the vocabulary has and the model lacks.
        (json("config.json", &|content| content["vocab_size"] = json!(512)), "[512, 32]"),
        (load(&|folder| std::fs::write(folder.join("artifact.metadata"), "[1]").unwrap()), "artifact.metadata"),
        (load(&|folder| std::fs::remove_file(folder.join("artifact.metadata")).unwrap()), "artifact.metadata"),
        (
            load(&|folder| {
                let plain = root("models/tiny-text-late-interaction/model.safetensors");
                std::fs::copy(plain, folder.join("model.safetensors")).unwrap();
            }),
            "linear.weight",
        ),
    ] {
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
    // The settings of an index lie one level down; punctuation stays where that is asked for.
    let folder = lay_out(&case("Stanford: as saved"));
    let path = folder.path().join("artifact.metadata");
    let mut nested: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    nested["mask_punctuation"] = json!(false);
    std::fs::write(&path, json!({"config": nested}).to_string()).unwrap();
    let encoder = MultiVectorEncoder::load(&files(&folder), &options()).unwrap();
    let kept = |encoder: &MultiVectorEncoder| {
        encoder.encode(&["The cat sat on the mat."], SearchSide::Document).unwrap()[0].shape
    };
    assert_eq!((kept(&encoder), kept(&loaded(&case("Stanford: as saved")))), ([13, 8], [12, 8]));
    assert_eq!(ettin::identity::describe(&files(&folder)).unwrap(), None);
    let error = TextEmbedder::load(&files(&folder), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("Stanford ColBERT"), "{error}");
}

/// The same of sentence-transformers' own folders.
#[test]
fn hostile_folders_of_the_encoder_are_errors() {
    let load = |name: &str, change: &dyn Fn(&mut Value)| {
        let folder = lay_out(&case("pooled"));
        let path = folder.path().join(name);
        let mut content: Value = std::fs::read(&path).map_or(json!({}), |text| serde_json::from_slice(&text).unwrap());
        change(&mut content);
        std::fs::write(path, content.to_string()).unwrap();
        let loaded = MultiVectorEncoder::load(&files(&folder), &Options::default());
        loaded.err().map_or("none".to_owned(), |error| error.to_string())
    };
    let settings = "sentence_bert_config.json";
    let expansion = |key: &str, value: Value| {
        load(settings, &|content| {
            content["query_expansion"] = json!({"strategy": "fixed", "length": 32});
            content["query_expansion"][key] = value.clone();
        })
    };
    let mask = |key: &str, value: Value| load("2_MultiVectorMask/config.json", &|content| content[key] = value.clone());
    let pooling = |key: &str, value: Value| {
        load("4_HierarchicalTokenPooling/config.json", &|content| content[key] = value.clone())
    };
    let modules = |change: &dyn Fn(&mut Value)| load("modules.json", change);
    for (refusal, words) in [
        (expansion("strategy", json!("all")), "strategy"),
        (expansion("length", json!(null)), "length"),
        (expansion("length", json!(1u64 << 40)), "length"),
        (expansion("attend", json!("no")), "attend"),
        (expansion("token", json!("no such token")), "no such token"),
        (expansion("unheard_of", json!(1)), "unheard_of"),
        (load(settings, &|content| content["query_expansion"] = json!(true)), "query_expansion"),
        (load(settings, &|content| content["do_lower_case"] = json!("yes")), "do_lower_case"),
        (
            load(settings, &|content| {
                content["query_length"] = json!(5);
                content["query_expansion"] = json!({"strategy": "min", "length": 6});
            }),
            "query_length",
        ),
        (mask("skiplist_words", json!("abc")), "skiplist_words"),
        (mask("keep_only_token_ids", json!([-1])), "keep_only_token_ids"),
        (pooling("pool_factor", json!(0.5)), "pool_factor"),
        (pooling("pool_factor", json!("2")), "pool_factor"),
        (pooling("num_protected_tokens", json!(-1)), "num_protected_tokens"),
        (pooling("linkage", json!("single")), "linkage"),
        (load("config_sentence_transformers.json", &|content| content["truncate_dim"] = json!(4)), "truncate_dim"),
        (modules(&|modules| modules.as_array_mut().unwrap().swap(3, 4)), "behind the pooling"),
        (modules(&|modules| modules[1]["type"] = json!("sentence_transformers.models.Pooling")), "Pooling"),
        (modules(&|modules| modules[2]["path"] = json!("/etc")), "path"),
    ] {
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
}
