//! Every task against what transformers and sentence-transformers answer (`tests/fixtures/pipelines`).

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;

use ettin::files::ModelFiles;
use ettin::generate::{GenerateRequest, Sampling};
use ettin::tasks::*;
use ettin::tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::Value;

/// Largest difference as a share of the largest value of a vector, or of 1: the numerical contract's bound. Both sides
/// compute in f32; what they differ in is the order of sums.
const TOLERANCE: f64 = 1e-4;

/// The nano pair's residual stream reaches 4300 on rare tokens: there the reference's own f32 is off its f64 by 1.4e-4.
const NANO_TOLERANCE: f64 = 4e-4;

fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn files(model: &str) -> ModelFiles {
    ModelFiles::folder(repository(model)).unwrap()
}

struct Case {
    model: String,
    options: Value,
    input: Value,
    output: Value,
}

impl Case {
    fn text(&self, key: &str) -> &str {
        self.input[key].as_str().unwrap_or_else(|| panic!("no {key} in {}", self.input))
    }
}

/// The cases of a fixture by model and options, so that each group is one call of many inputs.
fn groups(name: &str) -> Vec<Vec<Case>> {
    let text = fs::read_to_string(repository(&format!("tests/fixtures/pipelines/{name}.json"))).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in fixture["cases"].as_array().unwrap() {
        let [model, options, input, output] = ["model", "options", "input", "output"].map(|key| case[key].clone());
        let model = model.as_str().unwrap().to_owned();
        groups.entry(format!("{model} {options}")).or_default().push(Case { model, options, input, output });
    }
    assert!(!groups.is_empty());
    groups.into_values().collect()
}

/// Equal up to the tolerance on floats; key order counts. The largest value of an array is the scale of its values.
fn assert_same(ours: &Value, theirs: &Value, tolerance: f64, scale: f64, place: &str) {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            let scale = scale.max(b.abs()).max(1.0);
            assert!((a - b).abs() <= tolerance * scale, "{place}: {a} is not {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}: {ours} is not {theirs}");
            let largest = b.iter().filter_map(Value::as_f64).fold(0.0, |largest: f64, value| largest.max(value.abs()));
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                assert_same(a, b, tolerance, largest, &format!("{place}[{index}]"));
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(a), keys(b), "{place}");
            for (key, a) in a {
                assert_same(a, &b[key], tolerance, 1.0, &format!("{place}.{key}"));
            }
        }
        _ => assert_eq!(ours, theirs, "{place}"),
    }
}

fn check<T: Serialize>(outcomes: Outcomes<T>, group: &[Case]) {
    check_within(TOLERANCE, outcomes, group);
}

fn check_within<T: Serialize>(tolerance: f64, outcomes: Outcomes<T>, group: &[Case]) {
    assert_eq!(outcomes.len(), group.len());
    for (outcome, case) in outcomes.into_iter().zip(group) {
        let outcome = outcome.unwrap();
        assert!(!outcome.truncated);
        let place = format!("{} {} {}", case.model, case.options, case.input);
        assert_same(&serde_json::to_value(outcome.value).unwrap(), &case.output, tolerance, 1.0, &place);
    }
}

/// Small batches, so that inputs are packed, sorted and split.
fn options() -> Options {
    Options::default().with_batch_tokens(64)
}

fn texts(group: &[Case]) -> Vec<&str> {
    group.iter().map(|case| case.input.as_str().unwrap()).collect()
}

fn text_inputs(group: &[Case]) -> Vec<TextInput<'_>> {
    fn input(case: &Case) -> TextInput<'_> {
        TextInput { text: case.text("text"), pair: case.input["text_pair"].as_str() }
    }
    group.iter().map(input).collect()
}

#[test]
fn fill_mask() {
    for group in groups("fill_mask") {
        let task = FillMask::load(&files(&group[0].model), &options()).unwrap();
        let top_k = group[0].options["top_k"].as_u64().unwrap() as usize;
        check(task.run(&texts(&group), top_k).unwrap(), &group);
    }
}

#[test]
fn classify() {
    for group in groups("classify") {
        let task = Classifier::load(&files(&group[0].model), &options()).unwrap();
        let given = &group[0].options;
        let mut request = ClassifyRequest::default().with_raw(given["function_to_apply"] == "none");
        if let Some(top_k) = given.get("top_k") {
            request.top_k = top_k.as_u64().map(|k| k as usize);
        }
        check(task.run(&text_inputs(&group), &request).unwrap(), &group);
    }
}

