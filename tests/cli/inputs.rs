//! Where texts come from, and what becomes of bad ones.

use serde_json::{Value, json};

use crate::support::{command, finish, pipe, run};

/// The tokens of every line, joined: what was read, in order.
fn read(run: &crate::support::Run, status: i32) -> Vec<String> {
    let join = |line: &Value| {
        let tokens = line["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token.as_str().unwrap()).collect::<String>()
    };
    run.lines(status).iter().map(join).collect()
}

const PLAIN: &[&str] = &["tokenize", "--no-special-tokens"];

#[test]
fn lines_arguments_and_files_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts");
    std::fs::write(&path, "One.\n\nTwo.\r\nThree.").unwrap();
    let path = path.to_str().unwrap();
    let expected = ["One.", "Two.", "Three."];
    assert_eq!(read(&run(&[PLAIN, &expected].concat()), 0), expected);
    assert_eq!(read(&pipe(PLAIN, "One.\n\nTwo.\r\nThree."), 0), expected);
    assert_eq!(read(&pipe(PLAIN, "\u{feff}One.\nTwo.\nThree.\n"), 0), expected);
    assert_eq!(read(&run(&[PLAIN, &["--input", path]].concat()), 0), expected);
    assert_eq!(read(&pipe(&[PLAIN, &["--input", "-"]].concat(), "One.\nTwo.\nThree.\n"), 0), expected);
}

#[test]
fn many_lines_keep_their_order() {
    let texts: String = (0..5000).map(|number| format!("n{number}\n")).collect();
    let expected: Vec<String> = texts.lines().map(String::from).collect();
    assert_eq!(read(&pipe(PLAIN, &texts), 0), expected);
}

#[test]
fn bad_records_are_named_by_line_and_the_others_answered() {
    let mut input = b"{\"text\":\"One.\"}\n{\"text\":}\n\n{\"txt\":\"x\"}\n".to_vec();
    input.extend(b"{\"text\":\"\xFF\"}\n{\"text\":3}\n[]\n{\"text\":\"Two.\",\"id\":[]}\n{\"text\":\"Three.\"}\n");
    let run = pipe(PLAIN, input);
    assert_eq!(read(&run, 1), ["One.", "Three."]);
    for number in [2, 4, 5, 6, 7, 8] {
        assert!(run.err.contains(&format!("line {number}: ")), "line {number}: {}", run.err);
    }
    assert!(!run.err.contains("line 1:") && !run.err.contains("line 9:"), "{}", run.err);
    assert!(run.err.contains("unknown field `txt`"), "{}", run.err);
    assert!(run.err.contains("6 records were left out"), "{}", run.err);
}

#[test]
fn a_text_without_mask_is_a_bad_record() {
    let run = pipe(&["fill-mask", "-k", "1"], "nothing here\nA [MASK].\n");
    assert_eq!(run.lines(1).len(), 1);
    assert!(run.err.contains("line 1: "), "{}", run.err);
}

#[test]
fn over_long_texts_are_refused_unless_cut() {
    let input = format!("{}\nshort\n", "word ".repeat(3000));
    let refused = pipe(&["embed", "-q"], &input);
    let lines = refused.lines(1);
    // The index is the input's, bad ones counted.
    assert_eq!((lines.len(), &lines[0]["index"]), (1, &json!(1)));
    assert!(refused.err.contains("line 1: ") && refused.err.contains("limit"), "{}", refused.err);
    assert_eq!(pipe(&["embed", "-q", "--truncate", "left"], &input).lines(0).len(), 2);
}

#[test]
fn text_that_looks_like_json_can_be_text() {
    let input = "{not json}\n{more}\n";
    let run = pipe(PLAIN, input);
    assert_eq!(run.lines(1).len(), 0);
    assert_eq!(read(&pipe(&[PLAIN, &["--input-format", "text"]].concat(), input), 0), ["{notĠjson}", "{more}"]);
}

#[test]
fn invalid_utf8_in_text_is_a_bad_record() {
    let run = pipe(PLAIN, b"One.\nTw\xFFo.\nThree.\n");
    assert_eq!(read(&run, 1), ["One.", "Three."]);
    assert!(run.err.contains("line 2: ") && run.err.contains("UTF-8"), "{}", run.err);
}

