//! Kernels that compute each row alone.

use candle_core::{DType, Tensor};
use ettin_gpu::{AttentionShape, Cache, Kernels, Norm, Segment};
use ettin_kernels::{Activation, Pooled, Reduce, RopeTable, Span};

use crate::{
    Check,
    data::{close, numbers, tensor, tolerance, values},
};

fn vector(kernels: &Kernels, seed: u64, size: usize) -> Tensor {
    tensor(kernels.device(), seed, (1, size), 2.0, DType::F32).flatten_all().unwrap()
}

fn normed(x: &[f64], weight: &[f64], bias: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let size = weight.len();
    let row = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / size as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / size as f64;
        let value = |(index, x): (usize, &f64)| {
            (x - mean) / (variance + eps).sqrt() * weight[index] + bias.map_or(0.0, |bias| bias[index])
        };
        row.iter().enumerate().map(value).collect::<Vec<f64>>()
    };
    x.chunks(size).flat_map(row).collect()
}

pub fn norms(kernels: &Kernels, dtype: DType) -> Check {
    for (size, offset) in [(2, 0.0), (33, 0.0), (128, 50.0), (256, 0.0), (1792, 3.0)] {
        let x = (tensor(kernels.device(), 1, (3, size), 4.0, DType::F32) + offset).unwrap();
        let delta = tensor(kernels.device(), 2, (3, size), 4.0, dtype);
        let (weight, bias) = (vector(kernels, 3, size), vector(kernels, 4, size));
        for bias in [None, Some(&bias)] {
            // Large enough to be seen.
            let norm = Norm { weight: &weight, bias, eps: 1e-3 };
            let what = format!("size {size}, bias {}", bias.is_some());
            let (weights, biases) = (values(&weight), bias.map(values));
            let expected = normed(&values(&x), &weights, biases.as_deref(), 1e-3);
            let slack = tolerance(dtype) * if offset > 0.0 { 4.0 } else { 1.0 };
            close(&format!("norm, {what}"), &kernels.norm(&x, norm, dtype).unwrap(), &expected, slack)?;

            let (sum, out) = kernels.add_norm(&x, &delta, norm).map_err(|error| error.to_string())?;
            let sums: Vec<f64> = values(&x).iter().zip(values(&delta)).map(|(a, b)| a + b).collect();
            close(&format!("sum, {what}"), &sum, &sums, tolerance(DType::F32))?;
            let expected = normed(&sums, &weights, biases.as_deref(), 1e-3);
            close(&format!("norm of the sum, {what}"), &out, &expected, slack)?;
        }
    }
    Ok(())
}

pub fn pooling(kernels: &Kernels, dtype: DType) -> Check {
    for size in [1, 31, 64, 100] {
        let x = tensor(kernels.device(), 11, (20, size), 3.0, DType::F32);
        let given = values(&x);
        let runs = [(0..1, 1.0), (1..7, 6.0), (3..20, 2.5), (19..20, 1.0), (8..12, 4.0)];
        for reduce in [Reduce::Sum, Reduce::Ramp { first: 3 }, Reduce::Max] {
            let runs = runs.clone().map(|(rows, divisor)| Pooled { rows, reduce, divisor });
            let column = |run: &Pooled, column: usize| {
                let of = |row: usize| given[row * size + column];
                let rows = run.rows.clone();
                let all = match run.reduce {
                    Reduce::Sum => rows.map(of).sum::<f64>(),
                    Reduce::Ramp { first } => rows.enumerate().map(|(i, row)| (first + i) as f64 * of(row)).sum(),
                    Reduce::Max => rows.map(of).fold(f64::MIN, f64::max),
                };
                all / f64::from(run.divisor)
            };
            let expected: Vec<f64> =
                runs.iter().flat_map(|run| (0..size).map(|index| column(run, index)).collect::<Vec<_>>()).collect();
            let out = kernels.pool(&x, &runs, dtype).map_err(|error| error.to_string())?;
            close(&format!("{reduce:?} of {size}"), &out, &expected, tolerance(dtype))?;
        }
    }
    Ok(())
}

