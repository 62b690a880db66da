//! Rows of words laid apart.

use crate::simd::{LANES, Lanes};

/// `[count, width]` to `[width, count]`, in blocks of 4 × 4, which the compiler turns into shuffles.
#[inline(always)]
pub(crate) fn interleave(rows: &[u32], count: usize, width: usize, out: &mut [u32]) {
    const B: usize = 4;
    assert!(rows.len() == count * width && out.len() == count * width);
    let whole = (count / B * B, width / B * B);
    for t in (0..whole.1).step_by(B) {
        for r in (0..whole.0).step_by(B) {
            let mut block = [[0; B]; B];
            for (i, block) in block.iter_mut().enumerate() {
                block.copy_from_slice(&rows[(r + i) * width + t..][..B]);
            }
            for i in 0..B {
                let column = [block[0][i], block[1][i], block[2][i], block[3][i]];
                out[(t + i) * count + r..][..B].copy_from_slice(&column);
            }
        }
        for r in whole.0..count {
            for t in t..t + B {
                out[t * count + r] = rows[r * width + t];
            }
        }
    }
    for t in whole.1..width {
        for r in 0..count {
            out[t * count + r] = rows[r * width + t];
        }
    }
}

/// Sixteen rows of sixteen, transposed.
#[inline(always)]
pub(crate) fn transposed<S: Lanes>(s: S, x: &[f32], stride: usize) -> [S::V; LANES] {
    let mut rows = [s.zero(); LANES];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = s.load(x[i * stride..].first_chunk().expect("whole vectors"));
    }
    // Row and lane make a number of eight bits; laying row i and row i + 8 by turns rotates it by one.
    for _ in 0..4 {
        let old = rows;
        for i in 0..LANES / 2 {
            [rows[2 * i], rows[2 * i + 1]] = s.zip(old[i], old[i + LANES / 2]);
        }
    }
    rows
}
