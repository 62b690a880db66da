//! What every number format costs, on held-out text with the embedded pair: the table of docs/ACCURACY.md, bounded. And
//! with random weights of 17m's shape, of which `scripts/accuracy.py` measures all sizes.
//!
//! `cargo test --release --workspace --features hub --test accuracy -- --nocapture` prints it.

mod common;

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use common::root;
use ettin::{
    Backend, Isa, KvFormat, PackedBatch, Scheme, Team,
    files::ModelFiles,
    heads::LanguageModel,
    tokenizer::{Limit, Tokenizer, Truncate},
};

/// An encoder and a decoder of one tokenizer, with held-out text.
struct Pair {
    encoder: ModelFiles,
    decoder: ModelFiles,
    mask: u32,
    documents: Vec<Vec<u32>>,
}

/// What is asked of a format, against f32 on the same text.
struct Bound {
    scheme: Scheme,
    kv: KvFormat,
    /// Least cosine of mean-pooled vectors of the encoder.
    cosine: f64,
    /// Least share of tokens whose best (masked or next) token stays the same.
    top1: f64,
    /// Most mean Kullback–Leibler divergence of (masked or next) token distributions, in nats.
    kl: f64,
    /// Most relative growth of perplexity.
    perplexity: f64,
}

const fn bound(scheme: Scheme, kv: KvFormat, cosine: f64, top1: f64, kl: f64, perplexity: f64) -> Bound {
    Bound { scheme, kv, cosine, top1, kl, perplexity }
}

const BOUNDS: [Bound; 9] = [
    bound(Scheme::Bf16x6, KvFormat::F32, 0.999_999, 0.9995, 1e-8, 1e-5),
    bound(Scheme::Bf16x3, KvFormat::F32, 0.999_999, 0.9995, 1e-7, 1e-5),
    bound(Scheme::Bf16, KvFormat::Bf16, 0.99, 0.99, 1e-3, 1e-3),
    bound(Scheme::F32, KvFormat::Bf16, 0.995, 0.99, 1e-3, 1e-3),
    bound(Scheme::F32, KvFormat::Int8, 0.97, 0.98, 2e-3, 1e-3),
    bound(Scheme::Int8, KvFormat::Bf16, 0.95, 0.95, 1e-2, 5e-3),
    bound(Scheme::Int8, KvFormat::Int8, 0.95, 0.95, 1e-2, 5e-3),
    bound(Scheme::W8, KvFormat::Bf16, 0.95, 0.97, 2e-3, 1e-3),
    bound(Scheme::W4, KvFormat::Bf16, 0.8, 0.75, 0.2, 0.05),
];

/// Of random weights, whose logits have no clear winner: the best of many that are nearly equal changes easily.
const RANDOM_BOUNDS: [Bound; 6] = [
    bound(Scheme::Bf16x6, KvFormat::F32, 0.999_999, 0.999, 1e-9, 1e-5),
    bound(Scheme::Bf16x3, KvFormat::F32, 0.999_999, 0.99, 1e-7, 1e-4),
    bound(Scheme::Bf16, KvFormat::Bf16, 0.999, 0.93, 2e-3, 0.01),
    bound(Scheme::Int8, KvFormat::Bf16, 0.998, 0.75, 4e-2, 0.1),
    bound(Scheme::W8, KvFormat::Bf16, 0.998, 0.8, 2e-2, 0.1),
    bound(Scheme::W4, KvFormat::Bf16, 0.85, 0.1, 1.5, 1.0),
];

struct Answers {
    /// Mean-pooled states of the encoder.
    vectors: Vec<Vec<f64>>,
    /// Logits of the encoder for every token, with every eighth masked.
    masked: Vec<Vec<f32>>,
    /// Next-token logits of the decoder.
    next: Vec<Vec<f32>>,
    /// Mean negative log-likelihood.
    nll: f64,
}

