//! Every form a checkpoint may have loads to the same model, with transformers' numbers.

mod common;

use common::{F32, Fixture, assert_close, backend, root, rows, values};
use ettin::files::ModelFiles;
use ettin::heads::LanguageModel;
use ettin::weights::{Head, StoredDtype, Subfolder, Weights, convert};
use ettin::{Config, Error, PackedBatch};

fn files(layout: &str) -> ModelFiles {
    ModelFiles::folder(root("models/tiny-layouts").join(layout)).unwrap()
}

fn check(files: &ModelFiles, what: &str, expected: &str, tolerance: f64) {
    let fixture = Fixture::load("layouts");
    let language = LanguageModel::load(files, &backend()).unwrap();
    let batch = PackedBatch::new(&fixture.sequences()).unwrap();
    let all: Vec<usize> = (0..batch.tokens()).collect();
    let last = common::forward(language.trunk(), &batch);
    let logits = language.logits(&batch, &all).unwrap();
    for sequence in 0..batch.sequences() {
        for (name, ours) in [("final", &last), ("logits", &logits)] {
            let reference = values(fixture.get(&format!("{expected}.{name}.{sequence}")));
            let what = format!("{what}, sequence {sequence}, {name}");
            assert_close(&what, &rows(ours, &batch, sequence), &reference, tolerance);
        }
    }
}

macro_rules! layouts {
    ($($test:ident: $layout:literal = $expected:literal),* $(,)?) => {
        $(#[test] fn $test() { check(&files($layout), $layout, $expected, F32); })*

        /// The listing that the fixtures' script wrote knows no layout that is not tested here.
        #[test]
        fn every_layout_of_the_fixtures_is_tested() {
            let tested = [$(($layout, $expected)),*];
            let text = std::fs::read(root("tests/fixtures/layouts.json")).unwrap();
            let listing: serde_json::Value = serde_json::from_slice(&text).unwrap();
            for entry in listing["layouts"].as_array().unwrap() {
                let layout = entry["layout"].as_str().unwrap();
                match entry["expected"].as_str() {
                    Some(expected) => assert!(tested.contains(&(layout, expected)), "{layout}"),
                    None => assert_eq!(layout, "bin-before-zip"),
                }
            }
        }
    };
}

layouts! {
    safetensors: "safetensors" = "f32",
    safetensors_in_shards: "safetensors-sharded" = "f32",
    safetensors_in_f16: "safetensors-f16" = "f16",
    safetensors_in_bf16: "safetensors-bf16" = "bf16",
    torch: "bin" = "f32",
    torch_in_shards: "bin-sharded" = "f32",
    torch_in_f16: "bin-f16" = "f16",
    torch_in_bf16: "bin-bf16" = "bf16",
    torch_with_transposed_and_offset_tensors: "bin-views" = "f32",
    without_the_model_prefix: "no-prefix" = "f32",
    embedding_under_the_output_name: "only-decoder-weight" = "f32",
    embedding_under_both_names: "both-tied" = "f32",
    output_that_differs_from_the_embedding: "both-unequal" = "unequal",
    encoder_with_separate_projections: "encoder-separate-qkv" = "f32",
    decoder: "decoder" = "decoder",
    decoder_from_torch: "decoder-bin" = "decoder",
    decoder_with_fused_projections: "decoder-fused-qkv" = "decoder",
    decoder_without_the_model_prefix: "decoder-no-prefix" = "decoder",
}

#[test]
fn the_format_before_zip_is_refused_with_advice() {
    let error = Weights::open(&files("bin-before-zip")).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }));
    let text = error.to_string();
    assert!(text.contains("torch before 1.6") && text.contains("pytorch_model.bin"), "{text}");
}

#[test]
fn an_index_or_a_shardless_file_can_be_named() {
    for path in [
        "safetensors-sharded/model.safetensors.index.json",
        "bin-sharded/pytorch_model.bin.index.json",
        "bin/pytorch_model.bin",
        "safetensors/model.safetensors",
    ] {
        check(&files(path), path, "f32", F32);
    }
}

#[test]
fn a_named_file_is_the_one_loaded_even_through_a_folder_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let weights = root("models/tiny-layouts/safetensors/model.safetensors");
    std::fs::copy(weights, folder.path().join("ema.safetensors")).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), "another one, never read").unwrap();
    let files = ModelFiles::folder(folder.path().join("ema.safetensors")).unwrap();
    assert!(Weights::open(&files).is_ok());
    assert!(Weights::open(&Subfolder { files: &files, folder: "" }).is_ok());
    let module = Subfolder { files: &files, folder: "2_Dense" };
    assert!(matches!(Weights::open(&module), Err(Error::MissingFile { .. })));
}

