//! Classification by a schema: what gliner2 gives, recorded by `scripts/make_extraction_fixtures.py` (versions in the
//! fixture).

mod common;

use std::fs;

use common::root;
use ettin::Error;
use ettin::files::ModelFiles;
use ettin::tasks::*;
use serde_json::{Value, json};

const MODEL: &str = "models/tiny-gliner2";

fn runs() -> Vec<Value> {
    let text = fs::read(root("tests/fixtures/pipelines/schema_classification.json")).unwrap();
    let fixture: Value = serde_json::from_slice(&text).unwrap();
    fixture["runs"].as_array().unwrap().clone()
}

fn input(run: &Value) -> ZeroShotInput<'_> {
    let labels = run["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
    ZeroShotInput { text: run["text"].as_str().unwrap(), labels }
}

fn request(run: &Value) -> SchemaRequest {
    let task = run["task"].as_str().unwrap().to_owned();
    SchemaRequest::default().with_task(task).with_multi_label(run["multi_label"] == true)
}

fn load(options: &Options) -> SchemaClassifier {
    SchemaClassifier::load(&ModelFiles::folder(root(MODEL)).unwrap(), options).unwrap()
}

/// A copy with a file of it changed.
fn changed(file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    common::copy(&root(MODEL), folder.path());
    let path = folder.path().join(file);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
    folder
}

#[test]
fn probabilities_are_those_of_gliner2() {
    let classifier = load(&Options::default());
    for run in runs() {
        let found = classifier.run(&[input(&run)], &request(&run)).unwrap().remove(0).unwrap().value;
        let labels = input(&run).labels;
        let theirs: Vec<f64> = run["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect();
        // The labels of a run are not all different.
        let mut expected: Vec<(&str, f64)> = labels.into_iter().zip(theirs).collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        assert_eq!(found.labels, expected.iter().map(|(label, _)| *label).collect::<Vec<_>>(), "{run}");
        for (ours, (_, theirs)) in found.scores.iter().zip(&expected) {
            assert!((f64::from(*ours) - theirs).abs() <= 1e-5, "{run}: {ours} instead of {theirs}");
        }
    }
}

#[test]
fn a_text_has_the_same_labels_in_any_batch() {
    let runs = runs();
    let inputs: Vec<_> = runs.iter().map(input).collect();
    let mut alone: Option<Vec<Outcome<ZeroShotLabels>>> = None;
    for budget in [1, 100, 4096] {
        let classifier = load(&Options::default().with_batch_tokens(budget));
        let run = |inputs: &[ZeroShotInput<'_>]| {
            let outcomes = classifier.run(inputs, &SchemaRequest::default()).unwrap().into_iter();
            outcomes.map(|outcome| outcome.unwrap()).collect::<Vec<_>>()
        };
        let alone = alone.get_or_insert_with(|| inputs.iter().flat_map(|one| run(std::slice::from_ref(one))).collect());
        assert_eq!(&run(&inputs), alone);
    }
}

#[test]
fn texts_over_the_limit_are_errors_or_cut_at_a_side() {
    let long = "First. ".repeat(30) + "Last";
    let run = |text: &str, tokens: usize, truncate| {
        let classifier = load(&Options::default().with_max_length(tokens).with_truncate(truncate));
        let input = ZeroShotInput { text, labels: vec!["a", "b"] };
        classifier.run(&[input], &SchemaRequest::default()).unwrap().remove(0)
    };
    assert!(matches!(run(&long, 30, Truncate::Error), Err(Error::TooLong { limit: 30, .. })));
    let (right, left) = (run(&long, 30, Truncate::Right).unwrap(), run(&long, 30, Truncate::Left).unwrap());
    assert!(right.truncated && left.truncated && right.value != left.value);
    assert!(matches!(run("x", 8, Truncate::Right), Err(Error::NoRoom { limit: 8, .. })));
}

#[test]
fn what_is_not_run_is_refused_by_name() {
    let error = |file: &str, change: fn(&mut Value)| {
        let folder = changed(file, change);
        let files = ModelFiles::folder(folder.path()).unwrap();
        SchemaClassifier::load(&files, &Options::default()).map(drop).unwrap_err().to_string()
    };
    assert!(error("config.json", |config| config["architecture"] = json!("boundary")).contains("\"boundary\""));
    assert!(error("config.json", |config| config["model_type"] = json!("bert")).contains("no GLiNER2"));
    let encoder = "encoder_config/config.json";
    assert!(error(encoder, |config| config["model_type"] = json!("deberta-v2")).contains("deberta-v2"));
    assert!(error(encoder, |config| config["model_type"] = json!("modernbert-decoder")).contains("decoder"));
    assert!(error(encoder, |config| config["hidden_size"] = json!(20)).contains("[40, 20]"));
    let deeper = error(encoder, |config| {
        config["num_hidden_layers"] = json!(3);
        config["layer_types"] = json!(null);
    });
    assert!(deeper.contains("behind `encoder.`") && deeper.contains("layers.2"), "{deeper}");
    let files = ModelFiles::folder(root(MODEL)).unwrap();
    let told = |error: Error| {
        let text = error.to_string();
        assert!(text.contains("GLiNER2") && text.contains("entities"), "{text}");
    };
    told(EntityExtractor::load(&files, &Options::default()).map(drop).unwrap_err());
    told(Classifier::load(&files, &Options::default()).map(drop).unwrap_err());
    told(TextEmbedder::load(&files, &Options::default()).map(drop).unwrap_err());
    // What the configuration says of the vocabulary before the library's own tokens does not count.
    let older = changed(encoder, |config| config["vocab_size"] = json!(512));
    let files = ModelFiles::folder(older.path()).unwrap();
    let classifier = SchemaClassifier::load(&files, &Options::default()).unwrap();
    let run = &runs()[0];
    let answer =
        |classifier: &SchemaClassifier| classifier.run(&[input(run)], &request(run)).unwrap().remove(0).unwrap();
    assert_eq!(answer(&classifier), answer(&load(&Options::default())));
    let nothing = ZeroShotInput { text: "x", labels: Vec::new() };
    let outcomes = classifier.run(&[nothing], &SchemaRequest::default()).unwrap();
    assert!(outcomes[0].as_ref().unwrap_err().to_string().contains("no labels"));
}
