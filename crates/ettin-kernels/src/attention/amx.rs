//! Attention on AMX, in bf16: the rows of tiles are queries.
//!
//! **Order.** As elsewhere ([`super`]), but for the unit of the online softmax. It is a *softmax block* of
//! [`SOFTMAX_BLOCK`] keys, which starts at an absolute multiple of its size. Scores are one chain over the head's
//! elements, 32 a step. Weights are rounded to bf16. An output element is one chain over the blocks of keys, 32 a step
//! (`gemm/amx.rs` has the order inside a step). A query's running maximum rises to the largest score of a softmax block
//! only when that is more than [`SLACK`](softmax::SLACK) above it; then the sums so far are rescaled.
//!
//! **Row sum.** The weights are summed, in sixteen parts, after rounding to bf16, because the products use the rounded
//! ones: if one weight dominates, its rounding error cancels in the quotient. Exception: int8 values. There a weight is
//! multiplied by the value's scale before it is rounded, so the rounded copy carries an error of its own that would not
//! cancel; the unrounded weights are summed instead. A block of which a query sees nothing does not change that query:
//! its weights there are 0, and its rescale factor is 1.
//!
//! **Work.** Keys and values pass once a task. They are loaded past L1 (`tileloaddt1`), which scores, weights and sums
//! fill. Products of the softmax blocks before and after run beside the softmax of this one, one block of keys at a
//! time. Finer steps gained nothing: loading and storing tiles are many small operations that fill the CPU's reorder
//! window.
//!
//! **Masking.** A hidden key's score is replaced by −∞. Its weight is 0, but 0 times a value that is not finite would
//! be NaN: a query with such a result is done once more, alone and with zeros in place of hidden values.

mod chain;
mod softmax;

use std::{mem, ops::Range, ptr};

use super::{
    dot::{DotBf16, DotStep},
    format::{KEY_BLOCK, KvFormat},
    online_softmax::in_block,
    task::QueryTask,
};
use crate::{
    buffer::take,
    simd::{Amx, Kernel, LANES, Lanes, Simd, TileRegisters},
};
use chain::{COLUMNS, QueryPair, TileChain};

/// Keys between two rescales. Part of the numerical definition.
const SOFTMAX_BLOCK: usize = BLOCKS * KEY_BLOCK;
/// The same in blocks.
const BLOCKS: usize = 4;

/// Queries of two tiles.
const MAX_QUERIES: usize = 2 * LANES;

/// Groups of 32 elements of the largest head.
const MAX_GROUPS: usize = 16;

/// Whether heads of this size are for tiles.
pub(super) fn suits(head_dim: usize) -> bool {
    head_dim <= MAX_GROUPS * COLUMNS
}

/// Runs tasks, each of at most [`MAX_QUERIES`] queries.
pub(super) fn run<'a>(amx: Amx, tasks: impl Iterator<Item = QueryTask<'a>>, scratch: &mut [f32]) {
    amx.narrow().run(RunAll { amx, tasks, scratch });
}

struct RunAll<'s, T> {
    amx: Amx,
    tasks: T,
    scratch: &'s mut [f32],
}

impl<'a, T: Iterator<Item = QueryTask<'a>>> Kernel for RunAll<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut registers = TileRegisters::new(self.amx);
        for task in self.tasks.filter(|task| !task.queries.is_empty()) {
            let queries = task.queries.clone();
            let spoiled = FlashTile::new(s, &task, queries, false, self.scratch).run(s, &mut registers);
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
                FlashTile::new(s, task, query..query + 1, true, scratch).run(s, registers);
            }
        }
    }

    s.run(Repair(task, registers, spoiled, scratch));
}

/// Scratch for a task.
pub(super) fn scratch(head_dim: usize) -> usize {
    let padded = head_dim.next_multiple_of(KEY_BLOCK);
    let a_query = padded / 2 + 2 * SOFTMAX_BLOCK + padded + LANES;
    MAX_QUERIES * a_query + 2 * MAX_QUERIES + 2 * BLOCKS * block_scratch(padded)
}

/// Scratch for a block whose keys or values are not used as they are stored: keys and values as pairs of bf16, and
/// copies of them with zeros in places.
fn block_scratch(padded: usize) -> usize {
    4 * padded * KEY_BLOCK / 2
}