/// The beginnings of held-out texts.
fn documents(tokenizer: &ModelFiles, count: usize, tokens: usize) -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::load(tokenizer).unwrap();
    let sample = fs::read_to_string(root("tests/fixtures/valid_sample.jsonl")).unwrap();
    let ids = sample.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let limit = Limit::new(usize::MAX, Truncate::Error);
        let mut ids = tokenizer.encode_within(line["text"].as_str().unwrap(), None, limit).unwrap().ids;
        ids.truncate(tokens);
        ids
    });
    let documents: Vec<_> = ids.filter(|ids| ids.len() >= 16).take(count).collect();
    assert_eq!(documents.len(), count);
    documents
}

/// Values that are nearly normal, with this standard deviation: sums of four uniform ones.
fn normal(seed: &mut u64, shape: &[usize], deviation: f32) -> Tensor {
    let draw = |_| {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let sum: f32 = (0..4).map(|part| f32::from((bits >> (16 * part)) as u16) / 65_536.0).sum();
        deviation * (sum - 2.0) * 3f32.sqrt()
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(draw).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Writes a checkpoint of 17m's dimensions into `folder`, with weights like those of `scripts/accuracy.py`.
fn random_17m(decoder: bool, folder: &Path) -> ModelFiles {
    const LAYERS: usize = 7;
    let (hidden, intermediate, mut seed) = (256, 384, u64::from(decoder));
    let config = serde_json::json!({
        "model_type": if decoder { "modernbert-decoder" } else { "modernbert" }, "vocab_size": 50368,
        "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "local_attention": 128,
        "max_position_embeddings": 7999, "global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0,
        "local_rope_theta": 160_000.0, "norm_eps": 1e-5,
    });
    let mut tensors = HashMap::new();
    let mut matrix = |name: String, outputs: usize, inputs: usize, gain: f32| {
        tensors.insert(name, normal(&mut seed, &[outputs, inputs], gain / (inputs as f32).sqrt()));
    };
    let branch = 1.5 / (2.0 * LAYERS as f32).sqrt();
    matrix("model.embeddings.tok_embeddings.weight".into(), 50368, hidden, 2.5);
    for layer in (0..LAYERS).map(|layer| format!("model.layers.{layer}")) {
        if decoder {
            for part in ["q", "k", "v"] {
                matrix(format!("{layer}.attn.{part}_proj.weight"), hidden, hidden, 1.5);
            }
        } else {
            matrix(format!("{layer}.attn.Wqkv.weight"), 3 * hidden, hidden, 1.5);
        }
        matrix(format!("{layer}.attn.Wo.weight"), hidden, hidden, branch);
        matrix(format!("{layer}.mlp.Wi.weight"), 2 * intermediate, hidden, 1.5);
        matrix(format!("{layer}.mlp.Wo.weight"), hidden, intermediate, branch);
    }
    let head = if decoder { "lm_head" } else { "head" };
    matrix(format!("{head}.dense.weight"), hidden, hidden, 1.5);
    let mut norms = vec!["model.embeddings.norm".into(), "model.final_norm".into(), format!("{head}.norm")];
    norms.extend((1..LAYERS).map(|layer| format!("model.layers.{layer}.attn_norm")));
    norms.extend((0..LAYERS).map(|layer| format!("model.layers.{layer}.mlp_norm")));
    for norm in norms {
        let around_one = (normal(&mut seed, &[hidden], 0.25).affine(1.0, 1.0)).unwrap();
        tensors.insert(format!("{norm}.weight"), around_one);
    }
    tensors.insert("decoder.bias".into(), normal(&mut seed, &[50368], 0.0));
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    ModelFiles::folder(folder).unwrap()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit - most) - sum.ln()).collect()
}

fn best(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best })
}

