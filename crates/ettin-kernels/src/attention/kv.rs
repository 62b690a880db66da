//! Keys and values of one sequence and one layer, in the layout attention reads.

use std::{cell::Cell, ops::Range};

use super::format::{KEY_BLOCK, KvFormat, KvLayout, KvRows};
use crate::{
    buffer::{Buffer, recycled},
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, Team},
};

/// Keys and values in blocks of [`KEY_BLOCK`] positions that start at absolute multiples of it.
///
/// Block b lives in slot `b % capacity`, so storage of a window's size serves a sequence of any length as a ring, and a
/// position's place inside its block never depends on the ring's phase. A head's slots follow each other, so that
/// threads can have heads of their own.
///
/// Nothing here knows how long the sequence is; readers say which positions count ([`super::Sequence`]), so dropping
/// the last tokens (rejected drafts) needs no call.
#[derive(Clone)]
pub struct KvBlocks {
    heads: usize,
    layout: KvLayout,
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
        let layout = KvLayout { format, head_dim };
        let mut kv = Self { heads, layout, blocks: blocks_for(capacity), wrapped: false, data: Buffer::default() };
        kv.data = Buffer::zeroed(heads * kv.blocks * layout.len());
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

    /// The number format of the stored keys and values.
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
    /// the block's old contents.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn write(&mut self, position: usize, k: &[f32], v: &[f32]) {
        let width = self.heads * self.head_dim();
        assert!(k.len() == width && v.len() == width, "a key and a value have {width} elements");
        let source = KvRows { k, v, stride: width };
        store(Isa::Portable, &Team::single(), source, &mut [KvWrite { kv: self, position, rows: 0..1 }]);
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
            self.layout.read(self.view().block(position / KEY_BLOCK, head), position % KEY_BLOCK, k, v);
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
            let (old, len) = (self.blocks * self.layout.len(), blocks * self.layout.len());
            let mut data = Buffer::zeroed(self.heads * len);
            for (head, kept) in self.data.chunks_exact(old).take(self.heads).enumerate() {
                data[head * len..][..old].copy_from_slice(kept);
            }
            (self.blocks, self.data) = (blocks, data);
        }
    }

    /// Makes room for sequences of these lengths in as many of `kept`, or in more. Storage that suits stays, whatever
    /// it holds.
    pub fn make_room(
        kept: &mut Vec<KvBlocks>,
        lengths: impl IntoIterator<Item = usize>,
        heads: usize,
        head_dim: usize,
        format: KvFormat,
    ) {
        for (index, len) in lengths.into_iter().enumerate() {
            let made = || KvBlocks::new(heads, head_dim, len, format);
            match kept.get_mut(index) {
                None => kept.push(made()),
                Some(kv) => {
                    let shape = (kv.heads(), kv.head_dim(), kv.format());
                    if kv.capacity() < len || shape != (heads, head_dim, format) {
                        *kv = made();
                    }
                }
            }
        }
    }

    /// Forgets the contents for use by another sequence; the memory stays.
    pub fn reset(&mut self) {
        self.wrapped = false;
    }

    /// All heads, to be read.
    pub fn view(&self) -> KvHeads<'_> {
        KvHeads { heads: self.heads, layout: self.layout, blocks: self.blocks, data: &self.data }
    }
}

impl std::fmt::Debug for KvBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view().fmt(f)
    }
}

/// Keys and values of some neighbouring heads of a [`KvBlocks`], or of all.
#[derive(Clone, Copy)]
pub struct KvHeads<'a> {
    heads: usize,
    layout: KvLayout,
    blocks: usize,
    data: &'a [f32],
}

impl<'a> KvHeads<'a> {
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    pub(super) fn layout(&self) -> KvLayout {
        self.layout
    }

    pub(super) fn capacity(&self) -> usize {
        self.blocks * KEY_BLOCK
    }

    /// A block of positions, for one head.
    #[inline(always)]
    pub(super) fn block(&self, block: usize, head: usize) -> &'a [f32] {
        let len = self.layout.len();
        &self.data[(head * self.blocks + block % self.blocks) * len..][..len]
    }
}

