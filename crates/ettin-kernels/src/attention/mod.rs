//! Attention by span over blocks of keys, without any n × n buffer.
//!
//! **Order.** A query passes over the blocks of keys that its span touches, in absolute order, with an online softmax
//! in f32. Within a block: scores are one chain over the head's elements per key; the running maximum is raised, and
//! what was summed is corrected; the weights 2^(score − maximum) are added to their sum, key after key; each output
//! element goes on as one chain over the seen keys. Blocks start at absolute multiples of [`KEY_BLOCK`], so a query
//! alone, in a tile, in a prefill or chunk, while decoding, and in front of a ring of any phase does the same
//! operations in the same order: the bits are equal. (Queries are multiplied by scale · log₂ e first.)
//!
//! **Masking** is by omission: a key outside the span never enters the weighted sum, not even as 0 · value, and its
//! score is replaced before it is used. (A pair of bf16 is one instruction: there the value is replaced, too, and 0 · 0
//! enters.) What a block holds beyond the sequence (old data, NaN) cannot leak.
//!
//! **Numbers.** Keys and values are what the cache's [`KvFormat`] keeps of them; [`Precision`] says how they are
//! multiplied. Integers are multiplied as they are, and their scales applied to scores and weights.
//!
//! **Work.** A task is one head and one tile of up to 32 consecutive queries of one sequence. Many queries
//! are the lanes of `many`; few go one by one in `few`. Both do the same operations.
//!
//! **AMX** takes bf16 products in tiles, with operations and an order of their own (`tiles.rs`), so its results differ from those
//! of other instruction sets in the last bits. What is said here of equal bits and of what leaks holds there as well.

mod arithmetic;
mod few;
mod format;
mod kv;
mod many;
mod products;
mod span;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::{cell::Cell, f32::consts::LOG2_E, marker::PhantomData, ops::Range};

use half::bf16;

use crate::{
    buffer::with_scratch,
    isa::Isa,
    simd::{LANES, Simd, Task},
    team::{Shared, Team},
};
use arithmetic::{Arithmetic, vector};
pub use format::{KvFormat, UnknownKvFormat};
pub(crate) use kv::SharedKv;
pub use kv::{KvBlocks, KvHeads, KvRows, KvWrite, store};
pub(crate) use products::Products;
pub use span::Span;

/// Keys of a block. Part of the numerical definition: changing it changes results.
pub const KEY_BLOCK: usize = 32;
const _: () = assert!(KEY_BLOCK == 2 * LANES);

/// Runs of tasks that each thread of a team takes, on AMX: enough to even out sequences of different lengths.
#[cfg(target_arch = "x86_64")]
const RUNS_PER_THREAD: usize = 16;

/// Queries of a task: the most that a register tile takes on any instruction set.
const QUERY_TILE: usize = 2 * LANES;

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
    pub kv: KvHeads<'a>,
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
    /// In which numbers products are taken.
    pub precision: Precision,
    /// The packed batch.
    pub sequences: &'a [Sequence<'a>],
}

/// In which numbers the products of attention are taken. Softmax and all sums are in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// Queries and weights rounded to bf16, multiplied with keys and values of [`KvFormat::Bf16`] or
    /// [`KvFormat::Int8`]. Keys and values kept in f32 are multiplied in f32.
    Bf16,
}

/// Where results go: `[tokens, heads · head_dim]`.
#[derive(Debug)]
pub enum Out<'a> {
    /// As they are.
    F32(&'a mut [f32]),
    /// Rounded to the nearest; subnormal numbers become zero.
    Bf16(&'a mut [bf16]),
}

impl<'a> From<&'a mut [f32]> for Out<'a> {
    fn from(out: &'a mut [f32]) -> Self {
        Out::F32(out)
    }
}

impl<'a> From<&'a mut Vec<f32>> for Out<'a> {
    fn from(out: &'a mut Vec<f32>) -> Self {
        Out::F32(out)
    }
}

impl<'a> From<&'a mut [bf16]> for Out<'a> {
    fn from(out: &'a mut [bf16]) -> Self {
        Out::Bf16(out)
    }
}

