//! Attention by span over blocks of keys, without any n × n buffer.
//!
//! **Order.** A query passes over the blocks of keys that its span touches, in absolute order, with an online softmax
//! in f32. Within a block: scores are one chain over the head's elements per key; the running maximum is raised; the
//! weights e^(score − maximum) are added to sixteen lane sums; each output element goes on as one chain over the
//! seen keys of the block. Blocks start at absolute multiples of [`KEY_BLOCK`], so a query alone, in a tile, in a
//! prefill or chunk, while decoding, and in front of a ring of any phase does the same operations in the same order:
//! the bits are equal.
//!
//! **Masking** is by omission: a key outside the span never enters the weighted sum, not even as 0 · value, and its
//! score is replaced before it is used. What a block holds beyond the sequence (old data, NaN) cannot leak.
//!
//! **Work.** A task is one head and one tile of up to 48 consecutive queries of one sequence, so that a block is
//! read from L1 by all but the first; groups of queries share each load of a block in registers.

mod kv;
mod products;
mod span;

use std::ops::Range;

pub use kv::{KvBlocks, KvRows, KvWrite, store};
pub(crate) use products::Products;
pub use span::Span;

use crate::{
    buffer::with_scratch,
    isa::Isa,
    math::exp,
    simd::{Kernel, LANES, Lanes, Simd},
    team::{Shared, Team},
};
use products::{RowsTimesBlock, WIDTH};

/// Keys of a block. Part of the numerical definition: changing it changes results.
pub const KEY_BLOCK: usize = 32;
const _: () = assert!(KEY_BLOCK == WIDTH);

/// Queries of a task.
const QUERY_TILE: usize = 48;

/// Most rows of a group on any instruction set.
const MOST_GROUP: usize = 8;

/// Consecutive queries of one sequence and the keys they may see.
#[derive(Clone, Debug)]
pub struct Sequence<'a> {
    /// Rows of `q` and `out` that hold the queries.
    pub rows: Range<usize>,
    /// Absolute position of the first query.
    pub start: usize,
    /// Keys exist at the positions `0..len` (those that a span reaches must still be stored).
    pub len: usize,
    /// The keys and values.
    pub kv: &'a KvBlocks,
}

/// The arguments of [`attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries, already rotated: row r's heads are at `q[r·q_stride..]`, `[heads, head_dim]`.
    pub q: &'a [f32],
    /// Elements from one row of `q` to the next; q may be part of a `[tokens, q | k | v]` buffer.
    pub q_stride: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub span: Span,
    /// Multiplies the scores; 1 / √head_dim.
    pub scale: f32,
    /// The packed batch.
    pub sequences: &'a [Sequence<'a>],
}

/// `softmax(q·kᵀ · scale)·v` per sequence and head, into `out` `[tokens, heads · head_dim]`.
///
/// A query that sees no key gets zeros. Rows of `out` in no sequence are left alone.
///
/// # Panics
/// If lengths do not fit together, rows of two sequences overlap, or a key that is seen is no longer stored.
pub fn attention(isa: Isa, team: &Team, args: Attention<'_>, out: &mut [f32]) {
    let width = args.heads * args.head_dim;
    let mut tiles = Vec::with_capacity(args.sequences.len());
    let (mut tasks, mut work, mut row) = (0, 0usize, 0);
    for sequence in args.sequences {
        args.check(sequence, out.len());
        assert!(row <= sequence.rows.start, "sequences are not in the order of their rows");
        row = sequence.rows.end.max(row);
        tiles.push(tasks);
        tasks += sequence.rows.len().div_ceil(QUERY_TILE);
        let last = sequence.start + sequence.rows.len().saturating_sub(1);
        let keys = args.span.keys(last, sequence.len).len();
        work = work.saturating_add(4 * width * keys * sequence.rows.len());
    }
    let out = Shared::new(out);
    team.run(tasks * args.heads, work, |task| {
        // Tiles of one head follow each other, so that its blocks stay in this core's cache.
        let (head, task) = (task / tasks, task % tasks);
        let index = tiles.partition_point(|&first| first <= task) - 1;
        let sequence = &args.sequences[index];
        let first = (task - tiles[index]) * QUERY_TILE;
        let queries = first..(first + QUERY_TILE).min(sequence.rows.len());
        let scratch = queries.len() * (sequence.kv.padded() + LANES);
        with_scratch(scratch, |scratch| {
            scratch.fill(0.0);
            let (sums, weights) = scratch.split_at_mut(queries.len() * sequence.kv.padded());
            let largest = [f32::NEG_INFINITY; QUERY_TILE];
            let mut keys: [Range<usize>; QUERY_TILE] = std::array::from_fn(|_| 0..0);
            for (keys, query) in keys.iter_mut().zip(queries.clone()) {
                *keys = args.span.keys(sequence.start + query, sequence.len);
            }
            let tile = Tile { args, sequence, head, queries, keys, out: &out };
            isa.run(Run { tile, state: State { sums, weights, largest } });
        });
    });
}

