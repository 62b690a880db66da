//! Pooling: the rows of a sequence into one.

use std::ops::Range;

use crate::{
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, Team},
};

/// How rows become one; element by element, in the order of the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// Their sum with the weights `first`, `first + 1`, …
    Ramp {
        /// Of the first row.
        first: usize,
    },
    /// The largest; NaN where one of them is not finite.
    Max,
}

/// Some rows, and how they are reduced to one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pooled {
    /// At least one.
    pub rows: Range<usize>,
    /// How they are brought together.
    pub reduce: Reduce,
    /// The divisor of the result.
    pub divisor: f32,
}

/// Columns of a task: wide enough for whole cache lines of every row, few enough that one long sequence is shared.
const COLUMNS: usize = 8 * LANES;

/// Row i of `out` `[parts, size]` from the rows of `x` `[rows, size]` that `parts[i]` names.
///
/// # Panics
/// If the lengths do not fit together, or a part has no rows or rows that `x` has not.
pub fn pool(isa: Isa, team: &Team, x: &[f32], size: usize, parts: &[Pooled], out: &mut [f32]) {
    assert_eq!(out.len(), parts.len() * size, "out is not [{}, {size}]", parts.len());
    for Pooled { rows, .. } in parts {
        assert!(!rows.is_empty() && rows.end * size <= x.len(), "rows {rows:?} are not in x");
    }
    let strips = size.div_ceil(COLUMNS);
    let elements = parts.iter().map(|part| part.rows.len() * size).sum();
    let out = Shared::new(out);
    team.run(parts.len() * strips, elements, |task| {
        let (index, first) = (task / strips, task % strips * COLUMNS);
        let columns = first..(first + COLUMNS).min(size);
        // SAFETY: every task has columns of a row of its own.
        let out = unsafe { out.slice(index * size + columns.start..index * size + columns.end) };
        isa.run(PoolStrip { x, size, part: &parts[index], columns, out });
    });
}

struct PoolStrip<'a> {
    x: &'a [f32],
    size: usize,
    part: &'a Pooled,
    columns: Range<usize>,
    /// `[columns]`
    out: &'a mut [f32],
}

impl Kernel for PoolStrip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PoolStrip { x, size, part: Pooled { rows, reduce, divisor }, columns, out } = self;
        let mut sums = [s.splat(if *reduce == Reduce::Max { f32::NEG_INFINITY } else { 0.0 }); COLUMNS / LANES];
        // NaN where anything was not finite, else 0: the largest of NaN and a number is the number.
        let mut broken = [s.zero(); COLUMNS / LANES];
        for (i, row) in rows.clone().enumerate() {
            let row = &x[row * size + columns.start..row * size + columns.end];
            let weight = match reduce {
                Reduce::Ramp { first } => (first + i) as f32,
                Reduce::Sum | Reduce::Max => 1.0,
            };
            for ((sum, broken), x) in sums.iter_mut().zip(&mut broken).zip(row.chunks(LANES)) {
                let x = s.load_part(x);
                if *reduce == Reduce::Max {
                    *sum = s.max(x, *sum);
                    *broken = s.mul_add(x, s.zero(), *broken);
                } else {
                    *sum = s.mul_add(x, s.splat(weight), *sum);
                }
            }
        }
        for ((sum, broken), out) in sums.iter().zip(&broken).zip(out.chunks_mut(LANES)) {
            let sum = s.where_less(*broken, s.splat(1.0), *sum, *broken);
            s.store_part(s.div(sum, s.splat(*divisor)), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_isa;

    #[test]
    fn a_largest_that_is_beside_nan_is_nan() {
        each_isa(|isa| {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for row in 0..3 {
                    let mut x = [1.0, -0.0, 2.0, -3.0, 5.0, -4.0];
                    x[2 * row] = value;
                    let mut out = [0.0; 2];
                    let part = Pooled { rows: 0..3, reduce: Reduce::Max, divisor: 1.0 };
                    pool(isa, &Team::single(), &x, 2, &[part], &mut out);
                    assert!(out[0].is_nan() && out[1].to_bits() == (-0.0f32).to_bits(), "{isa}, {value}: {out:?}");
                }
            }
        });
    }

    #[test]
    fn every_reduction_by_hand() {
        // Whole numbers: sums are exact, so that every instruction set gives these.
        let size = 2 * COLUMNS + 21;
        let x: Vec<f32> = (0..6 * size).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        let at = |row: usize, column: usize| x[row * size + column];
        let parts = [
            Pooled { rows: 0..3, reduce: Reduce::Sum, divisor: 4.0 },
            Pooled { rows: 2..6, reduce: Reduce::Ramp { first: 3 }, divisor: 2.0 },
            Pooled { rows: 1..4, reduce: Reduce::Max, divisor: 1.0 },
            Pooled { rows: 5..6, reduce: Reduce::Sum, divisor: 1.0 },
        ];
        each_isa(|isa| {
            for team in [Team::single(), Team::with_threads(3).unwrap()] {
                let mut out = vec![f32::NAN; parts.len() * size];
                pool(isa, &team, &x, size, &parts, &mut out);
                for c in 0..size {
                    let want = [
                        (at(0, c) + at(1, c) + at(2, c)) / 4.0,
                        (3.0 * at(2, c) + 4.0 * at(3, c) + 5.0 * at(4, c) + 6.0 * at(5, c)) / 2.0,
                        at(1, c).max(at(2, c)).max(at(3, c)),
                        at(5, c),
                    ];
                    for (part, want) in want.into_iter().enumerate() {
                        assert_eq!(out[part * size + c], want, "{isa}: part {part}, column {c}");
                    }
                }
            }
        });
    }
}