fn answers(pair: &Pair, scheme: Scheme, kv: KvFormat) -> Answers {
    let isa = Isa::select().unwrap();
    let backend = Backend::fused(isa, scheme, Team::global()).with_kv(kv).unwrap();
    let encoder = LanguageModel::load(&pair.encoder, &backend).unwrap();
    let decoder = LanguageModel::load(&pair.decoder, &backend).unwrap();
    let (mut vectors, mut masked, mut next, mut nll, mut count) = (Vec::new(), Vec::new(), Vec::new(), 0.0, 0);
    for ids in &pair.documents {
        let batch = PackedBatch::new(std::slice::from_ref(ids)).unwrap();
        let states = encoder.trunk().forward(&batch).unwrap().to_tensor().unwrap().to_vec2::<f32>().unwrap();
        let mean = |column: usize| states.iter().map(|row| f64::from(row[column])).sum::<f64>() / states.len() as f64;
        vectors.push((0..states[0].len()).map(mean).collect());
        let rows: Vec<usize> = (0..ids.len() - 1).collect();
        let logits = decoder.logits(&batch, &rows).unwrap().to_vec2::<f32>().unwrap();
        for (logits, &next) in logits.iter().zip(&ids[1..]) {
            nll -= log_softmax(logits)[next as usize];
        }
        count += rows.len();
        next.extend(logits);
        let hidden = (0..ids.len()).map(|i| if i % 8 == 4 { pair.mask } else { ids[i] }).collect::<Vec<_>>();
        let batch = PackedBatch::new(&[hidden]).unwrap();
        masked.extend(encoder.logits(&batch, &rows).unwrap().to_vec2::<f32>().unwrap());
    }
    Answers { vectors, masked, next, nll: nll / count as f64 }
}

fn least_cosine(want: &[Vec<f64>], got: &[Vec<f64>]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = |(a, b): (&Vec<f64>, &Vec<f64>)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    want.iter().zip(got).map(cosine).fold(1.0, f64::min)
}

/// The share of rows whose best token is the same, and the mean divergence.
fn agreement(want: &[Vec<f32>], got: &[Vec<f32>]) -> (f64, f64) {
    let (mut same, mut kl) = (0, 0.0);
    for (want, got) in want.iter().zip(got) {
        same += usize::from(best(want) == best(got));
        let (p, q) = (log_softmax(want), log_softmax(got));
        kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    }
    (same as f64 / want.len() as f64, kl / want.len() as f64)
}

/// Prints the table and fails where it is worse than the bounds.
fn check(pair: &Pair, bounds: &[Bound]) {
    let want = answers(pair, Scheme::F32, KvFormat::F32);
    println!("| format | keys and values | cosine | masked: same best | KL | next: same best | KL | perplexity |");
    println!("|---|---|---|---|---|---|---|---|");
    println!("| f32 | f32 | 1 | 1 | 0 | 1 | 0 | {:.3} |", want.nll.exp());
    let mut failures = Vec::new();
    for bound in bounds {
        let Bound { scheme, kv, .. } = *bound;
        let got = answers(pair, scheme, kv);
        let cosine = least_cosine(&want.vectors, &got.vectors);
        let (masked, next) = (agreement(&want.masked, &got.masked), agreement(&want.next, &got.next));
        let growth = (got.nll - want.nll).exp() - 1.0;
        let row = format!(
            "| {scheme} | {kv} | {cosine:.6} | {:.4} | {:.1e} | {:.4} | {:.1e} | {:.3} ({:+.3} %) |",
            masked.0,
            masked.1,
            next.0,
            next.1,
            got.nll.exp(),
            100.0 * growth
        );
        println!("{row}");
        let same = masked.0.min(next.0) >= bound.top1;
        let near = masked.1.max(next.1) <= bound.kl;
        if !(cosine >= bound.cosine && same && near && growth.abs() <= bound.perplexity) {
            failures.push(row);
        }
    }
    assert!(failures.is_empty(), "worse than the bounds: {failures:#?}");
}

#[test]
fn number_formats_cost_no_more_than_documented() {
    let (encoder, decoder) = (common::model("nano-encoder"), common::model("nano-decoder"));
    let documents = documents(&decoder, 48, 128);
    check(&Pair { encoder, decoder, mask: 4, documents }, &BOUNDS);
}

#[test]
fn number_formats_cost_no_more_than_documented_with_random_weights() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (encoder, decoder) = (random_17m(false, folders[0].path()), random_17m(true, folders[1].path()));
    let documents = documents(&common::model("tokenizer"), 4, 64);
    check(&Pair { encoder, decoder, mask: 50284, documents }, &RANDOM_BOUNDS);
}
