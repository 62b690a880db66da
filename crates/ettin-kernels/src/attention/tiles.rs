//! Attention on AMX, in bf16: the rows of tiles are queries.
//!
//! **Order.** As elsewhere ([`super`]), but for the unit of the online softmax, which is a *stretch*: [`STRETCH`] keys from an
//! absolute multiple of it on. Scores are one chain over the head's elements, 32 a step; weights are rounded to bf16, and
//! an output element is one chain over the blocks of keys, 32 a step (`gemm/amx.rs` has the order inside a step). A
//! query's weights are relative to its *shift*, which rises to the largest score of a stretch when that is more than
//! [`SLACK`] above it, and then what was summed is corrected. Weights are summed before they are rounded, each sixteenth key
//! apart. A query that sees nothing of a block or a stretch is not changed by it: its weights there are 0, and its
//! correction is 1.
//!
//! **Masking.** A hidden key's score is replaced by −∞. Its weight is 0, but 0 times a value that is not finite would
//! be NaN: a query with such a result is done once more, alone and with zeros in place of hidden values.

mod chain;

use std::{mem, ops::Range};

use super::{
    KEY_BLOCK, Task,
    arithmetic::{Arithmetic, Bf16, vector, vector_mut},
    many::{finite, in_block, scaled, take},
};
use crate::{
    math::exp2_coarse,
    simd::{Amx, Kernel, LANES, Lanes, Simd, TileRegisters},
};
use chain::{COLUMNS, Chain};

/// Keys between two corrections. Part of the numerical definition.
const STRETCH: usize = BLOCKS * KEY_BLOCK;
/// The same in blocks.
const BLOCKS: usize = 4;

/// Binary orders by which a weight may exceed 1.
const SLACK: f32 = 8.0;

/// Queries of two tiles.
const MOST: usize = 2 * LANES;

/// Runs a task, of at most [`MOST`] queries.
pub(super) fn run(amx: Amx, task: &Task<'_>, scratch: &mut [f32]) {
    amx.narrow().run(Whole { amx, task, scratch });
}

struct Whole<'a> {
    amx: Amx,
    task: &'a Task<'a>,
    scratch: &'a mut [f32],
}

impl Kernel for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut registers = TileRegisters::new(self.amx);
        let queries = self.task.queries.clone();
        if queries.is_empty() {
            return;
        }
        let spoiled = Walk::<S>::new(s, self.task, queries.clone(), false, self.scratch).run(s, &mut registers);
        if spoiled != 0 {
            repair(s, self.task, &mut registers, spoiled, self.scratch);
        }
    }
}

/// Does the queries of `spoiled`, counted in bits, once more.
#[cold]
fn repair<S: Simd>(s: S, task: &Task<'_>, registers: &mut TileRegisters, spoiled: u32, scratch: &mut [f32]) {
    struct Repair<'a, 'b>(&'a Task<'b>, &'a mut TileRegisters, u32, &'a mut [f32]);

    impl Kernel for Repair<'_, '_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(task, registers, spoiled, scratch) = self;
            for query in task.queries.clone().filter(|query| spoiled >> (query - task.queries.start) & 1 == 1) {
                Walk::<S>::new(s, task, query..query + 1, true, scratch).run(s, registers);
            }
        }
    }

    s.run(Repair(task, registers, spoiled, scratch));
}

/// Scratch for a task.
pub(super) fn scratch(head_dim: usize) -> usize {
    let padded = head_dim.next_multiple_of(KEY_BLOCK);
    let a_query = padded / 2 + STRETCH + STRETCH / 2 + padded + LANES;
    MOST * a_query + 2 * MOST + BLOCKS * room(padded)
}

/// Scratch for a block whose keys or values are not used as they are stored: keys and values as pairs of bf16, then keys or
/// values with zeros among them.
fn room(padded: usize) -> usize {
    4 * padded * KEY_BLOCK / 2
}

