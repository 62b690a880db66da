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
    std::fs::write(&path, "One.\nTwo.\r\nThree.").unwrap();
    let path = path.to_str().unwrap();
    let expected = ["One.", "Two.", "Three."];
    assert_eq!(read(&run(&[PLAIN, &expected].concat()), 0), expected);
    assert_eq!(read(&pipe(PLAIN, "One.\nTwo.\r\nThree."), 0), expected);
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
    // A side was chosen, and does not help.
    let no_room = run(&["embed", "-q", "--truncate", "right", "--max-length", "2", "Some words."]);
    assert_eq!(no_room.lines(1).len(), 0);
    assert!(no_room.err.contains("leaves no room for text beside 2 special tokens"), "{}", no_room.err);
    assert!(!no_room.err.contains("choose a side"), "{}", no_room.err);
}

#[test]
fn text_that_looks_like_json_can_be_text() {
    let input = "{not json}\n{more}\n";
    let run = pipe(PLAIN, input);
    assert_eq!(run.lines(1).len(), 0);
    assert_eq!(read(&pipe(&[PLAIN, &["--input-format", "text"]].concat(), input), 0), ["{notĠjson}", "{more}"]);
}

#[test]
fn records_that_are_none_are_told_what_to_do() {
    let run = pipe(PLAIN, "{\n  \"text\": \"One.\"\n}\n{\n  \"text\": \"Two.\"\n}\n");
    assert_eq!(run.text(1), "");
    assert!(run.err.contains("line 1: ") && run.err.contains("jq -c"), "{}", run.err);
    assert_eq!(run.err.matches("error").count(), 1, "{}", run.err);
    let run = pipe(PLAIN, "{hello} world\n{\"text\":\"One.\"}\n");
    assert_eq!(read(&run, 1), ["One."]);
    assert!(run.err.contains("--input-format text"), "{}", run.err);
    let run = pipe(PLAIN, "{\"text\":\"One.\",\"score\":NaN}\n");
    assert!(run.err.contains("line 1: NaN is Python's notation"), "{}", run.err);
    for rule in ["ignore", "keep"] {
        let run = pipe(&["generate", "-n", "1", "--extra", rule], "{\"text\":\"b\"}\n");
        assert_eq!(run.text(1), "");
        assert!(run.err.contains("missing field `prompt`") && run.err.contains("the record has `text`"), "{}", run.err);
    }
}

#[test]
fn invalid_utf8_in_text_is_a_bad_record() {
    let run = pipe(PLAIN, b"One.\nTw\xFFo.\nThree.\n");
    assert_eq!(read(&run, 1), ["One.", "Three."]);
    assert!(run.err.contains("line 2: ") && run.err.contains("UTF-8"), "{}", run.err);
}

#[test]
fn nothing_is_nothing() {
    for input in ["", "\u{feff}", "[]", "[\n]\n"] {
        let run = pipe(&["tokenize"], input);
        assert_eq!(run.text(0), "");
        assert!(run.err.contains("no inputs"), "{}", run.err);
    }
    let skipped = pipe(&["tokenize", "--skip-blank"], "\n \n\n");
    assert!(skipped.text(0).is_empty() && skipped.err.contains("no inputs"), "{}", skipped.err);
    // An empty text is a text.
    assert_eq!(run(&["tokenize", ""]).lines(0)[0]["tokens"], json!(["[CLS]", "[SEP]"]));
    assert_eq!(pipe(&["tokenize"], "{\"text\":\"\"}\n").lines(0).len(), 1);
}

/// The indices of the records of `embed`.
fn indices(run: &crate::support::Run, status: i32) -> Vec<u64> {
    run.lines(status).iter().map(|line| line["index"].as_u64().unwrap()).collect()
}

const EMBED: &[&str] = &["embed", "-q", "--dimensions", "1"];

#[test]
fn blank_lines_are_empty_texts_and_shift_nothing() {
    for (input, texts) in [
        ("first\n\nthird\n", &["first", "", "third"][..]),
        ("\n\nthird", &["", "", "third"]),
        ("first\n\n", &["first", ""]),
        ("first\r\n\r\nthird\r\n", &["first", "", "third"]),
        ("\u{feff}\nsecond\n", &["", "second"]),
        ("first\n \t\nthird\n", &["first", " \t", "third"]),
        ("\n", &[""]),
    ] {
        let expected = run(&[EMBED, &["--"], texts].concat());
        assert_eq!(pipe(EMBED, input).lines(0), expected.lines(0), "{input:?}");
    }
    // Line n of the input is line n of the output in every format.
    let run = pipe(&["tokenize", "--format", "table"], "first\n\nthird\n");
    assert!(run.text(0).lines().any(|line| line.starts_with("    2")), "{}", run.text(0));
}

