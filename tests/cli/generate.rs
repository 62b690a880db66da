//! `generate`: sampling, stopping, streaming.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{command, pipe, run};

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["text"].as_str().unwrap()).collect()
}

#[test]
fn a_seed_makes_samples_repeatable() {
    let sample = |seed: &str| {
        let run = run(&["generate", "-q", "-n", "12", "--temperature", "1", "--seed", seed, "Once"]);
        texts(&run.lines(0)).join("")
    };
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
}

#[test]
fn a_drawn_seed_is_told_and_repeats() {
    let drawn = run(&["generate", "-n", "12", "--top-k", "50", "Once"]);
    let seed = drawn.err.split("--seed ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let again = run(&["generate", "-n", "12", "--top-k", "50", "Once", "--seed", seed]);
    assert_eq!(texts(&drawn.lines(0)), texts(&again.lines(0)));
    assert!(!again.err.contains("--seed"), "{}", again.err);
}

#[test]
fn sampling_does_not_depend_on_when_prompts_arrive() {
    let flags = ["generate", "-q", "-n", "8", "--temperature", "1", "--seed", "3"];
    let together = run(&[&flags[..], &["Text 0", "Text 1", "Text 2"]].concat()).lines(0);

    let mut child = command(&flags).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for number in 0..3 {
        writeln!(stdin, "Text {number}").unwrap();
        // Longer than a chunk waits when nothing is sampled.
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let apart: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(texts(&together), texts(&apart));
}

#[test]
fn equal_prompts_are_sampled_apart_and_as_they_arrive() {
    // Long enough apart that the second is answered alone.
    let mut child = command(&["generate", "-q", "-n", "8", "--temperature", "1", "--seed", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answers: Vec<Value> = Vec::new();
    for _ in 0..3 {
        writeln!(stdin, "Once").unwrap();
        // Answered before the input ends.
        answers.push(serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let answers = texts(&answers);
    assert!(answers[0] != answers[1] && answers[1] != answers[2], "{answers:?}");
}

#[test]
fn drafts_change_no_text_and_are_counted() {
    let prompts = ["Once upon a time", "The dog and the cat and the dog and the cat"];
    for sampling in [&[][..], &["--temperature", "0.8", "--top-p", "0.9", "--seed", "4"]] {
        let generate = |draft: &[&str]| run(&[&["generate", "-n", "24"], draft, sampling, &prompts].concat());
        let plain = generate(&[]).lines(0);
        assert!(plain[0]["timings"]["drafted_tokens"].is_null());
        for draft in ["lookup", "f32", "nano-decoder", "models/nano-decoder"] {
            let run = generate(&["--draft", draft, "--draft-tokens", "5"]);
            let lines = run.lines(0);
            assert_eq!(texts(&lines), texts(&plain), "{draft}");
            let count = |key: &str| lines.iter().map(|line| line["timings"][key].as_u64().unwrap()).sum::<u64>();
            let (drafted, accepted) = (count("drafted_tokens"), count("accepted_tokens"));
            assert!(draft == "lookup" || drafted > 0 && accepted == drafted, "{draft}: {accepted} of {drafted}");
            let told = format!("{accepted} of {drafted} drafted tokens accepted");
            assert!(run.err.contains(&told), "{told}: {}", run.err);
        }
    }
}

#[test]
fn drafts_that_cannot_serve_are_refused() {
    let refused = |draft: &str, status: i32, words: &[&str]| {
        let run = run(&["generate", "Once", "--draft", draft]);
        assert_eq!(run.status, Some(status), "{}", run.err);
        assert!(words.iter().all(|word| run.err.contains(word)), "{}", run.err);
    };
    refused("nano-encoder", 1, &["nano-encoder", "encoder"]);
    refused("decoder-17m", 3, &["decoder-17m"]);
    refused("no-such-model-anywhere", 1, &["no-such-model-anywhere"]);
}

/// Starts to generate endlessly, and returns with the first bytes of the text.
fn interrupted(stop: impl FnOnce(&mut Child)) -> (Option<i32>, String, String) {
    let mut child = command(&["generate", "--format", "table", "-n", "900", "--ignore-eos", "-q", "Once upon a time"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = vec![0; 60];
    child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    stop(&mut child);
    let output = child.wait_with_output().unwrap();
    text.extend(output.stdout);
    let text = String::from_utf8(text).unwrap();
    (output.status.code(), text, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let (status, _, err) = interrupted(|child| drop(child.stdout.take()));
    assert_eq!((status, err.as_str()), (Some(0), ""));
}

#[test]
#[cfg(unix)]
fn an_interrupt_loses_nothing_printed() {
    let (status, text, _) = interrupted(|child| {
        let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
    });
    let whole = run(&["generate", "--format", "table", "-n", "900", "--ignore-eos", "-q", "Once upon a time"]);
    assert!(whole.text(0).starts_with(&text), "{text}");
    // By the signal, as shells expect, unless it came too late.
    assert!(status.is_none() || text.len() == whole.out.len(), "{status:?}");
}

#[test]
fn several_prompts_are_as_one_by_one() {
    let prompts = ["Once upon a time", "The sea", "A dog"];
    let together = run(&[&["generate", "-q", "-n", "10"], &prompts[..]].concat()).lines(0);
    for (prompt, expected) in prompts.iter().zip(&together) {
        let alone = run(&["generate", "-q", "-n", "10", prompt]).lines(0);
        assert_eq!(alone[0]["tokens"], expected["tokens"], "{prompt}");
    }
}

#[test]
fn stop_strings_are_left_out() {
    let stopped = run(&["generate", "-q", "--stop", "Lily", "--stop", "never", "Once upon a time"]).lines(0);
    assert_eq!(stopped[0]["finish_reason"], json!("stop"));
    assert_eq!(stopped[0]["text"], json!(", there was a little girl named "));
}

#[test]
fn the_context_ends_it() {
    let long = "word ".repeat(1019);
    let run = pipe(&["generate", "-q", "-n", "100", "--ignore-eos"], long.trim_end());
    let lines = run.lines(0);
    assert_eq!(lines[0]["finish_reason"], json!("context"), "{}", lines[0]);
}

#[test]
fn ids_are_echoed_and_prompts_kept() {
    let run = pipe(&["generate", "-q", "-n", "2"], "{\"prompt\":\"The sea\",\"id\":\"s\"}\n");
    let line = &run.lines(0)[0];
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "prompt", "text", "tokens", "finish_reason", "timings"]);
}

#[test]
fn the_table_is_the_text_itself() {
    let run = run(&["generate", "--format", "table", "-n", "9", "Once upon a time", "The sea"]);
    let text = run.text(0);
    assert!(text.starts_with("Once upon a time, there was a little girl"), "{text}");
    assert!(text.contains("\nThe sea is a small town."), "{text}");
    assert!(run.err.contains("tokens/s"), "{}", run.err);
}

/// The embedded decoder's files with a generation_config.json, in a folder.
fn with_settings(settings: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = crate::support::repository().join("models/nano-decoder");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("generation_config.json"), settings.to_string()).unwrap();
    folder
}

#[test]
fn settings_of_the_model_hold_until_flags_say_otherwise() {
    let folder =
        with_settings(&json!({"eos_token_id": null, "max_new_tokens": 5, "suppress_tokens": [15, 16], "x": 1}));
    let model = folder.path().to_str().unwrap();
    let tokens = |flags: &[&str]| {
        let run = run(&[&["generate", "-m", model, "Once upon a time"], flags].concat());
        (run.lines(0)[0]["tokens"].as_array().unwrap().len(), run.err)
    };
    let (count, err) = tokens(&[]);
    assert_eq!(count, 5);
    assert!(err.contains("max_new_tokens = 5") && err.contains("passed over: x"), "{err}");
    assert_eq!(tokens(&["-n", "7"]).0, 7);
    let (count, err) = tokens(&["--ignore-generation-config", "-n", "6"]);
    assert!(count == 6 && !err.contains("max_new_tokens"), "{err}");
    // Ends of the model's configuration count again.
    let ignored = run(&["generate", "-q", "-m", model, "--ignore-generation-config", "Once upon a time"]).lines(0);
    let plain = run(&["generate", "-q", "Once upon a time"]).lines(0);
    assert_eq!(ignored[0]["tokens"], plain[0]["tokens"]);

    let info = run(&["info", "-m", model]).lines(0);
    assert_eq!(info[0]["model"]["generation"], json!({"max_new_tokens": 5, "suppress_tokens": [15, 16]}));
}

#[test]
fn flags_win_over_values_that_are_wrong_in_the_file() {
    let settings = |value: Value| with_settings(&value);
    for (file, flags) in [
        (json!({"do_sample": true, "temperature": 0.0}), &["--temperature", "0.7"][..]),
        (json!({"do_sample": true, "temperature": 0.0, "top_k": -1}), &["--temperature", "0"]),
        (json!({"do_sample": true, "top_k": -1}), &["--top-k", "3"]),
        (json!({"do_sample": true, "top_p": -1}), &["--top-p", "0.5"]),
        (json!({"do_sample": true, "min_p": 2}), &["--min-p", "0.5"]),
        (json!({"repetition_penalty": 0}), &["--repetition-penalty", "1"]),
        (json!({"max_new_tokens": 0}), &["-n", "5"]),
        (json!({"max_length": "long"}), &["-n", "5"]),
        (json!({"stop_strings": [""]}), &["--stop", "there"]),
        (json!({"eos_token_id": "</s>"}), &["--ignore-eos"]),
    ] {
        let folder = settings(file.clone());
        let base = ["generate", "-m", folder.path().to_str().unwrap(), "--seed", "1", "Once upon a time"];
        let refused = run(&base);
        assert_eq!(refused.status, Some(1), "{file}");
        assert!(refused.err.contains("generation_config.json"), "{file}: {}", refused.err);
        let more: &[&str] = if flags[0] == "-n" { &[] } else { &["-n", "3"] };
        assert_eq!(run(&[&base[..], flags, more].concat()).lines(0).len(), 1, "{file} {flags:?}");
    }
    // A cut by a flag draws with the file's other values, which then count.
    let folder = settings(json!({"do_sample": false, "temperature": 0.0}));
    let model = folder.path().to_str().unwrap();
    assert_eq!(run(&["generate", "-n", "3", "-m", model, "Once"]).lines(0).len(), 1);
    let refused = run(&["generate", "-n", "3", "-m", model, "--top-p", "0.9", "Once"]);
    assert!(refused.status == Some(1) && refused.err.contains("temperature is 0.0"), "{}", refused.err);
}

#[test]
fn only_generate_needs_a_generation_config_that_can_be_read() {
    for text in ["junk", "[]", r#"{"eos_token_id": "</s>"}"#, r#"{"eos_token_id": [2, {}]}"#] {
        let folder = with_settings(&Value::Null);
        std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
        let model = folder.path().to_str().unwrap();
        let refused = run(&["generate", "-n", "3", "-m", model, "Once upon a time"]);
        assert_eq!(refused.status, Some(1), "{text}");
        for word in ["generation_config.json", "--ignore-generation-config"] {
            assert!(refused.err.contains(word), "{text}: {}", refused.err);
        }
        let ignored =
            run(&["generate", "-n", "9", "-m", model, "--ignore-generation-config", "Once upon a time"]).lines(0);
        let plain = run(&["generate", "-n", "9", "Once upon a time"]).lines(0);
        assert_eq!(ignored[0]["tokens"], plain[0]["tokens"], "{text}");
        for task in ["embed", "score", "tokenize"] {
            assert_eq!(run(&[task, "-m", model, "Once upon a time"]).lines(0).len(), 1, "{task} {text}");
        }
        let info = run(&["info", "-m", model]).lines(0);
        let refused = info[0]["model"]["generation_refused"].as_str().unwrap();
        assert!(refused.contains("generation_config.json"), "{refused}");
    }
}

#[test]
fn ids_beyond_the_vocabulary_cannot_be_forced() {
    let folder = with_settings(&json!({"forced_eos_token_id": 99999, "max_new_tokens": 3}));
    let refused = run(&["generate", "-m", folder.path().to_str().unwrap(), "Once upon a time"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("forced_eos_token_id is 99999"), "{}", refused.err);
}

#[test]
fn settings_that_change_nothing_are_not_told() {
    let folder = with_settings(&json!({
        "do_sample": false, "temperature": 0.6, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.0, "min_length": 0
    }));
    let model = folder.path().to_str().unwrap();
    let greedy = run(&["generate", "-n", "3", "-m", model, "Once"]);
    assert!(greedy.status == Some(0) && !greedy.err.contains("generation_config.json"), "{}", greedy.err);
    let drawn = run(&["generate", "-n", "3", "-m", model, "--temperature", "0.5", "Once"]);
    assert!(drawn.err.contains("generation_config.json: top_k = 50, top_p = 0.9 ("), "{}", drawn.err);
}

#[test]
fn settings_that_are_not_implemented_are_refused_by_name() {
    let folder = with_settings(&json!({"num_beams": 4}));
    let model = folder.path().to_str().unwrap();
    let refused = run(&["generate", "-m", model, "Once"]);
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.err.contains("num_beams = 4") && refused.err.contains("--ignore-generation-config"),
        "{}",
        refused.err
    );
    assert!(run(&["info", "--format", "table", "-m", model]).text(0).contains("num_beams = 4"));
    assert_eq!(
        run(&["generate", "-q", "-n", "2", "--ignore-generation-config", "-m", model, "Once"]).lines(0).len(),
        1
    );
}