impl std::fmt::Debug for KvHeads<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (KvLayout { format, head_dim }, positions) = (self.layout, self.capacity());
        write!(f, "keys and values of {} heads of {head_dim}, {positions} positions in {format}", self.heads)
    }
}

/// Blocks that `capacity` consecutive positions can touch.
fn blocks_for(capacity: usize) -> usize {
    if capacity == 0 { 1 } else { (capacity + KEY_BLOCK - 2) / KEY_BLOCK + 1 }
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
        let (first_task, first_row, positions) = (tasks, rows.start, *position..*position + rows.len());
        let kv = SharedKv::new(kv, positions);
        tasks += kv.slots();
        elements += rows.len() * width;
        targets.push(StoreTarget { first_task, first_row, kv });
    }
    team.run(tasks, 16 * elements, |task| {
        let StoreTarget { first_task, first_row, kv } =
            &targets[targets.partition_point(|target| target.first_task <= task) - 1];
        // SAFETY: each slot is one task of one sequence.
        unsafe { kv.write(isa, 0..kv.heads, task - first_task, source, *first_row) };
    });
    TARGETS.set(recycled(targets));
}

/// A sequence's storage, and where its rows and tasks begin.
struct StoreTarget<'a> {
    first_task: usize,
    first_row: usize,
    kv: SharedKv<'a>,
}

thread_local!(
    /// Memory for [`store`].
    static TARGETS: Cell<Vec<StoreTarget<'static>>> = const { Cell::new(Vec::new()) }
);

/// How far ahead rows are brought into the cache.
const ROWS_AHEAD: usize = 8;

/// One sequence's storage, of which tasks write and read parts of their own, and the positions that are to be written.
pub(crate) struct SharedKv<'a> {
    heads: usize,
    layout: KvLayout,
    blocks: usize,
    positions: Range<usize>,
    data: Shared<'a, f32>,
}

impl std::fmt::Debug for SharedKv<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "positions {:?} of {} heads", self.positions, self.heads)
    }
}

impl<'a> SharedKv<'a> {
    /// # Panics
    /// If there are more positions than room.
    pub(crate) fn new(kv: &'a mut KvBlocks, positions: Range<usize>) -> Self {
        assert!(positions.len() <= kv.capacity(), "more rows than the storage holds");
        kv.wrapped |= positions.end > kv.capacity();
        let KvBlocks { heads, layout, blocks, .. } = *kv;
        Self { heads, layout, blocks, positions, data: Shared::new(&mut kv.data) }
    }

    pub(crate) fn format(&self) -> KvFormat {
        self.layout.format
    }

    /// Slots that are written: where the positions just fill the ring, its first and last block share one.
    fn slots(&self) -> usize {
        let Range { start, end } = self.positions;
        if start == end { 0 } else { (end.div_ceil(KEY_BLOCK) - start / KEY_BLOCK).min(self.blocks) }
    }

    /// Writes the positions of some heads, from the rows of `source` from `first_row` on, in which these heads come
    /// first.
    ///
    /// # Safety
    /// Nobody else may use these heads meanwhile.
    ///
    /// # Panics
    /// If the rows or heads are not there.
    pub(crate) unsafe fn write_heads(&self, isa: Isa, heads: Range<usize>, source: KvRows<'_>, first_row: usize) {
        for slot in 0..self.slots() {
            // SAFETY: the same promise.
            unsafe { self.write(isa, heads.clone(), slot, source, first_row) };
        }
    }

    /// # Safety
    /// Nobody else may use these heads of the slot meanwhile, which is counted from that of the first position.
    unsafe fn write(&self, isa: Isa, heads: Range<usize>, slot: usize, source: KvRows<'_>, first_row: usize) {
        isa.run_low_precision(Write { kv: self, heads, slot, source, first_row });
    }