/// Some queries on their way over the stretches.
struct Walk<'a, S: Simd> {
    task: &'a Task<'a>,
    /// Relative to the sequence's rows.
    queries: Range<usize>,
    /// Whether hidden values are replaced by zeros; for one query.
    careful: bool,
    padded: usize,
    /// Packed queries, `[rows, padded / 2]`.
    packed: &'a mut [f32],
    /// Scores of a stretch, `[rows, STRETCH]`.
    scores: &'a mut [f32],
    /// Weights of a stretch as pairs, `[rows, STRETCH / 2]`.
    weights: &'a mut [f32],
    /// Weighted sums of values, `[rows, padded]`.
    sums: &'a mut [f32],
    /// Sums of weights, `[rows, LANES]`.
    totals: &'a mut [f32],
    /// What scores are relative to, or −∞ if nothing was seen, `[rows]`.
    shifts: &'a mut [f32],
    /// What was summed is to be multiplied by, `[rows]`.
    corrections: &'a mut [f32],
    /// Room for each block of a stretch.
    rooms: &'a mut [f32],
    token: std::marker::PhantomData<S>,
}

impl<'a, S: Simd> Walk<'a, S> {
    #[inline(always)]
    fn new(s: S, task: &'a Task<'a>, queries: Range<usize>, careful: bool, mut scratch: &'a mut [f32]) -> Self {
        let padded = task.sequence.kv.layout().padded();
        let left = &mut scratch;
        let walk = Self {
            task,
            queries,
            careful,
            padded,
            packed: take(left, MOST * padded / 2),
            scores: take(left, MOST * STRETCH),
            weights: take(left, MOST * STRETCH / 2),
            sums: take(left, MOST * padded),
            totals: take(left, MOST * LANES),
            shifts: take(left, MOST),
            corrections: take(left, MOST),
            rooms: take(left, BLOCKS * room(padded)),
            token: std::marker::PhantomData,
        };
        for (i, query) in walk.queries.clone().enumerate() {
            Bf16::pack(s, task.query(query), task.scale(), &mut walk.packed[i * padded / 2..][..padded / 2]);
        }
        walk.totals.fill(0.0);
        walk.shifts.fill(f32::NEG_INFINITY);
        walk
    }

    /// Attends, and returns which results are not finite, in bits.
    #[inline(always)]
    fn run(mut self, s: S, registers: &mut TileRegisters) -> u32 {
        let two = self.queries.len() > LANES;
        registers.shape(if two { MOST } else { self.queries.len() });
        self.task.prefetch_next(s, self.queries.clone());
        let seen = self.keys(0).start..self.keys(self.queries.len() - 1).end;
        let blocks = seen.start / KEY_BLOCK..seen.end.div_ceil(KEY_BLOCK);
        let mut goes_on = false;
        if !seen.is_empty() {
            for stretch in blocks.start / BLOCKS..blocks.end.div_ceil(BLOCKS) {
                let blocks = blocks.start.max(stretch * BLOCKS)..blocks.end.min((stretch + 1) * BLOCKS);
                match blocks.len() {
                    1 => self.visit::<1>(s, registers, blocks.start, goes_on),
                    2 => self.visit::<2>(s, registers, blocks.start, goes_on),
                    3 => self.visit::<3>(s, registers, blocks.start, goes_on),
                    _ => self.visit::<BLOCKS>(s, registers, blocks.start, goes_on),
                }
                goes_on = true;
            }
        }
        if !goes_on {
            self.sums.fill(0.0);
        }
        self.finish(s)
    }

    /// What the query of a row sees.
    #[inline(always)]
    fn keys(&self, row: usize) -> Range<usize> {
        self.task.keys(self.queries.start + row)
    }

