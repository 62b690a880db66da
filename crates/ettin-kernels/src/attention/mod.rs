//! Attention by span over blocks of keys, without any n × n buffer.
//!
//! **Order.** A query passes over the blocks of keys that its span touches, in absolute order, with an online softmax
//! in f32. Within a block: scores are one chain over the head's elements per key; the running maximum is raised, and
//! the sums so far are rescaled; the weights 2^(score − maximum) are added to their sum, key after key; each output
//! element goes on as one chain over the seen keys. Blocks start at absolute multiples of [`KEY_BLOCK`], so a query
//! alone, in a tile, in a prefill or chunk, while decoding, and in front of a ring of any phase does the same
//! operations in the same order: the bits are equal. (Queries are multiplied by scale · log₂ e first.)
//!
//! **Masking** is by omission: a key outside the span never enters the weighted sum, not even as 0 · value, and its
//! score is replaced before it is used. (A pair of bf16 is one instruction: there the value is replaced, too, and 0 · 0
//! enters.) A block's contents beyond the sequence (old data, NaN) cannot leak.
//!
//! **Numbers.** Keys and values are what the cache's [`KvFormat`] keeps of them; [`Precision`] says how they are
//! multiplied. Integers are multiplied as they are, and their scales applied to scores and weights.
//!
//! **Work.** A task is one head and one tile of up to 32 consecutive queries of one sequence. Many queries are the
//! lanes of a register tile (`flash.rs`). Few queries go one by one, and keys are the lanes (`decode.rs`). Both do the
//! same operations.
//!
//! **AMX** takes bf16 products in tiles, with operations and an order of their own (`amx.rs`), so its results differ
//! from those of other instruction sets in the last bits. Equal bits for all cuts, and no leaks, hold there as well.
//!
//! **Files**, from the ground up: `span` says which keys a query sees; `format` lays out a block of keys and values,
//! `kv` stores them; `arguments` and `task` are the input and its parts; `dot` multiplies in one number format or
//! another; `register_tile` has the loop over rows and lanes; `online_softmax` has the parts that all kernels share;
//! `decode`, `flash` and `amx` are the kernels.

#[cfg(target_arch = "x86_64")]
mod amx;
mod arguments;
mod decode;
mod dot;
mod flash;
mod format;
mod kv;
mod online_softmax;
mod register_tile;
mod span;
mod task;

use std::{cell::Cell, marker::PhantomData};

use crate::{
    buffer::with_scratch,
    isa::Isa,
    simd::{LANES, Task},
    team::{Shared, Team},
};
pub use arguments::{Attention, Precision, Sequence};
use dot::{DotBf16, DotBf16Emulated, DotF32, DotStep, DotWidened, FlashStep};
pub use format::{KEY_BLOCK, KvFormat, KvRows, UnknownKvFormat};
pub(crate) use kv::SharedKv;
pub use kv::{KvBlocks, KvHeads, KvWrite, store};
use register_tile::RegisterTiles;
pub use span::Span;
use task::{QUERY_TILE, QueryTask};

/// Runs of tasks that each thread of a team takes, on AMX: enough to even out sequences of different lengths.
#[cfg(target_arch = "x86_64")]
const RUNS_PER_THREAD: usize = 16;

/// `softmax(q·kᵀ · scale)·v` per sequence and head.
///
/// A query that sees no key gets zeros. Rows of `out` in no sequence are left alone.
///
/// # Panics
/// If lengths do not fit together, rows of two sequences overlap, or a key that is seen is no longer stored.
pub fn attention(isa: Isa, team: &Team, args: Attention<'_>, out: &mut [f32]) {
    attend(isa, team, args, None, out);
}

/// As [`attention`], of queries that are multiplied by [`Attention::factor`] and rounded already: `[heads, rows,
/// head_dim / 2]` pairs of bf16, for heads of whole tiles. `args.q` is not read.
pub(crate) fn of_rounded(team: &Team, args: Attention<'_>, queries: &[u32], out: &mut [f32]) {
    assert!(takes_rounded(Isa::Amx, args.head_dim) && args.precision == Precision::Bf16);
    attend(Isa::Amx, team, args, Some(queries), out);
}

/// Whether [`of_rounded`] takes heads of this size.
pub(crate) fn takes_rounded(isa: Isa, head_dim: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    let suits = amx::suits(head_dim);
    #[cfg(not(target_arch = "x86_64"))]
    let suits = false;
    isa == Isa::Amx && head_dim.is_multiple_of(2 * LANES) && suits
}