#[test]
fn skipped_blank_lines_keep_the_numbers_of_the_others() {
    let text = "first\n\nthird\n  \nfifth\n\n";
    assert_eq!(indices(&pipe(&[EMBED, &["--skip-blank"]].concat(), text), 0), [0, 2, 4]);
    let model = ["rerank", "--model", "models/tiny-text-rerank-chain", "Who?"];
    let indices = |flags: &[&str], text: &str| {
        let lines = pipe(&[&model[..], flags].concat(), text).lines(0);
        let mut indices: Vec<u64> = lines[0].as_array().unwrap().iter().map(|x| x["index"].as_u64().unwrap()).collect();
        indices.sort_unstable();
        indices
    };
    assert_eq!(indices(&["--skip-blank"], text), [0, 2, 4]);
    assert_eq!(indices(&[], text), [0, 1, 2, 3, 4, 5]);
    // The numbers stay with their scores.
    let sorted = |flags: &[&str], text: &str| {
        let lines = pipe(&[&["similarity", "-q", "A cat."], flags].concat(), text).lines(0);
        lines[0].as_array().unwrap().clone()
    };
    let (all, some) = (sorted(&[], "One.\n\nTwo.\n"), sorted(&["--skip-blank"], "One.\n\nTwo.\n"));
    assert_eq!(some, [all[0].clone(), all[2].clone()]);
    let table = pipe(&["similarity", "-q", "A cat.", "--skip-blank", "-f", "table"], "One.\n\nTwo.\n");
    assert!(table.text(0).lines().any(|line| line.contains("  2  Two.")), "{}", table.text(0));
}

