//! The seam: the few block-level functions that a model is made of, and what computes them.
//!
//! Every block exists in two forms, those of the trunk in three. The **fused** form runs on the CPU with packed weights and the kernels of
//! `ettin-kernels`; it obeys the invariance rule (a token's result depends on its own sequence only, bit for bit) and is
//! inference-only. The **reference** form is plain candle operations: it runs on every device, is differentiable, and is
//! the oracle of the others. The **device** form runs a GPU's own kernels between candle's matrix products. [`Backend`] decides once, at load time, which of them a model is built from; nothing
//! outside this module looks at a device.

mod backend;
mod choice;
mod device;
mod fused;
mod hidden;
mod params;
mod reference;

pub use backend::{Backend, Dtype};
pub use choice::DeviceChoice;
pub use hidden::Hidden;
pub use params::{
    AttentionParams, HeadParams, LinearParams, Matrix, MlpParams, NormParams, StoredRows, TableParams, Vector,
};

use std::convert::Infallible;

use candle_core::{Device, Tensor};

use crate::{Error, PackedBatch, Result, cache::LayerCache};
use hidden::Repr;

/// A block in one of its forms; only blocks of the trunk have that of a device.
#[derive(Debug)]
enum Block<F, R, D = Infallible> {
    Fused(F),
    Reference(R),
    #[allow(dead_code, reason = "never made for blocks without this form")]
    Device(D),
}

/// The token embedding, which is also the output matrix of a tied language model; `[vocabulary, hidden]`, stored once: where it
/// is only looked up in, in its file.
#[derive(Debug)]
pub struct Table(Block<fused::Table, reference::Table>);

/// What a language model adds to its scores, `[vocabulary]`.
#[derive(Debug)]
pub struct Bias(Block<Vec<f32>, Tensor>);

/// Layer normalisation (weight, optional bias).
#[derive(Debug)]
pub struct Norm(Block<fused::Norm, reference::Norm, device::Norm>);

/// A dense layer `x · Wᵀ + b`.
#[derive(Debug)]
pub struct Linear(Block<fused::Linear, reference::Linear>);

/// The attention half of a layer: norm, projections, RoPE, attention over a span, output projection.
#[derive(Debug)]
pub struct Attention(Block<fused::Attention, reference::Attention, device::Attention>);

/// The feed-forward half of a layer: norm, `Wi`, gated activation, `Wo`.
#[derive(Debug)]
pub struct Mlp(Block<fused::Mlp, reference::Mlp, device::Mlp>);

/// The prediction head: `norm(activation(dense(h)))`.
#[derive(Debug)]
pub struct Head(Block<fused::Head, reference::Head>);

/// Keys and values of one sequence in one layer.
#[derive(Debug, Clone)]
pub(crate) struct KvStore(KvRepr);

/// How much of a sequence a store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// The latest positions, in a ring of fixed size.
    Ring,
    /// Every position; the store grows.
    All,
}

#[derive(Debug, Clone)]
enum KvRepr {
    Fused(ettin_kernels::KvBlocks, Room),
    Reference(reference::KvTensors),
    Device(device::KvRows),
}

impl KvStore {
    /// Makes room for `len` positions where everything is kept, doubling up to `max`; a ring has its size.
    pub(crate) fn reserve(&mut self, len: usize, max: usize) {
        match &mut self.0 {
            KvRepr::Fused(blocks, Room::All) if blocks.capacity() < len => {
                blocks.grow(len.next_power_of_two().min(max));
            }
            KvRepr::Device(rows) => rows.reserve(len, max),
            KvRepr::Fused(..) | KvRepr::Reference(_) => {}
        }
    }

    pub(crate) fn clear(&mut self) {
        match &mut self.0 {
            KvRepr::Fused(blocks, _) => blocks.reset(),
            KvRepr::Reference(tensors) => tensors.clear(),
            // Every position that a query sees was written since.
            KvRepr::Device(_) => {}
        }
    }

    /// Whether its memory is worth keeping for another sequence.
    pub(crate) fn reusable(&self) -> bool {
        matches!(self.0, KvRepr::Fused(..))
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        match &self.0 {
            KvRepr::Fused(blocks, _) => blocks.bytes(),
            KvRepr::Reference(tensors) => tensors.bytes(),
            KvRepr::Device(rows) => rows.bytes(),
        }
    }
}

/// Starts the residual stream: `norm(table[ids])`, `[tokens, hidden]`.
pub fn embed(table: &Table, norm: &Norm, batch: &PackedBatch) -> Result<Hidden> {
    match (&table.0, &norm.0) {
        (Block::Fused(table), Block::Fused(norm)) => Ok(Hidden(Repr::Fused(fused::embed(table, norm, batch.ids())?))),
        (Block::Reference(table), Block::Reference(norm)) => {
            Ok(Hidden(Repr::Reference(reference::embed(table, norm, batch.ids())?)))
        }
        (Block::Reference(table), Block::Device(norm)) => Ok(Hidden(Repr::Device(device::embed(table, norm, batch)?))),
        _ => Err(mixed()),
    }
}

