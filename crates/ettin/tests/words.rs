//! Tokenizers that mark words in other ways than Ettin's, and the settings of `generation_config.json`, against what
//! transformers answers (`scripts/make_tokenizer_fixtures.py`).

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ettin::files::ModelFiles;
use ettin::generate::{FinishReason, GenerateRequest, GenerationDefaults, Sampler, Sampling, Scratch, Shaping};
use ettin::tasks::*;
use ettin::tokenizer::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Bytes of a character, runs of byte tokens, and words that join or part.
const KINDS: [&str; 9] = [
    "byte-level",
    "metaspace",
    "metaspace-clean",
    "metaspace-never",
    "word-piece",
    "word-piece-clean",
    "byte-fallback",
    "suffix",
    "words",
];

/// Rows of the models' embeddings; tokenizers know fewer tokens.
const VOCABULARY: u32 = 320;

fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(repository(&format!("tests/fixtures/{name}.json"))).unwrap()).unwrap()
}

fn answers(kind: &str) -> Value {
    fixture("tokenizers/answers")["kinds"][kind].clone()
}

/// A model with a tokenizer of some kind, as a folder.
fn folder(model: &str, kind: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for place in [repository(&format!("models/{model}")), repository(&format!("tests/fixtures/tokenizers/{kind}"))] {
        for file in fs::read_dir(place).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    folder
}

fn files(folder: &TempDir) -> ModelFiles {
    ModelFiles::folder(folder.path()).unwrap()
}

fn tokenizer(kind: &str) -> Tokenizer {
    let folder = repository(&format!("tests/fixtures/tokenizers/{kind}"));
    Tokenizer::load(&ModelFiles::folder(Path::new(&folder)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn cases(value: &Value) -> &[Value] {
    let cases = value.as_array().unwrap();
    assert!(!cases.is_empty());
    cases
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.concat() + &stream.finish().unwrap()
}

#[test]
fn text_is_decoded_as_transformers_does_whole_and_in_pieces() {
    for kind in KINDS {
        let (tokenizer, answers) = (tokenizer(kind), answers(kind));
        for case in cases(&answers["decode"]) {
            let ids = ids(&case["ids"]);
            assert_eq!(json!(tokenizer.decode(&ids, true).unwrap()), case["text"], "{kind} {ids:?}");
            assert_eq!(json!(tokenizer.decode(&ids, false).unwrap()), case["all"], "{kind} {ids:?}");
            assert_eq!(json!(streamed(&tokenizer, &ids)), case["text"], "{kind} {ids:?}");
        }
    }
}

#[test]
fn pieces_of_any_tokens_add_up_to_the_whole() {
    let mut state = 1u64;
    let mut next = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % below
    };
    for kind in KINDS {
        let tokenizer = tokenizer(kind);
        for round in 0..400 {
            // Few tokens again and again, special ones and ids that are none among them.
            let some: Vec<u32> = (0..2 + round % 9).map(|_| next(VOCABULARY + 5)).collect();
            let ids: Vec<u32> = (0..next(40)).map(|_| some[next(some.len() as u32) as usize]).collect();
            assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids, true).unwrap(), "{kind} {ids:?}");
        }
    }
}

#[test]
fn a_piece_comes_with_its_token() {
    // A word at a time, but for what cannot be certain.
    for (kind, most) in [("byte-level", 4), ("metaspace", 1), ("word-piece", 1), ("suffix", 1), ("words", 4)] {
        let tokenizer = tokenizer(kind);
        let ids = tokenizer.ids("Once upon a time there was a girl.").unwrap();
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for (count, &id) in ids.iter().enumerate() {
            text += &stream.push(id).unwrap();
            let whole = tokenizer.decode(&ids[..=count], true).unwrap();
            assert!(whole.len() < text.len() + most, "{kind}: {text:?} of {whole:?}");
        }
    }
}

#[test]
fn fill_mask_spells_tokens_and_texts_as_the_pipeline() {
    for kind in KINDS {
        let folder = folder("tiny-words-masked", kind);
        let task = FillMask::load(&files(&folder), &Options::default()).unwrap();
        for case in cases(&answers(kind)["fill_mask"]) {
            let text = case["text"].as_str().unwrap();
            let fills = task.run(&[text], 12).unwrap().remove(0).unwrap().value;
            let lists = match fills {
                Fills::One(list) => vec![list],
                Fills::Many(lists) => lists,
            };
            let expected = match case["fills"][0].is_array() {
                true => case["fills"].as_array().unwrap().clone(),
                false => vec![case["fills"].clone()],
            };
            assert_eq!(lists.len(), expected.len());
            for (list, expected) in lists.iter().zip(&expected) {
                for (ours, theirs) in list.iter().zip(cases(expected)) {
                    assert!((f64::from(ours.score) - theirs["score"].as_f64().unwrap()).abs() < 1e-4, "{kind} {text}");
                    let ours = json!([ours.token, ours.token_str, ours.sequence]);
                    assert_eq!(
                        ours,
                        json!([theirs["token"], theirs["token_str"], theirs["sequence"]]),
                        "{kind} {text}"
                    );
                }
            }
        }
    }
}

#[test]
fn tags_join_words_as_the_pipeline() {
    for kind in KINDS {
        let folder = folder("tiny-words-tagger", kind);
        let task = Tagger::load(&files(&folder), &Options::default()).unwrap();
        for case in cases(&answers(kind)["tag"]) {
            assert_tags(&task, kind, case);
        }
    }
}

/// What the pipeline answers for one text with one strategy.
fn assert_tags(task: &Tagger, kind: &str, case: &Value) {
    let aggregation = match case["strategy"].as_str().unwrap() {
        "none" => Aggregation::None,
        "simple" => Aggregation::Simple,
        "first" => Aggregation::First,
        "average" => Aggregation::Average,
        "max" => Aggregation::Max,
        other => panic!("{other}"),
    };
    let text = case["text"].as_str().unwrap();
    let tags = task
        .run(&[text], &TagRequest::default().with_aggregation(aggregation).with_all(true))
        .unwrap()
        .remove(0)
        .unwrap()
        .value;
    let place = format!("{kind} {} {text:?}", case["strategy"]);
    let theirs = case["tags"].as_array().unwrap();
    assert_eq!(tags.len(), theirs.len(), "{place}: {tags:?} {theirs:?}");
    for (ours, theirs) in tags.iter().zip(theirs) {
        let ours = serde_json::to_value(ours).unwrap();
        for (key, theirs) in theirs.as_object().unwrap() {
            match key.as_str() {
                "score" => {
                    assert!((ours[key].as_f64().unwrap() - theirs.as_f64().unwrap()).abs() < 1e-4, "{place}")
                }
                _ => assert_eq!(&ours[key], theirs, "{place} {key}"),
            }
        }
    }
}

#[test]
fn tokens_that_match_otherwise_than_they_are_spelled_are_named_by_the_vocabulary() {
    for kind in KINDS {
        let answers = fixture("tokenizers/added")["kinds"][kind].clone();
        let folder = folder("tiny-words-tagger", kind);
        let path = folder.path().join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        tokenizer["added_tokens"] = answers["added_tokens"].clone();
        fs::write(&path, tokenizer.to_string()).unwrap();
        let tokenizer = Tokenizer::load(&files(&folder)).unwrap();
        for case in cases(&answers["tokenize"]) {
            let text = case["text"].as_str().unwrap();
            let ours = tokenize(&tokenizer, text.into(), true).unwrap();
            assert_eq!(json!([ours.ids, ours.tokens]), json!([case["ids"], case["tokens"]]), "{kind} {text:?}");
        }
        let task = Tagger::load(&files(&folder), &Options::default()).unwrap();
        for case in cases(&answers["tag"]) {
            assert_tags(&task, kind, case);
        }
    }
}

#[test]
fn score_spells_tokens_as_the_library_decodes_them() {
    for kind in KINDS {
        let folder = folder("tiny-words-causal", kind);
        let task = Scorer::load(&files(&folder), &Options::default()).unwrap();
        let spelled = &answers(kind)["token_str"];
        let input = ScoreInput { text: "Ada was born in the sea.", context: Some("Once upon a time") };
        let scored = task.run(&[input], &ScoreRequest::default()).unwrap().remove(0).unwrap().value;
        for score in &scored.tokens {
            assert_eq!(json!(score.token_str), spelled[score.token as usize], "{kind} {}", score.token);
        }
    }
}

/// As the fixture was generated.
fn lively(kind: &str) -> GenerateRequest {
    let known = tokenizer(kind).vocab_size() as u32;
    GenerateRequest::default()
        .with_max_new_tokens(24)
        .with_sampling(Sampling::default().with_repetition_penalty(1.5))
        .with_shaping(Shaping::default().with_suppress((known..VOCABULARY).collect()))
}

/// Continues one prompt and checks that the streamed text is the text.
fn generate(task: &Generator, prompt: &str, request: &GenerateRequest) -> Generated {
    let mut streamed = String::new();
    let mut generations = task
        .run(&[prompt], request, &mut |piece| {
            streamed += piece.text;
            ControlFlow::Continue(())
        })
        .unwrap();
    let generated = generations.outputs.remove(0).unwrap().value;
    assert_eq!(generated.text, streamed);
    generated
}

#[test]
fn generated_texts_keep_their_spaces() {
    for kind in KINDS {
        let folder = folder("tiny-words-causal", kind);
        let task = Generator::load(&files(&folder), &Options::default()).unwrap();
        for case in cases(&answers(kind)["generate"]) {
            let ours = generate(&task, case["prompt"].as_str().unwrap(), &lively(kind));
            assert_eq!(json!(ours.tokens), case["tokens"], "{kind} {}", case["prompt"]);
            assert_eq!(json!(ours.text), case["text"], "{kind} {}", case["prompt"]);
        }
    }
}

#[test]
fn stop_strings_may_hold_special_tokens() {
    let mut texts = 0;
    for kind in KINDS {
        let folder = folder("tiny-words-causal", kind);
        let base = Generator::load(&files(&folder), &Options::default()).unwrap();
        for draft in [false, true] {
            let task = match draft {
                false => &base,
                true => &Generator::load(&files(&folder), &Options::default()).unwrap().with_lookup(),
            };
            for case in answers(kind)["stop"].as_array().unwrap() {
                // A word that goes on (##) behind nothing but a special token is spelled so in the text, and not for
                // the criterion.
                if kind.starts_with("word-piece") && case["tokens"][0] == json!(4) {
                    continue;
                }
                // Bytes that wait for the end of their run are searched behind a special token inside it.
                if kind == "byte-fallback" && !["[MASK]", "ASK]"].contains(&case["stop"].as_str().unwrap()) {
                    continue;
                }
                let stop = vec![case["stop"].as_str().unwrap().to_owned()];
                let request = lively(kind).with_stop(stop).with_ignore_eos(true);
                let ours = generate(task, case["prompt"].as_str().unwrap(), &request);
                let place = format!("{kind} {} {}", case["prompt"], case["stop"]);
                assert_eq!(json!(ours.tokens), case["tokens"], "{place}");
                if case["ended"] == json!(true) {
                    assert_eq!(ours.finish_reason, FinishReason::Stop, "{place}");
                }
                if let Some(text) = case.get("text") {
                    assert_eq!(json!(ours.text.trim_start()), json!(text.as_str().unwrap().trim_start()), "{place}");
                    texts += 1;
                }
            }
        }
    }
    assert!(texts > 20);
}

#[test]
fn generation_config_is_obeyed_as_generate_does() {
    for case in cases(&fixture("generation")["cases"]) {
        let folder = folder("tiny-words-causal", "byte-level");
        fs::write(folder.path().join("generation_config.json"), case["config"].to_string()).unwrap();
        let mut request = GenerationDefaults::load(&files(&folder)).unwrap().request().unwrap();
        if let Some(tokens) = case["flags"]["max_new_tokens"].as_u64() {
            (request.max_new_tokens, request.max_length) = (tokens as usize, None);
        }
        let prompt = case["prompt"].as_str().unwrap();
        let task = Generator::load(&files(&folder), &Options::default()).unwrap();
        let plain = generate(&task, prompt, &request);
        assert_eq!(json!(plain.tokens), case["tokens"], "{prompt:?} {}", case["config"]);
        // Guesses change nothing, whatever the settings.
        let same = files(&folder);
        for task in [task.with_lookup(), Generator::load(&same, &Options::default()).unwrap()] {
            let task = task.with_draft_model(&same, &Options::default()).unwrap();
            for draft_tokens in [1, 5] {
                let request = request.clone().with_draft_tokens(draft_tokens);
                let drafted = generate(&task, prompt, &request);
                assert_eq!((&drafted.tokens, &drafted.text), (&plain.tokens, &plain.text), "{}", case["config"]);
            }
        }
    }
}

#[test]
fn cuts_of_the_distribution_are_the_librarys() {
    let fixture = fixture("generation");
    let logits: Vec<f32> = cases(&fixture["logits"]).iter().map(|logit| logit.as_f64().unwrap() as f32).collect();
    for draw in cases(&fixture["draws"]) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = draw["config"].clone();
        config["do_sample"] = json!(true);
        fs::write(folder.path().join("generation_config.json"), config.to_string()).unwrap();
        let sampling = GenerationDefaults::load(&files(&folder)).unwrap().request().unwrap().sampling;
        let sampler = Sampler::new(&sampling.with_seed(Some(7))).unwrap();
        let (mut counts, mut scratch): (BTreeMap<u32, usize>, _) = (BTreeMap::new(), Scratch::default());
        for sample in 0..20_000 {
            *counts.entry(sampler.choose(&logits, &[], sample, &mut scratch).unwrap()).or_default() += 1;
        }
        for (id, expected) in (0..).zip(cases(&draw["probabilities"])) {
            let (expected, share) =
                (expected.as_f64().unwrap(), counts.get(&id).map_or(0.0, |&count| count as f64 / 20_000.0));
            // Five standard deviations of a share are at most 0.018.
            assert!(
                (share - expected).abs() < 0.018 && (expected > 0.0 || share == 0.0),
                "{config}: {id} {share} {expected}"
            );
        }
    }
}

