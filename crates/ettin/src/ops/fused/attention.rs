//! The attention half of a layer on packed rows: projection, rotation, keys and values, attention, output.
//!
//! **Three ways to cut.** A sequence attends to itself and what is cached of it alone. Where a batch holds enough sequences, a task takes some of
//! them through the whole block on one thread: its queries, keys and values stay in that core's cache, and threads meet once a
//! block. Few rows (decoding, short texts), and on AMX more, go head by head. What is left, many rows of few sequences, goes step by step, each
//! step on all threads. None changes a bit.

use std::{convert::Infallible, ops::Range, sync::Arc};

use ettin_kernels::{
    Aligned, Attention as Queries, KvBlocks, KvRows, KvWrite, RopeRows, RopeTable, Sequence, Sharing, Span, Team,
    attention, attention::store, block, block::Workspace, recycled, rope,
};

use super::{Cpu, Linear, Memory, Norm, Rows};
use crate::{
    PackedBatch, Result,
    cache::LayerCache,
    ops::{AttentionParams, KvRepr, mixed},
};

/// Rows of a task that takes whole sequences: enough to read every weight for, few enough for the cache.
const TASK_ROWS: usize = 256;

/// Rows of a task that are worth reading every weight for.
const FEWEST_ROWS: usize = 128;

/// Least work of a thread, in longest sequences: what the last one to finish waits for stays a small part.
const LONGEST_PER_THREAD: usize = 4;

#[derive(Debug)]
pub(in crate::ops) struct Attention {
    norm: Option<Norm>,
    qkv: Linear,
    out: Linear,
    heads: usize,
    head_dim: usize,
    span: Span,
    rope: Arc<RopeTable>,
}

/// Some sequences of a batch, end to end, and the threads that they are computed on.
struct Part<'a> {
    cpu: &'a Cpu,
    team: &'a Team,
    batch: &'a PackedBatch,
    sequences: Range<usize>,
}

impl Part<'_> {
    /// Its rows of the batch.
    fn rows(&self) -> Range<usize> {
        let offsets = self.batch.offsets();
        offsets[self.sequences.start]..offsets[self.sequences.end]
    }

    /// Rows of its sequences, counted from its own first one, and the positions these start at.
    fn sequences(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        let first = self.rows().start;
        self.sequences.clone().map(move |index| {
            let rows = self.batch.rows(index);
            (rows.start - first..rows.end - first, self.batch.start(index))
        })
    }
}

/// What a block works in, kept for the next.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    qkv: Aligned,      // [rows, 3 · size]
    attended: Aligned, // [rows, size]
    /// One for each sequence or more, where there is no cache.
    keys: Vec<KvBlocks>,
    /// Lists of a moment, for their memory.
    writes: Vec<KvWrite<'static>>,
    lists: Vec<Sequence<'static>>,
}

pub(in crate::ops) fn attention_block(
    rows: &mut Rows,
    block: &Attention,
    batch: &PackedBatch,
    cache: Option<LayerCache<'_, '_>>,
) -> Result<()> {
    let cpu = rows.cpu.clone();
    let all = Part { cpu: &cpu, team: &cpu.team, batch, sequences: 0..batch.sequences() };
    match cache {
        Some(cache) => block.continued(&all, cache, &mut rows.memory)?,
        None => match cuts(batch, cpu.team.threads()) {
            Some(cuts) => {
                let rows_of: Vec<usize> = cuts.iter().map(|&sequence| batch.offsets()[sequence]).collect();
                cpu.team.run_parts(&mut rows.memory.hidden, rows.size, &rows_of, block.work(batch), |task, hidden| {
                    let part = Part { team: &Team::single(), sequences: cuts[task]..cuts[task + 1], ..all };
                    let mut memory = cpu.memory();
                    block.by_heads(&part, hidden, &mut memory.attention);
                    cpu.keep(memory);
                });
            }
            None => {
                let Memory { hidden, buffers, workspace, attention, .. } = &mut rows.memory;
                if block::shares_heads(&cpu.team, &block.kernel(&cpu), batch.tokens()) {
                    block.by_heads(&all, hidden, attention);
                } else {
                    block.whole(&all, hidden, buffers, workspace);
                }
            }
        },
    }
    Ok(())
}

