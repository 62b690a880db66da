//! Attention on AMX, in bf16: the rows of tiles are queries.
//!
//! **Order.** As elsewhere ([`super`]), but for the unit of the online softmax, which is a *stretch*: [`STRETCH`] keys from an
//! absolute multiple of it on. Scores are one chain over the head's elements, 32 a step; weights are rounded to bf16, and
//! an output element is one chain over the blocks of keys, 32 a step (`gemm/amx.rs` has the order inside a step). A
//! query's weights are relative to its *shift*, which rises to the largest score of a stretch when that is more than
//! [`SLACK`](softmax::SLACK) above it, and then what was summed is corrected. Their sum, in sixteen parts, is that of the rounded ones, so
//! that the error of a weight that outweighs all others cancels. Where values have scales, it is that of the weights before
//! scaling and rounding: rounded apart from the scaled ones, they would double the error. A query that sees nothing of a
//! block or a stretch is not changed by it: its weights there are 0, and its correction is 1.
//!
//! **Work.** Keys and values pass once a task and are loaded past L1 (`tileloaddt1`), which scores, weights and sums fill. Products of
//! the stretches before and after go beside the softmax of this one, a block at a time; finer steps gained nothing where
//! they were tried, as loading and storing tiles are many small operations that fill what the CPU looks ahead at.
//!
//! **Masking.** A hidden key's score is replaced by −∞. Its weight is 0, but 0 times a value that is not finite would
//! be NaN: a query with such a result is done once more, alone and with zeros in place of hidden values.

mod chain;
mod softmax;

use std::{mem, ops::Range, ptr};

use super::{
    KEY_BLOCK, QueryTask,
    arithmetic::{Bf16, Terms},
    format::KvFormat,
    many::{in_block, take},
};
use crate::simd::{Amx, Kernel, LANES, Lanes, Simd, TileRegisters};
use chain::{COLUMNS, Chain, Pair};

/// Keys between two corrections. Part of the numerical definition.
const STRETCH: usize = BLOCKS * KEY_BLOCK;
/// The same in blocks.
const BLOCKS: usize = 4;

/// Queries of two tiles.
const MOST: usize = 2 * LANES;

/// Groups of 32 elements of the largest head.
const GROUPS: usize = 16;

/// Whether heads of this size are for tiles.
pub(super) fn suits(head_dim: usize) -> bool {
    head_dim <= GROUPS * COLUMNS
}

/// Runs tasks, each of at most [`MOST`] queries.
pub(super) fn run<'a>(amx: Amx, tasks: impl Iterator<Item = QueryTask<'a>>, scratch: &mut [f32]) {
    amx.narrow().run(All { amx, tasks, scratch });
}

struct All<'s, T> {
    amx: Amx,
    tasks: T,
    scratch: &'s mut [f32],
}

impl<'a, T: Iterator<Item = QueryTask<'a>>> Kernel for All<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut registers = TileRegisters::new(self.amx);
        for task in self.tasks.filter(|task| !task.queries.is_empty()) {
            let queries = task.queries.clone();
            let spoiled = Walk::new(s, &task, queries, false, self.scratch).run(s, &mut registers);
            if spoiled != 0 {
                repair(s, &task, &mut registers, spoiled, self.scratch);
            }
        }
    }
}

/// Does the queries of `spoiled`, counted in bits, once more.
#[cold]
fn repair<S: Simd>(s: S, task: &QueryTask<'_>, registers: &mut TileRegisters, spoiled: u32, scratch: &mut [f32]) {
    struct Repair<'a, 'b>(&'a QueryTask<'b>, &'a mut TileRegisters, u32, &'a mut [f32]);

    impl Kernel for Repair<'_, '_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(task, registers, spoiled, scratch) = self;
            for query in task.queries.clone().filter(|query| spoiled >> (query - task.queries.start) & 1 == 1) {
                Walk::new(s, task, query..query + 1, true, scratch).run(s, registers);
            }
        }
    }

    s.run(Repair(task, registers, spoiled, scratch));
}

/// Scratch for a task.
pub(super) fn scratch(head_dim: usize) -> usize {
    let padded = head_dim.next_multiple_of(KEY_BLOCK);
    let a_query = padded / 2 + 2 * STRETCH + padded + LANES;
    MOST * a_query + 2 * MOST + 2 * BLOCKS * room(padded)
}

/// Scratch for a block whose keys or values are not used as they are stored: keys and values as pairs of bf16, then keys or
/// values with zeros among them.
fn room(padded: usize) -> usize {
    4 * padded * KEY_BLOCK / 2
}