#[test]
fn a_prompt_that_fills_max_length_is_an_error() {
    let folder = folder("tiny-words-causal", "byte-level");
    fs::write(folder.path().join("generation_config.json"), r#"{"max_length": 3}"#).unwrap();
    let request = GenerationDefaults::load(&files(&folder)).unwrap().request().unwrap();
    let task = Generator::load(&files(&folder), &Options::default()).unwrap();
    let outputs = task.run(&["Once upon a time"], &request, &mut |_| ControlFlow::Continue(())).unwrap().outputs;
    let error = outputs.into_iter().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("max_length"), "{error}");
}

#[test]
fn everything_forbidden_is_an_error_when_drawing() {
    let folder = folder("tiny-words-causal", "byte-level");
    let task = Generator::load(&files(&folder), &Options::default()).unwrap();
    let sampling = Sampling::default().with_temperature(1.0).with_seed(Some(1));
    let shaping = Shaping::default().with_suppress((0..VOCABULARY).collect());
    let request = GenerateRequest::default().with_sampling(sampling).with_shaping(shaping);
    let outputs = task.run(&["Once"], &request, &mut |_| ControlFlow::Continue(())).unwrap().outputs;
    assert!(outputs.into_iter().next().unwrap().unwrap_err().to_string().contains("no token is allowed"));
}
