//! `bench`: a quick run of every row on the nano pair, its formats, and what it refuses.

use serde_json::{Value, json};

use crate::support::{Run, run};

/// A run that measures as little as possible.
fn quick(arguments: &[&str]) -> Run {
    let mut all = vec!["bench", "-r", "2", "--warmup", "0", "--min-time", "0", "--no-limits"];
    all.extend(arguments);
    run(&all)
}

fn records(run: &Run) -> Vec<Value> {
    run.text(0).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn tests(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["test"].as_str().unwrap()).collect()
}

#[test]
fn every_kind_of_row() {
    let run = quick(&[
        "-m", "nano", "--enc", "2x16", "--mixed", "4", "-p", "8", "-n", "3", "-b", "2", "-d", "0,5", "-t", "1,2",
    ]);
    let records = records(&run);
    let encoder = ["load", "enc 2×16", "mixed 4"];
    let decoder = ["load", "enc 2×16", "mixed 4", "pp8 ×2", "tg3 ×2", "pp8 ×2 @ d5", "tg3 ×2 @ d5"];
    assert_eq!(tests(&records), [&encoder[..], &encoder, &decoder, &decoder].concat());
    let threads: Vec<&Value> = records.iter().map(|record| &record["setting"]["threads"]).collect();
    assert_eq!(threads, [[1; 3].as_slice(), &[2; 3], &[1; 7], &[2; 7]].concat().iter().collect::<Vec<_>>());

    let tg = records.last().unwrap();
    assert_eq!(tg["model"]["name"], json!("nano-decoder"));
    assert_eq!(tg["model"]["weights"], json!("files"));
    assert_eq!(tg["work"]["tokens"], json!(6));
    assert_eq!((&tg["work"]["length"], &tg["work"]["depth"]), (&json!(8), &json!(5)));
    assert_eq!(tg["work"]["excluded"], json!("tokenisation, sampling"));
    assert_eq!(tg["samples"].as_array().unwrap().len(), 2);
    let (rate, seconds) = (&tg["tokens_per_second"], &tg["seconds"]);
    assert!(rate["mean"].as_f64() > Some(0.0) && rate["min"].as_f64() <= rate["median"].as_f64());
    assert!(seconds["min"].as_f64() <= seconds["mean"].as_f64());
    assert_eq!(tg["limit"], Value::Null);
    assert_eq!(tg["setting"]["dtype"], json!("f32"), "auto is named by what it came to");
    let provenance = &tg["provenance"];
    assert!(provenance["date"].as_str().unwrap().ends_with('Z'));
    assert!(!provenance["machine"]["cpu"].as_str().unwrap().is_empty());
    assert_eq!(provenance["build"]["version"], json!(env!("CARGO_PKG_VERSION")));
}

#[test]
fn limits_are_measured_in_the_run() {
    let arguments =
        ["bench", "-m", "nano-decoder", "-n", "2", "-t", "1", "-r", "1", "--warmup", "0", "--min-time", "0"];
    let records = records(&run(&arguments));
    let limit = &records[1]["limit"];
    assert_eq!(tests(&records), ["load", "tg2"]);
    for key in ["share", "tokens_per_second", "gflops", "peak_gflops", "bytes_per_token", "peak_gigabytes_per_second"] {
        assert!(limit[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {limit}");
    }
    // Six layers of 4·256² + 3·256·384 elements, 256² of the head and 8192·256 of the output matrix, four bytes each,
    // and 1.5 cached keys and values of 256 numbers per layer and token.
    let weights = 4 * (6 * (4 * 256 * 256 + 3 * 256 * 384) + 256 * 256 + 8192 * 256);
    assert_eq!(limit["bytes_per_token"], json!(f64::from(weights + 4 * 6 * 3 * 256)));
}

#[test]
fn a_model_that_is_not_cached_has_random_weights_and_says_so() {
    let run = quick(&["-m", "encoder-17m", "--enc", "1x4", "-t", "2"]);
    let records = records(&run);
    assert_eq!(records[1]["model"]["name"], json!("ettin-encoder-17m"));
    assert_eq!(records[1]["model"]["weights"], json!("random"));
    assert_eq!(records[1]["model"]["parameters"], json!(16_797_440));
    assert!(run.err.contains("random weights") && run.err.contains("ettin-encoder-17m"), "{}", run.err);

    let run = quick(&["-m", "nano-encoder", "--random-weights", "--enc", "1x4"]);
    assert!(run.text(0).contains("\"weights\":\"random\""));
    let refused = quick(&["-m", "encoder-17n", "--enc", "1x4"]);
    assert_ne!(refused.status, Some(0), "a name that no model has is no reason for random weights");
}

#[test]
fn formats() {
    let of = |format| quick(&["-m", "nano-encoder", "--enc", "1x4,8", "-f", format]);
    let md = of("md");
    let rows: Vec<&str> = md.text(0).lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 5, "{}", md.text(0));
    assert!(rows[3].contains("| enc 1×4 ") && rows[3].contains(" ± "), "{}", rows[3]);
    let csv = of("csv");
    let lines: Vec<&str> = csv.text(0).lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("test,model.name,") && lines[2].starts_with("enc 1×4,nano-encoder,"));
    let json: Value = serde_json::from_str(of("json").text(0)).unwrap();
    assert_eq!(tests(json.as_array().unwrap()), ["load", "enc 1×4", "enc 1×8"]);
    assert_eq!(records(&of("jsonl")).len(), 3);
}