    /// `N` blocks of one stretch.
    #[inline(always)]
    fn visit<const N: usize>(&mut self, s: S, registers: &TileRegisters, first: usize, goes_on: bool) {
        let two = self.queries.len() > LANES;
        let padded = self.padded;
        let layout = self.task.sequence.kv.layout();
        let mut values = [std::ptr::null(); N];
        let mut value_scales: [Option<&[f32; KEY_BLOCK]>; N] = [None; N];
        let (first_keys, last_keys) = (self.keys(0), self.keys(self.queries.len() - 1));
        let rooms = mem::take(&mut self.rooms);
        for (i, room) in rooms.chunks_exact_mut(room(padded)).enumerate().take(N) {
            let block = first + i;
            let (pairs, copy) = room.split_at_mut(2 * padded * KEY_BLOCK / 2);
            let stored = Bf16::block(s, self.task.sequence.kv, block, self.task.head, pairs);
            let mut keys = stored.keys;
            let (key_copy, value_copy) = copy.split_at_mut(padded * KEY_BLOCK / 2);
            if !layout.head_dim.is_multiple_of(COLUMNS) {
                // Whole tiles.
                let (copy, rest) = key_copy.split_at_mut(keys.len());
                copy.copy_from_slice(keys);
                rest.fill(0.0);
                keys = key_copy;
            }
            let column = block % BLOCKS * KEY_BLOCK;
            assert!(keys.len() >= padded / 2 * KEY_BLOCK && stored.values.len() >= padded * KEY_BLOCK / 2);
            for_each_group(padded, keys, |list| {
                let chain = Chain {
                    a: self.packed.as_ptr(),
                    a_stride: padded / 2,
                    b: list,
                    b_stride: KEY_BLOCK,
                    out: self.scores[column..].as_mut_ptr(),
                    out_stride: STRETCH,
                    goes_on: false,
                };
                // SAFETY: 
                unsafe { chain.run(registers, two) };
            });
            // Both ends of what a query sees rise with its position.
            let all_see = in_block(&(last_keys.start..first_keys.end), block * KEY_BLOCK);
            let partial = all_see != (0..KEY_BLOCK);
            if partial || stored.scales.is_some() {
                for row in 0..self.queries.len() {
                    let columns = in_block(&self.keys(row), block * KEY_BLOCK);
                    let (start, end) = (s.splat(columns.start as f32), s.splat(columns.end as f32));
                    let hidden = s.splat(f32::NEG_INFINITY);
                    for half in 0..2 {
                        let out = vector_mut(self.scores, row * STRETCH + column + half * LANES);
                        let mut score = s.load(out);
                        if let Some(scales) = &stored.scales {
                            score = s.mul(score, s.load(vector(scales.keys, half * LANES)));
                        }
                        let numbers = s.load(&NUMBERS[half]);
                        let before_end = s.where_less(numbers, end, score, hidden);
                        s.store(s.where_less(numbers, start, hidden, before_end), out);
                    }
                }
            }
            values[i] = stored.values.as_ptr();
            value_scales[i] = stored.scales.as_ref().map(|scales| scales.values);
            if partial && self.careful {
                let columns = in_block(&self.keys(0), block * KEY_BLOCK);
                let rows = stored.values.chunks_exact(padded).zip(value_copy.chunks_exact_mut(padded));
                for (pair, (from, to)) in rows.enumerate() {
                    let seen = Bf16::seen(&columns, pair).to_bits();
                    from.iter().zip(to).for_each(|(from, to)| *to = f32::from_bits(from.to_bits() & seen));
                }
                values[i] = value_copy.as_ptr();
            }
        }
        let column = first % BLOCKS * KEY_BLOCK;
        for row in (0..self.queries.len()).step_by(LANES) {
            self.raise::<N>(s, row, column, goes_on);
        }
        for row in 0..self.queries.len() {
            self.weigh::<N>(s, row, column, &value_scales);
        }
        for d in (0..padded).step_by(COLUMNS) {
            let chain = Chain {
                a: self.weights[column / 2..].as_ptr(),
                a_stride: STRETCH / 2,
                b: &values.map(|values| values.wrapping_add(d)),
                b_stride: padded,
                out: self.sums[d..].as_mut_ptr(),
                out_stride: padded,
                goes_on,
            };
            // SAFETY:
            unsafe { chain.run(registers, two) };
        }
        self.rooms = rooms;
    }

    /// Raises the shifts of sixteen rows to what their scores ask for.
    #[inline(always)]
    fn raise<const N: usize>(&mut self, s: S, first: usize, column: usize, goes_on: bool) {
        let mut rows = [s.splat(f32::NEG_INFINITY); LANES];
        for (i, largest) in rows.iter_mut().enumerate().take(self.queries.len() - first) {
            for score in self.scores[(first + i) * STRETCH + column..][..N * KEY_BLOCK].as_chunks().0 {
                *largest = s.max(s.load(score), *largest); // not if it is NaN
            }
        }
        let largest = largest_of_rows(s, rows);
        let old = s.load(vector(self.shifts, first));
        let limit = s.add(old, s.splat(SLACK));
        let new = s.where_less(limit, largest, largest, old);
        let one = s.splat(1.0);
        let correction = s.where_less(limit, largest, exp2_coarse(s, s.sub(old, new)), one);
        s.store(new, vector_mut(self.shifts, first));
        if goes_on && s.sum(correction) != LANES as f32 {
            s.store(correction, vector_mut(self.corrections, first));
            for row in first..self.queries.len().min(first + LANES) {
                if self.corrections[row] != 1.0 {
                    let correction = s.splat(self.corrections[row]);
                    let total = vector_mut(self.totals, row * LANES);
                    s.store(s.mul(s.load(total), correction), total);
                    for sum in self.sums[row * self.padded..][..self.padded].as_chunks_mut().0 {
                        s.store(s.mul(s.load(sum), correction), sum);
                    }
                }
            }
        }
    }

