//! The attention half by heads: norm, projection, rotation, attention, output.
//!
//! **Heads in groups.** A task projects a few heads, attends with them, and encodes them as input of the output
//! product. Its queries, keys, values and results stay in L2 beside the encoded rows, whatever the number of heads; for
//! all heads at once it would go to L3 and back, at several times the cost. Threads share the groups of a batch: they
//! meet three times a block, and read little of each other. No bit depends on the groups. With caches, a group writes
//! its heads' keys and values into them and attends to what they hold.
//!
//! **Rounded in the epilogue.** Where attention is in bf16 on AMX, the two halves of a head, which rotation pairs, are
//! two panels of the projection. Their output tile is rotated, scaled and rounded while it is in L1 ([`RopeEpilogue`]),
//! into the operands of attention's tiles. Attention would round the same numbers, so the bits are those of the
//! separate steps.

use std::ops::Range;

use super::{
    PackedSequences, SelfAttention,
    plan::{INPUT_BYTES, heads_of_group},
};
use crate::{
    Aligned, KEY_BLOCK, KvBlocks, KvRows, PackedActivations, RopeRows, Sequence, Store, Team, attention,
    attention::SharedKv,
    block::{
        Linear,
        rope_epilogue::{ROW, RopeEpilogue},
    },
    buffer::{as_words, bits},
    gemm::{OutputTile, PackedActivationsView, PackedColumns, Product, Sink, gemm},
    recycled, rope,
    team::Shared,
};

/// Memory of [`attend`], kept from call to call.
#[derive(Debug, Default)]
pub(super) struct HeadsMemory {
    input: PackedActivations,
    output: PackedActivations,
    whole: Aligned, // [rows, size]
    /// One for each group that is computed at the same time.
    groups: Vec<Group>,
    /// An empty list, for its memory.
    kept: Vec<Stored<'static>>,
}

/// Rows of a sequence, the position of the first one, and where their keys and values are stored.
#[derive(Debug)]
struct Stored<'a> {
    rows: Range<usize>,
    start: usize,
    kv: SharedKv<'a>,
}

impl<'a> Stored<'a> {
    fn new(kv: &'a mut KvBlocks, (rows, start): (Range<usize>, usize)) -> Self {
        Self { kv: SharedKv::new(kv, start..start + rows.len()), rows, start }
    }
}

/// Where keys and values are stored.
#[derive(Clone, Copy)]
enum Keys<'a> {
    /// In the memory of each group.
    Group,
    /// In caches, all heads of them.
    Cached(&'a [Stored<'a>]),
}

/// Memory that a group of heads passes through.
#[derive(Debug, Default)]
struct Group {
    qkv: Aligned, // [rows, 3 · width]
    /// The same where it is rounded: `[q | k | v, heads, rows]` rows of pairs.
    rounded: Aligned,
    attended: Aligned, // [rows, width]
    /// One for each sequence or more.
    keys: Vec<KvBlocks>,
    /// Empty lists, for their memory.
    kept: Vec<Stored<'static>>,
    lists: Vec<Sequence<'static>>,
}

/// [`AttentionPlan::Heads`](super::AttentionPlan::Heads).
pub(super) fn attend(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    sequences: PackedSequences<'_, '_>,
    memory: &mut HeadsMemory,
) {
    let PackedSequences { offsets, positions, unseen, .. } = sequences;
    let all = super::SequenceRows { offsets, positions, unseen };
    let mut stored = recycled(std::mem::take(&mut memory.kept));
    let keys = match sequences.caches {
        Some(caches) => {
            stored.extend(caches.iter_mut().zip(all.each()).map(|(cache, rows)| Stored::new(cache, rows)));
            Keys::Cached(&stored)
        }
        None => Keys::Group,
    };
    attend_with(team, x, &block, all, keys, memory);
    memory.kept = recycled(stored);
}

