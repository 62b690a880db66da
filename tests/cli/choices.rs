//! `classify --labels` and `choose`: keys, flags, records and bad input.

use serde_json::{Value, json};

use crate::support::{assert_close, pipe, read_json, repository, run};

/// The model of a case of `scripts/make_choice_fixtures.py`, in a folder of its own, and the case.
fn case(fixture: &str, name: &str) -> (tempfile::TempDir, Value) {
    let fixture = read_json(format!("tests/fixtures/pipelines/{fixture}.json"));
    let found = fixture["cases"].as_array().unwrap().iter().find(|case| case["name"] == name);
    let case = found.unwrap_or_else(|| panic!("no case {name:?}")).clone();
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(repository().join(case["base"].as_str().unwrap()).join(file), folder.path().join(file)).unwrap();
    }
    for (name, content) in case["files"].as_object().unwrap() {
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    (folder, case)
}

#[test]
fn labels_of_ones_own() {
    let (folder, case) = case("zero_shot", "entailment last");
    let model = folder.path().to_str().unwrap();
    for given in case["runs"].as_array().unwrap() {
        let (text, options) = (given["input"]["text"].as_str().unwrap(), &given["options"]);
        let labels: Vec<&str> =
            given["input"]["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
        let labels = labels.join(" , ");
        let mut arguments = vec!["classify", "-m", model, "--labels", &labels];
        if let Some(template) = options["template"].as_str() {
            arguments.extend(["--template", template]);
        }
        if options["multi_label"] == true {
            arguments.push("--multi-label");
        }
        arguments.extend(["--", text]);
        assert_close(&run(&arguments).lines(0)[0], &given["output"], &format!("{arguments:?}"));
    }
}

#[test]
fn records_may_have_labels_of_their_own() {
    let (folder, _) = case("zero_shot", "entailment last");
    let model = folder.path().to_str().unwrap();
    let classify = ["classify", "-m", model, "--labels", "cat,dog"];
    let records = concat!(
        "{\"text\": \"A cat.\", \"id\": 7}\n",
        "{\"text\": \"A cat.\", \"labels\": [\"a, b\", \"c\"]}\n",
        "{\"text\": \"A cat.\", \"labels\": \"a, b\"}\n",
        "{\"text\": \"\"}\n",
        "{\"text\": \"A cat.\", \"labels\": []}\n",
        "{\"text\": \"A cat.\", \"labels\": 3}\n",
        "{\"text\": \"A cat.\", \"text_pair\": \"x\"}\n",
        "{\"text\": \"A cat.\"}\n",
    );
    let piped = pipe(&classify, records);
    let lines = piped.lines(1);
    let labels = |line: &Value| {
        let mut labels: Vec<String> = serde_json::from_value(line["labels"].clone()).unwrap();
        labels.sort();
        labels
    };
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "sequence", "labels", "scores"]);
    assert_eq!(labels(&lines[0]), ["cat", "dog"]);
    assert_eq!(labels(&lines[1]), ["a, b", "c"]);
    assert_eq!(labels(&lines[2]), ["a", "b"]);
    assert_eq!(lines[3]["scores"], lines[0]["scores"]);
    for part in ["line 4: ", "the text is empty", "line 5: ", "no labels", "line 6: ", "a list of texts", "text_pair"] {
        assert!(piped.err.contains(part), "{part}: {}", piped.err);
    }
    let lines = pipe(&classify, "A cat.\nA dog.\n").lines(0);
    assert_eq!((lines[0]["sequence"].as_str(), lines[1]["sequence"].as_str()), (Some("A cat."), Some("A dog.")));
    let table = run(&[&classify[..], &["-f", "table", "A cat."]].concat());
    assert!(table.text(0).contains("score") && table.text(0).contains("cat"), "{}", table.text(0));
}

#[test]
fn wrong_calls_of_zero_shot() {
    let (folder, _) = case("zero_shot", "entailment last");
    let model = folder.path().to_str().unwrap();
    for (flags, message) in [
        (&["--template", "x {}"][..], "--labels"),
        (&["--multi-label"], "--labels"),
        (&["--labels", " , "], "at least one label"),
        (&["--labels", "a", "--template", "no place"], "needs a {}"),
        (&["--labels", "a", "--template", "{} {}"], "more than one {}"),
        (&["--labels", "a", "--template", "{name}"], "{name} is not supported"),
        (&["--labels", "a", "--pair", "b"], "--pair"),
        (&["--labels", "a", "--top-k", "1"], "--top-k"),
        (&["--labels", "a", "--raw"], "--raw"),
        (&["--labels", "a", "--prompt", "query"], "--prompt"),
    ] {
        let refused = run(&[&["classify", "-m", model], flags, &["A cat."]].concat());
        assert_eq!(refused.status, Some(2), "{flags:?}: {}", refused.err);
        assert!(refused.err.contains(message) && refused.out.is_empty(), "{message:?}: {}", refused.err);
    }
    let refused = run(&["classify", "--labels", "a,b", "A cat."]);
    assert!(refused.status == Some(2) && refused.err.contains("natural language inference"), "{}", refused.err);
    let long = "a cat ".repeat(600);
    let refused = run(&["classify", "-m", model, "--labels", "a", &long]);
    assert!(refused.status == Some(1) && refused.err.contains("--truncate"), "{}", refused.err);
    let cut = run(&["classify", "-m", model, "--labels", "a", "--truncate", "right", &long]);
    assert_eq!(cut.lines(0)[0]["truncated"], json!(true));
    // Where cutting is allowed and cannot help, it is no advice.
    let never = run(&["classify", "-m", model, "--labels", "a", "--truncate", "right", "--max-length", "4", "a cat"]);
    assert!(never.status == Some(1) && never.err.contains("the second text is never cut"), "{}", never.err);
    assert!(!never.err.contains("--truncate"), "{}", never.err);
}

