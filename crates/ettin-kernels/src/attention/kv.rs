//! Keys and values of one sequence and one layer, in the layout attention reads.

use std::{cell::Cell, ops::Range};

use super::{
    KEY_BLOCK,
    format::{KvFormat, Layout},
};
use crate::{
    buffer::{Buffer, recycled},
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, Team},
};

/// Keys and values in blocks of [`KEY_BLOCK`] positions that start at absolute multiples of it.
///
/// Block b lives in slot `b % capacity`, so storage of a window's size serves a sequence of any length as a ring,
/// and a position's place inside its block never depends on the ring's phase.
///
/// Nothing here knows how long the sequence is; readers say which positions count ([`super::Sequence`]), so dropping
/// the last tokens (rejected drafts) needs no call.
#[derive(Clone)]
pub struct KvBlocks {
    heads: usize,
    layout: Layout,
    blocks: usize,
    /// Whether a position beyond the storage was written: from then on it is a ring.
    wrapped: bool,
    data: Buffer,
}

impl KvBlocks {
    /// Storage in which any `capacity` consecutive positions fit, whatever their alignment.
    ///
    /// # Panics
    /// If there are no heads or they have no elements.
    pub fn new(heads: usize, head_dim: usize, capacity: usize, format: KvFormat) -> Self {
        assert!(heads > 0 && head_dim > 0, "{heads} heads of {head_dim}");
        let layout = Layout { format, head_dim };
        let mut kv = Self { heads, layout, blocks: blocks_for(capacity), wrapped: false, data: Buffer::default() };
        kv.data = Buffer::zeroed(kv.blocks * kv.block_len());
        kv
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.layout.head_dim
    }

    /// The number format of what is stored.
    pub fn format(&self) -> KvFormat {
        self.layout.format
    }

    /// Positions stored, counting whole blocks.
    pub fn capacity(&self) -> usize {
        self.blocks * KEY_BLOCK
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        size_of_val::<[f32]>(&self.data)
    }

    /// Stores one position: `k` (already rotated) and `v` are `[heads, head_dim]`. The first position of a block drops
    /// what the block held.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn write(&mut self, position: usize, k: &[f32], v: &[f32]) {
        let width = self.heads * self.head_dim();
        assert!(k.len() == width && v.len() == width, "a key and a value have {width} elements");
        let source = KvRows { k, v, stride: width };
        store(Isa::Portable, &Team::single(), source, &mut [KvWrite { kv: self, position, rows: 0..1 }]);
    }

    /// Stores one head of consecutive positions, `first` a multiple of [`KEY_BLOCK`], from rows that are rounded already,
    /// `[positions, head_dim / 2]` pairs of bf16: whole vectors of them, in [`KvFormat::Bf16`], no more than there is room for.
    /// As with [`store`], later positions count as dropped.
    pub(crate) fn fill(&mut self, isa: Isa, head: usize, first: usize, k: &[u32], v: &[u32]) {
        let width = self.head_dim() / 2;
        let rows = k.len() / width;
        assert!(self.format() == KvFormat::Bf16 && self.head_dim().is_multiple_of(2 * LANES) && head < self.heads);
        assert!(k.len() == v.len() && first.is_multiple_of(KEY_BLOCK) && rows <= self.capacity());
        self.wrapped |= first + rows > self.capacity();
        let (len, stride) = (self.layout.len(), self.block_len());
        let pairs = k.chunks(KEY_BLOCK * width).zip(v.chunks(KEY_BLOCK * width));
        for (block, (k, v)) in (first / KEY_BLOCK..).zip(pairs) {
            let block = &mut self.data[block % self.blocks * stride + head * len..][..len];
            isa.run_narrow(Fill { layout: self.layout, block, k, v });
        }
    }

    /// Copies one position out, for tests and debugging: `[heads, head_dim]` each, as the format keeps them.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn read(&self, position: usize, k: &mut [f32], v: &mut [f32]) {
        let width = self.heads * self.head_dim();
        assert!(k.len() == width && v.len() == width, "a key and a value have {width} elements");
        let heads = k.chunks_exact_mut(self.head_dim()).zip(v.chunks_exact_mut(self.head_dim()));
        for (head, (k, v)) in heads.enumerate() {
            self.layout.read(self.block(position / KEY_BLOCK, head), position % KEY_BLOCK, k, v);
        }
    }

    /// Makes room for `capacity` consecutive positions, keeping what is stored.
    ///
    /// # Panics
    /// If the storage has wrapped: a ring's blocks would change slots.
    pub fn grow(&mut self, capacity: usize) {
        let blocks = blocks_for(capacity);
        if blocks > self.blocks {
            assert!(!self.wrapped, "a ring of keys cannot grow");
            self.blocks = blocks;
            let mut data = Buffer::zeroed(blocks * self.block_len());
            data[..self.data.len()].copy_from_slice(&self.data);
            self.data = data;
        }
    }

    /// Forgets the contents for use by another sequence; the memory stays.
    pub fn reset(&mut self) {
        self.wrapped = false;
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// A block of positions, for one head.
    #[inline(always)]
    pub(super) fn block(&self, block: usize, head: usize) -> &[f32] {
        let len = self.layout.len();
        &self.data[(block % self.blocks * self.heads + head) * len..][..len]
    }

    fn block_len(&self) -> usize {
        self.heads * self.layout.len()
    }
}

impl std::fmt::Debug for KvBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "KvBlocks {{ {} heads of {}, {} positions in {} }}",
            self.heads,
            self.head_dim(),
            self.capacity(),
            self.format()
        )
    }
}

/// Blocks that `capacity` consecutive positions can touch.
fn blocks_for(capacity: usize) -> usize {
    if capacity == 0 { 1 } else { (capacity + KEY_BLOCK - 2) / KEY_BLOCK + 1 }
}