    /// Writes the positions of one head, the first a multiple of [`KEY_BLOCK`], from rows that are rounded already,
    /// `[positions, head_dim / 2]` pairs of bf16: whole vectors of them, in [`KvFormat::Bf16`].
    /// As with [`store`], later positions count as dropped.
    ///
    /// # Safety
    /// Nobody else may use this head meanwhile.
    pub(crate) unsafe fn fill(&self, isa: Isa, head: usize, k: &[u32], v: &[u32]) {
        let (layout, first) = (self.layout, self.positions.start);
        let width = layout.head_dim / 2;
        assert!(layout.format == KvFormat::Bf16 && layout.head_dim.is_multiple_of(2 * LANES) && head < self.heads);
        assert!(k.len() == v.len() && first.is_multiple_of(KEY_BLOCK) && k.len() == self.positions.len() * width);
        let pairs = k.chunks(KEY_BLOCK * width).zip(v.chunks(KEY_BLOCK * width));
        for (block, (k, v)) in (first / KEY_BLOCK..).zip(pairs) {
            // SAFETY: the head is the caller's.
            let block = unsafe { self.slot(head, block % self.blocks) };
            isa.run_low_precision(Fill { layout, block, k, v });
        }
    }

    /// # Safety
    /// Nobody may write these heads while they are read.
    pub(crate) unsafe fn heads(&self, heads: Range<usize>) -> KvHeads<'_> {
        let len = self.blocks * self.layout.len();
        // SAFETY: by the caller's promise.
        let data = unsafe { self.data.slice(heads.start * len..heads.end * len) };
        KvHeads { heads: heads.len(), layout: self.layout, blocks: self.blocks, data }
    }

    /// # Safety
    /// Nobody else may use it meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // nobody else uses it, by the caller's promise
    unsafe fn slot(&self, head: usize, slot: usize) -> &mut [f32] {
        let (start, len) = ((head * self.blocks + slot) * self.layout.len(), self.layout.len());
        // SAFETY: by the caller's promise.
        unsafe { self.data.slice(start..start + len) }
    }
}

/// A slot of some heads. Built only by [`SharedKv::write`], whose promise it relies on.
struct Write<'a> {
    kv: &'a SharedKv<'a>,
    heads: Range<usize>,
    /// Counted from that of the first position.
    slot: usize,
    source: KvRows<'a>,
    first_row: usize,
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { kv: SharedKv { layout, blocks: slots, positions, .. }, heads, source, .. } = &self;
        let dim = layout.head_dim;
        let blocks = positions.start / KEY_BLOCK + self.slot..positions.end.div_ceil(KEY_BLOCK);
        for block in blocks.step_by(*slots) {
            let base = block * KEY_BLOCK;
            let (start, end) = (positions.start.max(base), positions.end.min(base + KEY_BLOCK));
            let row = |position: usize, head: usize| {
                (self.first_row + position - positions.start) * source.stride + (head - heads.start) * dim
            };
            // SAFETY: these heads of the slot are the caller's.
            let slot = |head: usize| unsafe { self.kv.slot(head, block % slots) };
            if start != base {
                // One element of each key lies in a line of its own: all of them at once, or each would be waited for.
                for head in heads.clone() {
                    layout.fetch(s, slot(head), start - base);
                }
            }
            for head in heads.clone() {
                let tile = slot(head);
                if start == base {
                    // Nothing else is in the block yet, or its old positions have left the ring.
                    let from = row(start, head);
                    let rows = KvRows { k: &source.k[from..], v: &source.v[from..], ..*source };
                    layout.write_first(s, tile, rows, end - start);
                    continue;
                }
                for position in start..end {
                    let from = row(position, head);
                    // A head's rows are far apart: nothing else would bring them into the cache in time.
                    for i in (0..dim).step_by(LANES) {
                        s.prefetch(source.k.as_ptr().wrapping_add(from + ROWS_AHEAD * source.stride + i));
                        s.prefetch(source.v.as_ptr().wrapping_add(from + ROWS_AHEAD * source.stride + i));
                    }
                    layout.write(tile, position - base, &source.k[from..][..dim], &source.v[from..][..dim]);
                }
            }
        }
    }
}

/// A block of [`SharedKv::fill`].
struct Fill<'a> {
    layout: KvLayout,
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
