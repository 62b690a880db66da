//! The seam from outside the crate: a backend, a cache, adapters, training and heads of the caller's own, by public
//! items alone.

#[path = "../common/mod.rs"]
mod common;

mod backend;
mod heads;
mod misuse;
mod sources;
mod training;

use candle_core::Device;
use common::values;
use ettin::{Backend, Dtype, PackedBatch, heads::LanguageModel};

fn reference() -> Backend {
    Backend::reference(&Device::Cpu, Dtype::F32).unwrap()
}

/// The fused kernels, whatever the environment says.
fn fused() -> Backend {
    Backend::fused(ettin::Isa::best(), ettin::Scheme::F32, ettin::Team::global())
}

/// Two sequences of ids that every vocabulary of `models/` has.
fn batch() -> PackedBatch {
    let ids = |len: u32, seed: u32| -> Vec<u32> { (0..len).map(|index| 5 + (index * 37 + seed) % 90).collect() };
    PackedBatch::new(&[ids(70, 1), ids(9, 4)]).unwrap()
}

fn all_logits(model: &LanguageModel) -> Vec<f32> {
    let batch = batch();
    values(&model.logits(&batch, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap())
}