/// Keys and values side by side: row r's are at `k[r·stride..]` and `v[r·stride..]`, `[heads, head_dim]` each. In a
/// `[tokens, q | k | v]` buffer both are that buffer from their column on.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// Keys, already rotated.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Elements from one row to the next, in both.
    pub stride: usize,
}

/// Rows of a [`KvRows`] and where they go: row `rows.start + i` to position `position + i`.
#[derive(Debug)]
pub struct KvWrite<'a> {
    /// The sequence's storage.
    pub kv: &'a mut KvBlocks,
    /// Absolute position of the first row.
    pub position: usize,
    /// Rows of the source.
    pub rows: Range<usize>,
}

/// Stores the keys and values of a packed batch, in parallel over sequences and blocks. The bits are the same on every
/// instruction set. Positions behind those written count as dropped: a write to the start of a block takes all of it.
///
/// # Panics
/// If a row is not in the source, or a write does not fit into its storage.
pub fn store(isa: Isa, team: &Team, source: KvRows<'_>, writes: &mut [KvWrite<'_>]) {
    let (mut tasks, mut elements) = (0, 0);
    // Out of its place while it is in use: a thread that waits may be given another call of this function.
    let mut targets = recycled(TARGETS.take());
    for KvWrite { kv, position, rows } in writes {
        let width = kv.heads * kv.head_dim();
        let needed = rows.end.checked_sub(1).map_or(0, |last| last * source.stride + width);
        let present = source.k.len().min(source.v.len());
        assert!(needed <= present, "rows {rows:?} pass the source's end");
        assert!(rows.len() <= kv.capacity(), "more rows than the storage holds");
        let positions = *position..*position + rows.len();
        kv.wrapped |= positions.end > kv.capacity();
        let target = Target {
            first_task: tasks,
            layout: kv.layout,
            slots: kv.blocks,
            block_len: kv.block_len(),
            first_row: rows.start,
            blocks: positions.start / KEY_BLOCK..positions.end.div_ceil(KEY_BLOCK),
            positions,
            data: Shared::new(&mut kv.data),
        };
        tasks += target.tasks();
        elements += rows.len() * width;
        targets.push(target);
    }
    team.run(tasks, 16 * elements, |task| {
        let target = &targets[targets.partition_point(|target| target.first_task <= task) - 1];
        isa.run_narrow(Write { target, source, task: task - target.first_task });
    });
    TARGETS.set(recycled(targets));
}

thread_local!(
    /// Memory for [`store`].
    static TARGETS: Cell<Vec<Target<'static>>> = const { Cell::new(Vec::new()) }
);

/// How far ahead rows are brought into the cache.
const ROWS_AHEAD: usize = 8;

/// The slot `task` of a target.
struct Write<'a> {
    target: &'a Target<'a>,
    source: KvRows<'a>,
    task: usize,
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.target.write(s, self.source, self.task);
    }
}

/// A block of [`KvBlocks::fill`].
struct Fill<'a> {
    layout: Layout,
    block: &'a mut [f32],
    k: &'a [u32],
    v: &'a [u32],
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.layout.write_pairs(s, self.block, self.k, self.v);
    }
}

/// One sequence's storage, shared by the tasks of its slots.
struct Target<'a> {
    first_task: usize,
    layout: Layout,
    slots: usize,
    block_len: usize,
    first_row: usize,
    positions: Range<usize>,
    /// Blocks that hold the positions.
    blocks: Range<usize>,
    data: Shared<'a, f32>,
}

impl Target<'_> {
    /// One per slot: where the positions just fill the ring, its first and last block share one.
    fn tasks(&self) -> usize {
        if self.positions.is_empty() { 0 } else { self.blocks.len().min(self.slots) }
    }

    #[inline(always)]
    fn write<S: Simd>(&self, s: S, source: KvRows<'_>, task: usize) {
        let start = (self.blocks.start + task) % self.slots * self.block_len;
        // SAFETY: each slot is one task of one sequence.
        let slot = unsafe { self.data.slice(start..start + self.block_len) };
        for block in (self.blocks.start + task..self.blocks.end).step_by(self.slots) {
            let base = block * KEY_BLOCK;
            let start = self.positions.start.max(base);
            let end = self.positions.end.min(base + KEY_BLOCK);
            let dim = self.layout.head_dim;
            if start != base {
                // One element of each key lies in a line of its own: all of them at once, or each would be waited for.
                for tile in slot.chunks_exact(self.layout.len()) {
                    self.layout.fetch(s, tile, start - base);
                }
            }
            for (head, tile) in slot.chunks_exact_mut(self.layout.len()).enumerate() {
                if start == base {
                    // Nothing else is in the block yet, or what was has left the ring.
                    let from = (self.first_row + start - self.positions.start) * source.stride + head * dim;
                    let rows = KvRows { k: &source.k[from..], v: &source.v[from..], ..source };
                    self.layout.write_first(s, tile, rows, end - start);
                    continue;
                }
                for position in start..end {
                    let row = self.first_row + position - self.positions.start;
                    let from = row * source.stride + head * dim;
                    // A head's rows are far apart: nothing else would bring them into the cache in time.
                    for i in (0..dim).step_by(LANES) {
                        s.prefetch(source.k.as_ptr().wrapping_add(from + ROWS_AHEAD * source.stride + i));
                        s.prefetch(source.v.as_ptr().wrapping_add(from + ROWS_AHEAD * source.stride + i));
                    }
                    self.layout.write(tile, position - base, &source.k[from..][..dim], &source.v[from..][..dim]);
                }
            }
        }
    }
}
