//! What every number format costs, on held-out text with the embedded pair: the table of docs/ACCURACY.md, bounded.
//!
//! `cargo test --release --workspace --features hub --test accuracy -- --nocapture` prints it.

mod common;

use std::fs;

use common::root;
use ettin::{
    Backend, Isa, KvFormat, PackedBatch, Scheme, Team,
    files::ModelFiles,
    heads::LanguageModel,
    tokenizer::{Limit, Tokenizer, Truncate},
};

/// Documents of the held-out sample, and tokens of each.
const DOCUMENTS: usize = 48;
const TOKENS: usize = 128;

/// `[MASK]` of the nano tokenizer.
const MASK: u32 = 4;

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
    bound(Scheme::W8, KvFormat::F32, 0.95, 0.97, 2e-3, 1e-3),
    bound(Scheme::W4, KvFormat::F32, 0.8, 0.75, 0.2, 0.05),
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

fn nano(name: &str, backend: &Backend) -> LanguageModel {
    let files = ModelFiles::folder(root("models").join(format!("nano-{name}"))).unwrap();
    LanguageModel::load(&files, backend).unwrap()
}

fn documents() -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::load(&ModelFiles::folder(root("models/nano-decoder")).unwrap()).unwrap();
    let sample = fs::read_to_string(root("tests/fixtures/valid_sample.jsonl")).unwrap();
    let ids = sample.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let limit = Limit { tokens: usize::MAX, truncate: Truncate::Error };
        let mut ids = tokenizer.encode_within(line["text"].as_str().unwrap(), None, limit).unwrap().ids;
        ids.truncate(TOKENS);
        ids
    });
    ids.filter(|ids| ids.len() >= 16).take(DOCUMENTS).collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit - most) - sum.ln()).collect()
}

fn best(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best })
}

fn answers(documents: &[Vec<u32>], scheme: Scheme, kv: KvFormat) -> Answers {
    let isa = Isa::select().unwrap();
    let backend = Backend::fused(isa, scheme, Team::global()).with_kv(kv).unwrap();
    let (encoder, decoder) = (nano("encoder", &backend), nano("decoder", &backend));
    let (mut vectors, mut masked, mut next, mut nll, mut count) = (Vec::new(), Vec::new(), Vec::new(), 0.0, 0);
    for ids in documents {
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
        let hidden = (0..ids.len()).map(|i| if i % 8 == 4 { MASK } else { ids[i] }).collect::<Vec<_>>();
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

#[test]
fn number_formats_cost_no_more_than_documented() {
    let documents = documents();
    assert_eq!(documents.len(), DOCUMENTS);
    let want = answers(&documents, Scheme::F32, KvFormat::F32);
    println!("| format | keys and values | cosine | masked: same best | KL | next: same best | KL | perplexity |");
    println!("|---|---|---|---|---|---|---|---|");
    println!("| f32 | f32 | 1 | 1 | 0 | 1 | 0 | {:.3} |", want.nll.exp());
    let mut failures = Vec::new();
    for bound in BOUNDS {
        let Bound { scheme, kv, .. } = bound;
        let got = answers(&documents, scheme, kv);
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
