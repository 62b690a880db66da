//! Inputs, and how results are compared.

use candle_core::{DType, Device, Tensor};

use crate::Check;

/// Numbers between −1 and 1 that depend on the seed only.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    for _ in 0..16 {
        next();
    }
    (0..count).map(|_| next()).collect()
}

/// A tensor of such numbers times `scale`, in `dtype`.
pub fn tensor(device: &Device, seed: u64, shape: (usize, usize), scale: f32, dtype: DType) -> Tensor {
    let values = numbers(seed, shape.0 * shape.1).iter().map(|x| x * scale).collect();
    Tensor::from_vec(values, shape, device).unwrap().to_dtype(dtype).unwrap()
}

/// A tensor's values, widened.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Most error of a result in `dtype`, relative to the largest value: its rounding, with some for the operands' own.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 4e-6,
        DType::F16 => 2e-3,
        _ => 1.2e-2,
    }
}

/// Compares a result with what it should be.
pub fn close(what: &str, ours: &Tensor, expected: &[f64], tolerance: f64) -> Check {
    let ours = values(ours);
    if ours.len() != expected.len() {
        return Err(format!("{what}: {} values, not {}", ours.len(), expected.len()));
    }
    let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    for (index, (a, b)) in ours.iter().zip(expected).enumerate() {
        let error = (a - b).abs() / largest;
        if error > tolerance || error.is_nan() {
            return Err(format!("{what}: value {index} is {a}, not {b} (error {error:.1e}, allowed {tolerance:.0e})"));
        }
    }
    Ok(())
}
