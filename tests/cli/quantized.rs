//! `embed --precision`.

use std::path::Path;

use ettin::quantization::{Precision, Ranges, quantize};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::support::{Run, pipe, read_json, run};

/// Type, shape and bytes of an `.npy` file.
fn npy(bytes: &[u8]) -> (String, String, Vec<u8>) {
    let length = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    let kind = header.split('\'').nth(3).unwrap().to_owned();
    let shape = header.split('(').nth(1).unwrap().split(')').next().unwrap().to_owned();
    (kind, shape, bytes[10 + length..].to_vec())
}

/// The vectors of a run in JSON lines.
fn vectors(run: &Run) -> Vec<Value> {
    run.lines(0).into_iter().map(|line| line["embedding"].clone()).collect()
}

fn floats(run: &Run) -> Vec<Vec<f32>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
    vectors(run).iter().map(row).collect()
}

/// Integers of JSON as the bytes of files.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Array(values) => values.iter().flat_map(bytes).collect(),
        number => vec![number.as_i64().unwrap().to_le_bytes()[0]],
    }
}

fn embed<'a>(flags: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [&["embed", "-q"], flags, rest].concat()
}

#[test]
fn integers_are_those_of_encode() {
    let fixture = read_json("tests/fixtures/quantization.json");
    let mut seen = 0;
    for case in fixture["embed"].as_array().unwrap().iter().filter(|case| case["own"] != true) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ranges.json");
        std::fs::write(&file, case["ranges"].to_string()).unwrap();
        let dimensions = case["options"]["truncate_dim"].as_u64().map(|size| size.to_string());
        let mut flags = vec!["--precision", case["precision"].as_str().unwrap(), "-m", case["model"].as_str().unwrap()];
        flags.extend(dimensions.as_deref().into_iter().flat_map(|size| ["--dimensions", size]));
        flags.extend((case["options"]["normalize_embeddings"] == true).then_some("--normalize"));
        flags.extend((case["options"]["per_token"] == true).then_some(["--pooling", "none"]).into_iter().flatten());
        flags.extend(case["ranges"].is_array().then(|| ["--ranges", file.to_str().unwrap()]).into_iter().flatten());
        let texts: Vec<&str> = case["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let texts = [&["--"], &texts[..]].concat();
        let ours = run(&embed(&flags, &texts));
        assert_eq!(Value::Array(vectors(&ours)), case["output"], "{flags:?}");
        // The arrays have the same numbers.
        let out = run(&embed(&[&flags[..], &["-f", "safetensors"]].concat(), &texts));
        assert_eq!(out.status, Some(0), "{}", out.err);
        let file = SafeTensors::deserialize(&out.out).unwrap();
        let embeddings = file.tensor("embeddings").unwrap();
        assert_eq!(embeddings.data(), bytes(&case["output"]), "{flags:?}");
        let signed = !case["precision"].as_str().unwrap().starts_with('u');
        assert_eq!(embeddings.dtype(), if signed { Dtype::I8 } else { Dtype::U8 });
        if case["options"]["per_token"] != true {
            let (kind, shape, data) = npy(&run(&embed(&[&flags[..], &["-f", "npy"]].concat(), &texts)).out);
            assert_eq!((kind.as_str(), data), (if signed { "|i1" } else { "|u1" }, bytes(&case["output"])));
            let rows = case["output"].as_array().unwrap();
            assert_eq!(shape, format!("{}, {}", rows.len(), rows[0].as_array().unwrap().len()));
        }
        seen += 1;
    }
    assert!(seen > 10);
}

#[test]
fn without_ranges_all_inputs_have_them() {
    let texts = ["One.", "Two words.", "And three more."];
    let plain = floats(&run(&embed(&[], &texts)));
    for (precision, name) in Precision::ALL {
        let ours = run(&["embed", "--precision", name, texts[0], texts[1], texts[2]]);
        assert_eq!(ours.err.contains("those of these 3 vectors"), precision.has_ranges(), "{}", ours.err);
        let expected = quantize(&plain, precision, None).unwrap();
        assert_eq!(vectors(&ours).iter().flat_map(bytes).collect::<Vec<_>>(), expected.values().to_bytes(), "{name}");
    }
    // One text shows no range, whatever the format; its signs it shows.
    for format in ["jsonl", "npy", "table"] {
        let one = run(&embed(&["--precision", "int8", "-f", format], &["One."]));
        assert!(one.status == Some(1) && one.out.is_empty(), "{}", one.err);
        assert!(one.err.contains("one vector") && one.err.contains("--ranges FILE or --calibrate FILE"), "{}", one.err);
    }
    assert_eq!(vectors(&run(&embed(&["--precision", "binary"], &["One."])))[0].as_array().unwrap().len(), 32);
}