#[test]
fn nothing_is_nothing() {
    for input in ["", "\n\n", "\u{feff}"] {
        let run = pipe(&["tokenize"], input);
        assert_eq!(run.text(0), "");
        assert!(run.err.contains("no inputs"), "{}", run.err);
    }
    // An empty text is a text where it is given as one.
    assert_eq!(run(&["tokenize", ""]).lines(0)[0]["tokens"], json!(["[CLS]", "[SEP]"]));
    assert_eq!(pipe(&["tokenize"], "{\"text\":\"\"}\n").lines(0).len(), 1);
}

#[test]
fn empty_texts_do_not_panic() {
    for task in ["fill-mask", "embed", "score", "tokenize"] {
        let run = pipe(&[task, "-q"], "{\"text\":\"\"}\n");
        assert!(matches!(run.status, Some(0 | 1)), "{task}: {:?} {}", run.status, run.err);
    }
    let run = pipe(&["generate", "-q", "-n", "2"], "{\"prompt\":\"\"}\n");
    assert!(matches!(run.status, Some(0 | 1)), "{:?} {}", run.status, run.err);
    let run = pipe(&["generate", "-q", "-n", "2", "--no-bos"], "{\"prompt\":\"\"}\n");
    assert!(matches!(run.status, Some(0 | 1)), "{:?} {}", run.status, run.err);
}

#[test]
fn pairs_and_contexts_fill_what_is_missing() {
    let pair = run(&["tokenize", "One.", "--pair", "Two."]).lines(0);
    let input = "{\"text\":\"One.\"}\n{\"text\":\"One.\",\"text_pair\":\"Three.\"}\n";
    let mixed = pipe(&["tokenize", "--pair", "Two."], input).lines(0);
    assert_eq!(mixed[0], pair[0]);
    assert_ne!(mixed[1], pair[0]);
    let context = run(&["score", "-q", " Paris", "--context", "The capital of France is"]).lines(0);
    assert_eq!(context[0]["count"], json!(1));
}

#[test]
fn rerank_takes_documents_from_everywhere() {
    let model = ["rerank", "--model", "models/tiny-text-rerank-chain"];
    let arguments = run(&[&model[..], &["Who?", "Ada.", "A pear."]].concat());
    let lines = pipe(&[&model[..], &["Who?"]].concat(), "Ada.\nA pear.\n");
    let records = pipe(&model, "{\"query\":\"Who?\",\"documents\":[\"Ada.\",\"A pear.\"]}\n");
    assert_eq!(arguments.lines(0).len(), 1);
    assert_eq!(arguments.out, lines.out);
    assert_eq!(arguments.out, records.out);
    let none = pipe(&model, "{\"query\":\"Who?\",\"documents\":[]}\n");
    assert_eq!(none.lines(0), [json!([])]);
}

#[test]
fn similarity_takes_one_b_or_several() {
    let arguments = run(&["similarity", "-q", "A cat.", "A kitten.", "A stone."]);
    let records = pipe(
        &["similarity", "-q"],
        "{\"a\":\"A cat.\",\"b\":[\"A kitten.\",\"A stone.\"]}\n{\"a\":\"A cat.\",\"b\":\"A kitten.\"}\n",
    );
    let lines = records.lines(0);
    assert_eq!(arguments.lines(0)[0], lines[0]);
    assert_eq!(lines[1].as_array().unwrap().len(), 1);
    assert_eq!(lines[1][0], lines[0][0]);
}

#[test]
fn answer_asks_every_line() {
    let model = ["answer", "--model", "models/tiny-text-answer"];
    let contexts = pipe(&[&model[..], &["Who?"]].concat(), "Ada was here.\n{Bob} was there.\n");
    let arguments = run(&[&model[..], &["Who?", "Ada was here.", "{Bob} was there."]].concat());
    assert_eq!(contexts.lines(0).len(), 2);
    assert_eq!(contexts.out, arguments.out);
}

#[test]
fn a_slow_pipe_is_answered_line_by_line() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let mut child = command(&["tokenize", "-q"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    for text in ["One.", "Two."] {
        writeln!(stdin, "{text}").unwrap();
        // Would wait for ever if the answer came at the end only.
        let line: Value = serde_json::from_str(&out.next().unwrap().unwrap()).unwrap();
        assert!(line["ids"].is_array());
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn settings_come_from_the_environment_too() {
    let mut with = command(&["tokenize", "x"]);
    with.env("ETTIN_MODEL", "./models/no-such-model");
    assert_eq!(finish(with, b"").status, Some(1));
    let mut with = command(&["embed", "-q", &"word ".repeat(100)]);
    with.env("ETTIN_MAX_LENGTH", "10").env("ETTIN_TRUNCATE", "right");
    assert_eq!(finish(with, b"").lines(0)[0]["truncated"], json!(true));
}
