//! `json`, `jsonl` and `table`, ids, truncation, output files.

use serde_json::{Value, json};

use crate::support::{pipe, run};

const MASKED: &str = "The capital of France is [MASK].";

#[test]
fn json_is_one_array_even_for_one_input() {
    let one: Value = serde_json::from_str(run(&["tokenize", "a", "--format", "json"]).text(0)).unwrap();
    assert_eq!(one.as_array().unwrap().len(), 1);
    let two: Value = serde_json::from_str(run(&["tokenize", "a", "b c", "--format", "json"]).text(0)).unwrap();
    assert_eq!(two.as_array().unwrap().len(), 2);
    assert_eq!(run(&["tokenize", "a", "b c"]).lines(0), *two.as_array().unwrap());
    let none: Value = serde_json::from_str(pipe(&["tokenize", "--format", "json"], "").text(0)).unwrap();
    assert_eq!(none, json!([]));
    // A list per input, within the list of inputs.
    let fills: Value = serde_json::from_str(run(&["fill-mask", MASKED, "-f", "json", "-k", "2"]).text(0)).unwrap();
    assert_eq!(fills[0].as_array().unwrap().len(), 2);
}

#[test]
fn piped_output_is_jsonl_unless_asked() {
    assert!(run(&["tokenize", "a"]).text(0).starts_with("{\"ids\":"));
    let table = run(&["tokenize", "a", "--format", "table"]);
    assert!(table.text(0).starts_with("id  token"), "{}", table.text(0));
    let mut command = crate::support::command(&["tokenize", "a"]);
    command.env("ETTIN_FORMAT", "json");
    assert!(crate::support::finish(command, b"").text(0).starts_with("[\n"));
}

#[test]
fn scores_print_in_shortest_form() {
    let run = run(&["fill-mask", MASKED, "-k", "1"]);
    let text = run.text(0);
    let score = text.split(['[', ':', ',', '{']).find(|part| part.starts_with("0.")).unwrap();
    let value: f32 = score.parse().unwrap();
    // Through an f64 it would have some 17 digits.
    assert_eq!(score, value.to_string(), "{text}");
    assert!(score.len() <= 12, "{score}");
}

#[test]
fn ids_are_echoed_first() {
    let input =
        "{\"text\":\"a\",\"id\":\"x\"}\n{\"id\":17,\"text\":\"b\"}\n{\"text\":\"c\",\"id\":null}\n{\"text\":\"d\"}\n";
    let run = pipe(&["tokenize"], input);
    let lines: Vec<&str> = run.text(0).lines().collect();
    for (line, start) in
        lines.iter().zip(["{\"id\":\"x\",\"ids\"", "{\"id\":17,\"ids\"", "{\"id\":null,\"ids\"", "{\"ids\""])
    {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(lines.len(), 4);
}

#[test]
fn a_list_stays_a_list_where_its_input_was_cut() {
    let long = format!("{MASKED}{}", " word".repeat(100));
    let record = |id: &str, text: &str| format!("{{{id}\"text\":{}}}\n", json!(text));
    let input = record("", MASKED) + &record("\"id\":1,", MASKED) + &record("\"id\":2,", &long) + &record("", &long);
    let cut = ["--truncate", "right", "--max-length", "20"];
    let run = pipe(&[&["fill-mask", "-k", "1"], &cut[..]].concat(), input);
    let lines = run.lines(0);
    assert!(run.err.contains("2 inputs were cut"), "{}", run.err);
    assert!(lines[0][0].get("truncated").is_none());
    assert_eq!(keys(&lines[1]), ["id", "result"]);
    assert_eq!(keys(&lines[2]), ["id", "result", "truncated"]);
    assert_eq!(lines[2]["truncated"], json!(true));
    for list in [&lines[1]["result"], &lines[2]["result"]] {
        assert_eq!(keys(&list[0]), ["score", "token", "token_str", "sequence"]);
    }
    // A script that reads line[0] reads on.
    assert_eq!(keys(&lines[3][0]), ["score", "token", "token_str", "sequence", "truncated"]);
    assert_eq!(lines[3][0]["truncated"], json!(true));
    assert_eq!(lines[3][0]["score"], lines[2]["result"][0]["score"]);
}

#[test]
fn every_list_of_a_cut_input_is_marked() {
    let long = "Ada [MASK] was [MASK] here. ".repeat(8);
    let cut = ["-q", "--truncate", "right", "--max-length", "20"];
    let marked = |arguments: &[&str]| {
        let lines = run(&[arguments, &cut[..]].concat()).lines(0);
        assert_eq!(lines.len(), 1);
        let entries = lines[0].as_array().unwrap().clone();
        assert!(!entries.is_empty(), "{arguments:?}");
        entries
    };
    // Several masks give a list of lists.
    for mask in marked(&["fill-mask", "-k", "2", &long]) {
        assert!(mask.as_array().unwrap().iter().all(|entry| entry["truncated"] == json!(true)), "{mask}");
    }
    for arguments in [
        &["classify", "--model", "models/tiny-text-classify-single", &long][..],
        &["tag", "--all", "--model", "models/tiny-text-tag", &long],
        &["tag", "--all", "--aggregation", "simple", "--model", "models/tiny-text-tag", &long],
        &["rerank", "--model", "models/tiny-text-rerank-chain", "Who?", &long],
        &["similarity", "A cat.", &long],
    ] {
        for entry in marked(arguments) {
            assert_eq!(entry.as_object().unwrap().keys().next_back().unwrap(), "truncated", "{entry}");
        }
    }
}

#[test]
fn cut_rows_say_so() {
    let long = "word ".repeat(3000);
    for side in ["right", "left"] {
        let run = run(&["embed", "-q", "--truncate", side, "short", &long]);
        let lines = run.lines(0);
        assert_eq!(keys(&lines[0]), ["index", "embedding"]);
        assert_eq!(keys(&lines[1]), ["index", "embedding", "truncated"]);
    }
}

#[test]
fn output_files_appear_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let path = path.to_str().unwrap();
    let ok = run(&["tokenize", "a", "--output", path]);
    assert_eq!(ok.text(0), "");
    let written = std::fs::read_to_string(path).unwrap();
    assert!(written.starts_with("{\"ids\""), "{written}");
    // A run that fails leaves what was there.
    run(&["tokenize", "--input", "no/such/file", "--output", path]).text(1);
    assert_eq!(std::fs::read_to_string(path).unwrap(), written);
    // One with bad records is complete.
    pipe(&["tokenize", "--output", path], "{\"text\":\"b\"}\n{}\n").text(1);
    assert_ne!(std::fs::read_to_string(path).unwrap(), written);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn results_do_not_depend_on_batches_chunks_or_threads() {
    let texts: String = (0..60).map(|n| format!("Line {n}{}\n", " and more".repeat(n % 7))).collect();
    let plain = pipe(&["embed", "-q"], &texts);
    for flags in [&["--batch-tokens", "8"][..], &["--threads", "1"], &["--batch-tokens", "100000", "--threads", "3"]] {
        let mut arguments = vec!["embed", "-q"];
        arguments.extend(flags);
        assert!(pipe(&arguments, &texts).out == plain.out, "{flags:?} changed the numbers");
    }
}

#[test]
fn tables_are_for_reading() {
    let run = run(&["fill-mask", MASKED, "--format", "table", "-k", "2", "-q"]);
    let lines: Vec<&str> = run.text(0).lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["score", "token", "token_str", "sequence"]);
    assert_eq!(lines.len(), 3);
    assert!(lines[1].contains("\" Paris\""), "{lines:?}");
    assert_eq!(run.err, "");
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}
