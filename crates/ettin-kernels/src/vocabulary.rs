//! What is kept of rows of logits: the log-sum-exp, the largest of a row, the largest of each column.
//!
//! A row's result depends on that row alone, and a column's on that column: never on the rows beside it, on where rows
//! are cut into chunks, or on threads.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{
    gemm::{OUTPUT_TILE_WIDTH, OutputTile, PackedActivations, PackedWeight, Product, Sink},
    isa::Isa,
    math::exp,
    simd::{Kernel, LANES, Simd, vector},
    team::{Shared, TASKS_PER_THREAD, Team, share},
};

/// Vectors summed in f32 before the sum goes on in f64, so that a whole vocabulary adds without drift. Part of the
/// numerical definition: changing it changes results.
const SUM_VECTORS: usize = 32;

/// Operations of an element of a log-sum-exp, about: an exponential.
const EXP_WORK: usize = 16;

/// Columns that one task of [`relu_max`] visits: a page of each row, and results that stay in L1.
const COLUMNS: usize = 64 * LANES;

/// ln Σ eˣ of a row; −∞ for an empty one, and NaN for a row of −∞ alone or with a NaN or +∞.
///
/// Exponentials are f32 and relative to the largest element; they are summed in f32 by runs of 512, which are summed in
/// f64. Against f64 throughout, the result is off by at most 2e-7: tested for rows of up to 50,368 elements and for
/// magnitudes up to 200.
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f64 {
    if row.is_empty() { f64::NEG_INFINITY } else { isa.run(LogSumExp { row }) }
}

/// [`log_sum_exp`] of every row of `logits` `[out.len(), size]`.
///
/// # Panics
/// If `logits` is not of that shape.
pub fn log_sum_exps(isa: Isa, team: &Team, logits: &[f32], size: usize, out: &mut [f64]) {
    assert_eq!(logits.len(), out.len() * size, "the logits are not [{}, {size}]", out.len());
    team.run_rows(out, 1, EXP_WORK * logits.len(), |first, out| {
        for (row, out) in (first..).zip(out) {
            *out = log_sum_exp(isa, &logits[row * size..(row + 1) * size]);
        }
    });
}

struct LogSumExp<'a> {
    /// At least one.
    row: &'a [f32],
}

impl Kernel for LogSumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (vectors, tail) = self.row.as_chunks::<LANES>();
        // Lanes past the end are −∞: the largest is not theirs, and e^−∞ is exactly 0.
        let mut end = [f32::NEG_INFINITY; LANES];
        end[..tail.len()].copy_from_slice(tail);
        let end = s.load(&end);
        let mut largest = end;
        for v in vectors {
            largest = s.max(s.load(v), largest);
        }
        let largest = s.largest(largest);
        let shift = s.splat(largest);
        let mut sum = f64::from(s.sum(exp(s, s.sub(end, shift))));
        for block in vectors.chunks(SUM_VECTORS) {
            let mut part = s.zero();
            for v in block {
                part = s.add(part, exp(s, s.sub(s.load(v), shift)));
            }
            sum += f64::from(s.sum(part));
        }
        f64::from(largest) + sum.ln()
    }
}

/// The `k` largest elements of a row with their places, largest first; of equal ones the lower place first.
///
/// The order is that of [`f32::total_cmp`]: −0 is less than 0, and a positive NaN is larger than +∞.
pub fn top_k(row: &[f32], k: usize) -> Vec<(usize, f32)> {
    let k = k.min(row.len());
    if k == 0 {
        return Vec::new();
    }
    // The root is the worst of the best so far.
    let mut best = BinaryHeap::with_capacity(k + 1);
    let mut bar = i32::MIN;
    for (block, values) in row.chunks(LANES).enumerate() {
        // Later elements must be strictly larger once k are held: most blocks end here.
        if best.len() == k && !values.iter().fold(false, |any, &value| any | (order_key(value) > bar)) {
            continue;
        }
        for (i, &value) in values.iter().enumerate() {
            let key = order_key(value);
            if best.len() == k && key <= bar {
                continue;
            }
            best.push(Reverse((key, Reverse(block * LANES + i))));
            if best.len() > k {
                best.pop();
            }
            if best.len() == k {
                bar = best.peek().map_or(bar, |Reverse((key, _))| *key);
            }
        }
    }
    best.into_sorted_vec().into_iter().map(|Reverse((_, Reverse(place)))| (place, row[place])).collect()
}

