//! A model with a weight that is no number: every task says so, in every format, and writes nothing made of it.

use std::fs;

use safetensors::SafeTensors;

use crate::support::{pipe, repository, run};

/// A copy of an embedded model with NaN in place of a tensor's first number.
fn broken(model: &str, tensor: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(repository().join("models").join(model)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let start = {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.tensor(tensor).unwrap().data().as_ptr().addr() - bytes.as_ptr().addr()
    };
    bytes[start..start + 2].copy_from_slice(&[0xc0, 0x7f]); // NaN in bf16
    fs::write(path, bytes).unwrap();
    folder
}

#[test]
fn no_result_is_written_that_is_not_finite() {
    let encoder = broken("nano-encoder", "model.layers.1.mlp.Wi.weight");
    let decoder = broken("nano-decoder", "model.layers.1.mlp.Wi.weight");
    let (encoder, decoder) = (encoder.path().to_str().unwrap(), decoder.path().to_str().unwrap());
    let tasks: [(&str, &[&str], &[&str]); 6] = [
        (encoder, &["embed", "Some text."], &["table", "json", "jsonl"]),
        (encoder, &["embed", "--pooling", "none", "Some text."], &["json", "jsonl"]),
        (encoder, &["similarity", "Some text.", "Another."], &["table", "json", "jsonl"]),
        (encoder, &["fill-mask", "A [MASK] text."], &["table", "json", "jsonl"]),
        (encoder, &["score", "Some text."], &["table", "json", "jsonl"]),
        (decoder, &["generate", "--max-new-tokens", "3", "Some text."], &["json", "jsonl"]),
    ];
    for (model, arguments, formats) in tasks {
        for format in formats {
            let run = run(&[arguments, &["-q", "-m", model, "--format", format]].concat());
            let (out, what) = (run.text(1), format!("{arguments:?} as {format}"));
            assert!(!out.contains("null") && !out.to_lowercase().contains("nan"), "{what}: {out}");
            assert!(run.err.contains("NaN or infinite numbers first appear in layer 2 of 6"), "{what}: {}", run.err);
        }
    }
}

#[test]
fn the_check_of_a_model_names_the_layer_and_fails() {
    let sound = run(&["info", "--check", "-m", "nano-decoder", "--dtype", "w8", "--format", "jsonl"]);
    let check = &sound.lines(0)[0]["check"];
    assert_eq!(check["passed"], true, "{check}");
    assert!(
        check["verdict"].as_str().unwrap().starts_with("passed") && check.get("first_divergent").is_none(),
        "{check}"
    );
    assert_eq!(check["steps"].as_array().unwrap().len(), 9, "{check}");
    assert!(check["computing"].as_str().unwrap().contains("w8"), "{check}");

    let folder = broken("nano-decoder", "model.layers.1.mlp.Wi.weight");
    let failed = run(&["info", "--check", "-m", folder.path().to_str().unwrap(), "--format", "jsonl"]);
    let check = &failed.lines(1)[0]["check"];
    assert_eq!((&check["passed"], &check["first_divergent"]), (&false.into(), &"layer 2 of 6".into()), "{check}");
    assert!(failed.err.contains("values that are not finite in layer 2 of 6"), "{}", failed.err);
}

#[test]
fn arrays_keep_the_place_of_what_is_not_finite_and_say_so() {
    let model = broken("nano-encoder", "model.embeddings.tok_embeddings.weight");
    // The token of number 0, which this text has and the other has not.
    let model = model.path().to_str().unwrap();
    let good = run(&["embed", "-q", "--format", "npy", "Some text."]);
    let input = "{\"text\": \"[PAD]\"}\n{\"text\": \"Some text.\"}\n";
    let out = pipe(&["embed", "-q", "-m", model, "--format", "npy"], input);
    assert_eq!(out.status, Some(1), "{}", out.err);
    assert!(out.err.contains("first appear in the embeddings"), "{}", out.err);
    let row = 4 * 256;
    assert_eq!(out.out[out.out.len() - row..], good.out[good.out.len() - row..]);
}
