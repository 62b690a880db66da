//! Attention over packed batches.

use candle_core::{DType, Tensor};
use ettin_gpu::{AttentionShape, Kernels, Segment};
use ettin_kernels::Span;

use crate::{
    Check,
    data::{close, tensor, tolerance, values},
};

/// Every kind of span: both ends bounded or not, windows of an encoder and of a decoder, and some too small to hide an
/// error of one key in many.
pub const SPANS: [Span; 9] = [
    Span::FULL,
    Span::CAUSAL,
    Span { left: Some(64), right: Some(64) },
    Span { left: Some(63), right: Some(0) },
    Span { left: Some(2), right: Some(3) },
    Span { left: Some(3), right: Some(0) },
    Span { left: Some(0), right: Some(0) },
    Span { left: None, right: Some(2) },
    Span { left: Some(1), right: None },
];

/// Attention of one query: `q` of one head, keys and values by position.
pub fn attend(q: &[f64], keys: &[&[f64]], values: &[&[f64]], position: usize, span: Span) -> Vec<f64> {
    let seen: Vec<usize> = (0..keys.len()).filter(|&key| span.contains(position, key)).collect();
    let scale = 1.0 / (q.len() as f64).sqrt();
    let score = |key: &usize| q.iter().zip(keys[*key]).map(|(a, b)| a * b).sum::<f64>() * scale;
    let scores: Vec<f64> = seen.iter().map(score).collect();
    let top = scores.iter().fold(f64::MIN, |most, &score| most.max(score));
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..q.len())
        .map(|d| seen.iter().zip(&weights).map(|(&key, weight)| weight * values[key][d]).sum::<f64>() / total)
        .collect()
}

/// The same of whole sequences end to end, `[rows, q | k | v]`.
pub fn attend_packed(qkv: &[f64], lengths: &[usize], shape: AttentionShape) -> Vec<f64> {
    let AttentionShape { heads, head_dim, span } = shape;
    let size = heads * head_dim;
    let mut out = Vec::new();
    let mut rows = qkv.chunks(3 * size);
    for &len in lengths {
        let rows: Vec<&[f64]> = rows.by_ref().take(len).collect();
        for (position, row) in rows.iter().enumerate() {
            for head in 0..heads {
                let part = |row: &'_ [f64], which: usize| -> std::ops::Range<usize> {
                    debug_assert_eq!(row.len(), 3 * size);
                    which * size + head * head_dim..which * size + (head + 1) * head_dim
                };
                let keys: Vec<&[f64]> = rows.iter().map(|row| &row[part(row, 1)]).collect();
                let values: Vec<&[f64]> = rows.iter().map(|row| &row[part(row, 2)]).collect();
                out.extend(attend(&row[part(row, 0)], &keys, &values, position, span));
            }
        }
    }
    out
}

/// Lengths around the edges of a window, of tiles (16, 32, 64) and of key blocks (32, 64), in ragged batches.
fn batches(span: Span) -> Vec<Vec<usize>> {
    match span.left.into_iter().chain(span.right).max() {
        Some(window @ 60..) => vec![vec![window, 1, 2 * window + 3], vec![window - 1, window + 1]],
        _ => vec![vec![1, 31, 32, 33], vec![2, 65, 3], vec![64]],
    }
}

pub fn packed(kernels: &Kernels, dtype: DType) -> Check {
    for span in SPANS {
        for (heads, head_dim) in [(2, 64), (1, 16), (1, 128)] {
            // Other widths only select what memory is read, which no span changes.
            if head_dim != 64 && span.left.is_some_and(|left| left > 3) {
                continue;
            }
            for lengths in batches(span) {
                let shape = AttentionShape { heads, head_dim, span };
                one(kernels, dtype, &lengths, shape)?;
            }
        }
    }
    Ok(())
}

/// One batch.
pub fn one(kernels: &Kernels, dtype: DType, lengths: &[usize], shape: AttentionShape) -> Check {
    let rows: usize = lengths.iter().sum();
    let qkv: Tensor = tensor(kernels.device(), 7, (rows, 3 * shape.heads * shape.head_dim), 1.7, dtype);
    let mut row = 0;
    let segments: Vec<Segment> = lengths
        .iter()
        .map(|&rows| {
            row += rows;
            Segment { row: row - rows, rows, start: 0, base: row - rows }
        })
        .collect();
    let tiles = kernels.tiles(dtype, shape.head_dim, &segments).map_err(|error| error.to_string())?;
    let out = kernels.attention(&qkv, &tiles, shape).map_err(|error| error.to_string())?;
    let expected = attend_packed(&values(&qkv), lengths, shape);
    close(&format!("{lengths:?} {shape:?}"), &out, &expected, tolerance(dtype))
}