#[test]
fn a_calibration_gives_every_run_the_same_scale() {
    let folder = tempfile::tempdir().unwrap();
    let sample = folder.path().join("sample.txt");
    let texts = ["A cat sat.", "It rained all day.", "Where was the ball?", "Two dogs."];
    std::fs::write(&sample, texts.join("\n")).unwrap();
    let sample = sample.to_str().unwrap();
    let ranges = Ranges::of(&floats(&run(&embed(&[], &texts)))).unwrap();
    let plain = floats(&run(&embed(&[], &["Another text.", "One."])));
    let expected = quantize(&plain, Precision::Int8, ranges.clone()).unwrap().values().to_bytes();
    let flags = ["--precision", "int8", "--calibrate", sample];
    let both = vectors(&run(&embed(&flags, &["Another text.", "One."])));
    assert_eq!(both.iter().flat_map(bytes).collect::<Vec<_>>(), expected);
    assert_eq!(vectors(&run(&embed(&flags, &["One."])))[0], both[1]);
    // The ranges go with the vectors, and serve the next run.
    let stored = folder.path().join("corpus.safetensors");
    let stored = stored.to_str().unwrap();
    let out = run(&embed(&[&flags[..], &["-f", "safetensors", "-o", stored]].concat(), &["One."]));
    assert_eq!(out.status, Some(0), "{}", out.err);
    assert_eq!(Ranges::read(Path::new(stored)).unwrap(), ranges);
    assert_eq!(vectors(&run(&embed(&["--precision", "int8", "--ranges", stored], &["One."])))[0], both[1]);
    assert!(run(&["embed", "--precision", "int8", "--calibrate", sample, "One."]).err.contains("ranges of 4 vectors"));
    // A calibration is all of its texts or nothing.
    let bad = folder.path().join("bad.txt");
    std::fs::write(&bad, format!("A cat.\n{}\n", "word ".repeat(3000))).unwrap();
    let failed = run(&embed(&["--precision", "int8", "--calibrate", bad.to_str().unwrap()], &["One."]));
    assert!(failed.status == Some(1) && failed.err.contains("bad.txt: line 2: "), "{}", failed.err);
    std::fs::write(&bad, "").unwrap();
    let failed = run(&embed(&["--precision", "int8", "--calibrate", bad.to_str().unwrap()], &["One."]));
    assert!(failed.status == Some(1) && failed.err.contains("no texts"), "{}", failed.err);
}

#[test]
fn formats_keep_their_rules() {
    let flags = ["--precision", "ubinary", "--dimensions", "12"];
    let ids = "{\"text\": \"One.\", \"id\": 7, \"a\": 1}\n{\"text\": \"Two.\", \"id\": 8}\n";
    let line = pipe(&embed(&[&flags[..], &["--extra", "keep"]].concat(), &[]), ids).lines(0).remove(0);
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "a", "index", "embedding"]);
    assert_eq!(line["embedding"].as_array().unwrap().len(), 2);
    let taken =
        pipe(&embed(&[&flags[..], &["--extra", "keep"]].concat(), &[]), "{\"text\": \"a\", \"embedding\": 1}\n");
    assert_eq!(taken.status, Some(1), "{}", taken.err);
    let json: Value =
        serde_json::from_str(run(&embed(&[&flags[..], &["-f", "json"]].concat(), &["a"])).text(0)).unwrap();
    assert_eq!(json[0]["index"], json!(0));
    let table = run(&embed(&[&flags[..], &["-f", "table"]].concat(), &["One.", "Two."]));
    assert!(table.text(0).contains("integers") && table.text(0).lines().count() == 3, "{}", table.text(0));
    // Bad inputs are rows of zeros, also with ranges of the others; without any, the width is the model's.
    let long = "word ".repeat(3000);
    for precision in ["int8", "binary"] {
        let flags = ["--precision", precision, "-f", "npy"];
        let out = pipe(&embed(&flags, &[]), format!("{long}\nOne.\nTwo.\n"));
        assert_eq!(out.status, Some(1));
        let (kind, shape, data) = npy(&out.out);
        let width = if precision == "int8" { 256 } else { 32 };
        assert_eq!((kind.as_str(), shape), ("|i1", format!("3, {width}")));
        assert!(data[..width].iter().all(|&byte| byte == 0) && data[width..].iter().any(|&byte| byte != 0));
        let (_, shape, data) = npy(&pipe(&embed(&flags, &[]), format!("{long}\n")).out);
        assert_eq!((shape, data), (format!("1, {width}"), vec![0; width]));
        assert_eq!(npy(&pipe(&embed(&flags, &[]), "").out).1, format!("0, {width}"));
    }
    let plain = run(&embed(&["--precision", "float32"], &["One."]));
    assert_eq!(plain.out, run(&embed(&[], &["One."])).out);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ranges = folder.path().join("ranges.json");
    std::fs::write(&ranges, "[[0, 0, 0], [1, 1, 1]]").unwrap();
    let ranges = ranges.to_str().unwrap();
    for (flags, status, message) in [
        (&["--precision", "int4"][..], 2, "int8, uint8, binary, ubinary"),
        (&["--ranges", ranges], 2, "--ranges is for --precision int8"),
        (&["--precision", "binary", "--calibrate", "x"], 2, "--calibrate: binary keeps signs alone"),
        (&["--precision", "int8", "--calibrate", "x", "--ranges", "y"], 2, "cannot be used with"),
        (&["--precision", "int8", "--ranges", "no-such-file"], 1, "no-such-file: "),
        (&["--precision", "int8", "--ranges", "/no-such-file"], 1, "/no-such-file: "),
        (&["--precision", "int8", "--ranges", "/dev/zero"], 1, "no regular file"),
        (&["--precision", "int8", "--calibrate", "no-such-file"], 1, "no-such-file"),
        (&["--precision", "int8", "--ranges", ranges], 1, "ranges have 3 dimensions, the vectors 256"),
        (&["--precision", "int8", "--ranges", "README.md"], 1, "README.md: neither"),
    ] {
        let refused = run(&embed(flags, &["One."]));
        assert_eq!(refused.status, Some(status), "{flags:?}: {}", refused.err);
        assert!(refused.err.contains(message) && refused.out.is_empty(), "{flags:?}: {}", refused.err);
    }
}
