//! Steps over a key-value cache: a ring or all positions, one row or many at a time.

use candle_core::{DType, Tensor};
use ettin_gpu::{AttentionShape, Cache, Kernels, Segment};
use ettin_kernels::Span;

use crate::{
    Check,
    attention::attend_packed,
    data::{close, tensor, tolerance, values},
};

pub fn stepwise(kernels: &Kernels, dtype: DType) -> Check {
    let decoder = |left| Span { left, right: Some(0) };
    for (span, steps) in [
        // Steps up to 8 rows split the keys among blocks, longer ones are cut into tiles. The second split begins at
        // 256.
        (decoder(None), vec![250, 3, 1, 1, 1, 1, 1, 9, 8, 40]),
        (decoder(Some(3)), vec![1, 1, 1, 1, 1, 1, 1, 7, 9, 8, 1, 10, 1, 1]),
        (decoder(Some(63)), vec![60, 1, 1, 1, 1, 1, 8, 70, 1, 65, 1]),
        // Visible keys on both sides of position 256.
        (decoder(Some(20)), vec![250, 1, 8, 1, 1, 12, 1]),
    ] {
        let heads = if span.left.is_none() { 1 } else { 2 };
        one(kernels, dtype, AttentionShape { heads, head_dim: 64, span }, &steps)?;
    }
    one(kernels, dtype, AttentionShape { heads: 1, head_dim: 128, span: decoder(Some(3)) }, &[5, 1, 2, 17, 1])?;
    one(kernels, dtype, AttentionShape { heads: 2, head_dim: 16, span: decoder(None) }, &[5, 1, 20, 1])
}

/// One sequence computed in steps must be the sequence computed at once.
pub fn one(kernels: &Kernels, dtype: DType, shape: AttentionShape, steps: &[usize]) -> Check {
    let size = shape.heads * shape.head_dim;
    let total: usize = steps.iter().sum();
    let longest = steps.iter().max().copied().unwrap_or(0);
    let all = tensor(kernels.device(), 8, (total, 3 * size), 1.7, dtype);
    let expected = attend_packed(&values(&all), &[total], shape);
    let ring = shape.span.left.is_some();
    let capacity = shape.span.left.map_or(total, |left| left + 1 + longest);
    // What is not yet written must not matter.
    let kv = Tensor::full(f32::NAN, (capacity, 2 * size), kernels.device()).unwrap().to_dtype(dtype).unwrap();
    let mut start = 0;
    for &rows in steps {
        let problem = |error: candle_core::Error| error.to_string();
        // Rows of another sequence stand before those of this one, and must stay as they are.
        let others = tensor(kernels.device(), 9, (2, 3 * size), 1.0, dtype);
        let qkv = Tensor::cat(&[&others, &all.narrow(0, start, rows).unwrap()], 0).unwrap();
        let out = tensor(kernels.device(), 10, (2 + rows, size), 1.0, dtype);
        let before = values(&out.narrow(0, 0, 2).unwrap());
        let segment = Segment { row: 2, rows, start, base: 0 };
        let cache = Cache { kv: &kv, ring };
        kernels.append(cache, &qkv, segment).map_err(problem)?;
        let tiles = || kernels.tiles(dtype, shape.head_dim, &[segment]).map_err(problem);
        let tiles = if Kernels::splits_keys(rows) { None } else { Some(tiles()?) };
        kernels.attention_over_cache(&out, &qkv, segment, tiles.as_ref(), cache, shape).map_err(problem)?;
        let what = format!("{shape:?}: {rows} rows from {start} on");
        close(&format!("{what}, others"), &out.narrow(0, 0, 2).unwrap(), &before, 0.0)?;
        let rows = &expected[start * size..(start + rows) * size];
        close(&what, &out.narrow(0, 2, rows.len() / size).unwrap(), rows, tolerance(dtype))?;
        start += rows.len() / size;
    }
    Ok(())
}