/// Some queries on their way over the softmax blocks.
struct FlashTile<'a> {
    task: &'a QueryTask<'a>,
    /// Relative to the sequence's rows.
    queries: Range<usize>,
    /// Whether hidden values are replaced by zeros; for one query.
    careful: bool,
    padded: usize,
    /// Packed queries, `[rows, padded / 2]`.
    packed: *const f32,
    /// Scores of two softmax blocks, `[rows, SOFTMAX_BLOCK]` each. Their weights as pairs replace them, in the first
    /// half of each row.
    scores: [&'a mut [f32]; 2],
    /// Weighted sums of values, `[rows, padded]`.
    sums: &'a mut [f32],
    /// Row sums *l*: the sums of weights, `[rows, LANES]`.
    row_sums: &'a mut [f32],
    /// Running maxima *m*, up to the slack; −∞ if nothing was seen, `[rows]`.
    maxima: &'a mut [f32],
    /// Rescale factors α: the sums so far are multiplied by them, `[rows]`.
    rescales: &'a mut [f32],
    /// Scratch for each block of two softmax blocks.
    scratches: [&'a mut [f32]; 2],
}

/// The blocks of a softmax block that some query sees, and where their keys and values are.
struct SoftmaxBlock<'a> {
    blocks: Range<usize>,
    /// Which of the two buffers holds its scores.
    side: usize,
    keys: [*const f32; BLOCKS],
    values: [*const f32; BLOCKS],
    key_scales: [Option<&'a [f32; KEY_BLOCK]>; BLOCKS],
    value_scales: [Option<&'a [f32; KEY_BLOCK]>; BLOCKS],
}

impl SoftmaxBlock<'_> {
    /// Where the scores of a block are in a row.
    #[inline(always)]
    fn column(block: usize) -> usize {
        block % BLOCKS * KEY_BLOCK
    }
}

impl<'a> FlashTile<'a> {
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
                let packed = take(left, MAX_QUERIES * padded / 2);
                for (query, packed) in queries.clone().zip(packed.chunks_exact_mut(padded / 2)) {
                    DotBf16::pack(s, task.query(query), task.args.factor(), packed);
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
            scores: [take(left, MAX_QUERIES * SOFTMAX_BLOCK), take(left, MAX_QUERIES * SOFTMAX_BLOCK)],
            sums: take(left, MAX_QUERIES * padded),
            row_sums: take(left, MAX_QUERIES * LANES),
            maxima: take(left, MAX_QUERIES),
            rescales: take(left, MAX_QUERIES),
            scratches: [take(left, BLOCKS * block_scratch(padded)), take(left, BLOCKS * block_scratch(padded))],
        };
        walk.row_sums.fill(0.0);
        walk.maxima.fill(f32::NEG_INFINITY);
        walk
    }

    /// Attends, and returns which results are not finite, in bits.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S, registers: &mut TileRegisters) -> u32 {
        registers.shape(if self.two() { MAX_QUERIES } else { self.queries.len() });
        let seen = self.keys(0).start..self.keys(self.queries.len() - 1).end;
        if seen.is_empty() {
            self.sums.fill(0.0);
            return self.finish(s);
        }
        let blocks = seen.start / KEY_BLOCK..seen.end.div_ceil(KEY_BLOCK);
        let (first, end) = (blocks.start / BLOCKS, blocks.end.div_ceil(BLOCKS));
        let range = |number: usize| blocks.start.max(number * BLOCKS)..blocks.end.min((number + 1) * BLOCKS);
        // Tiles and vectors work independently side by side: the products of the softmax blocks before and after, and
        // the softmax of this one.
        let mut now = self.open(s, range(first), first % 2);
        for i in 0..now.blocks.len() {
            self.score(registers, &now, i);
        }
        let mut before: Option<SoftmaxBlock<'a>> = None;
        for number in first..end {
            let groups = self.queries.len().div_ceil(LANES);
            let mut raised = 0;
            let mut rises = false;
            if let Some(before) = &before {
                for d in (0..self.padded).step_by(COLUMNS) {
                    self.weighted(registers, before, d, number > first + 1);
                    if raised < groups {
                        rises |= self.raise_max(s, &now, raised * LANES);
                        raised += 1;
                    }
                }
            }
            for group in raised..groups {
                rises |= self.raise_max(s, &now, group * LANES);
            }
            if rises && before.is_some() {
                self.rescale(s);
            }
            let next = if number + 1 < end { Some(self.open(s, range(number + 1), (number + 1) % 2)) } else { None };
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

    /// The keys that the query of a row sees.
    #[inline(always)]
    fn keys(&self, row: usize) -> Range<usize> {
        self.task.keys(self.queries.start + row)
    }

    /// Finds or makes the operands of a softmax block.
    #[inline(always)]
    fn open<S: Simd>(&mut self, s: S, blocks: Range<usize>, side: usize) -> SoftmaxBlock<'a> {
        let (padded, task) = (self.padded, self.task);
        let layout = task.sequence.kv.layout();
        let mut group = SoftmaxBlock {
            blocks: blocks.clone(),
            side,
            keys: [ptr::null(); BLOCKS],
            values: [ptr::null(); BLOCKS],
            key_scales: [None; BLOCKS],
            value_scales: [None; BLOCKS],
        };
        for (i, block) in blocks.enumerate() {
            let scratch = &mut self.scratches[side][i * block_scratch(padded)..][..block_scratch(padded)];
            let (pairs, copies) = scratch.split_at_mut(padded * KEY_BLOCK);
            let (key_copy, value_copy) = copies.split_at_mut(padded * KEY_BLOCK / 2);
            if layout.format == KvFormat::Int8 {
                let [keys, values] =
                    task.sequence.kv.block(block, task.head)[layout.keys() + layout.values()..].as_chunks().0
                else {
                    unreachable!("scales of keys and of values");
                };
                (group.key_scales[i], group.value_scales[i]) = (Some(keys), Some(values));
            }
            let stored = DotBf16::block(s, task.sequence.kv, block, task.head, pairs);
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
                    let seen = DotBf16::pair(&columns, pair);
                    from.iter().zip(to).for_each(|(from, to)| *to = f32::from_bits(from.to_bits() & seen));
                }
                values = value_copy;
            }
            assert!(keys.len() >= padded / 2 * KEY_BLOCK && values.len() >= KEY_BLOCK / 2 * padded);
            (group.keys[i], group.values[i]) = (keys.as_ptr(), values.as_ptr());
        }
        group
    }

    /// Scores of a block of keys.
    #[inline(always)]
    fn score(&mut self, registers: &TileRegisters, group: &SoftmaxBlock<'_>, i: usize) {
        let (padded, two) = (self.padded, self.two());
        let (keys, groups) = (group.keys[i], padded / COLUMNS);
        let out = self.scores[group.side][SoftmaxBlock::column(group.blocks.start + i)..].as_mut_ptr();
        // SAFETY: `run` has shaped the tiles for the queries, which `new` has found or packed, [rows, padded / 2].
        // Scores are [MAX_QUERIES, SOFTMAX_BLOCK] with a block's columns from here on; keys are [padded / 2,
        // KEY_BLOCK], as `open` asserts.
        unsafe {
            if two && groups == 2 {
                let next = group.keys[..group.blocks.len()].get(i + 1).copied();
                return QueryPair { registers, queries: self.packed, out, out_stride: SOFTMAX_BLOCK }.scores(
                    i == 0,
                    keys,
                    next,
                );
            }
            let mut list = [ptr::null(); MAX_GROUPS];
            for (group, place) in list[..groups].iter_mut().enumerate() {
                *place = keys.wrapping_add(group * LANES * KEY_BLOCK);
            }
            let chain = TileChain {
                a: self.packed,
                a_stride: padded / 2,
                b: &list[..groups],
                b_stride: KEY_BLOCK,
                out,
                out_stride: SOFTMAX_BLOCK,
                goes_on: false,
            };
            chain.run(registers, two);
        }
    }

    /// Adds weighted values of a softmax block to the sums of 32 elements.
    #[inline(always)]
    fn weighted(&mut self, registers: &TileRegisters, group: &SoftmaxBlock<'_>, d: usize, goes_on: bool) {
        let values = group.values.map(|values| values.wrapping_add(d));
        let chain = TileChain {
            a: self.scores[group.side][SoftmaxBlock::column(group.blocks.start) / 2..].as_ptr(),
            a_stride: SOFTMAX_BLOCK,
            b: &values[..group.blocks.len()],
            b_stride: self.padded,
            out: self.sums[d..].as_mut_ptr(),
            out_stride: self.padded,
            goes_on,
        };
        // SAFETY: `run` has shaped the tiles. Weights are [MAX_QUERIES, SOFTMAX_BLOCK], sums [MAX_QUERIES, padded], of
        // which columns d..d + 32 exist. Values of the scored blocks are [KEY_BLOCK / 2, padded], and still where
        // `score` found or put them.
        unsafe { chain.run(registers, self.two()) };
    }
}