fn attend_with(
    team: &Team,
    x: &mut [f32],
    block: &SelfAttention<'_>,
    sequences: super::SequenceRows<'_>,
    keys: Keys<'_>,
    memory: &mut HeadsMemory,
) {
    let &SelfAttention { norm, qkv, out, heads: all, head_dim, .. } = block;
    let (rows, size, threads) = (sequences.len(), all * head_dim, team.threads());
    let HeadsMemory { input, output, whole, groups: memories, .. } = memory;
    input.encode_normed(team, qkv.weight, x, norm);
    let group = heads_of_group(block, rows, threads);
    let parted = PackedColumns::possible(out.weight, group * head_dim);
    whole.resize(if parted { 0 } else { rows * size });
    let groups = all.div_ceil(group);
    let kept = if threads == 1 { 1 } else { groups };
    memories.resize_with(kept.max(memories.len()), Group::default);
    // Blocks of keys are written whole, and in the format of the epilogue.
    let whole_blocks = sequences.each().all(|(_, start)| start.is_multiple_of(KEY_BLOCK));
    let same_format = match keys {
        Keys::Group => true,
        Keys::Cached(stored) => stored.iter().all(|Stored { kv, .. }| kv.format() == block.kv),
    };
    let rounded = block.rounds_in_epilogue() && whole_blocks && same_format;
    let work = Work { block, input: input.view(qkv.weight), sequences, keys, rounded };
    {
        let (memories, whole) = (Shared::new(memories), Shared::new(whole));
        let parts = output.parts(out.weight, rows);
        team.run(groups, (6 * rows * size).saturating_mul(size), |index| {
            qkv.weight.read_by(index, groups, threads);
            let heads = index * group..((index + 1) * group).min(all);
            let columns = heads.start * head_dim..heads.end * head_dim;
            // SAFETY: a group of its own for each task; there is only one where tasks follow each other.
            let through = &mut unsafe { memories.slice(index % kept..index % kept + 1) }[0];
            through.attend(&work, heads, |attended| {
                if parted {
                    // SAFETY: tasks have columns of their own.
                    return unsafe { parts.put_all(columns.start, attended) };
                }
                for (row, attended) in attended.chunks_exact(columns.len()).enumerate() {
                    // SAFETY: as above.
                    let whole = unsafe { whole.slice(row * size + columns.start..row * size + columns.end) };
                    whole.copy_from_slice(attended);
                }
            });
        });
    }
    if !parted {
        output.encode(team, out.weight, whole);
    }
    gemm(team, output, out.weight, out.bias, Store::Add, x);
}

/// The input of all groups of heads.
struct Work<'a> {
    block: &'a SelfAttention<'a>,
    /// Encoded rows.
    input: PackedActivationsView<'a>,
    sequences: super::SequenceRows<'a>,
    keys: Keys<'a>,
    /// Whether the epilogue of the projection [rounds](SelfAttention::rounds_in_epilogue).
    rounded: bool,
}

impl Group {
    /// Some heads of all rows, from encoded rows to results `[rows, width]`.
    fn attend(&mut self, work: &Work<'_>, heads: Range<usize>, take: impl FnOnce(&[f32])) {
        let &Work { block, sequences, keys, rounded, .. } = work;
        let (width, rows) = (heads.len() * block.head_dim, sequences.len());
        self.attended.resize(rows * width);
        let mut own = recycled(std::mem::take(&mut self.kept));
        let (stored, stored_heads) = match keys {
            Keys::Cached(stored) => (stored, heads.clone()),
            Keys::Group => {
                let lengths = sequences.each().map(|(rows, _)| rows.len());
                KvBlocks::make_room(&mut self.keys, lengths, heads.len(), block.head_dim, block.kv);
                own.extend(self.keys.iter_mut().zip(sequences.each()).map(|(kv, rows)| Stored::new(kv, rows)));
                (&*own, 0..heads.len())
            }
        };
        // SAFETY: these heads are this task's: of its own storage, or in caches of which each task has others.
        unsafe {
            if rounded {
                project_rounded(&mut self.rounded, work, heads.clone(), stored, stored_heads.clone());
            } else {
                project(&mut self.qkv, work, heads.clone(), stored, stored_heads.clone());
            }
        }
        let mut list = recycled(std::mem::take(&mut self.lists));
        for (index, &Stored { ref rows, start, ref kv }) in stored.iter().enumerate() {
            // SAFETY: these heads are this task's, and nothing more is written to them.
            let kv = unsafe { kv.heads(stored_heads.clone()) };
            let len = start + rows.len() - sequences.unseen(index);
            list.push(Sequence { rows: rows.clone(), start, len, kv });
        }
        let args = block.queries(heads.len(), &self.qkv, &list);
        if rounded {
            let queries = bits(&self.rounded[..rows * width / 2]);
            attention::of_rounded(&Team::single(), args, queries, &mut self.attended);
        } else {
            attention(block.qkv.weight.isa(), &Team::single(), args, &mut self.attended);
        }
        self.lists = recycled(list);
        self.kept = recycled(own);
        take(&self.attended);
    }
}