/// First sequences of tasks, and the end; `None` where each step should be shared instead. Tasks are of nearly one size, and
/// where sequences are equal, as many as make whole rounds.
fn cuts(batch: &PackedBatch, threads: usize) -> Option<Vec<usize>> {
    let longest = batch.offsets().windows(2).map(|rows| rows[1] - rows[0]).max()?;
    let tokens = batch.tokens();
    if tokens < threads * LONGEST_PER_THREAD * longest.max(FEWEST_ROWS) {
        return None;
    }
    let rows = tokens.div_ceil(tokens.div_ceil(TASK_ROWS).next_multiple_of(threads));
    let mut cuts = vec![0];
    let mut first = 0;
    for sequence in 1..batch.sequences() {
        let start = batch.offsets()[sequence];
        if start - first >= rows {
            cuts.push(sequence);
            first = start;
        }
    }
    cuts.push(batch.sequences());
    Some(cuts)
}

impl Attention {
    pub(in crate::ops) fn new(params: AttentionParams<'_>, rope: &Arc<RopeTable>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            norm: params.norm.map(Norm::new).transpose()?,
            qkv: Linear::shared(params.qkv, Sharing::Heads, cpu)?,
            out: Linear::new(params.out, cpu)?,
            heads: params.heads,
            head_dim: params.head_dim,
            span: params.span,
            rope: rope.clone(),
        })
    }

    fn kernel(&self, cpu: &Cpu) -> block::SelfAttention<'_> {
        block::SelfAttention {
            norm: self.norm.as_ref().map(Norm::kernel),
            qkv: self.qkv.kernel(),
            out: self.out.kernel(),
            rope: &self.rope,
            heads: self.heads,
            head_dim: self.head_dim,
            span: self.span,
            precision: cpu.precision(),
            kv: cpu.kv,
        }
    }

    /// Floating-point operations of a batch, attention itself left out.
    fn work(&self, batch: &PackedBatch) -> usize {
        let size = self.heads * self.head_dim;
        (8 * size * size).saturating_mul(batch.tokens())
    }

    /// Sequences of which nothing was computed before, some heads at a time.
    fn by_heads(&self, part: &Part<'_>, hidden: &mut [f32], memory: &mut block::AttentionMemory) {
        let sequences: Vec<_> = part.sequences().map(|(rows, _)| rows).collect();
        let positions = &part.batch.positions()[part.rows()];
        block::attend(part.team, hidden, self.kernel(part.cpu), positions, &sequences, memory);
    }

    /// The same step by step, each on all threads of the team.
    fn whole(&self, part: &Part<'_>, hidden: &mut [f32], buffers: &mut Buffers, workspace: &mut Workspace) {
        self.project(part, hidden, &mut buffers.qkv, workspace);
        let lengths = part.sequences().map(|(rows, _)| rows.len());
        KvBlocks::make_room(&mut buffers.keys, lengths, self.heads, self.head_dim, part.cpu.kv);
        let Buffers { qkv, attended, keys, writes, lists } = buffers;
        let stores = keys.iter_mut().take(part.sequences.len()).map(Ok::<_, Infallible>);
        let Ok(()) = self.append(part, stores, qkv, writes);
        attended.resize(hidden.len());
        let Ok(()) = self.attend(part, |index: usize| Ok::<_, Infallible>(&keys[index]), qkv, attended, lists);
        block::add(part.team, attended, self.out.kernel(), hidden, workspace);
    }

    /// Sequences whose earlier keys and values are cached, and join them.
    fn continued(&self, part: &Part<'_>, mut cache: LayerCache<'_, '_>, memory: &mut Memory) -> Result<()> {
        let Memory { hidden, buffers, workspace, attention, .. } = memory;
        let stores = cache.stores_mut().map(|store| match &mut store.0 {
            KvRepr::Fused(store, _) => Ok(store),
            KvRepr::Reference(_) | KvRepr::Device(_) => Err(mixed()),
        });
        let (cpu, positions) = (part.cpu, &part.batch.positions()[part.rows()]);
        if block::shares_heads(part.team, &self.kernel(cpu), positions.len()) {
            let mut writes = writes(part, stores, &mut buffers.writes)?;
            block::attend_cached(part.team, hidden, self.kernel(cpu), positions, &mut writes, attention);
            buffers.writes = recycled(writes);
            return Ok(());
        }
        let Buffers { qkv, attended, writes, lists, .. } = buffers;
        self.project(part, hidden, qkv, workspace);
        self.append(part, stores, qkv, writes)?;
        let store = |index| match &cache.store(index).0 {
            KvRepr::Fused(store, _) => Ok(store),
            KvRepr::Reference(_) | KvRepr::Device(_) => Err(mixed()),
        };
        attended.resize(hidden.len());
        self.attend(part, store, qkv, attended, lists)?;
        block::add(part.team, attended, self.out.kernel(), hidden, workspace);
        Ok(())
    }

    /// `[q | k | v]` of every row, q and k turned to their positions.
    fn project(&self, part: &Part<'_>, hidden: &[f32], qkv: &mut Aligned, workspace: &mut Workspace) {
        let stride = 3 * self.heads * self.head_dim;
        let positions = &part.batch.positions()[part.rows()];
        let turn = |range: Range<usize>, qkv: &mut [f32]| {
            let target = RopeRows { rows: qkv, stride, offset: 0, heads: 2 * self.heads };
            rope(part.cpu.isa, &Team::single(), &self.rope, &positions[range], target);
        };
        qkv.resize(positions.len() * stride);
        let norm = self.norm.as_ref().map(Norm::kernel);
        block::project(part.team, hidden, norm, self.qkv.kernel(), &turn, qkv, workspace);
    }

    /// Writes the keys and values of every row, out of `[rows, q | k | v]`, at their positions; `list` is memory.
    fn append<'a, E>(
        &self,
        part: &Part<'_>,
        stores: impl Iterator<Item = Result<&'a mut KvBlocks, E>>,
        qkv: &[f32],
        list: &mut Vec<KvWrite<'static>>,
    ) -> Result<(), E> {
        let size = self.heads * self.head_dim;
        let source = KvRows { k: &qkv[size..], v: &qkv[2 * size..], stride: 3 * size };
        let mut writes = writes(part, stores, list)?;
        store(part.cpu.isa, part.team, source, &mut writes);
        *list = recycled(writes);
        Ok(())
    }

    /// Attention of every row to the keys of its sequence, `[rows, q | k | v]` to `[rows, size]`; `list` is memory.
    fn attend<'a, E>(
        &self,
        part: &Part<'_>,
        store: impl Fn(usize) -> Result<&'a KvBlocks, E>,
        qkv: &[f32],
        out: &mut [f32],
        list: &mut Vec<Sequence<'static>>,
    ) -> Result<(), E> {
        let mut sequences = recycled(std::mem::take(list));
        for (index, (rows, start)) in part.sequences().enumerate() {
            sequences.push(Sequence { start, len: start + rows.len(), rows, kv: store(index)?.view() });
        }
        let queries = Queries {
            q: qkv,
            q_stride: 3 * self.heads * self.head_dim,
            heads: self.heads,
            head_dim: self.head_dim,
            span: self.span,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            precision: part.cpu.precision(),
            sequences: &sequences,
        };
        attention(part.cpu.isa, part.team, queries, out);
        *list = recycled(sequences);
        Ok(())
    }
}