impl Attention<'_> {
    fn check(&self, sequence: &Sequence<'_>, out: usize) {
        let Sequence { rows, start, len, kv } = sequence;
        let width = self.heads * self.head_dim;
        assert!(kv.heads() == self.heads && kv.head_dim() == self.head_dim, "{kv:?} has other heads");
        assert!(rows.end * width <= out, "rows {rows:?} pass the end of out");
        let Some(last) = rows.end.checked_sub(1).filter(|_| !rows.is_empty()) else {
            return;
        };
        assert!(last * self.q_stride + width <= self.q.len(), "rows {rows:?} pass the end of q");
        let keys = self.span.keys(*start, *len).start..self.span.keys(start + rows.len() - 1, *len).end;
        if !keys.is_empty() {
            let blocks = (keys.end - 1) / KEY_BLOCK - keys.start / KEY_BLOCK + 1;
            assert!(blocks * KEY_BLOCK <= kv.capacity(), "keys {keys:?} are not all stored in {kv:?}");
        }
    }
}

/// One task: some queries of a sequence, one head.
struct Tile<'a> {
    args: Attention<'a>,
    sequence: &'a Sequence<'a>,
    head: usize,
    /// Relative to the sequence's rows.
    queries: Range<usize>,
    /// What each query sees.
    keys: [Range<usize>; QUERY_TILE],
    out: &'a Shared<'a, f32>,
}

struct Run<'a> {
    tile: Tile<'a>,
    state: State<'a>,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let count = self.tile.queries.len();
        let seen = self.tile.keys[0].start..self.tile.keys[count - 1].end;
        for block in seen.start / KEY_BLOCK..seen.end.div_ceil(KEY_BLOCK) {
            for first in (0..count).step_by(S::GROUP) {
                self.tile.group(s, block, first..(first + S::GROUP).min(count), &mut self.state);
            }
        }
        self.tile.finish(s, &self.state);
    }
}

/// What the online softmax keeps for each query of a tile.
struct State<'a> {
    /// Weighted sums of values, `[queries, padded head_dim]`.
    sums: &'a mut [f32],
    /// Sums of weights, `[queries, LANES]`.
    weights: &'a mut [f32],
    /// Largest score so far.
    largest: [f32; QUERY_TILE],
}

/// Lane numbers of a block.
const COLUMNS: [[f32; LANES]; 2] = {
    let mut columns = [[0.0; LANES]; 2];
    let mut i = 0;
    while i < KEY_BLOCK {
        columns[i / LANES][i % LANES] = i as f32;
        i += 1;
    }
    columns
};

