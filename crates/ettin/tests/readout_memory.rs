//! Readouts over the vocabulary hold no more memory than a bounded part of the scores.
//!
//! A binary of its own, with one test: the peak is that of the process.
#![cfg(target_os = "linux")]

use ettin::{
    Backend, Config, Isa, PackedBatch, Parameters, Pooling, Scheme, Team,
    heads::LanguageModel,
    readout::{LogProbs, Pooled, Rows, Splade, Tokens, TopK},
    weights::Head,
};

const TOKENS: usize = 4096;
const SEQUENCES: usize = 4;

/// What a readout may hold beside the trunk's own memory.
const ALLOWED: usize = 64 << 20;

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// The most that is resident while `run` runs.
fn peak<T>(run: impl FnOnce() -> ettin::Result<T>) -> usize {
    // 5 resets the peak to what is resident now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    run().unwrap();
    status("VmHWM")
}

#[test]
fn readouts_of_4096_tokens_take_64_mib_at_most() {
    // The 150m model with two layers instead of 22.
    let config = serde_json::json!({
        "model_type": "modernbert", "vocab_size": 50_368, "hidden_size": 768, "num_attention_heads": 12,
        "intermediate_size": 1152, "num_hidden_layers": 2,
    });
    let config = Config::from_json(config.to_string().as_bytes(), "config.json").unwrap();
    let parameters = Parameters::random(&config, Head::Language, 1);
    let backend = Backend::fused(Isa::select().unwrap(), Scheme::Bf16, Team::global());
    let model = LanguageModel::build(parameters, &config, &backend).unwrap();
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7919 % 50_000).collect();
    let sequences: Vec<&[u32]> = ids.chunks(TOKENS / SEQUENCES).collect();
    let batch = PackedBatch::new(&sequences).unwrap();
    let rows: Vec<usize> = (0..TOKENS).collect();
    let targets: Vec<(usize, u32)> = rows.iter().copied().zip(ids.iter().copied()).collect();

    model.trunk().forward(&batch).unwrap();
    let trunk = peak(|| model.trunk().forward(&batch));
    let trunk_read = [
        ("tokens", peak(|| model.trunk().read(&batch, &Tokens))),
        ("rows", peak(|| model.trunk().read(&batch, &Rows(&rows)))),
        ("pooled", peak(|| model.trunk().read(&batch, &Pooled { pooling: Pooling::Mean, skip: None }))),
        ("top-k", peak(|| model.read(&batch, &TopK { rows: &rows, k: 10 }))),
        ("log-probabilities", peak(|| model.read(&batch, &LogProbs { targets: &targets }))),
        ("SPLADE", peak(|| model.read(&batch, &Splade))),
    ];
    for (name, peak) in trunk_read {
        let above = peak.saturating_sub(trunk);
        println!("{name}: {} MiB above the trunk's {} MiB", above >> 20, trunk >> 20);
        assert!(above <= ALLOWED, "{name}: {above} bytes above the trunk");
    }
}