fn attend(isa: Isa, team: &Team, args: Attention<'_>, rounded: Option<&[u32]>, out: &mut [f32]) {
    let elements = out.len();
    let out = Shared::new(out);
    let width = args.heads * args.head_dim;
    // Out of its place while it is in use: a thread that waits may be given another call of this function.
    let mut tiles = TILES.take();
    tiles.clear();
    let (mut tasks, mut work, mut row) = (0, 0usize, 0);
    for sequence in args.sequences {
        args.check(sequence, rounded, elements);
        assert!(row <= sequence.rows.start, "sequences are not in the order of their rows");
        row = sequence.rows.end.max(row);
        tiles.push(tasks);
        tasks += sequence.rows.len().div_ceil(QUERY_TILE);
        let last = sequence.start + sequence.rows.len().saturating_sub(1);
        let keys = args.span.keys(last, sequence.len).len();
        work = work.saturating_add(4 * width * keys * sequence.rows.len());
    }
    let room = flash::scratch(QUERY_TILE / LANES, args.head_dim).max(decode::scratch(args.head_dim));
    #[cfg(target_arch = "x86_64")]
    let (token, room) = match crate::simd::Amx::new().filter(|_| isa == Isa::Amx && amx::suits(args.head_dim)) {
        Some(token) => (Some(token), room.max(amx::scratch(args.head_dim))),
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
    let tasks = tasks * args.heads;
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = token.filter(|_| args.precision == Precision::Bf16) {
        // Runs of tasks, for which tiles are shaped once. Keys and values in f32 are multiplied in f32, without tiles.
        let in_f32 = |task: &QueryTask<'_>| task.format() == KvFormat::F32;
        let runs = if team.threads() == 1 { 1 } else { tasks.min(RUNS_PER_THREAD * team.threads()) };
        team.run(runs, work, |run| {
            let tasks = || crate::team::share(tasks, runs, run).map(task);
            with_scratch(room, |scratch| {
                amx::run(token, tasks().filter(|task| !in_f32(task)), scratch);
                tasks().filter(in_f32).for_each(|task| run_task(isa, task, scratch));
            });
        });
        return TILES.set(tiles);
    }
    team.run(tasks, work, |number| with_scratch(room, |scratch| run_task(isa, task(number), scratch)));
    TILES.set(tiles);
}

/// Runs a task with the kernels for its numbers. The one place that matches on them.
fn run_task(isa: Isa, task: QueryTask<'_>, scratch: &mut [f32]) {
    match (task.args.precision, task.format()) {
        (Precision::Bf16, KvFormat::Bf16 | KvFormat::Int8) if isa.has_fast_dot_bf16() => {
            isa.run_low_precision(Run::<DotBf16, DotBf16>::new(task, scratch));
        }
        (Precision::Bf16, KvFormat::Bf16 | KvFormat::Int8) => {
            isa.run_low_precision(Run::<DotBf16Emulated, DotWidened<true>>::new(task, scratch));
        }
        (Precision::F32, KvFormat::Bf16) => isa.run(Run::<DotF32, DotWidened<false>>::new(task, scratch)),
        (Precision::F32, KvFormat::Int8) | (_, KvFormat::F32) => isa.run(Run::<DotF32, DotF32>::new(task, scratch)),
    }
}

thread_local!(
    /// First tasks of sequences: memory for [`attention`].
    static TILES: Cell<Vec<usize>> = const { Cell::new(Vec::new()) }
);

/// A task with numbers for many queries at a time, and for one.
struct Run<'a, F, D> {
    task: QueryTask<'a>,
    scratch: &'a mut [f32],
    numbers: PhantomData<(F, D)>,
}

impl<'a, F, D> Run<'a, F, D> {
    fn new(task: QueryTask<'a>, scratch: &'a mut [f32]) -> Self {
        Self { task, scratch, numbers: PhantomData }
    }
}

impl<S: RegisterTiles, F: FlashStep, D: DotStep> Task<S> for Run<'_, F, D> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        const { assert!(S::MAX_SINGLE <= decode::MAX_QUERIES) };
        let Self { task, scratch, .. } = self;
        let mut queries = task.queries.clone();
        while !queries.is_empty() {
            let tile = queries.start..queries.end.min(queries.start + S::MAX_VECTORS * LANES);
            queries.start = tile.end;
            if tile.len() <= S::MAX_SINGLE {
                s.run(decode::Decode::<D>::new(&task, tile, scratch));
            } else {
                s.run(flash::Flash::<F>::new(&task, tile, scratch));
            }
        }
    }
}