/// Queries, keys and values of some heads as `[rows, q | k | v]`, keys and values stored as `stored_heads`.
///
/// # Safety
/// Nobody else may use `stored_heads` meanwhile.
unsafe fn project(
    qkv: &mut Aligned,
    work: &Work<'_>,
    heads: Range<usize>,
    stored: &[Stored<'_>],
    stored_heads: Range<usize>,
) {
    let &Work { block, input, sequences, .. } = work;
    let positions = sequences.positions;
    let SelfAttention { qkv: linear, head_dim, .. } = *block;
    let isa = linear.weight.isa();
    let (width, size) = (heads.len() * head_dim, block.heads * head_dim);
    let stride = 3 * width;
    qkv.resize(positions.len() * stride);
    if width == size {
        // All heads at once: their queries, keys and values need not begin panels of their own.
        input.multiply(linear.weight, linear.bias, 0..stride, Store::Write, qkv, stride);
    } else {
        for part in 0..3 {
            let outputs = part * size + heads.start * head_dim..part * size + heads.end * head_dim;
            let out = &mut qkv[part * width..];
            input.multiply(linear.weight, linear.bias, outputs, Store::Write, out, stride);
        }
    }
    let target = RopeRows { rows: qkv, stride, offset: 0, heads: 2 * heads.len() };
    rope(isa, &Team::single(), block.rope, positions, target);
    let source = KvRows { k: &qkv[width..], v: &qkv[2 * width..], stride };
    for Stored { rows, kv, .. } in stored {
        // SAFETY: by the caller's promise.
        unsafe { kv.write_heads(isa, stored_heads.clone(), source, rows.start) };
    }
}

/// The same as `[q | k | v, heads, rows]`, rounded from the cells of the product.
///
/// # Safety
/// As of [`project`].
unsafe fn project_rounded(
    out: &mut Aligned,
    work: &Work<'_>,
    heads: Range<usize>,
    stored: &[Stored<'_>],
    stored_heads: Range<usize>,
) {
    let &Work { block, input, sequences, .. } = work;
    let positions = sequences.positions;
    let Linear { weight, bias } = block.qkv;
    let (size, rows, count) = (block.heads * block.head_dim, positions.len(), heads.len());
    out.resize(3 * count * rows * ROW);
    let all = as_words(out).as_chunks_mut::<ROW>().0;
    let factor = block.queries(count, &[], &[]).factor();
    for tiles in input.parts(INPUT_BYTES) {
        for part in 0..3 {
            let first = part * size + heads.start * block.head_dim;
            let mut take = |cell: OutputTile<'_>| {
                let head = part * count + (cell.outputs.start - first) / block.head_dim;
                let angles = (part < 2).then_some((block.rope, positions));
                let out = &mut all[head * rows..(head + 1) * rows];
                RopeEpilogue { cell, angles, factor: if part == 0 { factor } else { 1.0 }, out }.run(weight.isa());
            };
            let panels = weight.panels_of(first..first + count * block.head_dim);
            let sink = Sink::Epilogue { apart: Some(1), take: &mut take };
            // SAFETY: nothing is written.
            unsafe { Product { rows: input, w: weight, bias, tiles: tiles.clone(), panels, sink }.run() };
        }
    }
    let (k, v) = bits(&out[count * rows * ROW..]).split_at(count * rows * ROW);
    for Stored { rows: range, kv, .. } in stored {
        for (head, stored_head) in stored_heads.clone().enumerate() {
            let range = (head * rows + range.start) * ROW..(head * rows + range.end) * ROW;
            // SAFETY: by the caller's promise.
            unsafe { kv.fill(weight.isa(), stored_head, &k[range.clone()], &v[range]) };
        }
    }
}