    /// Scores of a row to weights.
    #[inline(always)]
    fn weigh<const N: usize>(&mut self, s: S, row: usize, column: usize, scales: &[Option<&[f32; KEY_BLOCK]>; N]) {
        let shift = finite(s, s.splat(self.shifts[row]));
        let mut total = s.load(vector(self.totals, row * LANES));
        let scores: &[_; N] = self.scores[row * STRETCH + column..].as_chunks::<KEY_BLOCK>().0.first_chunk().expect("");
        let weights: &mut [_; N] =
            self.weights[(row * STRETCH + column) / 2..].as_chunks_mut::<LANES>().0.first_chunk_mut().expect("");
        for i in 0..N {
            let scores = [s.load(vector(&scores[i], 0)), s.load(vector(&scores[i], LANES))];
            let mut pair = [exp2_coarse(s, s.sub(scores[0], shift)), exp2_coarse(s, s.sub(scores[1], shift))];
            total = s.add(s.add(total, pair[0]), pair[1]);
            if let Some(scales) = scales[i] {
                for (half, weight) in pair.iter_mut().enumerate() {
                    *weight = scaled(s, *weight, s.load(vector(scales, half * LANES)), scores[half]);
                }
            }
            s.store_pairs(s.round(pair[0], pair[1]), &mut weights[i]);
        }
        s.store(total, vector_mut(self.totals, row * LANES));
    }

    /// Divides and hands out, and returns which results are not finite, in bits.
    #[inline(always)]
    fn finish(&mut self, s: S) -> u32 {
        let mut spoiled = 0;
        for (row, query) in self.queries.clone().enumerate() {
            let total = s.sum(s.load(vector(self.totals, row * LANES)));
            let inverse = s.splat(if total == 0.0 { 0.0 } else { 1.0 / total });
            let sums = &mut self.sums[row * self.padded..][..self.padded];
            let mut check = s.zero();
            for sum in sums.as_chunks_mut().0 {
                // A sum that is zero has the sign of keys nobody may know of: adding 0 makes it positive.
                let quotient = s.mul_add(s.load(sum), inverse, s.zero());
                check = s.mul_add(quotient, s.zero(), check);
                s.store(quotient, sum);
            }
            // SAFETY of bits
            if s.sum(check) != 0.0 {
                spoiled |= 1 << row;
            }
            self.task.put(s, query, sums);
        }
        spoiled
    }
}

/// The largest of each row, in its lane.
#[inline(always)]
fn largest_of_rows<S: Simd>(s: S, mut rows: [S::V; LANES]) -> S::V {
    // As in a transposition, but for halves that fold into each other.
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let [lower, upper] = s.zip(rows[i], rows[i + width]);
            rows[i] = s.max(lower, upper);
        }
        width /= 2;
    }
    rows[0]
}

/// Calls `f` with where the groups of keys are.
#[inline(always)]
fn for_each_group(padded: usize, keys: &[f32], f: impl FnOnce(&[*const f32])) {
    let groups = padded / COLUMNS;
    if groups == 2 {
        return f(&[keys.as_ptr(), keys.as_ptr().wrapping_add(LANES * KEY_BLOCK)]);
    }
    let list: Vec<_> = (0..groups).map(|group| keys.as_ptr().wrapping_add(group * LANES * KEY_BLOCK)).collect();
    f(&list)
}

/// Numbers of the columns of a block.
const NUMBERS: [[f32; LANES]; 2] = {
    let mut columns = [[0.0; LANES]; 2];
    let mut i = 0;
    while i < KEY_BLOCK {
        columns[i / LANES][i % LANES] = i as f32;
        i += 1;
    }
    columns
};