/// Integers in the order of [`f32::total_cmp`].
fn order_key(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    // Of negative numbers, larger magnitudes come first: every bit but the sign is turned.
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// `out[i] = max(out[i], relu(rows[j][i]))` over all rows `[rows, out.len()]`; NaN from an element on that is NaN or
/// +∞.
///
/// The maximum has no rounding and no order, so rows may come in chunks, one call for each.
///
/// # Panics
/// If `rows` does not hold whole rows.
pub fn relu_max(isa: Isa, team: &Team, rows: &[f32], out: &mut [f32]) {
    let size = out.len();
    if size == 0 {
        return;
    }
    assert!(rows.len().is_multiple_of(size), "{} elements are no rows of {size}", rows.len());
    let mut cuts: Vec<usize> = (0..size).step_by(COLUMNS).collect();
    cuts.push(size);
    team.run_parts(out, 1, &cuts, rows.len(), |part, out| isa.run(ReluMax { rows, size, first: cuts[part], out }));
}

struct ReluMax<'a> {
    /// `[rows, size]`
    rows: &'a [f32],
    size: usize,
    /// The column of the first element of `out`.
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for ReluMax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let columns = self.first..self.first + self.out.len();
        for row in self.rows.chunks_exact(self.size) {
            let (vectors, tail) = row[columns.clone()].as_chunks::<LANES>();
            let (out, out_tail) = self.out.as_chunks_mut::<LANES>();
            for (v, out) in vectors.iter().zip(out) {
                s.store(relu_max_of(s, s.load(v), s.load(out)), out);
            }
            s.store_part(relu_max_of(s, s.load_part(tail), s.load_part(out_tail)), out_tail);
        }
    }
}

/// `out[s][i] = max(out[s][i], relu(x·wᵀ + bias)[j][i])` over the rows `offsets[s]..offsets[s + 1]` of each sequence `s`,
/// into `out` `[sequences, n]`; NaN from an element on that is NaN or +∞.
///
/// The products never reach memory: a tile of them is reduced while it is in L1. The maximum has no rounding and no
/// order, so a sequence's rows may come in chunks, one call for each.
///
/// # Panics
/// If the offsets do not ascend from 0 to the number of rows, or the lengths do not fit together.
pub fn relu_max_products(
    team: &Team,
    x: &PackedActivations,
    w: &PackedWeight,
    bias: Option<&[f32]>,
    offsets: &[usize],
    out: &mut [f32],
) {
    let (rows, n) = (x.view(w), w.n());
    let ends = (offsets.first(), offsets.last());
    assert!(
        ends == (Some(&0), Some(&x.rows())) && offsets.is_sorted(),
        "offsets that do not ascend from 0 to the rows"
    );
    assert_eq!(out.len(), (offsets.len() - 1) * n, "out is not [{}, {n}]", offsets.len() - 1);
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias is not [{n}]");
    if x.rows() == 0 || n == 0 {
        return;
    }
    let panels = w.panels_of(0..n).len();
    let tasks = panels.min(team.threads() * TASKS_PER_THREAD);
    let out = Shared::new(out);
    let work = (2 * x.rows() * n).saturating_mul(w.k());
    team.run(tasks, work, |task| {
        let mut reduce = |cell: OutputTile<'_>| {
            w.isa().run(ReluMaxima { cell, offsets, out: &out, size: n });
        };
        let sink = Sink::Epilogue { apart: None, take: &mut reduce };
        let (tiles, panels) = (0..rows.tiles(), share(panels, tasks, task));
        // SAFETY: no rows are written.
        unsafe { Product { rows, w, bias, tiles, panels, sink }.run() };
    });
}

/// Takes the largest products of each sequence in a tile.
struct ReluMaxima<'a> {
    cell: OutputTile<'a>,
    offsets: &'a [usize],
    /// `[sequences, size]`, of which no other task has the outputs of the cell.
    out: &'a Shared<'a, f32>,
    size: usize,
}

impl Kernel for ReluMaxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { cell, offsets, out, size } = self;
        let (values, start) = (cell.values[0], cell.rows.start);
        let mut row = start;
        // Of the sequence that holds the row; sequences without rows end before it.
        let mut sequence = offsets[1..].partition_point(|&end| end <= row);
        while row < cell.rows.end {
            let end = offsets[sequence + 1].min(cell.rows.end);
            let place = sequence * size + cell.outputs.start;
            // SAFETY: outputs of a sequence; tasks have outputs of their own, and cells of a task come one by one.
            let out = unsafe { out.slice(place..place + cell.outputs.len()) };
            for (column, out) in out.chunks_mut(LANES).enumerate() {
                let mut most = s.load_part(out);
                for row in row..end {
                    let x = s.load(vector(values, (row - start) * OUTPUT_TILE_WIDTH + column * LANES));
                    most = relu_max_of(s, x, most);
                }
                s.store_part(most, out);
            }
            row = end;
            while sequence + 2 < offsets.len() && offsets[sequence + 1] <= row {
                sequence += 1;
            }
        }
    }
}

/// `max(relu(x), most)`, or NaN where `x` is NaN or +∞, or `most` is NaN.
#[inline(always)]
fn relu_max_of<S: Simd>(s: S, x: S::V, most: S::V) -> S::V {
    let x = s.max(s.zero(), x); // a NaN stays
    // 0 · x is 0 but for NaN and +∞; a NaN in `most` stays.
    s.mul_add(x, s.zero(), s.max(x, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_total_order() {
        let mut values = [0.0, 1e-45, 1.0, 3e38, f32::INFINITY, f32::NAN].map(|x| [x, -x]).concat();
        values.sort_by(f32::total_cmp);
        let keys: Vec<i32> = values.iter().map(|&value| order_key(value)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    }
}