#[test]
fn a_guess_of_entailment_is_said() {
    let (folder, _) = case("zero_shot", "none named entailment");
    let model = folder.path().to_str().unwrap();
    let noted = run(&["classify", "-m", model, "--labels", "a,b", "A cat."]);
    noted.text(0);
    assert!(noted.err.contains("no label is called entailment; the last one (positive)"), "{}", noted.err);
    assert!(run(&["classify", "-q", "-m", model, "--labels", "a,b", "A cat."]).err.is_empty());
}

#[test]
fn choices_from_everywhere() {
    let (folder, case) = case("multiple_choice", "mean");
    let model = folder.path().to_str().unwrap();
    let runs = case["runs"].as_array().unwrap();
    let records: String = runs.iter().map(|given| format!("{}\n", given["input"])).collect();
    for (line, given) in pipe(&["choose", "-m", model], records).lines(0).iter().zip(runs) {
        assert_close(line, &given["output"], &given["input"].to_string());
    }
    let (context, choices) = ("A cat", ["sat.", "ran.", "slept."]);
    let choose = ["choose", "-m", model, context];
    let arguments = run(&[&choose[..], &choices].concat());
    let best = &arguments.lines(0)[0][0];
    assert_eq!(best.as_object().unwrap().keys().collect::<Vec<_>>(), ["index", "score", "logit"]);
    assert_eq!(pipe(&choose, choices.join("\n")).text(0), arguments.text(0));
    assert_eq!(pipe(&choose, json!(choices).to_string()).text(0), arguments.text(0));
    let record = json!({"context": context, "choices": choices}).to_string();
    assert_eq!(pipe(&["choose", "-m", model], &record).text(0), arguments.text(0));
    let skipped = pipe(&[&choose[..], &["--skip-blank"]].concat(), "sat.\n\nran.\n").lines(0);
    let mut indices: Vec<u64> = skipped[0].as_array().unwrap().iter().map(|c| c["index"].as_u64().unwrap()).collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 2]);
    let table = run(&[&choose[..], &choices, &["-f", "table"]].concat());
    for part in ["logit", "slept."] {
        assert!(table.text(0).contains(part), "{}", table.text(0));
    }
}

#[test]
fn wrong_calls_of_choose() {
    let (folder, _) = case("multiple_choice", "mean");
    let model = folder.path().to_str().unwrap();
    let piped = pipe(
        &["choose", "-m", model],
        "{\"context\": \"A cat\", \"choices\": []}\n{\"context\": \"A cat\"}\n\
         {\"context\": \"A cat\", \"choices\": \"sat.\"}\n{\"id\": 1, \"context\": \"A cat\", \"choices\": [\"sat.\"]}\n",
    );
    let lines = piped.lines(1);
    assert_eq!((lines.len(), &lines[0]["id"], &lines[0]["result"][0]["score"]), (1, &json!(1), &json!(1.0)));
    for part in ["line 1: ", "there are no choices", "line 2: missing field `choices`", "line 3: "] {
        assert!(piped.err.contains(part), "{part}: {}", piped.err);
    }
    for (arguments, status, message) in [
        (&["choose", "a", "b"][..], 2, "a multiple-choice head"),
        (&["choose", "--input-format", "text"], 2, "CONTEXT"),
        (&["choose", "a", "--extra", "keep"], 2, "--extra keep"),
        (&["choose", "a", "b", "-m", "nano-encoder"], 1, "fits fill-mask"),
        (&["choose", "a", "b", "-m", "models/tiny-text-classify-one"], 1, "which fits classify"),
        (&["classify", "a", "-m", model], 1, "which fits choose, embed, not classify"),
    ] {
        let refused = run(arguments);
        assert_eq!(refused.status, Some(status), "{arguments:?}: {}", refused.err);
        assert!(refused.err.contains(message) && refused.out.is_empty(), "{message:?}: {}", refused.err);
    }
    let described = run(&["info", "-m", model, "-f", "jsonl"]).lines(0);
    assert_eq!(described[0]["model"]["architecture"], json!("ModernBertForMultipleChoice"));
    assert_eq!(described[0]["model"]["tasks"], json!(["choose", "embed"]));
    let table = run(&["info", "-m", model, "-f", "table"]);
    assert!(table.text(0).contains("choose, embed"), "{}", table.text(0));
    let chain = run(&["info", "-m", "models/tiny-text-chain-mean", "-f", "jsonl"]).lines(0);
    assert_eq!(chain[0]["model"].get("tasks"), None);
    let checked = run(&["info", "--check", "-m", model]);
    assert_eq!(checked.status, Some(0), "{}", checked.err);
}
