//! Late interaction: a vector per token in every output format, and documents ranked by MaxSim.

use serde_json::Value;

use crate::support::{pipe, read_json, repository, run};

/// Length of the header of a small array.
const HEADER: usize = 128;

/// The folder of a case of the fixture.
fn model(name: &str) -> tempfile::TempDir {
    let file = if name.starts_with("Stanford") { "stanford.json" } else { "late_interaction.json" };
    let fixture = read_json(repository().join("tests/fixtures/pipelines").join(file));
    let case = fixture["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let base = case["base"].as_str().unwrap_or("tiny-text-late-interaction");
        let base = repository().join("models").join(base);
        std::fs::copy(base.join(file), folder.path().join(file)).unwrap();
    }
    for (name, content) in case["files"].as_object().unwrap() {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        match content["hex"].as_str() {
            Some(hex) => std::fs::write(path, hex.as_bytes().chunks(2).map(byte).collect::<Vec<_>>()).unwrap(),
            None => std::fs::write(path, content.to_string()).unwrap(),
        }
    }
    folder
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    value["embedding"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_text_gives_a_vector_per_token_by_its_side() {
    let folder = model("expansion that nobody sees");
    let name = folder.path().to_str().unwrap();
    let lines = |side: &[&str]| {
        let arguments = [&["embed", "-m", name, "The cat sat on the mat.", "x"][..], side].concat();
        run(&arguments).lines(0)
    };
    let (documents, queries) = (lines(&[]), lines(&["--as", "query", "--truncate", "model"]));
    assert_eq!(documents, lines(&["--as", "document"]), "documents, unless said otherwise");
    assert_eq!((rows(&documents[0]).len(), rows(&queries[0]).len(), rows(&queries[1]).len()), (12, 12, 12));
    assert_eq!((&documents[1]["index"], &queries[1]["index"]), (&Value::from(1), &Value::from(1)));
    for vector in rows(&documents[0]) {
        assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5 && vector.len() == 8);
    }
    let pooled = lines(&["--pool-factor", "2", "--protected-tokens", "0"]);
    assert_eq!(rows(&pooled[0]).len(), 6);
    let table = run(&["embed", "-m", name, "--format", "table", "x"]);
    assert!(table.text(0).contains("dimensions"), "{}", table.text(0));
}

#[test]
fn arrays_have_a_row_per_token_and_offsets() {
    let folder = model("no expansion");
    let name = folder.path().to_str().unwrap();
    let texts = b"The cat sat on the mat.\n\nx\n";
    let written = |format: &str| {
        let path = folder.path().join(format);
        pipe(&["embed", "-m", name, "-f", format, "-o", path.to_str().unwrap()], texts).text(0);
        std::fs::read(path).unwrap()
    };
    let file = written("safetensors");
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let offsets: Vec<i64> =
        file.tensor("offsets").unwrap().data().chunks(8).map(|x| i64::from_le_bytes(x.try_into().unwrap())).collect();
    assert_eq!(offsets, [0, 12, 15, 19]);
    let embeddings = file.tensor("embeddings").unwrap();
    assert_eq!(embeddings.shape(), [19, 8]);
    // The same numbers, then the same offsets.
    let npy = written("npy");
    let second = npy.len() - HEADER - 8 * offsets.len();
    assert_eq!(npy[second - embeddings.data().len()..second], *embeddings.data());
    assert!(String::from_utf8_lossy(&npy[..HEADER]).contains("(19, 8)") && npy[second..].starts_with(b"\x93NUMPY"));
    assert_eq!(npy[second + HEADER..], *file.tensor("offsets").unwrap().data());
}

#[test]
fn documents_are_ranked_by_their_vectors() {
    let folder = model("expansion that is attended to");
    let name = folder.path().to_str().unwrap();
    let ranked = run(&["rerank", "-m", name, "Where was the ball?", "x", "The ball was there.", ""]).lines(0);
    let scores: Vec<f64> =
        ranked[0].as_array().unwrap().iter().map(|scored| scored["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 3 && scores.is_sorted_by(|a, b| a >= b) && scores[0] <= 12.0, "{scores:?}");
    let raw =
        run(&["rerank", "-m", name, "--activation", "raw", "Where was the ball?", "x", "The ball was there.", ""]);
    assert_eq!(raw.lines(0), ranked);
}

#[test]
fn a_folder_of_colbert_ai_is_encoded_ranked_and_described() {
    let folder = model("Stanford: as saved");
    let name = folder.path().to_str().unwrap();
    let embedded = |side: &str| run(&["embed", "-m", name, "--as", side, "x"]).lines(0);
    assert_eq!((rows(&embedded("query")[0]).len(), rows(&embedded("document")[0]).len()), (12, 4));
    let ranked = run(&["rerank", "-m", name, "Where?", "x", "The ball was there."]);
    assert_eq!(ranked.lines(0)[0].as_array().unwrap().len(), 2);
    assert!(!ranked.err.contains("linear.weight"), "{}", ranked.err);
    let described = run(&["info", "-m", name, "--format", "json"]);
    let described: Value = serde_json::from_str(described.text(0)).unwrap();
    let details = &described["model"]["chain"]["details"];
    assert_eq!(details, &serde_json::json!(["Transformer", "Dense (linear.weight → 8)", "Normalize"]), "{described}");
    // A copy is of the same kind, and gives the same.
    let copy = folder.path().join("copy");
    run(&["convert", name, "-o", copy.to_str().unwrap()]).text(0);
    let copied = run(&["rerank", "-m", copy.to_str().unwrap(), "Where?", "x", "The ball was there."]);
    assert_eq!(copied.lines(0), ranked.lines(0));
}

#[test]
fn texts_are_compared_by_maxsim_in_the_order_given() {
    let folder = model("expansion that nobody sees");
    let name = folder.path().to_str().unwrap();
    let texts = ["Where was the ball?", "x", "The ball was there.", ""];
    let of = |command: &str| run(&[&[command, "-m", name], &texts[..]].concat()).lines(0)[0].clone();
    let (compared, ranked) = (of("similarity"), of("rerank"));
    let indices: Vec<_> = compared.as_array().unwrap().iter().map(|scored| scored["index"].as_u64()).collect();
    assert_eq!(indices, [Some(0), Some(1), Some(2)]);
    for scored in ranked.as_array().unwrap() {
        assert!(compared.as_array().unwrap().contains(scored), "{compared} {ranked}");
    }
}

#[test]
fn what_makes_no_sense_for_vectors_of_tokens_is_refused() {
    let folder = model("no expansion");
    let name = folder.path().to_str().unwrap();
    for (arguments, message) in [
        (&["embed", "--pooling", "mean", "x"][..], "--pooling"),
        (&["embed", "--normalize", "x"], "--normalize"),
        (&["embed", "--dimensions", "4", "x"], "--dimensions"),
        (&["embed", "--layer", "1", "x"], "--layer"),
        (&["embed", "--max-active-dims", "1", "x"], "--max-active-dims"),
        (&["similarity", "--normalize", "x", "y"], "--normalize"),
        (&["similarity", "--pooling", "splade", "x", "y"], "--pooling"),
        (&["rerank", "--pooling", "splade", "x", "y"], "--pooling"),
        (&["rerank", "--activation", "sigmoid", "x", "y"], "--activation sigmoid"),
        (&["embed", "--pool-factor", "0.5", "x"], "pool"),
        (&["embed", "--pool-factor", "2", "--as", "query", "x"], "--pool-factor: vectors of queries"),
        (&["embed", "--max-active-dims", "2", "x"], "--max-active-dims"),
        (&["embed", "--decode", "x"], "--decode"),
    ] {
        let refused = run(&[arguments, &["-m", name]].concat());
        assert!(refused.status != Some(0) && refused.err.contains(message), "{arguments:?}: {}", refused.err);
    }
    let plain = run(&["embed", "--pool-factor", "2", "x"]);
    assert!(plain.status == Some(2) && plain.err.contains("--pool-factor"), "{}", plain.err);
    let described = run(&["info", "-m", name, "--format", "json"]);
    let described: Value = serde_json::from_str(described.text(0)).unwrap();
    let modules = &described["model"]["chain"]["modules"];
    assert_eq!(modules, &serde_json::json!(["Transformer", "Dense", "Normalize"]), "{described}");
    assert_eq!(described["model"]["chain"]["similarity"], "MaxSim");
    let checked = run(&["info", "-m", name, "--check", "--format", "json"]);
    assert_eq!(checked.status, Some(0), "{}", checked.err);
}