#[test]
fn an_earlier_run_is_compared_and_other_work_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (before, plot) = (path("before.jsonl"), path("plot.svg"));
    let enc = ["-m", "nano-encoder", "--enc", "1x4", "-o", &before];
    assert_eq!(quick(&enc).text(0), "");

    let again = quick(&["-m", "nano-encoder", "--enc", "1x4,8", "--compare", &before, "--plot", &plot, "--chart"]);
    let found = records(&again);
    assert!(found[1]["earlier"]["ratio"].as_f64().unwrap() > 0.0);
    assert_eq!(found[1]["earlier"]["changed"], json!([]));
    assert!(found[2].get("earlier").is_none());
    assert!(again.err.contains("nothing to compare with nano-encoder enc 1×8"), "{}", again.err);
    assert!(std::fs::read_to_string(&plot).unwrap().contains("nano-encoder"));
    assert!(again.err.contains("tokens/s") && again.err.contains('█'), "{}", again.err);
    let table = quick(&["-m", "nano-encoder", "--enc", "1x4", "--compare", &before, "-f", "md"]);
    assert!(table.text(0).contains("times as fast (mean time)"), "{}", table.text(0));
    assert!(!table.err.contains("nothing to compare"), "{}", table.err);

    let refused = |arguments: &[&str], why: &str| {
        let run = quick(arguments);
        assert_eq!((run.status, run.out.len()), (Some(1), 0), "{}", run.err);
        assert!(run.err.contains(why), "{}", run.err);
    };
    refused(&["-m", "nano-encoder", "--enc", "1x8", "--compare", &before], "none of the work");
    let text = std::fs::read_to_string(&before).unwrap();
    let tokens = "\"tokens\":4,";
    assert!(text.contains(tokens));
    std::fs::write(&before, text.replace(tokens, "\"tokens\":5,")).unwrap();
    refused(&["-m", "nano-encoder", "--enc", "1x4", "--compare", &before], "different work");
    std::fs::write(&before, "tokens per second: many\n").unwrap();
    refused(&["-m", "nano-encoder", "--enc", "1x4", "--compare", &before], "before.jsonl, line 1");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_measured() {
    for (arguments, status, why) in [
        (&["-m", "nano-encoder", "-n", "8"][..], 2, "need a decoder"),
        (&["-m", "nano-encoder", "--enc", "1x1025"], 1, "1024"),
        (&["-m", "nano-decoder", "-n", "8", "-d", "1020"], 1, "1024"),
        (&["-m", "nano-encoder", "--enc", "1x4", "--dtype", "f32,f16"], 1, "f16"),
        (&["-m", "nano-encoder", "--enc", "eight"], 2, "8x128"),
        (&["-m", "nano-encoder", "--enc", "1x4", "-t", "0"], 2, "--threads"),
        (&["-m", "nano-encoder", "--enc", "1x4", "--compare", "no-such-file"], 1, "no-such-file"),
    ] {
        let run = quick(arguments);
        assert_eq!((run.status, run.out.len()), (Some(status), 0), "{arguments:?}: {}", run.err);
        assert!(run.err.contains(why), "{arguments:?}: {}", run.err);
    }
}
