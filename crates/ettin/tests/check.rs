//! The self-check: it passes where kernels and reference agree, and names the layer where they do not.

mod common;

use std::collections::HashMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use common::{copy, dtypes, model, root};
use ettin::check::{CheckOptions, Step, check, compare_trunks, tolerance};
use ettin::files::ModelFiles;
use ettin::heads::LanguageModel;
use ettin::weights::{StoredDtype, convert};
use ettin::{Backend, Dtype, KvFormat};
use tempfile::TempDir;

/// Every kind of head, both objectives, biases, and dimensions that are no whole panels.
const MODELS: [&str; 19] = [
    "nano-encoder",
    "nano-decoder",
    "tiny-encoder",
    "tiny-encoder-biases",
    "tiny-encoder-untied",
    "tiny-encoder-uneven",
    "tiny-encoder-sequence-cls",
    "tiny-encoder-sequence-mean",
    "tiny-encoder-token",
    "tiny-encoder-answer",
    "tiny-decoder",
    "tiny-decoder-biases",
    "tiny-decoder-narrow",
    "tiny-decoder-untied",
    "tiny-decoder-sequence",
    "tiny-decoder-sequence-regression",
    "tiny-text-chain-mean",
    "tiny-text-chain-max-dense",
    "tiny-text-classify-single",
];

fn assert_passes(name: &str, files: &ModelFiles, options: &CheckOptions) -> f64 {
    let report = check(files, options).unwrap();
    assert!(report.passed(), "{name}, {}: {}\n{:#?}", report.computing, report.verdict(), report.steps);
    assert!(report.verdict().starts_with("passed"), "{}", report.verdict());
    report.steps.iter().map(|step| step.alone).fold(0.0, f64::max)
}

#[test]
fn committed_models_pass_in_every_format() {
    for dtype in dtypes() {
        // Coarse formats differ by what they round: a few models of each kind show it.
        let models = if dtype == Dtype::F32 { &MODELS[..] } else { &MODELS[..4] };
        let worst = models
            .iter()
            .map(|name| assert_passes(name, &model(name), &CheckOptions::default().with_dtype(dtype)))
            .fold(0.0, f64::max);
        println!("{dtype}: worst step {worst:.1e}, allowed {:.0e}", tolerance(dtype, None));
    }
}

#[test]
fn other_formats_of_keys_and_values_pass() {
    for kv in [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8] {
        let options = CheckOptions::default().with_dtype(Dtype::F32).with_kv_dtype(Some(kv));
        for name in ["nano-decoder", "tiny-encoder", "tiny-decoder-biases"] {
            let worst = assert_passes(name, &model(name), &options);
            println!("{name}, keys and values in {kv}: worst step {worst:.1e}");
        }
    }
}

#[test]
fn weights_stored_in_few_bits_are_checked_as_they_are() {
    for stored in [StoredDtype::W8, StoredDtype::W4] {
        let folder = TempDir::new().unwrap();
        convert(&model("nano-decoder"), folder.path(), Some(stored), &mut |_| {}).unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        let report = check(&files, &CheckOptions::default()).unwrap();
        assert!(report.computing.contains(stored.name()), "{}", report.computing);
        assert!(report.passed(), "{}", report.verdict());
    }
}

/// A copy of a model in which a function changed one tensor.
fn altered(name: &str, tensor: &str, change: impl Fn(&Tensor) -> Tensor) -> (TempDir, ModelFiles) {
    let folder = TempDir::new().unwrap();
    copy(&root("models").join(name), folder.path());
    let path = folder.path().join("model.safetensors");
    let mut tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let changed = change(tensors.get(tensor).unwrap_or_else(|| panic!("{name} has no {tensor}")));
    tensors.insert(tensor.to_owned(), changed);
    fs::remove_file(&path).unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    (folder, files)
}

fn diverging(steps: &[Step], tolerance: f64) -> Vec<&str> {
    steps.iter().filter(|step| !step.is_within(tolerance)).map(|step| step.name.as_str()).collect()
}

#[test]
fn a_fault_in_one_layer_is_found_there_and_nowhere_else() {
    let texts = vec![vec![3], (5..14).collect(), (1..61).collect()];
    let reference =
        LanguageModel::load(&model("tiny-encoder"), &Backend::reference(&Device::Cpu, Dtype::F32).unwrap()).unwrap();
    let layers = reference.config().num_layers();
    let tensors = [("attn.Wqkv.weight", 1), ("attn.Wo.weight", 2), ("mlp.Wi.weight", 2), ("mlp_norm.weight", 3)];
    for (tensor, layer) in tensors {
        // A thousandth of the weights' size: too little to be seen in any result.
        let name = format!("model.layers.{layer}.{tensor}");
        let (_folder, files) = altered("tiny-encoder", &name, |weights| {
            assert_eq!(weights.dtype(), DType::F32);
            (weights * 1.002).unwrap()
        });
        let ours = LanguageModel::load(&files, &Backend::cpu().unwrap()).unwrap();
        let steps = compare_trunks(ours.trunk(), reference.trunk(), &texts).unwrap();
        assert_eq!(steps.len(), layers + 2);
        let expected = format!("layer {} of {layers}", layer + 1);
        assert_eq!(diverging(&steps, tolerance(Dtype::F32, None)), [expected.as_str()], "{tensor}: {steps:#?}");
        // The same is true in the stream behind it, which all layers above pass on.
        assert!(steps[layers].drift > steps[layer].drift, "{steps:#?}");
    }
    let (_folder, files) =
        altered("tiny-encoder", "model.embeddings.norm.weight", |weights| (weights * 1.002).unwrap());
    let ours = LanguageModel::load(&files, &Backend::cpu().unwrap()).unwrap();
    let steps = compare_trunks(ours.trunk(), reference.trunk(), &texts).unwrap();
    assert_eq!(diverging(&steps, 1e-4), ["the embeddings"]);
}

#[test]
fn numbers_that_are_none_fail_the_check_by_name() {
    let (_folder, files) =
        altered("tiny-decoder", "model.layers.1.mlp.Wo.weight", |weights| (weights * f64::INFINITY).unwrap());
    let report = check(&files, &CheckOptions::default()).unwrap();
    assert!(!report.passed());
    assert_eq!(report.first_divergent().unwrap().name, "layer 2 of 4", "{:#?}", report.steps);
    assert!(report.verdict().contains("not finite"), "{}", report.verdict());
}

#[test]
fn models_of_other_shapes_are_no_pair() {
    let load = |name| LanguageModel::load(&model(name), &Backend::cpu().unwrap()).unwrap();
    let (ours, other) = (load("tiny-encoder"), load("nano-encoder"));
    assert!(compare_trunks(ours.trunk(), other.trunk(), &[vec![1, 2]]).is_err());
    // Where nothing is compared, every step would pass.
    let told = compare_trunks(ours.trunk(), ours.trunk(), &[]).unwrap_err().to_string();
    assert!(told.contains("nothing would be compared"), "{told}");
}