/// `softmax(q·kᵀ · scale)·v` per sequence and head.
///
/// A query that sees no key gets zeros. Rows of `out` in no sequence are left alone.
///
/// # Panics
/// If lengths do not fit together, rows of two sequences overlap, or a key that is seen is no longer stored.
pub fn attention<'a>(isa: Isa, team: &Team, args: Attention<'_>, out: impl Into<Out<'a>>) {
    attend(isa, team, args, None, out.into());
}

/// The same of queries that are multiplied by [`Attention::factor`] and rounded: `[heads, rows, head_dim / 2]` pairs of bf16,
/// for heads of whole tiles. `args.q` is not read.
pub(crate) fn of_rounded(team: &Team, args: Attention<'_>, queries: &[u32], out: &mut [f32]) {
    assert!(takes_rounded(Isa::Amx, args.head_dim) && args.precision == Precision::Bf16);
    attend(Isa::Amx, team, args, Some(queries), out.into());
}

/// Whether [`of_rounded`] takes heads of this size.
pub(crate) fn takes_rounded(isa: Isa, head_dim: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    let suits = tiles::suits(head_dim);
    #[cfg(not(target_arch = "x86_64"))]
    let suits = false;
    isa == Isa::Amx && head_dim.is_multiple_of(2 * LANES) && suits
}

fn attend(isa: Isa, team: &Team, args: Attention<'_>, rounded: Option<&[u32]>, out: Out<'_>) {
    let out = match out {
        Out::F32(out) => SharedOut::F32(out.len(), Shared::new(out)),
        Out::Bf16(out) => SharedOut::Bf16(out.len(), Shared::new(out)),
    };
    let width = args.heads * args.head_dim;
    // Out of its place while it is in use: a thread that waits may be given another call of this function.
    let mut tiles = TILES.take();
    tiles.clear();
    let (mut tasks, mut work, mut row) = (0, 0usize, 0);
    for sequence in args.sequences {
        args.check(sequence, rounded, out.len());
        assert!(row <= sequence.rows.start, "sequences are not in the order of their rows");
        row = sequence.rows.end.max(row);
        tiles.push(tasks);
        tasks += sequence.rows.len().div_ceil(QUERY_TILE);
        let last = sequence.start + sequence.rows.len().saturating_sub(1);
        let keys = args.span.keys(last, sequence.len).len();
        work = work.saturating_add(4 * width * keys * sequence.rows.len());
    }
    let room = many::scratch(QUERY_TILE / LANES, args.head_dim).max(few::scratch(args.head_dim));
    #[cfg(target_arch = "x86_64")]
    let (amx, room) = match crate::simd::Amx::new().filter(|_| isa == Isa::Amx && tiles::suits(args.head_dim)) {
        Some(amx) => (Some(amx), room.max(tiles::scratch(args.head_dim))),
        None => (None, room),
    };
    // A head's tiles follow each other where they read the same blocks, so that these stay in a core's cache; the heads
    // of a tile, where the tile's rows and its window of blocks are all that is read.
    let heads_inside = args.span.left.is_some() && args.span.right.is_some();
    let task = |number: usize| {
        let (head, task) =
            if heads_inside { (number % args.heads, number / args.heads) } else { (number / tasks, number % tasks) };
        let index = tiles.partition_point(|&first| first <= task) - 1;
        let sequence = &args.sequences[index];
        let first = (task - tiles[index]) * QUERY_TILE;
        let queries = first..(first + QUERY_TILE).min(sequence.rows.len());
        QueryTask { args, rounded, sequence, head, queries, heads_inside, out: &out }
    };
    let narrow = |sequence: &Sequence<'_>| sequence.kv.layout().format != KvFormat::F32;
    let tasks = tasks * args.heads;
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = amx.filter(|_| args.precision == Precision::Bf16) {
        // Runs of tasks, for which tiles are shaped once.
        let runs = if team.threads() == 1 { 1 } else { tasks.min(RUNS_PER_THREAD * team.threads()) };
        team.run(runs, work, |run| {
            let tasks = || crate::team::share(tasks, runs, run).map(task);
            with_scratch(room, |scratch| {
                tiles::run(amx, tasks().filter(|task| narrow(task.sequence)), scratch);
                for task in tasks().filter(|task| !narrow(task.sequence)) {
                    isa.run(Run { task, scratch, arithmetic: PhantomData::<arithmetic::F32> });
                }
            });
        });
        return TILES.set(tiles);
    }
    team.run(tasks, work, |number| {
        let task = task(number);
        with_scratch(room, |scratch| {
            if args.precision == Precision::Bf16 && narrow(task.sequence) {
                if isa.has_fast_dot_bf16() {
                    isa.run_low_precision(Run { task, scratch, arithmetic: PhantomData::<arithmetic::Bf16> });
                } else {
                    isa.run_low_precision(Run { task, scratch, arithmetic: PhantomData::<arithmetic::Halves> });
                }
            } else {
                isa.run(Run { task, scratch, arithmetic: PhantomData::<arithmetic::F32> });
            }
        });
    });
    TILES.set(tiles);
}