#[test]
fn a_blank_line_that_cannot_be_answered_fails_in_its_place() {
    let run = pipe(&["fill-mask", "-k", "1"], "A [MASK].\n\nB [MASK].\n");
    assert_eq!(run.lines(1).len(), 2);
    assert!(run.err.contains("line 2: ") && run.err.contains("--skip-blank"), "{}", run.err);
    let skipped = pipe(&["fill-mask", "-k", "1", "--skip-blank"], "A [MASK].\n\nB [MASK].\n");
    assert_eq!(skipped.out, run.out);
    assert_eq!(skipped.lines(0).len(), 2);
    let generated = pipe(&["generate", "-q", "-n", "2"], "Once\n\nA dog\n").lines(0);
    let prompts: Vec<&str> = generated.iter().map(|line| line["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["Once", "", "A dog"]);
    let answers = pipe(&["answer", "--model", "models/tiny-text-answer", "Who?"], "Ada.\n\nBob.\n");
    assert_eq!(answers.lines(1).len(), 2);
    assert!(answers.err.contains("line 2: the context is empty"), "{}", answers.err);
}

#[test]
fn blank_lines_between_records_are_nothing() {
    let input = "\n\n{\"text\":\"One.\"}\n\n  \n{\"text\":\"Two.\"}\n\n";
    assert_eq!(indices(&pipe(EMBED, input), 0), [0, 1]);
    assert_eq!(indices(&pipe(&[EMBED, &["--input-format", "jsonl"]].concat(), input), 0), [0, 1]);
    assert_eq!(read(&pipe(&[PLAIN, &["--input-format", "text"]].concat(), input), 0).len(), 7);
}

#[test]
fn a_json_array_is_read_as_records() {
    let records = json!([{"text": "One."}, {"text": "Two [x].", "id": 7}, "Three, \"3\"."]);
    let expected =
        pipe(EMBED, "{\"text\":\"One.\"}\n{\"text\":\"Two [x].\",\"id\":7}\n{\"text\":\"Three, \\\"3\\\".\"}\n");
    assert_eq!(expected.lines(0)[1]["id"], json!(7));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts.json");
    let indented = serde_json::to_string_pretty(&records).unwrap();
    for text in [records.to_string(), indented.clone(), format!("\u{feff}\n {}\r\n\n", indented.replace('\n', "\r\n"))]
    {
        std::fs::write(&path, &text).unwrap();
        for format in [&[][..], &["--input-format", "json"]] {
            assert_eq!(pipe(&[EMBED, format].concat(), &text).out, expected.out, "{text}");
            let file = [EMBED, format, &["--input", path.to_str().unwrap()]].concat();
            assert_eq!(run(&file).out, expected.out, "{text}");
        }
    }
    assert_eq!(read(&pipe(PLAIN, "[\"One.\"]"), 0), ["One."]);
}

#[test]
fn texts_that_begin_with_a_bracket_stay_texts() {
    for text in [
        "[MASK] is it.",
        "[1] A note.",
        "[\"Never,\" she said.]",
        "[\"Never,\" she said",
        "[\"Never\"] she said.",
        "[\"a\", \"b\"] is a list",
        "[{",
        "[",
        "[[1]]",
        "[1, 2]",
    ] {
        let lines = [text, "and more"].join("\n");
        assert_eq!(pipe(EMBED, &lines).out, run(&[EMBED, &[text, "and more"]].concat()).out, "{text}");
    }
    let array = "[{\"text\":\"One.\"}]";
    assert_eq!(pipe(&[EMBED, &["--input-format", "text"]].concat(), array).out, run(&[EMBED, &[array]].concat()).out);
}

#[test]
fn elements_of_an_array_that_are_bad_are_named() {
    let input =
        "[\n {\"text\": \"One.\"},\n {\"text\":\n  3},\n {\"txt\": \"x\"}, 4,\n [\"x\"],\n {\"text\": \"Two.\"}\n]\n";
    let run = pipe(PLAIN, input);
    assert_eq!(read(&run, 1), ["One.", "Two."]);
    for said in [
        "record 2 (line 3): invalid type: integer `3`, expected a string (line 4, column 3)",
        "record 3 (line 5): unknown field `txt`",
        "record 4 (line 5): neither a JSON object nor a text",
        "record 5 (line 6): neither a JSON object nor a text",
        "4 records were left out",
    ] {
        assert!(run.err.contains(said), "{said}: {}", run.err);
    }
}

#[test]
fn an_array_is_one_whatever_its_first_elements_are() {
    for (input, texts, bad) in [
        ("[\"One.\", null, \"Two.\"]", &["One.", "Two."][..], 1),
        ("[\n \"One.\",\n null,\n \"Two.\"\n]\n", &["One.", "Two."], 1),
        ("[null, \"One.\"]", &["One."], 1),
        ("[\"One.\", 1.5]", &["One."], 1),
        ("[null, {\"text\":\"One.\"}]", &["One."], 1),
        ("[1, true, [], {\"text\":\"One.\"}]", &["One."], 3),
        // With a fault.
        ("[\"One.\",,\"Two.\"]", &["One.", "Two."], 1),
        ("[\"One.\" \"Two.\"]", &[], 1),
        ("[\"One\n.\",\"Two.\"]", &["Two."], 1),
        ("[{\"text\":\"One.\"} {\"text\":\"Two.\"}]", &[], 1),
        ("[{\"text\":\"One.\"}, oops]", &["One."], 1),
    ] {
        let run = pipe(PLAIN, input);
        assert_eq!(read(&run, 1), texts, "{input}");
        assert_eq!(run.err.matches("error: record ").count(), bad, "{input}: {}", run.err);
    }
    // The place of the record is not said twice.
    let run = pipe(PLAIN, "[\"One.\", {\"text\": 3}]");
    assert!(run.err.contains("record 2 (line 1): ") && run.err.matches("line 1").count() == 1, "{}", run.err);
    assert!(run.err.contains("(column 19)"), "{}", run.err);
}

#[test]
fn an_array_that_is_none_is_an_error_and_not_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let write = ["--output", path.to_str().unwrap()];
    for (input, said) in [
        ("[{\"text\":\"One.\"},\n{\"text\":\"Tw", "line 2: the input ends before the JSON array is closed"),
        ("[{\"text\":\"One.\"}", "closed"),
        ("[\"One.\",", "closed"),
        ("[\"One.\"", "closed"),
        ("[\"One.\"]\n[\"Two.\"]\n", "line 2: there is more behind the end"),
        ("[{\"text\":\"One.\"}]\n[{\"text\":\"Two.\"}]\n", "line 2: there is more behind the end"),
    ] {
        let run = pipe(&[PLAIN, &write[..]].concat(), input);
        assert_eq!(run.status, Some(1), "{}", run.err);
        assert!(run.err.contains(said) && run.err.contains("--input-format text"), "{}", run.err);
        assert!(!path.exists());
    }
    let run = pipe(&[PLAIN, &["--input-format", "json"]].concat(), "One.\n");
    assert!(run.status == Some(1) && run.err.contains("no JSON array"), "{}", run.err);
}

#[test]
fn an_array_holds_documents_queries_and_contexts_too() {
    let model = ["rerank", "--model", "models/tiny-text-rerank-chain"];
    let query = [&model[..], &["Who?"]].concat();
    let expected = pipe(&query, "Ada.\nA pear.\n");
    for documents in [
        "[\"Ada.\", \"A pear.\"]",
        "[{\"text\": \"Ada.\"},\n \"A pear.\"]",
        "{\"text\":\"Ada.\"}\n\n{\"text\":\"A pear.\",\"id\":3}\n",
    ] {
        assert_eq!(pipe(&query, documents).text(0), expected.text(0), "{documents}");
    }
    let queries = "[{\"query\": \"Who?\",\n \"documents\": [\"Ada.\", \"A pear.\"]}]";
    assert_eq!(pipe(&model, queries).text(0), expected.text(0));
    let bad = pipe(&query, "[{\"text\":\"Ada.\"},\n 3]");
    assert!(bad.status == Some(1) && bad.err.contains("stdin: record 2 (line 2): neither"), "{}", bad.err);
    let texts = pipe(&model, "[\"Who?\"]");
    assert!(texts.status == Some(1) && texts.err.contains("record 1 (line 1): not a JSON object"), "{}", texts.err);

    let compared = run(&["similarity", "-q", "A cat.", "A kitten."]);
    assert_eq!(pipe(&["similarity", "-q", "A cat."], "[\"A kitten.\"]").text(0), compared.text(0));

    let model = ["answer", "--model", "models/tiny-text-answer"];
    let asked = run(&[&model[..], &["Who?", "Ada was here.", "Bob was there."]].concat()).lines(0);
    let contexts = pipe(&[&model[..], &["Who?"]].concat(), "[\"Ada was here.\", {\"context\": \"Bob was there.\"}]");
    assert_eq!(contexts.lines(0), asked);
    let own = "{\"context\":\"Bob was there.\",\"question\":\"Who?\"}\n";
    assert_eq!(pipe(&[&model[..], &["Where?"]].concat(), own).lines(0), asked[1..]);
    let missing = pipe(&model, "{\"context\":\"Bob was there.\"}\n");
    assert!(missing.status == Some(1) && missing.err.contains("line 1: missing field `question`"), "{}", missing.err);
}

#[test]
fn further_fields_are_refused_ignored_or_kept() {
    let line = "{\"z\":[1,{\"y\":0.5}],\"text\":\"A [MASK].\",\"id\":7,\"source\":\"é\"}\n";
    let fill = |flags: &[&str]| pipe(&[&["fill-mask", "-q", "-k", "1"], flags].concat(), line);
    let refused = fill(&[]);
    assert!(refused.status == Some(1) && refused.err.contains("unknown field `z`"), "{}", refused.err);
    assert!(refused.err.contains("--extra ignore") && refused.err.contains("--extra keep"), "{}", refused.err);
    let ignored = fill(&["--extra", "ignore"]).text(0).to_owned();
    assert!(ignored.starts_with("{\"id\":7,\"result\":[{\"score\":"), "{ignored}");
    let kept = fill(&["--extra", "keep"]).text(0).to_owned();
    assert_eq!(kept, ignored.replacen("\"id\":7,", "\"id\":7,\"z\":[1,{\"y\":0.5}],\"source\":\"é\",", 1));
    // What is kept of one record does not change the shape of the next.
    let mixed = pipe(
        &["fill-mask", "-q", "-k", "1", "--extra", "keep"],
        "[{\"text\":\"A [MASK].\"}, {\"text\":\"A [MASK].\",\n\"n\": 1}]",
    );
    let lines = mixed.lines(0);
    assert_eq!(lines[0]["result"], lines[1]["result"]);
    assert_eq!(lines[1]["n"], json!(1));
}

#[test]
fn fields_that_are_kept_never_hide_a_result() {
    for (arguments, field) in [
        (&["embed"][..], "text"),
        (&["tokenize"], "text"),
        (&["score"], "text"),
        (&["generate", "-n", "1"], "prompt"),
        (&["answer", "--model", "models/tiny-text-answer", "Who?"], "context"),
        (&["fill-mask"], "text"),
        (&["classify", "--model", "models/tiny-text-classify-single"], "text"),
        (&["tag", "--model", "models/tiny-text-tag"], "text"),
    ] {
        let run = |extra: &str| {
            let input = format!("{{\"{field}\":\"Ada was a [MASK].\"{extra}}}\n");
            pipe(&[arguments, &["-q", "--extra", "keep"]].concat(), input)
        };
        let line = &run(",\"own\":1").lines(0)[0];
        assert_eq!(line["own"], json!(1), "{line}");
        let keys: Vec<&String> =
            line.as_object().unwrap().keys().filter(|key| *key != "own" && *key != field).collect();
        assert!(!keys.is_empty());
        for key in keys {
            let refused = run(&format!(",\"{key}\":1"));
            assert_eq!(refused.lines(1).len(), 0);
            assert!(refused.err.contains(&format!("a key `{key}` of its own")), "{arguments:?} {key}: {}", refused.err);
        }
    }
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
