//! What the model's integration tests share: fixtures made by transformers, and how results are compared.
#![allow(dead_code)] // every test binary uses a part of it

pub mod random;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ettin::{Backend, Dtype, PackedBatch, Trunk, files::ModelFiles};

/// max|Δ| / max|reference| that f32 results may show: the project's numerical contract.
pub const F32: f64 = 1e-4;

/// A path below the repository's root.
pub fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Copies a folder with the folders in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A model of `models/`.
pub fn model(name: &str) -> ModelFiles {
    ModelFiles::folder(root("models").join(name)).unwrap()
}

/// The backend under test: that of the environment (`ETTIN_ISA`, `ETTIN_REFERENCE`).
pub fn backend() -> Backend {
    let backend = Backend::cpu().unwrap();
    println!("backend: {}", backend.describe());
    backend
}

/// The number formats that the CPU computes in.
pub fn dtypes() -> Vec<Dtype> {
    let computed = |dtype: &Dtype| *dtype != Dtype::Auto && Backend::new(&Device::Cpu, *dtype).is_ok();
    let dtypes: Vec<Dtype> = Dtype::ALL.into_iter().map(|(dtype, _)| dtype).filter(computed).collect();
    assert!(dtypes.contains(&Dtype::F32));
    dtypes
}

/// What transformers computed for a model of `models/`.
pub struct Fixture {
    tensors: std::collections::HashMap<String, Tensor>,
}

impl Fixture {
    pub fn load(name: &str) -> Self {
        let path = root("tests/fixtures").join(format!("{name}.safetensors"));
        Self { tensors: candle_core::safetensors::load(path, &Device::Cpu).unwrap() }
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    /// Token ids of every sequence.
    pub fn sequences(&self) -> Vec<Vec<u32>> {
        let count = (0..).take_while(|index| self.tensors.contains_key(&format!("ids.{index}")));
        count
            .map(|index| {
                let ids = self.get(&format!("ids.{index}")).to_dtype(DType::U32).unwrap();
                ids.flatten_all().unwrap().to_vec1().unwrap()
            })
            .collect()
    }
}

/// All values of a tensor.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// max|Δ| / max|reference|; infinite where anything is not a number.
pub fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    let largest = reference.iter().fold(0f64, |max, &x| max.max(f64::from(x).abs()));
    let error = ours.iter().zip(reference).fold(0f64, |max, (&a, &b)| {
        let delta = (f64::from(a) - f64::from(b)).abs();
        if delta.is_nan() { f64::INFINITY } else { max.max(delta) }
    });
    if error == 0.0 { 0.0 } else { error / largest }
}

/// Fails unless max|Δ| / max|reference| is within `tolerance`.
#[track_caller]
pub fn assert_close(what: &str, ours: &[f32], reference: &[f32], tolerance: f64) {
    assert_eq!(ours.len(), reference.len(), "{what}: sizes differ");
    let error = relative_error(ours, reference);
    assert!(error <= tolerance, "{what}: max|Δ| / max|reference| is {error:.2e}, allowed {tolerance:.0e}");
}

/// Fails unless all bits agree.
#[track_caller]
pub fn assert_same(what: &str, ours: &[f32], other: &[f32]) {
    assert_eq!(ours.len(), other.len(), "{what}: sizes differ");
    let first = ours.iter().zip(other).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(index) = first {
        panic!("{what}: value {index} is {} here and {} there", ours[index], other[index]);
    }
}

/// Rows of one sequence of a batch out of `[tokens, size]`.
pub fn rows(tensor: &Tensor, batch: &PackedBatch, sequence: usize) -> Vec<f32> {
    let rows = batch.rows(sequence);
    values(&tensor.narrow(0, rows.start, rows.len()).unwrap())
}

/// Final hidden states as values.
pub fn forward(trunk: &Trunk, batch: &PackedBatch) -> Tensor {
    trunk.forward(batch).unwrap().to_tensor().unwrap()
}