thread_local!(
    /// First tasks of sequences: memory for [`attention`].
    static TILES: Cell<Vec<usize>> = const { Cell::new(Vec::new()) }
);

/// The rows of all tasks, and how many elements they are.
enum SharedOut<'a> {
    F32(usize, Shared<'a, f32>),
    Bf16(usize, Shared<'a, bf16>),
}

impl SharedOut<'_> {
    fn len(&self) -> usize {
        let (SharedOut::F32(len, _) | SharedOut::Bf16(len, _)) = self;
        *len
    }
}

impl Attention<'_> {
    /// What queries are multiplied by: weights are powers of two.
    #[inline(always)]
    pub(crate) fn factor(&self) -> f32 {
        self.scale * LOG2_E
    }

    fn check(&self, sequence: &Sequence<'_>, rounded: Option<&[u32]>, out: usize) {
        let Sequence { rows, start, len, kv } = sequence;
        let width = self.heads * self.head_dim;
        assert!(kv.heads() == self.heads && kv.layout().head_dim == self.head_dim, "{kv:?} has other heads");
        assert!(rows.end * width <= out, "rows {rows:?} pass the end of out");
        let Some(last) = rows.end.checked_sub(1).filter(|_| !rows.is_empty()) else {
            return;
        };
        match rounded {
            Some(queries) => {
                assert!(rows.end * width <= 2 * queries.len(), "rows {rows:?} pass the end of the queries")
            }
            None => assert!(last * self.q_stride + width <= self.q.len(), "rows {rows:?} pass the end of q"),
        }
        let keys = self.span.keys(*start, *len).start..self.span.keys(start + rows.len() - 1, *len).end;
        if !keys.is_empty() {
            let blocks = (keys.end - 1) / KEY_BLOCK - keys.start / KEY_BLOCK + 1;
            assert!(blocks * KEY_BLOCK <= kv.capacity(), "keys {keys:?} are not all stored in {kv:?}");
        }
    }
}

/// One task: some queries of a sequence, one head.
pub(crate) struct QueryTask<'a> {
    args: Attention<'a>,
    /// Queries that need no packing.
    rounded: Option<&'a [u32]>,
    sequence: &'a Sequence<'a>,
    head: usize,
    /// Relative to the sequence's rows.
    queries: Range<usize>,
    /// Whether the next task is the next head of the same queries; else it is the same head of the next queries.
    heads_inside: bool,
    out: &'a SharedOut<'a>,
}

struct Run<'a, A> {
    task: QueryTask<'a>,
    scratch: &'a mut [f32],
    arithmetic: PhantomData<A>,
}

impl<S: Products, A: Arithmetic> Task<S> for Run<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let mut queries = self.task.queries.clone();
        while !queries.is_empty() {
            let tile = queries.start..queries.end.min(queries.start + S::VECTORS * LANES);
            queries.start = tile.end;
            if tile.len() <= S::ALONE {
                A::few(s, &self.task, tile, self.scratch);
            } else {
                many::many::<S, A>(s, &self.task, tile, self.scratch);
            }
        }
    }
}