/// Some queries on their way over the stretches.
struct Walk<'a> {
    task: &'a QueryTask<'a>,
    /// Relative to the sequence's rows.
    queries: Range<usize>,
    /// Whether hidden values are replaced by zeros; for one query.
    careful: bool,
    padded: usize,
    /// Packed queries, `[rows, padded / 2]`.
    packed: *const f32,
    /// Scores of two stretches, `[rows, STRETCH]` each; then their weights as pairs, in the first half of each row.
    scores: [&'a mut [f32]; 2],
    /// Weighted sums of values, `[rows, padded]`.
    sums: &'a mut [f32],
    /// Sums of weights, `[rows, LANES]`.
    totals: &'a mut [f32],
    /// What scores are relative to, or −∞ if nothing was seen, `[rows]`.
    shifts: &'a mut [f32],
    /// What was summed before is to be multiplied by, `[rows]`.
    corrections: &'a mut [f32],
    /// Room for each block of two stretches.
    rooms: [&'a mut [f32]; 2],
}

/// The blocks of a stretch that some query sees, and where their keys and values are.
struct Stretch<'a> {
    blocks: Range<usize>,
    /// Which of the two buffers holds its scores.
    side: usize,
    keys: [*const f32; BLOCKS],
    values: [*const f32; BLOCKS],
    key_scales: [Option<&'a [f32; KEY_BLOCK]>; BLOCKS],
    value_scales: [Option<&'a [f32; KEY_BLOCK]>; BLOCKS],
}

impl Stretch<'_> {
    /// Where the scores of a block are in a row.
    #[inline(always)]
    fn column(block: usize) -> usize {
        block % BLOCKS * KEY_BLOCK
    }
}

impl<'a> Walk<'a> {
    #[inline(always)]
    fn new<S: Simd>(
        s: S,
        task: &'a QueryTask<'a>,
        queries: Range<usize>,
        careful: bool,
        mut scratch: &'a mut [f32],
    ) -> Self {
        let padded = task.sequence.kv.layout().padded();
        let left = &mut scratch;
        let packed = match task.rounded(queries.start) {
            Some(rounded) => {
                assert!(padded == task.args.head_dim && rounded.len() >= queries.len() * padded / 2);
                rounded.as_ptr().cast()
            }
            None => {
                let packed = take(left, MOST * padded / 2);
                for (query, packed) in queries.clone().zip(packed.chunks_exact_mut(padded / 2)) {
                    Bf16::pack(s, task.query(query), task.args.factor(), packed);
                    task.prefetch_next(s, query..query + 1);
                }
                packed.as_ptr()
            }
        };
        let walk = Self {
            task,
            queries,
            careful,
            padded,
            packed,
            scores: [take(left, MOST * STRETCH), take(left, MOST * STRETCH)],
            sums: take(left, MOST * padded),
            totals: take(left, MOST * LANES),
            shifts: take(left, MOST),
            corrections: take(left, MOST),
            rooms: [take(left, BLOCKS * room(padded)), take(left, BLOCKS * room(padded))],
        };
        walk.totals.fill(0.0);
        walk.shifts.fill(f32::NEG_INFINITY);
        walk
    }

    /// Attends, and returns which results are not finite, in bits.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S, registers: &mut TileRegisters) -> u32 {
        registers.shape(if self.two() { MOST } else { self.queries.len() });
        let seen = self.keys(0).start..self.keys(self.queries.len() - 1).end;
        if seen.is_empty() {
            self.sums.fill(0.0);
            return self.finish(s);
        }
        let blocks = seen.start / KEY_BLOCK..seen.end.div_ceil(KEY_BLOCK);
        let (first, end) = (blocks.start / BLOCKS, blocks.end.div_ceil(BLOCKS));
        let stretch = |number: usize| blocks.start.max(number * BLOCKS)..blocks.end.min((number + 1) * BLOCKS);
        // What tiles and vectors do is independent side by side: the products of the stretches before and after, and the
        // softmax of this one.
        let mut now = self.open(s, stretch(first), first % 2);
        for i in 0..now.blocks.len() {
            self.score(registers, &now, i);
        }
        let mut before: Option<Stretch<'a>> = None;
        for number in first..end {
            let groups = self.queries.len().div_ceil(LANES);
            let mut raised = 0;
            let mut rises = false;
            if let Some(before) = &before {
                for d in (0..self.padded).step_by(COLUMNS) {
                    self.weighted(registers, before, d, number > first + 1);
                    if raised < groups {
                        rises |= self.raise(s, &now, raised * LANES);
                        raised += 1;
                    }
                }
            }
            for group in raised..groups {
                rises |= self.raise(s, &now, group * LANES);
            }
            if rises && before.is_some() {
                self.correct(s);
            }
            let next = if number + 1 < end { Some(self.open(s, stretch(number + 1), (number + 1) % 2)) } else { None };
            let rows = self.queries.len();
            for part in 0..BLOCKS {
                if let Some(next) = next.as_ref().filter(|next| part < next.blocks.len()) {
                    self.score(registers, next, part);
                }
                let rows = rows * part / BLOCKS..rows * (part + 1) / BLOCKS;
                match now.blocks.len() {
                    1 => self.weigh::<S, 1>(s, &now, rows),
                    2 => self.weigh::<S, 2>(s, &now, rows),
                    3 => self.weigh::<S, 3>(s, &now, rows),
                    _ => self.weigh::<S, BLOCKS>(s, &now, rows),
                }
            }
            match next {
                Some(next) => before = Some(mem::replace(&mut now, next)),
                None => break,
            }
        }
        for d in (0..self.padded).step_by(COLUMNS) {
            self.weighted(registers, &now, d, end > first + 1);
        }
        self.finish(s)
    }

    /// Whether there are two tiles of queries.
    #[inline(always)]
    fn two(&self) -> bool {
        self.queries.len() > LANES
    }

    /// What the query of a row sees.
    #[inline(always)]
    fn keys(&self, row: usize) -> Range<usize> {
        self.task.keys(self.queries.start + row)
    }

    /// Finds or makes the operands of a stretch.
    #[inline(always)]
    fn open<S: Simd>(&mut self, s: S, blocks: Range<usize>, side: usize) -> Stretch<'a> {
        let (padded, task) = (self.padded, self.task);
        let layout = task.sequence.kv.layout();
        let mut stretch = Stretch {
            blocks: blocks.clone(),
            side,
            keys: [ptr::null(); BLOCKS],
            values: [ptr::null(); BLOCKS],
            key_scales: [None; BLOCKS],
            value_scales: [None; BLOCKS],
        };
        for (i, block) in blocks.enumerate() {
            let room = &mut self.rooms[side][i * room(padded)..][..room(padded)];
            let (pairs, copies) = room.split_at_mut(padded * KEY_BLOCK);
            let (key_copy, value_copy) = copies.split_at_mut(padded * KEY_BLOCK / 2);
            if layout.format == KvFormat::Int8 {
                let [keys, values] =
                    task.sequence.kv.block(block, task.head)[layout.keys() + layout.values()..].as_chunks().0
                else {
                    unreachable!("scales of keys and of values");
                };
                (stretch.key_scales[i], stretch.value_scales[i]) = (Some(keys), Some(values));
            }
            let stored = Bf16::block(s, task.sequence.kv, block, task.head, pairs);
            let (mut keys, mut values) = (stored.keys, stored.values);
            if !layout.head_dim.is_multiple_of(COLUMNS) {
                // Whole tiles.
                let (copy, rest) = key_copy.split_at_mut(keys.len());
                copy.copy_from_slice(keys);
                rest.fill(0.0);
                keys = key_copy;
            }
            if self.careful {
                let columns = in_block(&task.keys(self.queries.start), block * KEY_BLOCK);
                let rows = values.chunks_exact(padded).zip(value_copy.chunks_exact_mut(padded));
                for (pair, (from, to)) in rows.enumerate() {
                    let seen = Bf16::pair(&columns, pair);
                    from.iter().zip(to).for_each(|(from, to)| *to = f32::from_bits(from.to_bits() & seen));
                }
                values = value_copy;
            }
            assert!(keys.len() >= padded / 2 * KEY_BLOCK && values.len() >= KEY_BLOCK / 2 * padded);
            (stretch.keys[i], stretch.values[i]) = (keys.as_ptr(), values.as_ptr());
        }
        stretch
    }

    /// Scores of a block of a stretch.
    #[inline(always)]
    fn score(&mut self, registers: &TileRegisters, stretch: &Stretch<'_>, i: usize) {
        let (padded, two) = (self.padded, self.two());
        let (keys, groups) = (stretch.keys[i], padded / COLUMNS);
        let out = self.scores[stretch.side][Stretch::column(stretch.blocks.start + i)..].as_mut_ptr();
        // SAFETY: `run` has shaped the tiles for the queries, which `new` has found or packed, [rows, padded / 2]; scores are
        // [MOST, STRETCH] with a block's columns from here on, keys [padded / 2, KEY_BLOCK], as `open` asserts.
        unsafe {
            if two && groups == 2 {
                let next = stretch.keys[..stretch.blocks.len()].get(i + 1).copied();
                return Pair { registers, queries: self.packed, out, out_stride: STRETCH }.scores(i == 0, keys, next);
            }
            let mut list = [ptr::null(); GROUPS];
            for (group, place) in list[..groups].iter_mut().enumerate() {
                *place = keys.wrapping_add(group * LANES * KEY_BLOCK);
            }
            let chain = Chain {
                a: self.packed,
                a_stride: padded / 2,
                b: &list[..groups],
                b_stride: KEY_BLOCK,
                out,
                out_stride: STRETCH,
                goes_on: false,
            };
            chain.run(registers, two);
        }
    }

    /// Adds weighted values of a stretch to the sums of 32 elements.
    #[inline(always)]
    fn weighted(&mut self, registers: &TileRegisters, stretch: &Stretch<'_>, d: usize, goes_on: bool) {
        let values = stretch.values.map(|values| values.wrapping_add(d));
        let chain = Chain {
            a: self.scores[stretch.side][Stretch::column(stretch.blocks.start) / 2..].as_ptr(),
            a_stride: STRETCH,
            b: &values[..stretch.blocks.len()],
            b_stride: self.padded,
            out: self.sums[d..].as_mut_ptr(),
            out_stride: self.padded,
            goes_on,
        };
        // SAFETY: `run` has shaped the tiles. Weights are [MOST, STRETCH], sums [MOST, padded], of which columns d..d + 32
        // exist; values of the scored blocks are [KEY_BLOCK / 2, padded], and still where `score` found or put them.
        unsafe { chain.run(registers, self.two()) };
    }
}
