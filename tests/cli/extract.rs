//! `extract`, and `classify --labels` with GLiNER2: keys, flags, records and bad input.

use serde_json::{Value, json};

use crate::support::{pipe, read_json, run};

const BI: &str = "models/tiny-gliner-bi";
const UNI: &str = "models/tiny-gliner-uni";

/// A run that `scripts/make_extraction_fixtures.py` recorded, by the flags that stand for its options.
fn flags(options: &Value) -> Vec<String> {
    let mut flags = Vec::new();
    if let Some(threshold) = options["threshold"].as_f64() {
        flags.extend(["--threshold".to_owned(), threshold.to_string()]);
    }
    if options["flat_ner"] == false {
        flags.push("--nested".to_owned());
    }
    if options["multi_label"] == true {
        flags.push("--multi-label".to_owned());
    }
    flags
}

#[test]
fn entities_are_those_of_gliner() {
    let fixture = read_json("tests/fixtures/pipelines/extraction.json");
    let mut options: Vec<String> = Vec::new();
    for case in fixture["cases"].as_array().unwrap().iter().filter(|case| case["keys"] == json!({})) {
        let model = format!("models/{}", case["base"].as_str().unwrap());
        for given in case["runs"].as_array().unwrap().iter() {
            let (text, expected) = (given["text"].as_str().unwrap(), given["spans"].as_array().unwrap());
            let labels: Vec<&str> =
                given["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
            let labels = labels.join(",");
            let flags = flags(&given["options"]);
            let kind = format!("{model} {}", flags.join(" "));
            if options.contains(&kind) && !text.contains('\u{1f600}') {
                continue;
            }
            let mut arguments = vec!["extract", "-m", &model, "--truncate", "right", "--labels", &labels];
            arguments.extend(flags.iter().map(String::as_str));
            arguments.extend(["--", text]);
            let found = run(&arguments).lines(0).remove(0);
            let found = found.as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{arguments:?}");
            for (ours, theirs) in found.iter().zip(expected) {
                assert_eq!(
                    json!([ours["start"], ours["end"], ours["label"]]),
                    json!([theirs[0], theirs[1], theirs[2]])
                );
                assert!((ours["score"].as_f64().unwrap() - theirs[3].as_f64().unwrap()).abs() < 1e-5, "{arguments:?}");
                let keys: Vec<&String> = ours.as_object().unwrap().keys().collect();
                assert_eq!(keys, ["start", "end", "text", "label", "score"]);
            }
            options.push(kind);
        }
    }
    options.sort();
    options.dedup();
    assert_eq!(options.len(), 10, "{options:?}");
}

#[test]
fn texts_come_from_everywhere() {
    let extract = ["extract", "-m", UNI, "--labels", "person,place", "--threshold", "0.2", "--nested"];
    let texts = ["Ada Lovelace was born in London.", "x", ""];
    let arguments = run(&[&extract[..], &texts].concat());
    assert_eq!(arguments.lines(0).len(), 3);
    assert_eq!(arguments.lines(0)[2], json!([]));
    assert_eq!(pipe(&extract, texts.join("\n") + "\n").text(0), arguments.text(0));
    assert_eq!(pipe(&extract, json!(texts).to_string()).text(0), arguments.text(0));
    let records = "{\"text\": \"x\", \"id\": 7}\n{\"text\": 3}\n{\"text\": \"x\"}\n";
    let piped = pipe(&extract, records).lines(1);
    assert_eq!((piped.len(), &piped[0]["id"]), (2, &json!(7)));
    assert_eq!(piped[1], arguments.lines(0)[1]);
    let table = run(&[&extract[..], &texts[..1], &["-f", "table"]].concat());
    assert!(table.text(0).contains("label") && table.text(0).contains("London"), "{}", table.text(0));
    let array = run(&[&extract[..], &texts, &["-f", "json"]].concat());
    let array: Value = serde_json::from_str(array.text(0)).unwrap();
    assert_eq!(array.as_array().unwrap().len(), 3);
}

#[test]
fn wrong_calls_of_extract() {
    let long = "word ".repeat(41);
    for (arguments, status, message) in [
        (&["extract", "a", "-m", BI][..], 2, "--labels"),
        (&["extract", "a", "-m", BI, "--labels", " , "], 2, "at least one label"),
        (&["extract", "a", "-m", BI, "--labels", "a", "--threshold", "NaN"], 2, "--threshold"),
        (&["extract", "a", "--labels", "a"], 2, "GLiNER"),
        (&["extract", "a", "--labels", "a", "-m", "nano-encoder"], 1, "gliner_config.json"),
        (&["extract", "a", "--labels", "a", "-m", "models/tiny-text-chain-mean"], 1, "gliner_config.json"),
        (&["extract", "a", "--labels", "a", "-m", BI, "--label-vectors", "gone"], 1, "no such file"),
        (&["extract", "a", "--labels", "a", "-m", BI, "--label-vectors", "README.md"], 1, "README.md"),
        (&["extract", "-m", BI, "--labels", "a", &long], 1, "(--truncate right or left)"),
        (&["embed", "a", "-m", BI], 1, "fits extract"),
        (&["classify", "a", "-m", UNI], 1, "fits extract"),
        (&["tag", "a", "-m", BI], 1, "fits extract"),
        (&["info", "-m", BI, "--check"], 1, "fits extract"),
    ] {
        let failed = run(arguments);
        assert_eq!(failed.status, Some(status), "{arguments:?}: {}", failed.err);
        assert!(failed.err.contains(message), "{arguments:?}: {}", failed.err);
    }
}

#[test]
fn a_model_of_spans_is_described_and_converted() {
    let described = run(&["info", "-m", BI]).lines(0).remove(0);
    let model = &described["model"];
    assert_eq!((&model["tasks"], &model["hidden_size"]), (&json!(["extract"]), &json!(32)));
    assert_eq!(model["extraction"]["max_width"], 5);
    assert_eq!(model["length_limit"]["tokens"], 200);
    let table = run(&["info", "-m", UNI, "-f", "table"]);
    assert!(table.text(0).contains("together with the text"), "{}", table.text(0));
    let schema = run(&["info", "-m", "models/tiny-gliner2"]).lines(0).remove(0);
    assert_eq!(schema["model"]["tasks"], json!(["classify"]));
    let out = tempfile::tempdir().unwrap();
    let refused = run(&["convert", "models/tiny-gliner2", "-o", out.path().join("no").to_str().unwrap()]);
    assert!(refused.status == Some(1) && refused.err.contains("GLiNER2"), "{}", refused.err);
    let copy = out.path().join("copy");
    let copy = copy.to_str().unwrap();
    run(&["convert", BI, "-o", copy, "--dtype", "f32"]).text(0);
    let extract = |model| run(&["extract", "-m", model, "--labels", "a,b", "--threshold", "0.1", "A cat on a mat."]);
    assert_eq!(extract(copy).text(0), extract(BI).text(0));
}

#[test]
fn labels_are_classified_by_a_schema() {
    let model = "models/tiny-gliner2";
    let fixture = read_json("tests/fixtures/pipelines/schema_classification.json");
    for given in fixture["runs"].as_array().unwrap().iter().filter(|run| run["task"] == "What is it about?").step_by(5)
    {
        let mut arguments = vec!["classify", "-m", model, "--labels", "Cat,dog", "--task", "What is it about?"];
        if given["multi_label"] == true {
            arguments.push("--multi-label");
        }
        arguments.extend(["--", given["text"].as_str().unwrap()]);
        let found = run(&arguments).lines(0).remove(0);
        for (label, score) in found["labels"].as_array().unwrap().iter().zip(found["scores"].as_array().unwrap()) {
            let expected = &given["scores"][usize::from(label == "dog")];
            assert!((score.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-5, "{arguments:?}: {found}");
        }
    }
    let records = "{\"text\": \"A cat.\", \"labels\": [\"a\", \"b\", \"c\"]}\n{\"text\": \"\"}\n";
    let lines = pipe(&["classify", "-m", model, "--labels", "x"], records).lines(0);
    assert_eq!(lines[0]["labels"].as_array().unwrap().len(), 3);
    assert_eq!((&lines[1]["labels"], &lines[1]["scores"]), (&json!(["x"]), &json!([1.0])));
    let nli = "models/tiny-text-classify-single";
    for (arguments, message) in [
        (&["classify", "a", "-m", model, "--labels", "x", "--template", "{}."][..], "--task"),
        (&["classify", "a", "-m", nli, "--labels", "x", "--task", "t"], "--template"),
        (&["classify", "a", "-m", model, "--task", "t"], "--labels"),
    ] {
        let failed = run(arguments);
        assert_eq!(failed.status, Some(2), "{arguments:?}: {}", failed.err);
        assert!(failed.err.contains(message), "{arguments:?}: {}", failed.err);
    }
    let entities = run(&["extract", "a", "-m", model, "--labels", "x"]);
    assert!(entities.status == Some(1) && entities.err.contains("GLiNER2"), "{}", entities.err);
}
