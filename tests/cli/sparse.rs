//! Encoders of sparse vectors on the command line.

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{pipe, read_json, repository, run};

/// A folder that sentence-transformers 6.2 saved.
fn saved(kind: &str) -> tempfile::TempDir {
    let listing = read_json("tests/fixtures/versions/st6.json");
    let folders = listing["folders"].as_array().unwrap();
    let found = folders.iter().find(|folder| folder["kind"] == kind).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (path, pooled) in found["files"].as_object().unwrap() {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(repository().join("models/tiny-versions").join(pooled.as_str().unwrap()), path).unwrap();
    }
    folder
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn numbers<T>(value: &Value, number: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn sparse_vectors_have_ascending_places_and_no_zeros() {
    let folder = saved("sparse-splade");
    let name = folder.path().to_str().unwrap();
    let lines = run(&["embed", "-q", "-m", name, "The cat sat.", "x"]).lines(0);
    assert_eq!(lines.len(), 2);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!((keys(line), &line["index"]), (vec!["index", "indices", "values"], &json!(index)));
        let places = numbers(&line["indices"], |place| place.as_u64().unwrap());
        assert!(places.is_sorted() && !places.is_empty());
        assert!(numbers(&line["values"], |value| value.as_f64().unwrap()).iter().all(|&value| value > 0.0));
    }
    let decoded = run(&["embed", "-q", "-m", name, "--decode", "--max-active-dims", "3", "The cat sat."]).lines(0);
    assert_eq!(keys(&decoded[0]), ["index", "indices", "values", "tokens"]);
    assert_eq!(decoded[0]["tokens"].as_array().unwrap().len(), 3);
    let best = numbers(&decoded[0]["values"], |value| value.as_f64().unwrap()).into_iter().fold(0.0, f64::max);
    assert_eq!(best, numbers(&lines[0]["values"], |value| value.as_f64().unwrap()).into_iter().fold(0.0, f64::max));

    let record = r#"{"id": 7, "text": "The cat sat."}"#;
    let kept = pipe(&["embed", "-q", "-m", name, "--max-active-dims", "1"], record).lines(0);
    assert_eq!(keys(&kept[0]), ["id", "index", "indices", "values"]);

    let table = run(&["embed", "-q", "-m", name, "-f", "table", "x"]);
    assert!(table.text(0).contains("largest"), "{}", table.text(0));
}

#[test]
fn an_archive_for_scipy_is_for_sparse_vectors_alone() {
    let folder = saved("sparse-splade");
    let path = folder.path().join("vectors.npz");
    let name = folder.path().to_str().unwrap();
    run(&["embed", "-q", "-m", name, "-f", "npz", "-o", path.to_str().unwrap(), "The cat sat.", "x"]).text(0);
    assert!(std::fs::read(&path).unwrap().starts_with(b"PK"));
    for model in ["nano-encoder", "models/tiny-text-stanford"] {
        let refused = run(&["embed", "-q", "-m", model, "-f", "npz", "x"]);
        assert!(refused.status == Some(2) && refused.err.contains("npz"), "{}", refused.err);
    }
    assert_eq!(run(&["classify", "-m", "models/tiny-text-classify-single", "-f", "npz", "x"]).status, Some(2));
}

#[test]
fn a_masked_language_model_is_pooled_by_splade() {
    let masked = ["-q", "-m", "models/tiny-text-masked"];
    let lines =
        run(&[&["embed", "--pooling", "splade", "--decode", "A kitten rested."], &masked[..]].concat()).lines(0);
    assert_eq!(keys(&lines[0]), ["index", "indices", "values", "tokens"]);
    let compared =
        run(&[&["similarity", "--pooling", "splade", "A kitten.", "A kitten rested.", "x"], &masked[..]].concat())
            .lines(0);
    let ranked =
        run(&[&["rerank", "--pooling", "splade", "A kitten.", "A kitten rested.", "x"], &masked[..]].concat()).lines(0);
    let score = |list: &Value, index: u64| {
        let found = list.as_array().unwrap().iter().find(|scored| scored["index"] == index).unwrap();
        found["score"].as_f64().unwrap()
    };
    for index in [0, 1] {
        assert_eq!(score(&compared[0], index), score(&ranked[0], index));
    }
    assert!(ranked[0][0]["score"].as_f64() >= ranked[0][1]["score"].as_f64());
    // Without the word it is a dense embedder.
    assert_eq!(keys(&run(&[&["embed", "x"], &masked[..]].concat()).lines(0)[0]), ["index", "embedding"]);
    for (model, word) in [("models/tiny-text-classify-single", "masked language model"), ("nano-decoder", "SPLADE")] {
        let refused = run(&["embed", "--pooling", "splade", "-m", model, "x"]);
        assert!(refused.status == Some(1) && refused.err.contains(word), "{}", refused.err);
    }
}

#[test]
fn a_matrix_has_the_vectors_of_the_lines() {
    let folder = saved("sparse-csr");
    let name = folder.path().to_str().unwrap();
    let texts = ["embed", "-q", "-m", name, "The cat sat.", "x"];
    let lines = run(&texts).lines(0);
    let written = run(&[&texts[..], &["-f", "safetensors"]].concat());
    assert_eq!(written.status, Some(0), "{}", written.err);
    let file = SafeTensors::deserialize(&written.out).unwrap();
    let data = file.tensor("indices").unwrap().data().to_vec();
    let places: Vec<u64> =
        data.chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()) as u64).collect();
    let expected: Vec<u64> =
        lines.iter().flat_map(|line| numbers(&line["indices"], |place| place.as_u64().unwrap())).collect();
    assert_eq!(places, expected);
    assert_eq!(file.tensor("indptr").unwrap().shape(), [3]);
    let refused = run(&[&texts[..], &["-f", "npy"]].concat());
    assert!(refused.status == Some(2) && refused.err.contains("safetensors"), "{}", refused.err);
    let refused = run(&[&texts[..], &["--precision", "ubinary"]].concat());
    assert!(refused.status == Some(2) && refused.err.contains("sparse"), "{}", refused.err);
    // Places of an autoencoder are no tokens.
    let refused = run(&[&texts[..], &["--decode"]].concat());
    assert!(refused.status == Some(1) && refused.err.contains("features"), "{}", refused.err);
}