#[test]
fn unequal_outputs_are_warned_about() {
    let report = |layout: &str| {
        let files = files(layout);
        let config = Config::load(&files).unwrap();
        Weights::open(&files).unwrap().checkpoint(&config, Head::Language).unwrap().report
    };
    let unequal = report("both-unequal");
    assert!(unequal.warnings[0].contains("`decoder.weight` differs"), "{unequal:?}");
    for layout in ["safetensors", "bin", "both-tied", "only-decoder-weight", "no-prefix", "decoder-bin"] {
        let report = report(layout);
        assert_eq!(report, Default::default(), "{layout}");
    }
}

#[test]
fn conversion_keeps_every_value() {
    for layout in ["bin", "bin-sharded", "bin-views", "decoder-bin", "safetensors-sharded", "only-decoder-weight"] {
        let out = tempfile::tempdir().unwrap();
        let mut written = Vec::new();
        let progress = &mut |name: &str| written.push(name.to_owned());
        let done = convert(&files(layout), out.path(), None, progress).unwrap();
        assert_eq!(done.files, ["model.safetensors", "config.json"]);
        assert_eq!(done.files, written);
        let converted = ModelFiles::folder(out.path()).unwrap();
        let expected = if layout.starts_with("decoder") { "decoder" } else { "f32" };
        check(&converted, layout, expected, F32);
        let (before, after) = (Weights::open(&files(layout)).unwrap(), Weights::open(&converted).unwrap());
        for view in after.views() {
            let stored = before.get(view.name()).unwrap();
            assert_eq!((view.shape(), view.bytes()), (stored.shape(), stored.bytes()), "{}", view.name());
        }
        assert_eq!(before.names().count(), after.names().count() + done.dropped.len(), "{layout}");
        assert!(done.dropped.iter().all(|name| name == "decoder.weight"));
    }
}

#[test]
fn conversion_narrows_to_the_dtype_asked_for() {
    for (dtype, name, expected) in [
        (StoredDtype::F16, "float16", "f16"),
        (StoredDtype::BF16, "bfloat16", "bf16"),
        (StoredDtype::F32, "float32", "f32"),
    ] {
        let out = tempfile::tempdir().unwrap();
        convert(&files("bin"), out.path(), Some(dtype), &mut |_| {}).unwrap();
        let converted = ModelFiles::folder(out.path()).unwrap();
        assert!(Weights::open(&converted).unwrap().views().all(|view| view.dtype() == dtype));
        assert_eq!(Config::load(&converted).unwrap().stored_dtype.unwrap().name(), name);
        check(&converted, name, expected, F32);
    }
    // And back: widening bf16 loses nothing.
    let out = tempfile::tempdir().unwrap();
    convert(&files("bin-bf16"), out.path(), Some(StoredDtype::F32), &mut |_| {}).unwrap();
    check(&ModelFiles::folder(out.path()).unwrap(), "bf16 widened", "bf16", F32);
}

#[test]
fn conversion_takes_a_chain_with_its_modules() {
    let out = tempfile::tempdir().unwrap();
    let source = ModelFiles::folder(root("models/tiny-text-chain-max-dense")).unwrap();
    let done = convert(&source, out.path(), Some(StoredDtype::BF16), &mut |_| {}).unwrap();
    for name in ["modules.json", "config.json", "tokenizer.json", "model.safetensors"] {
        assert!(done.files.iter().any(|file| file == name), "{name} in {:?}", done.files);
    }
    let dense: Vec<&String> = done.files.iter().filter(|file| file.ends_with("_Dense/model.safetensors")).collect();
    assert_eq!(dense.len(), 1, "{:?}", done.files);
    for file in &done.files {
        assert!(out.path().join(file).is_file(), "{file}");
    }
}

#[test]
fn conversion_of_a_folder_without_weights_writes_nothing_but_says_so() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("config.json"), r#"{"model_type": "modernbert"}"#).unwrap();
    let error = convert(&ModelFiles::folder(source.path()).unwrap(), out.path(), None, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::MissingFile { .. }), "{error}");
    assert!(error.to_string().contains("pytorch_model.bin"));
}