#[test]
fn tag() {
    for group in groups("tag") {
        let task = Tagger::load(&files(&group[0].model), &options()).unwrap();
        let given = &group[0].options;
        let aggregation = match given["aggregation_strategy"].as_str().unwrap() {
            "none" => Aggregation::None,
            "simple" => Aggregation::Simple,
            "first" => Aggregation::First,
            "average" => Aggregation::Average,
            "max" => Aggregation::Max,
            other => panic!("{other}"),
        };
        let request = TagRequest::default()
            .with_aggregation(aggregation)
            .with_all(given["ignore_labels"] == serde_json::json!([]));
        check(task.run(&texts(&group), &request).unwrap(), &group);
    }
}

/// The fixture always holds a list; ours is its first entry. Several answers are tested beside the search.
#[test]
fn answer() {
    for mut group in groups("answer") {
        if group[0].options != serde_json::json!({}) {
            continue;
        }
        group.iter_mut().for_each(|case| case.output = case.output[0].clone());
        let task = Answerer::load(&files(&group[0].model), &options()).unwrap();
        let questions: Vec<Question<'_>> = group
            .iter()
            .map(|case| Question { question: case.text("question"), context: case.text("context") })
            .collect();
        check(task.run(&questions, &AnswerRequest::default()).unwrap(), &group);
    }
}

/// As the pipeline of transformers 4.57 itself answers; several answers are tested beside the search.
#[test]
fn answer_or_none() {
    let mut none = 0;
    for mut group in groups("no_answer") {
        if group[0].options.get("top_k").is_some() {
            continue;
        }
        group.iter_mut().for_each(|case| case.output = case.output[0].clone());
        none += group.iter().filter(|case| case.output["answer"] == "").count();
        let task = Answerer::load(&files(&group[0].model), &options()).unwrap();
        let questions: Vec<Question<'_>> = group
            .iter()
            .map(|case| Question { question: case.text("question"), context: case.text("context") })
            .collect();
        let request = AnswerRequest::default().with_no_answer(true);
        check(task.run(&questions, &request).unwrap(), &group);
    }
    assert!(none > 0);
}

#[test]
fn tokenize_texts_and_pairs() {
    for group in groups("tokenize") {
        let tokenizer = Tokenizer::load(&files(&group[0].model)).unwrap();
        let special = group[0].options["special_tokens"].as_bool().unwrap();
        for (input, case) in text_inputs(&group).into_iter().zip(&group) {
            let ours = serde_json::to_value(tokenize(&tokenizer, input, special).unwrap()).unwrap();
            assert_eq!(ours, case.output, "{}", case.input);
        }
    }
}

#[test]
fn rerank() {
    for group in groups("rerank") {
        let task = Reranker::load(&files(&group[0].model), &options()).unwrap();
        let activation = (group[0].options["activation"] == "raw").then_some(Activation::Raw);
        let request = RerankRequest::default().with_activation(activation);
        let inputs: Vec<RerankInput<'_>> = group
            .iter()
            .map(|case| {
                let documents = case.input["documents"].as_array().unwrap();
                let documents = documents.iter().map(|document| document.as_str().unwrap()).collect();
                RerankInput { query: case.text("query"), documents }
            })
            .collect();
        check(task.run(&inputs, &request).unwrap(), &group);
    }
}

#[test]
fn score() {
    scores("score", false);
}

/// As lm-evaluation-harness splits a context and a continuation into tokens.
#[test]
fn score_of_joined_texts() {
    scores("score_join", true);
}

fn scores(fixture: &str, join: bool) {
    for group in groups(fixture) {
        let task = Scorer::load(&files(&group[0].model), &options()).unwrap();
        let given = &group[0].options;
        let method = match given["method"].as_str().unwrap() {
            "causal" => ScoreMethod::Causal,
            "pll" => ScoreMethod::Pll,
            "left-to-right" => ScoreMethod::LeftToRight,
            other => panic!("{other}"),
        };
        let bos = given["bos"].as_bool().unwrap();
        let request = ScoreRequest::default().with_method(method).with_bos(bos).with_join(join);
        let inputs: Vec<ScoreInput<'_>> = group
            .iter()
            .map(|case| ScoreInput { text: case.text("text"), context: case.input["context"].as_str() })
            .collect();
        check(task.run(&inputs, &request).unwrap(), &group);
    }
}