/// `hidden += Wo · attention(RoPE(q), RoPE(k), v)` of `norm(hidden)`, over each sequence's own span; with a cache, keys
/// of the batch are appended to it first and attended to together with those it held.
pub fn attention_block(
    hidden: &mut Hidden,
    attention: &Attention,
    batch: &PackedBatch,
    cache: Option<LayerCache<'_, '_>>,
) -> Result<()> {
    match (&mut hidden.0, &attention.0) {
        (Repr::Fused(hidden), Block::Fused(attention)) => fused::attention_block(hidden, attention, batch, cache),
        (Repr::Reference(hidden), Block::Reference(attention)) => {
            reference::attention_block(hidden, attention, batch, cache)
        }
        (Repr::Device(hidden), Block::Device(attention)) => device::attention_block(hidden, attention, batch, cache),
        _ => Err(mixed()),
    }
}

/// `hidden += Wo · (activation(a) ⊙ b)` with `[a, b] = Wi · norm(hidden)`.
pub fn mlp_block(hidden: &mut Hidden, mlp: &Mlp) -> Result<()> {
    match (&mut hidden.0, &mlp.0) {
        (Repr::Fused(hidden), Block::Fused(mlp)) => fused::mlp_block(hidden, mlp),
        (Repr::Reference(hidden), Block::Reference(mlp)) => reference::mlp_block(hidden, mlp),
        (Repr::Device(hidden), Block::Device(mlp)) => device::mlp_block(hidden, mlp),
        _ => Err(mixed()),
    }
}

/// Normalises every row.
pub fn norm(hidden: &Hidden, norm: &Norm) -> Result<Hidden> {
    match (&hidden.0, &norm.0) {
        (Repr::Fused(hidden), Block::Fused(norm)) => Ok(Hidden(Repr::Fused(fused::norm(hidden, norm)?))),
        (Repr::Reference(hidden), Block::Reference(norm)) => Ok(Hidden(Repr::Reference(norm.forward(hidden)?))),
        (Repr::Device(hidden), Block::Device(norm)) => Ok(Hidden(Repr::Device(device::norm(hidden, norm)?))),
        (Repr::Reference(hidden), Block::Device(norm)) => Ok(Hidden(Repr::Reference(norm.forward(hidden)?))),
        _ => Err(mixed()),
    }
}

/// The prediction head on every row: `norm(activation(dense(h)))`.
pub fn head(hidden: &Hidden, head: &Head) -> Result<Hidden> {
    match (&hidden.0, &head.0) {
        (Repr::Fused(hidden), Block::Fused(head)) => Ok(Hidden(Repr::Fused(fused::head(hidden, head)?))),
        (Repr::Reference(hidden), Block::Reference(head)) => {
            Ok(Hidden(Repr::Reference(reference::head(hidden, head)?)))
        }
        // Heads have no form of their own for devices.
        (Repr::Device(hidden), Block::Reference(head)) => {
            Ok(Hidden(Repr::Reference(reference::head(&hidden.tensor()?, head)?)))
        }
        _ => Err(mixed()),
    }
}

/// A dense layer on every row.
pub fn linear(hidden: &Hidden, linear: &Linear) -> Result<Hidden> {
    match (&hidden.0, &linear.0) {
        (Repr::Fused(hidden), Block::Fused(linear)) => Ok(Hidden(Repr::Fused(fused::linear(hidden, linear)?))),
        (Repr::Reference(hidden), Block::Reference(linear)) => Ok(Hidden(Repr::Reference(linear.forward(hidden)?))),
        (Repr::Device(hidden), Block::Reference(linear)) => {
            Ok(Hidden(Repr::Reference(linear.forward(&hidden.tensor()?)?)))
        }
        _ => Err(mixed()),
    }
}

/// Scores of every row against every entry of the table, `[rows, vocabulary]` in f32: `h · tableᵀ + bias`.
pub fn logits(hidden: &Hidden, table: &Table, bias: Option<&Bias>) -> Result<Tensor> {
    match hidden.0 {
        Repr::Fused(_) => {
            let mut out = Vec::new();
            logits_into(hidden, table, bias, &mut out)?;
            let vocabulary = out.len() / hidden.rows().max(1);
            Ok(Tensor::from_vec(out, (hidden.rows(), vocabulary), &Device::Cpu)?)
        }
        Repr::Reference(_) | Repr::Device(_) => reference_logits(hidden, table, bias),
    }
}

/// The same in memory that is used again and again: `out` is replaced.
pub fn logits_into(hidden: &Hidden, table: &Table, bias: Option<&Bias>, out: &mut Vec<f32>) -> Result<()> {
    match (&hidden.0, &table.0) {
        (Repr::Fused(hidden), Block::Fused(table)) => {
            let bias = bias.map(|bias| match &bias.0 {
                Block::Fused(bias) => Ok(bias.as_slice()),
                Block::Reference(_) | Block::Device(_) => Err(mixed()),
            });
            fused::logits(hidden, table, bias.transpose()?, out)?;
        }
        _ => *out = reference_logits(hidden, table, bias)?.flatten_all()?.to_vec1()?,
    }
    Ok(())
}

fn reference_logits(hidden: &Hidden, table: &Table, bias: Option<&Bias>) -> Result<Tensor> {
    let bias = bias.map(|bias| match &bias.0 {
        Block::Reference(bias) => Ok(bias),
        Block::Fused(_) | Block::Device(_) => Err(mixed()),
    });
    match (&hidden.0, &table.0) {
        (Repr::Reference(hidden), Block::Reference(table)) => reference::logits(hidden, table, bias.transpose()?),
        _ => Err(mixed()),
    }
}

fn mixed() -> Error {
    Error::input("blocks of two different backends were mixed in one model")
}
