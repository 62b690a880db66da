//! Why `auto` is f32 where bf16x3 is faster: bf16x3 does not keep the contract of f32 where a few channels of the
//! residual are huge.
//!
//! Trained checkpoints have such channels: up to 4300 in the nano encoder, 2e4 in the published 150m. Measured here on
//! the nano pair as it is, and with its largest channels scaled until the residual reaches 2e4; `scripts/outliers.py`
//! measures the same against transformers and f64.

mod common;

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use common::{F32, relative_error, root, values};
use ettin::{
    Backend, Dtype, PackedBatch,
    files::ModelFiles,
    heads::LanguageModel,
    tokenizer::{Limit, Tokenizer, Truncate},
};

/// What the residual of trained checkpoints reaches.
const OUTLIERS: f32 = 2e4;
/// Channels that are scaled.
const CHANNELS: usize = 4;
const TEXTS: usize = 6;

fn nano(name: &str) -> ModelFiles {
    common::model(&format!("nano-{name}"))
}

fn texts() -> Vec<PackedBatch> {
    let tokenizer = Tokenizer::load(&nano("decoder")).unwrap();
    let sample = fs::read_to_string(root("tests/fixtures/valid_sample.jsonl")).unwrap();
    let encode = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let limit = Limit::new(usize::MAX, Truncate::Error);
        let mut ids = tokenizer.encode_within(line["text"].as_str().unwrap(), None, limit).unwrap().ids;
        ids.truncate(256);
        PackedBatch::new(&[ids]).unwrap()
    };
    sample.lines().take(TEXTS).map(encode).collect()
}

/// Of every text, the residual behind every layer, the final norm's output and the logits.
fn states(files: &ModelFiles, dtype: Dtype, texts: &[PackedBatch]) -> Vec<Vec<f32>> {
    let model = LanguageModel::load(files, &Backend::new(&Device::Cpu, dtype).unwrap()).unwrap();
    let mut states = Vec::new();
    for text in texts {
        let rows: Vec<usize> = (0..text.tokens()).collect();
        states.extend(model.trunk().residuals(text).unwrap().iter().map(values));
        states.push(values(&common::forward(model.trunk(), text)));
        states.push(values(&model.logits(text, &rows).unwrap()));
    }
    states
}

/// The worst max|Δ| / max|reference| of all of them.
fn error(ours: &[Vec<f32>], reference: &[Vec<f32>]) -> f64 {
    ours.iter().zip(reference).map(|(ours, reference)| relative_error(ours, reference)).fold(0.0, f64::max)
}

/// The largest magnitude of every channel of the residual.
fn peaks(files: &ModelFiles, text: &PackedBatch) -> Vec<f32> {
    let model = LanguageModel::load(files, &Backend::cpu().unwrap()).unwrap();
    let states = Tensor::cat(&model.trunk().residuals(text).unwrap(), 0).unwrap();
    states.abs().unwrap().max(0).unwrap().to_vec1().unwrap()
}

/// A copy of a model in `folder`, with what its layers add to the largest channels scaled until these reach
/// [`OUTLIERS`].
fn amplified(name: &str, text: &PackedBatch, folder: &Path) -> ModelFiles {
    let source = root("models").join(format!("nano-{name}"));
    fs::copy(source.join("config.json"), folder.join("config.json")).unwrap();
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(source.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut largest: Vec<(usize, f32)> = peaks(&nano(name), text).into_iter().enumerate().collect();
    largest.sort_by(|a, b| b.1.total_cmp(&a.1));
    largest.truncate(CHANNELS);
    let mut peak = largest[0].1;
    // What a layer adds depends on what came before: the factor is found step by step.
    while !(0.9..=1.1).contains(&(peak / OUTLIERS)) {
        for (_, matrix) in tensors.iter_mut().filter(|(name, _)| name.ends_with("Wo.weight")) {
            let mut factors = vec![1.0; matrix.dim(0).unwrap()];
            for &(channel, _) in &largest {
                factors[channel] = OUTLIERS / peak;
            }
            let factors = Tensor::new(factors, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
            *matrix = matrix.to_dtype(DType::F32).unwrap().broadcast_mul(&factors).unwrap();
        }
        candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
        let peaks = peaks(&ModelFiles::folder(folder).unwrap(), text);
        peak = largest.iter().map(|&(channel, _)| peaks[channel]).fold(0.0, f32::max);
    }
    ModelFiles::folder(folder).unwrap()
}

#[test]
fn bf16x3_misses_the_contract_and_auto_is_f32() {
    let texts = texts();
    let (encoder, decoder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cases = [
        ("encoder", nano("encoder"), false),
        ("encoder at 2e4", amplified("encoder", &texts[0], encoder.path()), false),
        ("decoder", nano("decoder"), true),
        ("decoder at 2e4", amplified("decoder", &texts[0], decoder.path()), true),
    ];
    for (name, files, keeps) in cases {
        let reference = states(&files, Dtype::F32, &texts);
        let [noise, error] =
            [Dtype::Bf16x6, Dtype::Bf16x3].map(|dtype| error(&states(&files, dtype, &texts), &reference));
        println!("{name}: bf16x6 {noise:.1e}, bf16x3 {error:.1e}");
        assert_eq!(error <= F32, keeps, "{name}: {error:.1e}");
        assert!(error <= 10.0 * F32, "{name}: {error:.1e}");
        // bf16x6 is as exact as f32: what lies between these two is rounding of f32's size, and bf16x3 misses by more.
        assert!(error > noise, "{name}: {error:.1e} is not beyond the rounding of f32, {noise:.1e}");
    }
    assert_eq!(Backend::new(&Device::Cpu, Dtype::Auto).unwrap().dtype(), Dtype::F32);
}
