//! The embedded pair on text that it was not trained on: accuracy and perplexity equal the reference's to three digits
//! and beat the best unigram model.

use std::fs;

use ettin::files::ModelFiles;
use ettin::heads::LanguageModel;
use ettin::tokenizer::{Limit, Tokenizer, Truncate};
use ettin::{Backend, PackedBatch};
use serde_json::Value;

fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn nano(name: &str) -> (LanguageModel, Tokenizer) {
    let files = ModelFiles::folder(repository(&format!("models/nano-{name}"))).unwrap();
    (LanguageModel::load(&files, &Backend::cpu().unwrap()).unwrap(), Tokenizer::load(&files).unwrap())
}

/// Documents as ids of `[CLS] text [SEP]`, the first 256, with what the reference says of each.
fn held_out(tokenizer: &Tokenizer) -> (Vec<(Vec<u32>, Value)>, Value) {
    let text = fs::read_to_string(repository("tests/fixtures/pipelines/held_out.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let sample = fs::read_to_string(repository("tests/fixtures/valid_sample.jsonl")).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), sample.lines().count());
    let documents = sample.lines().zip(cases).map(|(line, case)| {
        let line: Value = serde_json::from_str(line).unwrap();
        let limit = Limit::new(usize::MAX, Truncate::Error);
        let mut ids = tokenizer.encode_within(line["text"].as_str().unwrap(), None, limit).unwrap().ids;
        ids.truncate(256);
        assert_eq!(case["tokens"], ids.len());
        (ids, case.clone())
    });
    (documents.collect(), fixture["provenance"]["summary"].clone())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Equal to three digits.
fn assert_three_digits(ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() < 5e-4 * theirs.abs(), "{ours} is not {theirs}");
}

fn log_softmax(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    f64::from(logits[id as usize] - max) - sum.ln()
}

fn best(logits: &[f32]) -> u32 {
    (1..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best }) as u32
}

#[test]
fn masked_accuracy_on_held_out_text() {
    let (model, tokenizer) = nano("encoder");
    let (documents, summary) = held_out(&tokenizer);
    let mask = tokenizer.special().mask.unwrap();
    let (mut right, mut masks, mut entropy) = (0, 0, 0.0);
    for documents in documents.chunks(16) {
        let mut sequences = Vec::new();
        let mut rows = Vec::new();
        let mut wanted = Vec::new();
        let mut start = 0;
        for (ids, case) in documents {
            let mut given = ids.clone();
            for position in case["masked"].as_array().unwrap() {
                let position = position.as_u64().unwrap() as usize;
                wanted.push(ids[position]);
                rows.push(start + position);
                given[position] = mask;
            }
            start += ids.len();
            sequences.push(given);
        }
        let logits = model.logits(&PackedBatch::new(&sequences).unwrap(), &rows).unwrap().to_vec2::<f32>().unwrap();
        for (logits, &id) in logits.iter().zip(&wanted) {
            right += usize::from(best(logits) == id);
            entropy -= log_softmax(logits, id);
        }
        masks += wanted.len();
    }
    assert_eq!(summary["masked"], masks);
    let accuracy = right as f64 / masks as f64;
    assert_three_digits(accuracy, number(&summary["masked_top1"]));
    assert_three_digits(entropy / masks as f64, number(&summary["masked_cross_entropy"]));
    assert!(accuracy > 5.0 * number(&summary["unigram_masked_top1"]));
}

#[test]
fn perplexity_on_held_out_text() {
    let (model, tokenizer) = nano("decoder");
    let (documents, summary) = held_out(&tokenizer);
    let (mut nll, mut predicted) = (0.0, 0);
    for (ids, case) in &documents {
        let rows: Vec<usize> = (0..ids.len() - 1).collect();
        let batch = PackedBatch::new(&[ids]).unwrap();
        let logits = model.logits(&batch, &rows).unwrap().to_vec2::<f32>().unwrap();
        let sum: f64 = logits.iter().zip(&ids[1..]).map(|(logits, &id)| -log_softmax(logits, id)).sum();
        assert_three_digits(sum, number(&case["nll"]));
        nll += sum;
        predicted += rows.len();
    }
    assert_eq!(summary["predicted"], predicted);
    let perplexity = (nll / predicted as f64).exp();
    assert_three_digits(perplexity, number(&summary["perplexity"]));
    assert!(10.0 * perplexity < number(&summary["unigram_perplexity"]));
}