pub fn rotations(kernels: &Kernels, dtype: DType) -> Check {
    for (heads, head_dim) in [(2, 16), (3, 64), (1, 128)] {
        let half = head_dim / 2;
        let table = RopeTable::new(10_000.0, head_dim, 40);
        let (cos, sin): (Vec<&[f32]>, Vec<&[f32]>) = (0..40).map(|position| table.angles(position)).unzip();
        let on_device = |parts: Vec<&[f32]>| Tensor::from_vec(parts.concat(), (40, half), kernels.device()).unwrap();
        let positions = [0u32, 1, 39, 7, 0];
        let size = heads * head_dim;
        let qkv = tensor(kernels.device(), 5, (positions.len(), 3 * size), 1.0, dtype);
        let mut expected = values(&qkv);
        for (row, &position) in expected.chunks_mut(3 * size).zip(&positions) {
            for head in row[..2 * size].chunks_mut(head_dim) {
                for i in 0..half {
                    let (a, b) = (head[i], head[half + i]);
                    let (cos, sin) = table.angles(position as usize);
                    let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
                    (head[i], head[half + i]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
        let positions = Tensor::new(&positions, kernels.device()).unwrap();
        kernels.rope(&qkv, &positions, &on_device(cos), &on_device(sin), heads).map_err(|error| error.to_string())?;
        close(&format!("{heads} heads of {head_dim}"), &qkv, &expected, tolerance(dtype))?;
    }
    Ok(())
}

/// erf by its series and its continued fraction.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..100 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..80).rev().fold(0.0, |rest, n| f64::from(n) / 2.0 / (a + rest));
        1.0 - (-a * a).exp() / (a + fraction) / std::f64::consts::PI.sqrt()
    };
    value * x.signum()
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

pub fn gated_activations(kernels: &Kernels, dtype: DType) -> Check {
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
        for size in [1, 40, 512, 1300] {
            let x = tensor(kernels.device(), 6, (2, 2 * size), 6.0, dtype);
            let expected: Vec<f64> = values(&x)
                .chunks(2 * size)
                .flat_map(|row| (0..size).map(|i| activated(activation, row[i]) * row[size + i]).collect::<Vec<_>>())
                .collect();
            let out = kernels.geglu(&x, activation).map_err(|error| error.to_string())?;
            // Tighter than the difference between the two forms of GELU, 5e-4 at most of values near 3, in f32.
            close(&format!("{activation:?} of {size}"), &out, &expected, tolerance(dtype) / 2.0)?;
        }
    }
    Ok(())
}

/// Tensors that do not fit together never reach a kernel.
pub fn refusals(kernels: &Kernels, dtype: DType) -> Check {
    let qkv = tensor(kernels.device(), 1, (4, 3 * 32), 1.0, dtype);
    let shape = AttentionShape { heads: 1, head_dim: 32, span: Span::FULL };
    let segment = Segment { row: 0, rows: 4, start: 0, base: 0 };
    let tiles = kernels.tiles(dtype, 32, &[segment]).unwrap();
    let wrong = |what: &str, refused: bool| if refused { Ok(()) } else { Err(format!("{what} was accepted")) };
    wrong("a view", kernels.attention(&qkv.narrow(0, 1, 3).unwrap(), &tiles, shape).is_err())?;
    wrong("a wrong width", kernels.attention(&qkv, &tiles, AttentionShape { heads: 2, ..shape }).is_err())?;
    let full = tensor(kernels.device(), 1, (3, 64), 1.0, dtype);
    wrong("a full cache", kernels.append(Cache { kv: &full, ring: false }, &qkv, segment).is_err())?;
    wrong("a short ring", kernels.append(Cache { kv: &full, ring: true }, &qkv, segment).is_err())?;
    let weight = Tensor::from_vec(numbers(1, 8), 8, kernels.device()).unwrap();
    let norm = Norm { weight: &weight, bias: None, eps: 1e-5 };
    wrong("a short weight", kernels.norm(&tensor(kernels.device(), 1, (2, 9), 1.0, DType::F32), norm, dtype).is_err())?;
    let beyond = [Pooled { rows: 3..5, reduce: Reduce::Sum, divisor: 1.0 }];
    let four = tensor(kernels.device(), 1, (4, 8), 1.0, DType::F32);
    wrong("a run beyond the rows", kernels.pool(&four, &beyond, dtype).is_err())?;
    let integers = Tensor::zeros((2, 8), DType::U8, kernels.device()).unwrap();
    wrong("an integer format", kernels.geglu(&integers, Activation::Gelu).is_err())
}
