//! The online softmax of a softmax block, between the products of tiles.

use std::ops::Range;

use super::{
    super::{
        format::KEY_BLOCK,
        online_softmax::{finite, hide_columns, in_block, scaled},
    },
    FlashTile, SOFTMAX_BLOCK, SoftmaxBlock,
};
use crate::{
    math::exp2_approximate,
    simd::{LANES, Simd, vector, vector_mut},
};

/// Binary orders by which a weight may exceed 1.
pub(super) const SLACK: f32 = 8.0;

impl FlashTile<'_> {
    /// Raises the running maxima of sixteen rows where their scores ask for it, and returns whether any rose.
    #[inline(always)]
    pub(super) fn raise_max<S: Simd>(&mut self, s: S, group: &SoftmaxBlock<'_>, first: usize) -> bool {
        let end = self.queries.len().min(first + LANES);
        self.hide(s, group, first..end);
        let columns = SoftmaxBlock::column(group.blocks.start);
        let mut rows = [s.splat(f32::NEG_INFINITY); LANES];
        for (row, largest) in (first..end).zip(&mut rows) {
            let scores = &self.scores[group.side][row * SOFTMAX_BLOCK + columns..][..group.blocks.len() * KEY_BLOCK];
            for pair in scores.as_chunks::<KEY_BLOCK>().0 {
                // Not if it is NaN.
                *largest = s.max(s.load(vector(pair, 0)), *largest);
                *largest = s.max(s.load(vector(pair, LANES)), *largest);
            }
        }
        let largest = of_rows::<S, false>(s, rows);
        let old = s.load(vector(self.maxima, first));
        let limit = s.add(old, s.splat(SLACK));
        let new = s.where_less(limit, largest, largest, old);
        let correction = s.where_less(limit, largest, exp2_approximate(s, s.sub(old, new)), s.splat(1.0));
        s.store(new, vector_mut(self.maxima, first));
        s.store(correction, vector_mut(self.rescales, first));
        // Those that are not 1 are much less.
        s.sum(correction) != LANES as f32
    }

    /// Scales the scores of keys that are integers, and puts −∞ in place of hidden ones.
    #[inline(always)]
    fn hide<S: Simd>(&mut self, s: S, group: &SoftmaxBlock<'_>, rows: Range<usize>) {
        // Both ends of the keys that a query sees rise with its position.
        let seen_by_all = self.keys(rows.end - 1).start..self.keys(rows.start).end;
        for (i, block) in group.blocks.clone().enumerate() {
            let partial = in_block(&seen_by_all, block * KEY_BLOCK) != (0..KEY_BLOCK);
            if !partial && group.key_scales[i].is_none() {
                continue;
            }
            for row in rows.clone() {
                let columns = in_block(&self.keys(row), block * KEY_BLOCK);
                for half in [0, LANES] {
                    let out =
                        vector_mut(self.scores[group.side], row * SOFTMAX_BLOCK + SoftmaxBlock::column(block) + half);
                    let mut score = s.load(out);
                    if let Some(scales) = group.key_scales[i] {
                        score = s.mul(score, s.load(vector(scales, half)));
                    }
                    s.store(hide_columns(s, score, half, &columns), out);
                }
            }
        }
    }

    /// Multiplies the sums so far by the rescale factors.
    #[inline(always)]
    pub(super) fn rescale<S: Simd>(&mut self, s: S) {
        for row in 0..self.queries.len() {
            if self.rescales[row] != 1.0 {
                let correction = s.splat(self.rescales[row]);
                let total = vector_mut(self.row_sums, row * LANES);
                s.store(s.mul(s.load(total), correction), total);
                for sum in self.sums[row * self.padded..][..self.padded].as_chunks_mut().0 {
                    s.store(s.mul(s.load(sum), correction), sum);
                }
            }
        }
    }

    /// Scores of some rows to weights. There are `N` blocks of keys.
    #[inline(always)]
    pub(super) fn weigh<S: Simd, const N: usize>(&mut self, s: S, group: &SoftmaxBlock<'_>, rows: Range<usize>) {
        let ones = s.splat_word(0x3f80_3f80);
        let first = SoftmaxBlock::column(group.blocks.start);
        let scores = &mut self.scores[group.side].as_chunks_mut::<SOFTMAX_BLOCK>().0[rows.clone()];
        let (row_sums, maxima) = (&mut self.row_sums.as_chunks_mut().0[rows.clone()], &self.maxima[rows.clone()]);
        for row in 0..rows.len() {
            let max = finite(s, s.splat(maxima[row]));
            let mut sum = s.load(&row_sums[row]);
            let scores = &mut scores[row];
            for i in 0..N {
                let column = first + i * KEY_BLOCK;
                let pair = [s.load(vector(scores, column)), s.load(vector(scores, column + LANES))];
                let mut weights = [exp2_approximate(s, s.sub(pair[0], max)), exp2_approximate(s, s.sub(pair[1], max))];
                let pairs = if let Some(scales) = group.value_scales[i] {
                    sum = s.add(s.add(sum, weights[0]), weights[1]);
                    weights[0] = scaled(s, weights[0], s.load(vector(scales, 0)), pair[0]);
                    weights[1] = scaled(s, weights[1], s.load(vector(scales, LANES)), pair[1]);
                    s.round(weights[0], weights[1])
                } else {
                    let pairs = s.round(weights[0], weights[1]);
                    sum = s.dot_bf16(sum, pairs, ones);
                    pairs
                };
                s.store_pairs(pairs, vector_mut(scores, column / 2));
            }
            s.store(sum, &mut row_sums[row]);
        }
    }

    /// Divides and hands out, and returns which results are not finite, in bits.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(&mut self, s: S) -> u32 {
        let mut spoiled = 0;
        for first in (0..self.queries.len()).step_by(LANES) {
            let mut rows = [s.splat(1.0); LANES];
            for (row, total) in rows.iter_mut().zip(self.row_sums[first * LANES..].as_chunks().0) {
                *row = s.load(total);
            }
            let total = of_rows::<S, true>(s, rows);
            let mut inverses = [0.0; LANES];
            s.store(s.where_less(s.zero(), total, s.div(s.splat(1.0), total), total), &mut inverses);
            let mut broken = s.zero();
            let end = self.queries.len().min(first + LANES);
            for (row, &inverse) in (first..end).zip(&inverses) {
                let inverse = s.splat(inverse);
                let sums = &mut self.sums[row * self.padded..][..self.padded];
                for sum in sums.as_chunks_mut().0 {
                    // A sum that is zero has the sign of keys nobody may know of: adding 0 makes it positive.
                    let quotient = s.mul_add(s.load(sum), inverse, s.zero());
                    broken = s.mul_add(quotient, s.zero(), broken);
                    s.store(quotient, sum);
                }
                self.task.put(s, self.queries.start + row, sums);
            }
            // NaN where a result is not finite.
            if s.sum(broken) != 0.0 {
                for row in first..end {
                    let finite = self.sums[row * self.padded..][..self.padded].iter().all(|sum| sum.is_finite());
                    spoiled |= u32::from(!finite) << row;
                }
            }
        }
        spoiled
    }
}

/// The sum of each row, or else its largest, in its lane, in the order of [`Lanes::sum`](crate::simd::Lanes::sum).
#[inline(always)]
fn of_rows<S: Simd, const SUM: bool>(s: S, mut rows: [S::V; LANES]) -> S::V {
    // As in a transposition, but for halves that fold into each other.
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let [lower, upper] = s.zip(rows[i], rows[i + width]);
            rows[i] = if SUM { s.add(lower, upper) } else { s.max(lower, upper) };
        }
        width /= 2;
    }
    rows[0]
}