/// Where the rows of every sequence go, in the memory of `list`.
fn writes<'a, E>(
    part: &Part<'_>,
    stores: impl Iterator<Item = Result<&'a mut KvBlocks, E>>,
    list: &mut Vec<KvWrite<'static>>,
) -> Result<Vec<KvWrite<'a>>, E> {
    let mut writes = recycled(std::mem::take(list));
    for (kv, (rows, position)) in stores.zip(part.sequences()) {
        writes.push(KvWrite { kv: kv?, position, rows });
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> PackedBatch {
        PackedBatch::new(&lengths.iter().map(|&len| vec![1; len]).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn tasks_are_whole_sequences_of_enough_rows() {
        assert_eq!(cuts(&batch(&[128; 8]), 2), Some(vec![0, 2, 4, 6, 8]));
        assert_eq!(cuts(&batch(&[100; 11]), 2), Some(vec![0, 2, 4, 6, 8, 10, 11]));
        assert_eq!(cuts(&batch(&[128; 7]), 2), None, "too little for two threads");
        assert_eq!(cuts(&batch(&[256, 128, 128, 128, 128, 128, 128]), 2), None, "one would be waited for");
        assert_eq!(cuts(&batch(&[1; 1024]), 2).unwrap().len(), 5);
        assert_eq!(cuts(&PackedBatch::default(), 2), None);
    }
}
