//! The attention half step by step over all rows: each step on all threads of the team.

use std::ops::Range;

use super::{PackedSequences, SelfAttention, SequenceRows};
use crate::{
    Aligned, KvBlocks, KvRows, KvWrite, PackedActivations, RopeRows, Sequence, Team,
    attention::{attention, store},
    block::linear::{add_with, project_with},
    recycled, rope,
};

/// Memory of [`attend`], kept from call to call.
#[derive(Debug, Default)]
pub(super) struct RowsMemory {
    qkv: Aligned,      // [rows, q | k | v]
    attended: Aligned, // [rows, size]
    /// One for each sequence or more, where there are no caches.
    keys: Vec<KvBlocks>,
    /// Empty lists, for their memory.
    writes: Vec<KvWrite<'static>>,
    sequences: Vec<Sequence<'static>>,
}

/// [`AttentionPlan::Rows`](super::AttentionPlan::Rows).
pub(super) fn attend(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    sequences: PackedSequences<'_, '_>,
    memory: &mut RowsMemory,
    operand: &mut PackedActivations,
) {
    let RowsMemory { qkv, attended, keys, writes, sequences: list } = memory;
    let PackedSequences { offsets, positions, unseen, .. } = sequences;
    let all = SequenceRows { offsets, positions, unseen };
    project(team, x, &block, all.positions, qkv, operand);
    attended.resize(all.len() * block.heads * block.head_dim);
    match sequences.caches {
        Some(caches) => {
            append(team, &block, all, caches.iter_mut().map(|cache| &mut **cache), qkv, writes);
            attend_to(team, &block, all, caches.iter().map(|cache| &**cache), qkv, attended, list);
        }
        None => {
            let lengths = all.each().map(|(rows, _)| rows.len());
            KvBlocks::make_room(keys, lengths, block.heads, block.head_dim, block.kv);
            append(team, &block, all, keys.iter_mut(), qkv, writes);
            attend_to(team, &block, all, keys.iter(), qkv, attended, list);
        }
    }
    add_with(team, attended, block.out, x, operand);
}

/// `[q | k | v]` of every row, q and k rotated to their positions.
fn project(
    team: &Team,
    x: &[f32],
    block: &SelfAttention<'_>,
    positions: &[u32],
    qkv: &mut Aligned,
    operand: &mut PackedActivations,
) {
    let stride = 3 * block.heads * block.head_dim;
    let rotate = |range: Range<usize>, qkv: &mut [f32]| {
        let target = RopeRows { rows: qkv, stride, offset: 0, heads: 2 * block.heads };
        rope(block.qkv.weight.isa(), &Team::single(), block.rope, &positions[range], target);
    };
    qkv.resize(positions.len() * stride);
    project_with(team, (x, block.norm), block.qkv, &rotate, qkv, operand);
}

/// Writes the keys and values of every row, out of `[rows, q | k | v]`, at their positions; `list` is memory.
fn append<'kv>(
    team: &Team,
    block: &SelfAttention<'_>,
    all: SequenceRows<'_>,
    keys: impl Iterator<Item = &'kv mut KvBlocks>,
    qkv: &[f32],
    list: &mut Vec<KvWrite<'static>>,
) {
    let size = block.heads * block.head_dim;
    let source = KvRows { k: &qkv[size..], v: &qkv[2 * size..], stride: 3 * size };
    let mut writes = recycled(std::mem::take(list));
    writes.extend(keys.zip(all.each()).map(|(kv, (rows, position))| KvWrite { kv, position, rows }));
    store(block.qkv.weight.isa(), team, source, &mut writes);
    *list = recycled(writes);
}

/// Attention of every row to the keys of its sequence, `[rows, q | k | v]` to `[rows, size]`; `list` is memory.
fn attend_to<'kv>(
    team: &Team,
    block: &SelfAttention<'_>,
    all: SequenceRows<'_>,
    keys: impl Iterator<Item = &'kv KvBlocks>,
    qkv: &[f32],
    out: &mut [f32],
    list: &mut Vec<Sequence<'static>>,
) {
    let mut sequences = recycled(std::mem::take(list));
    sequences.extend(keys.zip(all.each()).enumerate().map(|(index, (kv, (rows, start)))| Sequence {
        start,
        len: start + rows.len() - all.unseen(index),
        rows,
        kv: kv.view(),
    }));
    attention(block.qkv.weight.isa(), team, block.queries(block.heads, qkv, &sequences), out);
    *list = recycled(sequences);
}