fn vectors(outcomes: Outcomes<Embedding>) -> Outcomes<TextVectors> {
    let indexed = outcomes.into_iter().enumerate();
    indexed
        .map(|(index, outcome)| {
            let Outcome { value, truncated } = outcome?;
            assert_eq!(value.index, index);
            Ok(Outcome { value: value.embedding, truncated })
        })
        .collect()
}

#[test]
fn embed_chains_and_compare() {
    for mut group in groups("embed_chains") {
        let task = TextEmbedder::load(&files(&group[0].model), &options()).unwrap();
        assert_eq!(task.unconfigured_pooling(), None);
        let given = group[0].options.clone();
        let request = EmbedRequest::default()
            .with_prompt(
                given["prompt_name"].as_str().map_or(PromptChoice::Default, |name| PromptChoice::Named(name.into())),
            )
            .with_dimensions(given["truncate_dim"].as_u64().map(|size| size as usize))
            .with_normalize(given["normalize_embeddings"].as_bool());
        if given.get("similarity").is_none() {
            // sentence-transformers leaves a normalised vector shorter when it cuts it; we scale it again.
            if request.dimensions.is_some() && task.chain().unwrap().normalizes() {
                group.iter_mut().for_each(|case| case.output = normalized(&case.output));
            }
            check(vectors(task.run(&texts(&group), &request).unwrap()), &group);
            continue;
        }
        let inputs: Vec<SimilarityInput<'_>> = group
            .iter()
            .map(|case| {
                let b = case.input["b"].as_array().unwrap();
                SimilarityInput { a: case.text("a"), b: b.iter().map(|text| text.as_str().unwrap()).collect() }
            })
            .collect();
        let outcomes = task.similarity(&inputs, &request).unwrap().into_iter().map(|outcome| {
            let Outcome { value, truncated } = outcome?;
            assert!(value.iter().enumerate().all(|(index, score)| score.index == index));
            Ok(Outcome { value: value.into_iter().map(|score| score.score).collect::<Vec<_>>(), truncated })
        });
        check(outcomes.collect::<Outcomes<_>>(), &group);
    }
}

fn normalized(vector: &Value) -> Value {
    let values: Vec<f64> = vector.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    values.into_iter().map(|value| value / norm).collect()
}

#[test]
fn embed_with_every_pooling() {
    for group in groups("embed_plain") {
        let task = TextEmbedder::load(&files(&group[0].model), &options()).unwrap();
        for name in group[0].output.as_object().unwrap().keys() {
            let pooling = match name.replace('_', "-").as_str() {
                "lasttoken" => "last".into(),
                "weightedmean" => "weighted-mean".into(),
                name => name.to_owned(),
            };
            let request = EmbedRequest::default().with_pooling(pooling.parse::<ettin::Pooling>().unwrap());
            let one: Vec<Case> = group
                .iter()
                .map(|case| Case {
                    model: case.model.clone(),
                    options: name.as_str().into(),
                    input: case.input.clone(),
                    output: case.output[name].clone(),
                })
                .collect();
            check_within(NANO_TOLERANCE, vectors(task.run(&texts(&one), &request).unwrap()), &one);
        }
    }
}

#[test]
fn generate() {
    for group in groups("generate") {
        let task = Generator::load(&files(&group[0].model), &options()).unwrap();
        let given = &group[0].options;
        let sampling =
            Sampling::default().with_repetition_penalty(given["repetition_penalty"].as_f64().unwrap_or(1.0) as f32);
        let max_new_tokens = given["max_new_tokens"].as_u64().unwrap() as usize;
        let request = GenerateRequest::default().with_max_new_tokens(max_new_tokens).with_sampling(sampling);
        let mut streamed = vec![String::new(); group.len()];
        let generations = task
            .run(&texts(&group), &request, &mut |piece| {
                streamed[piece.index].push_str(piece.text);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(generations.seed, None);
        for ((outcome, case), streamed) in generations.outputs.into_iter().zip(&group).zip(streamed) {
            let generated = outcome.unwrap().value;
            assert_eq!(generated.prompt, case.input.as_str().unwrap());
            assert_eq!(generated.text, streamed);
            let ours = serde_json::json!({
                "tokens": generated.tokens, "text": generated.text, "finish_reason": generated.finish_reason,
            });
            assert_eq!(ours, case.output, "{}", case.input);
            assert_eq!(generated.timings.generated_tokens, generated.tokens.len());
        }
    }
}
