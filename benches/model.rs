//! Times the model on the nano pair, tokenisation excluded: encoder batches, prefill, and one-token steps.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ettin::{Backend, PackedBatch, files::ModelFiles, heads::LanguageModel};

fn load(name: &str) -> LanguageModel {
    let folder = format!("{}/models/{name}", env!("CARGO_MANIFEST_DIR"));
    let files = ModelFiles::folder(folder).expect("the repository holds the nano pair");
    LanguageModel::load(&files, &Backend::cpu().expect("a CPU backend")).expect("a sound model")
}

/// Token ids between the special ones and the end of the nano vocabulary.
fn ids(len: usize) -> Vec<u32> {
    (0..len as u32).map(|index| 5 + index.wrapping_mul(2_654_435_761) % 8_000).collect()
}

fn encoder(c: &mut Criterion) {
    let model = load("nano-encoder");
    let mut group = c.benchmark_group("enc");
    for (count, len) in [(1, 16), (1, 128), (32, 128), (1, 1024)] {
        let batch = PackedBatch::new(&vec![ids(len); count]).expect("sound ids");
        group.throughput(Throughput::Elements(batch.tokens() as u64));
        group.bench_function(format!("{count}x{len}"), |b| {
            b.iter(|| model.trunk().forward(black_box(&batch)).expect("a forward pass"));
        });
    }
    let mixed: Vec<Vec<u32>> = (0..32).map(|index| ids(8 + index * index / 2)).collect();
    let batch = PackedBatch::new(&mixed).expect("sound ids");
    group.throughput(Throughput::Elements(batch.tokens() as u64));
    group.bench_function("mixed lengths", |b| {
        b.iter(|| model.trunk().forward(black_box(&batch)).expect("a forward pass"));
    });
    group.finish();
}

fn decoder(c: &mut Criterion) {
    let model = load("nano-decoder");
    let prompt = ids(512);
    let mut group = c.benchmark_group("dec");
    group.throughput(Throughput::Elements(prompt.len() as u64));
    group.bench_function("pp512", |b| {
        let batch = PackedBatch::new(&[&prompt[..]]).expect("sound ids");
        b.iter(|| {
            let mut cache = model.cache(512).expect("a decoder");
            model.step(black_box(&batch), &mut [&mut cache], &[511]).expect("a prefill")
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("tg at 128", |b| {
        let mut cache = model.cache(128).expect("a decoder");
        let batch = PackedBatch::new(&[&prompt[..128]]).expect("sound ids");
        model.step(&batch, &mut [&mut cache], &[]).expect("a prefill");
        let batch = PackedBatch::continuing(&[[77u32]], &[128]).expect("sound ids");
        b.iter(|| {
            let logits = model.step(black_box(&batch), &mut [&mut cache], &[0]).expect("a step");
            cache.truncate(128).expect("one row back");
            logits
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = encoder, decoder
}
criterion_main!(benches);
