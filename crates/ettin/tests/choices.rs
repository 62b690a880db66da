//! Zero-shot classification and multiple choice: what transformers answers, recorded by
//! `scripts/make_choice_fixtures.py` (versions in the fixtures). Every case is a tiny model with other files over it.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{assert_close, root};
use ettin::Backend;
use ettin::files::ModelFiles;
use ettin::heads::{ChoiceScorer, SequenceClassifier};
use ettin::tasks::*;
use serde_json::{Value, json};

/// max|Δ| / max|reference|.
const TOLERANCE: f64 = 1e-5;

fn cases(name: &str) -> Vec<Value> {
    let text = fs::read(root("tests/fixtures/pipelines").join(name)).unwrap();
    let fixture: Value = serde_json::from_slice(&text).unwrap();
    fixture["cases"].as_array().unwrap().clone()
}

fn case(fixture: &str, name: &str) -> Value {
    let found = cases(fixture).into_iter().find(|case| case["name"] == name);
    found.unwrap_or_else(|| panic!("no case {name:?}"))
}

/// The model of a case, in a folder of its own.
fn lay_out(case: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    common::copy(&root(case["base"].as_str().unwrap()), folder.path());
    for (name, content) in case["files"].as_object().unwrap() {
        put(folder.path(), name, content);
    }
    folder
}

fn put(folder: &Path, name: &str, content: &Value) {
    fs::write(folder.join(name), content.to_string()).unwrap();
}

fn files(folder: &tempfile::TempDir) -> ModelFiles {
    ModelFiles::folder(folder.path()).unwrap()
}

fn options() -> Options {
    Options::default().with_truncate(Truncate::Model).with_batch_tokens(300)
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => split_labels(text),
        _ => value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect(),
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn zero_shot_input(run: &Value) -> ZeroShotInput<'_> {
    ZeroShotInput { text: run["input"]["text"].as_str().unwrap(), labels: texts(&run["input"]["labels"]) }
}

fn zero_shot_request(run: &Value) -> ettin::Result<ZeroShotRequest> {
    let template = run["options"]["template"].as_str().map_or(Ok(HypothesisTemplate::default()), str::parse)?;
    let multi_label = run["options"]["multi_label"] == true;
    Ok(ZeroShotRequest::default().with_template(template).with_multi_label(multi_label))
}

fn zero_shot(classifier: &ZeroShotClassifier, run: &Value) -> ettin::Result<Outcome<ZeroShotLabels>> {
    classifier.run(&[zero_shot_input(run)], &zero_shot_request(run)?)?.remove(0)
}

#[test]
fn zero_shot_answers_are_those_of_the_pipeline() {
    for case in cases("zero_shot.json") {
        let folder = lay_out(&case);
        let loaded = ZeroShotClassifier::load(&files(&folder), &options());
        for run in case["runs"].as_array().unwrap() {
            let what = format!("{} {} {}", case["name"], run["input"], run["options"]);
            let ours = loaded.as_ref().map_err(Clone::clone).and_then(|classifier| zero_shot(classifier, run));
            let theirs = &run["output"];
            if theirs.is_null() {
                assert!(ours.is_err(), "{what}: {ours:?}");
                continue;
            }
            let Outcome { value, truncated } = ours.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(value.sequence, theirs["sequence"], "{what}");
            assert_eq!(value.labels, texts(&theirs["labels"]), "{what}");
            assert_close(&what, &value.scores, &numbers(&theirs["scores"]), TOLERANCE);
            assert_eq!(truncated, run["truncated"] == true, "{what}");
        }
    }
}

