//! The states between blocks: rows with the workspace that the blocks reuse, and keys and values of a cache.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use ettin_kernels::{Aligned, KvBlocks, PackedActivations, Pooled, block::Workspace, pool};

use super::super::{KvStore, States};
use super::{Cpu, attention::Buffers};
use crate::{Result, finite};

/// Rows up to which memory is kept for the next forward: a step of decoding should not wait for the allocator, nor a
/// batch of the default size for fresh pages (which cost the smallest model a tenth of its time).
pub(super) const KEPT_ROWS: usize = 1 << 14;

/// Rows of the residual stream with the buffers that the blocks reuse from layer to layer.
#[derive(Debug)]
pub struct FusedRows {
    pub(super) cpu: Arc<Cpu>,
    pub(super) size: usize,
    pub(super) memory: Memory,
}

/// The buffers of [`FusedRows`].
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) hidden: Aligned, // [rows, size]
    pub(super) buffers: Buffers,
    pub(super) workspace: Workspace,
    /// For products outside blocks.
    pub(super) operand: PackedActivations,
    /// The most values that `hidden` held when it was kept.
    pub(super) largest: usize,
}

impl Drop for FusedRows {
    fn drop(&mut self) {
        if self.rows() <= KEPT_ROWS {
            self.cpu.keep(std::mem::take(&mut self.memory));
        }
    }
}

impl FusedRows {
    /// Rows to be filled.
    pub(super) fn empty(cpu: &Arc<Cpu>, size: usize) -> Self {
        let mut memory = cpu.memory();
        memory.hidden.resize(0);
        Self { cpu: cpu.clone(), size, memory }
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.memory.hidden
    }
}

impl States for FusedRows {
    fn rows(&self) -> usize {
        self.memory.hidden.len().checked_div(self.size).unwrap_or(0)
    }

    fn size(&self) -> usize {
        self.size
    }

    fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(self.values(), (self.rows(), self.size), &Device::Cpu)?)
    }

    fn select(&self, rows: &[usize]) -> Result<Self> {
        let mut selected = FusedRows::empty(&self.cpu, self.size);
        for &row in rows {
            selected.memory.hidden.extend_from_slice(&self.values()[row * self.size..][..self.size]);
        }
        Ok(selected)
    }

    fn is_finite(&self) -> Result<bool> {
        Ok(finite::is_finite(self.values()))
    }

    fn reduce(&self, runs: &[Pooled]) -> Result<Option<Self>> {
        let mut pooled = FusedRows::empty(&self.cpu, self.size);
        pooled.memory.hidden.resize(runs.len() * self.size);
        pool(self.cpu.isa, &self.cpu.team, self.values(), self.size, runs, &mut pooled.memory.hidden);
        Ok(Some(pooled))
    }
}

/// Keys and values of one sequence and layer, for the kernels.
#[derive(Debug, Clone)]
pub struct Kv {
    pub(super) blocks: KvBlocks,
    /// Whether every position is kept; else the latest, in a ring of fixed size.
    pub(super) grows: bool,
}

impl KvStore for Kv {
    fn reserve(&mut self, len: usize, max: usize) {
        if self.grows && self.blocks.capacity() < len {
            self.blocks.grow(len.next_power_of_two().min(max));
        }
    }

    fn clear(&mut self) {
        self.blocks.reset();
    }

    fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    fn reusable(&self) -> bool {
        true
    }
}
