//! `generate`: sampling, stopping, streaming.

use std::io::{BufRead, Write};
use std::process::Stdio;
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