impl Tile<'_> {
    /// The columns of a block that a query sees.
    #[inline(always)]
    fn columns(&self, block: usize, query: usize) -> Range<usize> {
        let keys = &self.keys[query];
        let base = block * KEY_BLOCK;
        keys.start.saturating_sub(base).min(KEY_BLOCK)..keys.end.saturating_sub(base).min(KEY_BLOCK)
    }

    /// One block of keys for a few queries.
    #[inline(always)]
    fn group<S: Simd>(&self, s: S, block: usize, queries: Range<usize>, state: &mut State<'_>) {
        // Both ends of what a query sees rise with its position, so the queries that see the block are consecutive.
        let blind = |query: &usize| self.columns(block, *query).is_empty();
        let Some(first) = queries.clone().find(|query| !blind(query)) else {
            return;
        };
        let count = (first..queries.end).take_while(|query| !blind(query)).count();
        let (keys, values) = self.sequence.kv.block(block, self.head);
        let (dim, padded) = (self.args.head_dim, self.sequence.kv.padded());

        let mut scores = [[[0.0f32; LANES]; 2]; MOST_GROUP];
        let row = self.sequence.rows.start + self.queries.start + first;
        let q = &self.args.q[row * self.args.q_stride + self.head * dim..];
        let product = RowsTimesBlock {
            rows: count,
            len: dim,
            width: KEY_BLOCK,
            a: q.as_ptr(),
            a_stride: self.args.q_stride,
            b: keys.as_ptr(),
            b_stride: KEY_BLOCK,
            out: scores.as_mut_ptr().cast(),
            out_stride: KEY_BLOCK,
            resume: false,
        };
        // SAFETY: `check` has seen that q holds these rows; keys are [dim, KEY_BLOCK]; `count` ≤ MOST_GROUP.
        unsafe { s.rows_times_block(product) };

        // Raise the maxima.
        let mut seen: [Range<usize>; MOST_GROUP] = Default::default();
        let mut drop = [0.0f32; LANES]; // old maximum − new one
        let mut shifts = [0.0f32; MOST_GROUP];
        let scale = s.splat(self.args.scale);
        for (r, scores) in scores.iter_mut().enumerate().take(count) {
            let columns = self.columns(block, first + r);
            let mut row = [s.mul(s.load(&scores[0]), scale), s.mul(s.load(&scores[1]), scale)];
            if columns.len() < KEY_BLOCK {
                row = [mask(s, row[0], &COLUMNS[0], &columns), mask(s, row[1], &COLUMNS[1], &columns)];
            }
            s.store(row[0], &mut scores[0]);
            s.store(row[1], &mut scores[1]);
            let highest = s.largest(s.max(row[0], row[1]));
            let largest = &mut state.largest[first + r];
            let raised = if highest > *largest { highest } else { *largest };
            // With nothing but −∞ so far, subtracting it would give NaN.
            shifts[r] = if raised == f32::NEG_INFINITY { 0.0 } else { raised };
            drop[r] = *largest - shifts[r];
            *largest = raised;
            seen[r] = columns;
        }
        let mut corrections = [0.0f32; LANES];
        s.store(exp(s, s.load(&drop)), &mut corrections);

        for r in 0..count {
            let (shift, correction) = (s.splat(shifts[r]), s.splat(corrections[r]));
            let weights = [exp(s, s.sub(s.load(&scores[r][0]), shift)), exp(s, s.sub(s.load(&scores[r][1]), shift))];
            s.store(weights[0], &mut scores[r][0]);
            s.store(weights[1], &mut scores[r][1]);
            let sum = lane(state.weights, first + r);
            s.store(s.mul_add(s.load(sum), correction, s.add(weights[0], weights[1])), sum);
            if corrections[r] != 1.0 {
                for i in 0..padded / LANES {
                    let sum = lane(state.sums, (first + r) * padded / LANES + i);
                    s.store(s.mul(s.load(sum), correction), sum);
                }
            }
        }

        // Keys that all of the group see go through the shared tile; each query's own before and after them alone.
        let weigh = |rows: Range<usize>, columns: Range<usize>, sums: &mut [f32]| {
            let product = RowsTimesBlock {
                rows: rows.len(),
                len: columns.len(),
                width: padded,
                a: scores[rows.start].as_flattened()[columns.start..].as_ptr(),
                a_stride: KEY_BLOCK,
                b: values[columns.start * padded..].as_ptr(),
                b_stride: padded,
                out: sums[(first + rows.start) * padded..].as_mut_ptr(),
                out_stride: padded,
                resume: true,
            };
            // SAFETY: `columns` is not empty and inside the block, `rows` inside the group; sums are
            // [queries, padded] and ours alone.
            unsafe { s.rows_times_block(product) };
        };
        let start = seen[..count].iter().map(|c| c.start).max().unwrap_or(0);
        let end = seen[..count].iter().map(|c| c.end).min().unwrap_or(0);
        let common = start < end;
        if !common || start > 0 {
            for (r, own) in seen[..count].iter().enumerate() {
                let before = own.start..if common { start } else { own.end };
                if !before.is_empty() {
                    weigh(r..r + 1, before, state.sums);
                }
            }
        }
        if common {
            weigh(0..count, start..end, state.sums);
            for (r, own) in seen[..count].iter().enumerate() {
                if end < own.end {
                    weigh(r..r + 1, end..own.end, state.sums);
                }
            }
        }
    }

    /// Divides by the sums of weights.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, state: &State<'_>) {
        let (dim, padded) = (self.args.head_dim, self.sequence.kv.padded());
        for query in 0..self.queries.len() {
            let row = self.sequence.rows.start + self.queries.start + query;
            let start = (row * self.args.heads + self.head) * dim;
            // SAFETY: tasks differ in row or head, and rows of sequences do not overlap (checked).
            let out = unsafe { self.out.slice(start..start + dim) };
            if self.keys[query].is_empty() {
                out.fill(0.0);
                continue;
            }
            let weight = s.sum(s.load(&state.weights.as_chunks().0[query]));
            let sums = &state.sums[query * padded..][..dim];
            for (out, sum) in out.chunks_mut(LANES).zip(sums.chunks(LANES)) {
                s.store_part(s.div(s.load_part(sum), s.splat(weight)), out);
            }
        }
    }
}

/// −∞ outside `columns`.
#[inline(always)]
fn mask<S: Lanes>(s: S, scores: S::V, numbers: &[f32; LANES], columns: &Range<usize>) -> S::V {
    let (numbers, hidden) = (s.load(numbers), s.splat(f32::NEG_INFINITY));
    let scores = s.where_less(numbers, s.splat(columns.start as f32), hidden, scores);
    s.where_less(numbers, s.splat(columns.end as f32), scores, hidden)
}

#[inline(always)]
fn lane(x: &mut [f32], i: usize) -> &mut [f32; LANES] {
    &mut x.as_chunks_mut().0[i]
}
