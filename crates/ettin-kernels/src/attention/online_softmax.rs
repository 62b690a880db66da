//! Helpers of the online softmax that all kernels of attention share.
//!
//! A query keeps the largest score so far (its running maximum *m*), the sum of its weights (row sum *l*) and the
//! weighted sum of values. A weight is 2^(score − m). When a block of keys raises m, both sums are multiplied by the
//! rescale factor α = 2^(old m − new m).

use std::ops::Range;

use super::format::KEY_BLOCK;
use crate::simd::{Lanes, vector};

/// The columns of the block at `base` that hold `keys`.
#[inline(always)]
pub(super) fn in_block(keys: &Range<usize>, base: usize) -> Range<usize> {
    keys.start.saturating_sub(base).min(KEY_BLOCK)..keys.end.saturating_sub(base).min(KEY_BLOCK)
}

/// The number to subtract from scores: their maximum, or 0 where all are −∞. Subtracting −∞ would give NaN.
#[inline(always)]
pub(super) fn finite<S: Lanes>(s: S, max: S::V) -> S::V {
    s.where_less(max, s.splat(f32::MIN), s.zero(), max)
}

/// A weight times the scale of its value, 0 where the score is −∞ whatever the scale is.
#[inline(always)]
pub(super) fn scaled<S: Lanes>(s: S, weight: S::V, scale: S::V, score: S::V) -> S::V {
    s.where_less(score, s.splat(f32::MIN), s.zero(), s.mul(weight, scale))
}

/// Numbers of the columns of a block.
pub(super) const COLUMNS: [f32; KEY_BLOCK] = {
    let mut columns = [0.0; KEY_BLOCK];
    let mut i = 0;
    while i < KEY_BLOCK {
        columns[i] = i as f32;
        i += 1;
    }
    columns
};

/// Scores of half a block, the sixteen columns from `half` on, with −∞ in place of those that are not in `seen`.
#[inline(always)]
pub(super) fn hide_columns<S: Lanes>(s: S, scores: S::V, half: usize, seen: &Range<usize>) -> S::V {
    let columns = s.load(vector(&COLUMNS, half));
    let hidden = s.splat(f32::NEG_INFINITY);
    let before_end = s.where_less(columns, s.splat(seen.end as f32), scores, hidden);
    s.where_less(columns, s.splat(seen.start as f32), hidden, before_end)
}
