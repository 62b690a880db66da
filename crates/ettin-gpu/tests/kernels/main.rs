//! The kernels' sources, run on the CPU by the emulator, against plain arithmetic in f64: every dialect, format and
//! span, and proof that the checks notice a kernel that is wrong.
//!
//! `ETTIN_TEST_DEVICE=cuda` (or `metal`), in a build with that feature, runs the same checks on the device itself.

mod attention;
mod cache;
mod data;
mod mutations;
mod rows;

use candle_core::{DType, Device};
use ettin_gpu::{
    Kernels,
    emulator::{self, Dialect},
};

/// What a check found wrong.
type Check = Result<(), String>;

const FORMATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs a check on every dialect and format, or on the device that was asked for.
fn everywhere(check: impl Fn(&Kernels, DType) -> Check) {
    let each_format = |name: &str, kernels: &Kernels| {
        for dtype in FORMATS {
            check(kernels, dtype).unwrap_or_else(|wrong| panic!("{name} {dtype:?}: {wrong}"));
        }
    };
    if let Ok(name) = std::env::var("ETTIN_TEST_DEVICE") {
        let device = if name == "metal" { Device::new_metal(0) } else { ettin_gpu::open_cuda(0) };
        let kernels = Kernels::open(&device.unwrap()).unwrap().unwrap();
        return each_format(&name, &kernels);
    }
    for dialect in Dialect::ALL {
        let Some(kernels) = emulator::kernels(dialect, |source| source).unwrap() else {
            eprintln!("skipped: there is no C++ compiler here to run the kernels with");
            return;
        };
        each_format(&format!("{dialect:?}"), &kernels);
    }
}

#[test]
fn norms() {
    everywhere(rows::norms);
}

#[test]
fn pooling() {
    everywhere(rows::pooling);
}

#[test]
fn rotations() {
    everywhere(rows::rotations);
}

#[test]
fn gated_activations() {
    everywhere(rows::gated_activations);
}

#[test]
fn packed_attention() {
    everywhere(attention::packed);
}

#[test]
fn attention_over_caches() {
    everywhere(cache::stepwise);
}

#[test]
fn what_does_not_fit_is_refused() {
    everywhere(rows::refusals);
}