impl QueryTask<'_> {
    /// What a query sees.
    #[inline(always)]
    fn keys(&self, query: usize) -> Range<usize> {
        self.args.span.keys(self.sequence.start + query, self.sequence.len)
    }

    /// The block to be read after one of `blocks`: the next, or the first of the next head, where they are kept as they are multiplied.
    #[inline(always)]
    fn block_after(&self, block: usize, blocks: &Range<usize>) -> Option<&[f32]> {
        let (block, head) = if block + 1 < blocks.end { (block + 1, self.head) } else { (blocks.start, self.head + 1) };
        let wanted = head < self.args.heads && self.format() != KvFormat::Int8;
        wanted.then(|| self.sequence.kv.block(block, head))
    }

    fn format(&self) -> KvFormat {
        self.sequence.kv.layout().format
    }

    /// The elements of a query, for this head.
    #[inline(always)]
    fn query(&self, query: usize) -> &[f32] {
        let row = self.sequence.rows.start + query;
        &self.args.q[row * self.args.q_stride + self.head * self.args.head_dim..][..self.args.head_dim]
    }

    /// The pairs of a query and those behind it, for this head, where they are rounded.
    #[inline(always)]
    fn rounded(&self, query: usize) -> Option<&[u32]> {
        let queries = self.rounded?;
        let width = self.args.head_dim / 2;
        let rows = queries.len() / (self.args.heads * width);
        Some(&queries[(self.head * rows + self.sequence.rows.start + query) * width..(self.head + 1) * rows * width])
    }

    #[inline(always)]
    fn next_head(&self) -> usize {
        if self.heads_inside { (self.head + 1) % self.args.heads } else { self.head }
    }

    /// Brings the next task's queries into the cache: they are far apart, and nothing else would in time.
    #[inline(always)]
    fn prefetch_next<S: Simd>(&self, s: S, queries: Range<usize>) {
        if self.rounded.is_some() {
            return;
        }
        let ahead = if self.heads_inside { self.args.head_dim } else { QUERY_TILE * self.args.q_stride };
        for query in queries {
            let next = self.query(query).as_ptr().wrapping_add(ahead);
            for i in (0..self.args.head_dim).step_by(LANES) {
                s.prefetch(next.wrapping_add(i));
            }
        }
    }

    /// Divides a query's weighted sums of values by its sum of weights.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, query: usize, sums: &mut [f32], total: f32) {
        let seen = !self.keys(query).is_empty();
        for sum in sums.as_chunks_mut().0 {
            let quotient = s.div(s.load(sum), s.splat(total));
            // A sum that is zero has the sign of keys nobody may know of: adding 0 makes it positive.
            s.store(if seen { s.add(quotient, s.zero()) } else { s.zero() }, sum);
        }
        self.put(s, query, sums);
    }

    /// Hands out a query's result.
    #[inline(always)]
    fn put<S: Simd>(&self, s: S, query: usize, sums: &[f32]) {
        let dim = self.args.head_dim;
        let start = ((self.sequence.rows.start + query) * self.args.heads + self.head) * dim;
        match self.out {
            SharedOut::F32(_, out) => {
                // SAFETY: tasks differ in row or head, and rows of sequences do not overlap (checked).
                let out = unsafe { out.slice(start..start + dim) };
                for (out, sum) in out.chunks_mut(LANES).zip(sums.as_chunks().0) {
                    s.store_part(s.load(sum), out);
                }
            }
            SharedOut::Bf16(_, out) => {
                // SAFETY: as above.
                let out = unsafe { out.slice(start..start + dim) };
                for (out, sums) in out.chunks_mut(2 * LANES).zip(sums.chunks_exact(2 * LANES)) {
                    let mut pairs = [0; LANES];
                    s.store_words(s.round(s.load(vector(sums, 0)), s.load(vector(sums, LANES))), &mut pairs);
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = bf16::from_bits((pairs[i / 2] >> (16 * (i % 2))) as u16);
                    }
                }
            }
        }
    }
}