#[test]
fn documents_are_ranked_by_the_model_s_own_similarity() {
    let folder = saved("sparse-splade");
    let name = folder.path().to_str().unwrap();
    let documents = ["The cat sat.", "x", "Where was it?"];
    let scores = run(&[&["similarity", "-q", "-m", name, "Where was it?"], &documents[..]].concat()).lines(0);
    let ranked = run(&[&["rerank", "-q", "-m", name, "Where was it?"], &documents[..]].concat()).lines(0);
    let of_document = |index: usize| &scores[0][index]["score"];
    let ranked = ranked[0].as_array().unwrap();
    assert_eq!(keys(&ranked[0]), ["index", "score"]);
    for entry in ranked {
        assert_eq!(&entry["score"], of_document(entry["index"].as_u64().unwrap() as usize));
    }
    assert!(ranked.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));
}

#[test]
fn dense_models_have_no_sparse_wishes_and_every_embedder_has_sides() {
    for flags in [&["--decode"][..], &["--max-active-dims", "4"]] {
        let refused = run(&[&["embed", "-q"], flags, &["x"]].concat());
        assert!(refused.status == Some(1) && refused.err.contains("dense"), "{}", refused.err);
    }
    let plain = run(&["embed", "-q", "x"]).lines(0);
    assert_eq!(run(&["embed", "-q", "--as", "query", "x"]).lines(0), plain);
    let folder = saved("chain-prompts");
    let name = folder.path().to_str().unwrap();
    let vector = |flags: &[&str]| run(&[&["embed", "-q", "-m", name], flags, &["x"]].concat()).lines(0);
    assert_eq!(vector(&["--as", "document"]), vector(&["--prompt", "document"]));
    assert_ne!(vector(&["--as", "document"]), vector(&["--as", "query"]));
    assert_eq!(vector(&["--as", "document", "--prompt", "query"]), vector(&["--prompt", "query"]));
}

#[test]
fn info_says_what_each_module_does() {
    for (kind, details, more) in [
        ("sparse-splade-sum", &["Transformer (fill-mask)", "SpladePooling (sum, log1p_relu)"][..], "max_active_dims"),
        ("sparse-csr", &["Pooling (mean)", "SparseAutoEncoder (32 → 64, the 8 largest)"], "dot"),
        ("rerank-logit-score", &["Transformer (text-generation)", "LogitScore (token 40 less token 41)"], "Sigmoid"),
        ("chain-weighted-layers-hidden", &["without effect", "Pooling (mean)"], "cosine"),
        ("rerank-modular", &["Dense (32 → 16, GELU)", "Dense (16 → 1, Identity, to scores)"], "Sigmoid"),
    ] {
        let folder = saved(kind);
        let table = run(&["info", "-m", folder.path().to_str().unwrap(), "-f", "table"]);
        for part in details.iter().chain([&more]) {
            assert!(table.text(0).contains(part), "{kind}: {part}: {}", table.text(0));
        }
    }
}

#[test]
fn an_autoencoder_is_converted_with_its_statistics_of_training() {
    let folder = saved("sparse-csr");
    let (name, copy) = (folder.path().to_str().unwrap(), tempfile::tempdir().unwrap());
    let copy = copy.path().join("copy");
    let converted = run(&["convert", "-q", name, "--output", copy.to_str().unwrap()]);
    assert_eq!(converted.status, Some(0), "{}", converted.err);
    let vector = |model: &str| run(&["embed", "-q", "-m", model, "The cat sat."]).lines(0);
    assert_eq!(vector(name), vector(copy.to_str().unwrap()));
}