#[test]
fn zero_shot_scores_are_the_same_alone_and_together() {
    let case = case("zero_shot.json", "entailment last");
    let folder = lay_out(&case);
    let runs: Vec<&Value> = case["runs"].as_array().unwrap().iter().collect();
    let inputs: Vec<ZeroShotInput<'_>> = runs.iter().map(|run| zero_shot_input(run)).collect();
    for multi_label in [false, true] {
        let request = ZeroShotRequest::default().with_multi_label(multi_label);
        let run = |batch_tokens: usize, inputs: &[ZeroShotInput<'_>]| {
            let options = options().with_batch_tokens(batch_tokens);
            let classifier = ZeroShotClassifier::load(&files(&folder), &options).unwrap();
            let outcomes = classifier.run(inputs, &request).unwrap();
            outcomes.into_iter().map(|outcome| outcome.unwrap().value).collect::<Vec<_>>()
        };
        let together = run(100_000, &inputs);
        let alone: Vec<_> = inputs.iter().map(|input| run(1, std::slice::from_ref(input)).remove(0)).collect();
        assert_eq!(together, alone);
    }
}

/// Bad inputs have errors in their places and take nothing from the others.
#[test]
fn bad_inputs_of_zero_shot_are_errors_in_their_places() {
    let folder = lay_out(&case("zero_shot.json", "entailment last"));
    let classifier = ZeroShotClassifier::load(&files(&folder), &Options::default()).unwrap();
    let long = "a cat ".repeat(600);
    let inputs = [
        ZeroShotInput { text: "A cat.", labels: vec!["cat", "dog"] },
        ZeroShotInput { text: "", labels: vec!["cat"] },
        ZeroShotInput { text: "A cat.", labels: vec![] },
        ZeroShotInput { text: &long, labels: vec!["cat"] },
        ZeroShotInput { text: "A cat.", labels: vec!["{}"] },
        ZeroShotInput { text: "A cat.", labels: vec!["cat", &long] },
        ZeroShotInput { text: "A cat.", labels: vec!["cat", "dog"] },
    ];
    let outcomes = classifier.run(&inputs, &ZeroShotRequest::default()).unwrap();
    let errors = [None, Some("empty"), Some("no labels"), Some("tokens"), Some("needs a {}"), Some("tokens"), None];
    for (outcome, error) in outcomes.iter().zip(errors) {
        match (outcome, error) {
            (Ok(_), None) => {}
            (Err(found), Some(part)) => assert!(found.to_string().contains(part), "{found}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(outcomes[0].as_ref().unwrap(), outcomes[6].as_ref().unwrap());
    assert_eq!(outcomes[0].as_ref().unwrap().value, classifier.classify("A cat.", &["cat", "dog"]).unwrap());
}

/// A limit of the caller's own is kept, where that of the model's files leaves a pair whole that cannot be made to fit.
#[test]
fn a_limit_that_was_asked_for_is_kept() {
    let folder = lay_out(&case("zero_shot.json", "entailment last"));
    let classify = |max_length: usize, label: &str| {
        let classifier = ZeroShotClassifier::load(&files(&folder), &options().with_max_length(max_length)).unwrap();
        let input = ZeroShotInput { text: "One day a cat sat on a mat in the park.", labels: vec![label] };
        classifier.run(&[input], &ZeroShotRequest::default()).unwrap().remove(0)
    };
    assert!(!classify(500, "cat").unwrap().truncated);
    assert!(classify(30, "cat").unwrap().truncated);
    for (max_length, label) in [(30, "cat ".repeat(30)), (3, "cat".to_owned()), (1, "cat".to_owned())] {
        let error = classify(max_length, &label).unwrap_err().to_string();
        assert!(error.contains("tokens"), "{error}");
    }
}

#[test]
fn what_is_taken_for_entailment_is_told_where_no_name_says_it() {
    let load = |name: &str| {
        let folder = lay_out(&case("zero_shot.json", name));
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let notices = Notices::to(move |sentence| heard.lock().unwrap().push(sentence.to_owned()));
        let classifier = ZeroShotClassifier::load(&files(&folder), &options().with_notices(notices)).unwrap();
        let outputs = (classifier.entailment().to_owned(), classifier.contradiction().to_owned());
        let told = told.lock().unwrap().clone();
        (outputs, told)
    };
    let (outputs, told) = load("none named entailment");
    assert_eq!(outputs, ("positive".to_owned(), "negative".to_owned()));
    assert!(told.iter().any(|sentence| sentence.contains("no label is called entailment")), "{told:?}");
    let (outputs, told) = load("entailment first");
    assert_eq!(outputs, ("entailment".to_owned(), "contradiction".to_owned()));
    assert_eq!(told, [""; 0]);
}

#[test]
fn models_that_do_not_fit_zero_shot_are_named_with_what_fits() {
    let error = ZeroShotClassifier::load(&common::model("tiny-text-tag"), &options()).unwrap_err().to_string();
    assert!(error.contains("fits tag, embed, not classify"), "{error}");
    let folder = lay_out(&case("zero_shot.json", "entailment last"));
    let mut config = case("zero_shot.json", "entailment last")["files"]["config.json"].clone();
    config["label2id"] = json!({"entailment": [2]});
    put(folder.path(), "config.json", &config);
    let error = ZeroShotClassifier::load(&files(&folder), &options()).unwrap_err().to_string();
    assert!(error.contains("label2id") && error.contains("0 to 2"), "{error}");
    // Nothing else reads it.
    assert!(Classifier::load(&files(&folder), &options()).is_ok());
}

fn choice_input(run: &Value) -> ChoiceInput<'_> {
    ChoiceInput { context: run["input"]["context"].as_str().unwrap(), choices: texts(&run["input"]["choices"]) }
}

fn check_choices(what: &str, ours: &[ScoredChoice], theirs: &Value) {
    let theirs = theirs.as_array().unwrap();
    let column = |key: &str| numbers(&theirs.iter().map(|choice| choice[key].clone()).collect());
    let indices: Vec<Value> = ours.iter().map(|choice| json!(choice.index)).collect();
    assert_eq!(indices, theirs.iter().map(|choice| choice["index"].clone()).collect::<Vec<_>>(), "{what}");
    let ours_of = |field: fn(&ScoredChoice) -> f32| ours.iter().map(field).collect::<Vec<_>>();
    assert_close(what, &ours_of(|choice| choice.logit), &column("logit"), TOLERANCE);
    assert_close(what, &ours_of(|choice| choice.score), &column("score"), TOLERANCE);
}

#[test]
fn choices_are_scored_as_by_transformers() {
    for case in cases("multiple_choice.json") {
        let folder = lay_out(&case);
        let task = MultipleChoice::load(&files(&folder), &options()).unwrap();
        let runs = case["runs"].as_array().unwrap();
        let inputs: Vec<ChoiceInput<'_>> = runs.iter().map(choice_input).collect();
        let together = task.run(&inputs).unwrap();
        for ((run, input), outcome) in runs.iter().zip(&inputs).zip(&together) {
            let what = format!("{} {}", case["name"], run["input"]);
            let Outcome { value, truncated } = outcome.as_ref().unwrap_or_else(|error| panic!("{what}: {error}"));
            check_choices(&what, value, &run["output"]);
            assert_eq!(*truncated, run["truncated"] == true, "{what}");
            let alone = task.run(std::slice::from_ref(input)).unwrap().remove(0).unwrap();
            assert_eq!(&alone.value, value, "{what}: alone");
        }
    }
}

/// A copy in any stored form is a multiple-choice model, too.
#[test]
fn converted_models_choose_the_same() {
    let case = case("multiple_choice.json", "mean");
    let folder = lay_out(&case);
    let out = tempfile::tempdir().unwrap();
    ettin::weights::convert(&files(&folder), &out.path().join("copy"), None, &mut |_| {}).unwrap();
    let copy = ModelFiles::folder(out.path().join("copy")).unwrap();
    let run = &case["runs"][0];
    let choose = |files: &ModelFiles| {
        MultipleChoice::load(files, &options()).unwrap().run(&[choice_input(run)]).unwrap().remove(0).unwrap()
    };
    assert_eq!(choose(&copy), choose(&files(&folder)));
}

#[test]
fn bad_contexts_are_errors_in_their_places() {
    let folder = lay_out(&case("multiple_choice.json", "first token"));
    let task = MultipleChoice::load(&files(&folder), &Options::default()).unwrap();
    let long = "a cat ".repeat(600);
    let inputs = [
        ChoiceInput { context: "A cat", choices: vec!["sat.", "ran."] },
        ChoiceInput { context: "A cat", choices: vec![] },
        ChoiceInput { context: "A cat", choices: vec!["sat.", &long] },
        ChoiceInput { context: "", choices: vec![""] },
    ];
    let outcomes = task.run(&inputs).unwrap();
    assert!(outcomes[1].as_ref().unwrap_err().to_string().contains("no choices"));
    assert!(outcomes[2].as_ref().unwrap_err().to_string().contains("tokens"));
    assert_eq!(outcomes[0].as_ref().unwrap().value, task.choose("A cat", &["sat.", "ran."]).unwrap());
    assert_eq!(outcomes[3].as_ref().unwrap().value[0].score, 1.0);
}

#[test]
fn models_that_are_no_multiple_choice_are_named_with_what_fits() {
    for (model, parts) in [
        ("tiny-text-classify-one", ["ModernBertForSequenceClassification", "classify, rerank"]),
        ("nano-encoder", ["classifier.weight", "fits fill-mask"]),
        ("nano-decoder", ["choose needs an encoder", "is a decoder"]),
        ("tiny-text-classify-decoder", ["fits classify", "not choose"]),
    ] {
        let error = MultipleChoice::load(&common::model(model), &options()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let folder = lay_out(&case("multiple_choice.json", "first token"));
    let error = Classifier::load(&files(&folder), &options()).unwrap_err().to_string();
    assert!(error.contains("ModernBertForMultipleChoice, which fits choose, embed, not classify"), "{error}");
    assert!(Reranker::load(&files(&folder), &options()).is_err());
    // Its trunk is one like any other.
    let embedder = TextEmbedder::load(&files(&folder), &options()).unwrap();
    assert_eq!(embedder.embed(&["A cat."]).unwrap().shape, [1, 32]);
}

/// A file that lies about its classifier is refused, and so is one with another number of outputs.
#[test]
fn hostile_classifiers_are_refused() {
    let config = case("multiple_choice.json", "first token")["files"]["config.json"].clone();
    let folder = tempfile::tempdir().unwrap();
    common::copy(&root("models/tiny-text-classify-single"), folder.path());
    put(folder.path(), "config.json", &config);
    let error = MultipleChoice::load(&files(&folder), &options()).unwrap_err().to_string();
    assert!(error.contains("classifier.weight") && error.contains("[3, 32]"), "{error}");
    let mut odd = config.clone();
    odd["classifier_pooling"] = json!("attention");
    let folder = lay_out(&case("multiple_choice.json", "first token"));
    put(folder.path(), "config.json", &odd);
    let error = MultipleChoice::load(&files(&folder), &options()).unwrap_err().to_string();
    assert!(error.contains("classifier_pooling"), "{error}");
    let weights = folder.path().join("model.safetensors");
    put(folder.path(), "config.json", &config);
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 8]).unwrap();
    assert!(MultipleChoice::load(&files(&folder), &options()).is_err());
}

/// Both tasks can be made of parts.
#[test]
fn tasks_of_parts_answer_the_same() {
    let folder = lay_out(&case("zero_shot.json", "entailment last"));
    let model = SequenceClassifier::load(&files(&folder), &Backend::cpu().unwrap()).unwrap();
    let preprocessor = Preprocessor::load(&files(&folder), model.config(), &options()).unwrap();
    let of_parts = ZeroShotClassifier::new(model, preprocessor).unwrap();
    let loaded = ZeroShotClassifier::load(&files(&folder), &options()).unwrap();
    let labels = ["cat", "dog"];
    assert_eq!(of_parts.classify("A cat.", &labels).unwrap(), loaded.classify("A cat.", &labels).unwrap());

    let folder = lay_out(&case("multiple_choice.json", "mean"));
    let model = ChoiceScorer::load(&files(&folder), &Backend::cpu().unwrap()).unwrap();
    let preprocessor = Preprocessor::load(&files(&folder), model.config(), &options()).unwrap();
    let of_parts = MultipleChoice::new(model, preprocessor);
    let loaded = MultipleChoice::load(&files(&folder), &options()).unwrap();
    assert_eq!(of_parts.choose("A cat", &labels).unwrap(), loaded.choose("A cat", &labels).unwrap());
}
