//! The attention half of a layer: a packed batch and its caches, handed to the kernels.

use std::sync::Arc;

use ettin_kernels::{
    KvBlocks, RopeTable, Sharing, Span,
    block::{PackedSequences, SelfAttention, self_attention},
    recycled,
};

use super::{Cpu, FusedLinear, FusedNorm, FusedRows, Kv, Memory};
use crate::{
    PackedBatch, Result,
    ops::{AttentionParams, LayerKv},
};

/// The attention half of a layer.
#[derive(Debug)]
pub struct FusedAttention {
    norm: Option<FusedNorm>,
    qkv: FusedLinear,
    out: FusedLinear,
    heads: usize,
    head_dim: usize,
    span: Span,
    rope: Arc<RopeTable>,
}

/// What a block works in, kept for the next: an empty list, for its memory.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    caches: Vec<&'static mut KvBlocks>,
}

pub(super) fn attention_block(
    rows: &mut FusedRows,
    block: &FusedAttention,
    batch: &PackedBatch,
    cache: Option<LayerKv<'_, Kv>>,
) {
    let cpu = rows.cpu.clone();
    let Memory { hidden, buffers, workspace, .. } = &mut rows.memory;
    let (offsets, positions, unseen) = (batch.offsets(), batch.positions(), batch.unseen());
    let Some(mut cache) = cache else {
        let sequences = PackedSequences { offsets, positions, caches: None, unseen };
        self_attention(&cpu.team, hidden, block.kernel(&cpu), sequences, workspace);
        return;
    };
    let mut caches = recycled(std::mem::take(&mut buffers.caches));
    cache.stores_mut(&mut |store| caches.push(&mut store.blocks));
    let sequences = PackedSequences { offsets, positions, caches: Some(&mut caches), unseen };
    self_attention(&cpu.team, hidden, block.kernel(&cpu), sequences, workspace);
    buffers.caches = recycled(caches);
}

impl FusedAttention {
    pub(super) fn new(params: AttentionParams<'_>, rope: &Arc<RopeTable>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            norm: params.norm.map(FusedNorm::new).transpose()?,
            qkv: FusedLinear::shared(params.qkv, Sharing::Heads, cpu)?,
            out: FusedLinear::new(params.out, cpu)?,
            heads: params.heads,
            head_dim: params.head_dim,
            span: params.span,
            rope: rope.clone(),
        })
    }

    fn kernel(&self, cpu: &Cpu) -> SelfAttention<'_> {
        SelfAttention {
            norm: self.norm.as_ref().map(FusedNorm::kernel),
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
}
