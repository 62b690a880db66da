//! The blocks in plain candle operations: every device, differentiable, the oracle of the fused form.
//!
//! The residual stream and the norms stay in f32; products run in the dtype of the weights.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use ettin_kernels::{Activation, RopeTable, Span};

use super::{AttentionParams, HeadParams, KvRepr, LinearParams, MlpParams, NormParams, TableParams};
use crate::{PackedBatch, Result, cache::LayerCache};

/// Query rows attended to at a time: bounds the scores to `[heads, 256, keys]`.
const QUERY_CHUNK: usize = 256;

#[derive(Debug)]
pub(super) struct Table {
    weight: Tensor, // [vocabulary, hidden]
}

#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor, // [outputs, inputs]
    bias: Option<Tensor>,
}

#[derive(Debug)]
pub(super) struct Attention {
    norm: Option<Norm>,
    qkv: Linear,
    out: Linear,
    heads: usize,
    head_dim: usize,
    span: Span,
    cos: Tensor, // [positions, head_dim / 2]
    sin: Tensor,
}

#[derive(Debug)]
pub(super) struct Mlp {
    norm: Norm,
    wi: Linear,
    wo: Linear,
    activation: Activation,
}

#[derive(Debug)]
pub(super) struct Head {
    dense: Linear,
    activation: Activation,
    norm: Norm,
}

impl Table {
    pub(super) fn new(table: TableParams<'_>, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self { weight: table.tensor(device, dtype)? })
    }

    /// Rows of the given tokens, `[tokens, hidden]`, in the table's dtype.
    pub(super) fn gather(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, self.weight.device())?;
        Ok(self.weight.index_select(&ids, 0)?)
    }
}

impl Norm {
    pub(super) fn new(params: NormParams, device: &Device) -> Result<Self> {
        Ok(Self {
            weight: params.weight.tensor(device)?,
            bias: params.bias.map(|bias| bias.tensor(device)).transpose()?,
            eps: f64::from(params.eps),
        })
    }

    /// `(x − mean) / √(variance + ε) · weight + bias` in f32. Composed here because candle's own layer norm is not
    /// differentiable in its fast form and looks for a bias in its checked one.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let x = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        let x = x.broadcast_mul(&self.weight)?;
        Ok(match &self.bias {
            Some(bias) => x.broadcast_add(bias)?,
            None => x,
        })
    }
}

impl Linear {
    pub(super) fn new(params: LinearParams<'_>, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self {
            weight: params.weight.tensor(device, dtype)?,
            bias: params.bias.map(|bias| bias.tensor(device)).transpose()?,
        })
    }

    /// `[rows, inputs]` of any dtype to `[rows, outputs]` in f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(self.weight.dtype())?.matmul(&self.weight.t()?)?;
        let x = x.to_dtype(DType::F32)?;
        Ok(match &self.bias {
            Some(bias) => x.broadcast_add(bias)?,
            None => x,
        })
    }
}

impl Attention {
    pub(super) fn new(
        params: AttentionParams<'_>,
        rope: &Arc<RopeTable>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let shape = (rope.positions(), params.head_dim / 2);
        let angles = (0..rope.positions()).map(|position| rope.angles(position));
        let (cos, sin): (Vec<&[f32]>, Vec<&[f32]>) = angles.unzip();
        Ok(Self {
            norm: params.norm.map(|norm| Norm::new(norm, device)).transpose()?,
            qkv: Linear::new(params.qkv, device, dtype)?,
            out: Linear::new(params.out, device, dtype)?,
            heads: params.heads,
            head_dim: params.head_dim,
            span: params.span,
            cos: Tensor::from_vec(cos.concat(), shape, device)?,
            sin: Tensor::from_vec(sin.concat(), shape, device)?,
        })
    }

    /// Rotates `[tokens, heads, head_dim]` in the half-split layout (transformers' `rotate_half`), in f32.
    fn rotate(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let half = self.head_dim / 2;
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        Ok(Tensor::cat(&[first, second], 2)?)
    }

    /// One sequence: `q` `[heads, rows, head_dim]` from position `start`, keys and values `[heads, keys, head_dim]`
    /// from position `first`; gives `[rows, heads · head_dim]`.
    fn attend(&self, q: &Tensor, start: usize, k: &Tensor, v: &Tensor, first: usize) -> Result<Tensor> {
        let (rows, keys) = (q.dim(1)?, k.dim(1)?);
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let mut outputs = Vec::with_capacity(rows.div_ceil(QUERY_CHUNK));
        for row in (0..rows).step_by(QUERY_CHUNK) {
            let count = QUERY_CHUNK.min(rows - row);
            let queries = start + row..start + row + count;
            let low = self.span.left.map_or(0, |left| queries.start.saturating_sub(left)).max(first);
            let high = self
                .span
                .right
                .map_or(usize::MAX, |right| (queries.end - 1).saturating_add(right + 1))
                .min(first + keys);
            let k = k.narrow(1, low - first, high - low)?;
            let v = v.narrow(1, low - first, high - low)?.contiguous()?;
            let q = q.narrow(1, row, count)?.contiguous()?;
            let scores = q.matmul(&k.transpose(1, 2)?.contiguous()?)?.to_dtype(DType::F32)?;
            let mut scores = (scores * scale)?; // [heads, count, high - low]
            if let Some(mask) = self.mask(queries, low..high, q.device())? {
                scores = scores.broadcast_add(&mask)?;
            }
            let weights = softmax(&scores)?.to_dtype(v.dtype())?;
            let output = weights.matmul(&v)?.transpose(0, 1)?; // [count, heads, head_dim]
            outputs.push(output.reshape((count, self.heads * self.head_dim))?);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }

    /// `[queries, keys]` of 0 and −∞, or `None` where every query sees every key.
    fn mask(
        &self,
        queries: std::ops::Range<usize>,
        keys: std::ops::Range<usize>,
        device: &Device,
    ) -> Result<Option<Tensor>> {
        let shape = (queries.len(), keys.len());
        let mut values = Vec::with_capacity(shape.0 * shape.1);
        for query in queries {
            values.extend(keys.clone().map(
                |key| {
                    if self.span.contains(query, key) { 0f32 } else { f32::NEG_INFINITY }
                },
            ));
        }
        if values.iter().all(|&value| value == 0.0) {
            return Ok(None);
        }
        Ok(Some(Tensor::from_vec(values, shape, device)?))
    }
}

/// Softmax over the last dimension, composed of differentiable operations.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    Ok(x.broadcast_div(&x.sum_keepdim(D::Minus1)?)?)
}

impl Mlp {
    pub(super) fn new(params: MlpParams<'_>, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(params.norm, device)?,
            wi: Linear::new(params.wi, device, dtype)?,
            wo: Linear::new(params.wo, device, dtype)?,
            activation: params.activation,
        })
    }
}

impl Head {
    pub(super) fn new(params: HeadParams<'_>, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self {
            dense: Linear::new(params.dense, device, dtype)?,
            activation: params.activation,
            norm: Norm::new(params.norm, device)?,
        })
    }
}

pub(super) fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Silu => x.silu()?,
        // candle's gives 0 for NaN: 1 or NaN times it passes that on.
        Activation::Relu => (x.relu()? * ((x * 0.0)? + 1.0)?)?,
    })
}

pub(super) fn embed(table: &Table, norm: &Norm, ids: &[u32]) -> Result<Tensor> {
    norm.forward(&table.gather(ids)?)
}

pub(super) fn attention_block(
    hidden: &mut Tensor,
    attention: &Attention,
    batch: &PackedBatch,
    mut cache: Option<LayerCache<'_, '_>>,
) -> Result<()> {
    let (heads, head_dim) = (attention.heads, attention.head_dim);
    let x = match &attention.norm {
        Some(norm) => norm.forward(hidden)?,
        None => hidden.clone(),
    };
    let qkv = attention.qkv.forward(&x)?.reshape((batch.tokens(), 3, heads, head_dim))?;
    let positions = Tensor::new(batch.positions(), hidden.device())?;
    let cos = attention.cos.index_select(&positions, 0)?.unsqueeze(1)?; // [tokens, 1, head_dim / 2]
    let sin = attention.sin.index_select(&positions, 0)?.unsqueeze(1)?;
    let part = |index: usize| qkv.narrow(1, index, 1)?.squeeze(1);
    let dtype = attention.qkv.weight.dtype();
    let heads_first = |x: Tensor| x.to_dtype(dtype)?.transpose(0, 1); // [heads, tokens, head_dim]
    let q = heads_first(attention.rotate(&part(0)?, &cos, &sin)?)?;
    let k = heads_first(attention.rotate(&part(1)?, &cos, &sin)?)?;
    let v = heads_first(part(2)?)?;

    let mut outputs = Vec::with_capacity(batch.sequences());
    for sequence in 0..batch.sequences() {
        let rows = batch.rows(sequence);
        let take = |x: &Tensor| x.narrow(1, rows.start, rows.len());
        let (mut keys, mut values, mut first) = (take(&k)?, take(&v)?, batch.start(sequence));
        if let Some(cache) = &mut cache {
            let KvRepr::Reference(store) = &mut cache.store_mut(sequence).0 else {
                return Err(super::mixed());
            };
            (keys, values, first) = store.append(&keys, &values, first, attention.span.left)?;
        }
        outputs.push(attention.attend(&take(&q)?, batch.start(sequence), &keys, &values, first)?);
    }
    let output = attention.out.forward(&Tensor::cat(&outputs, 0)?)?;
    *hidden = (&*hidden + output)?;
    Ok(())
}

pub(super) fn mlp_block(hidden: &mut Tensor, mlp: &Mlp) -> Result<()> {
    let x = mlp.wi.forward(&mlp.norm.forward(hidden)?)?;
    let half = x.dim(1)? / 2;
    let gated = (activate(mlp.activation, &x.narrow(1, 0, half)?)? * x.narrow(1, half, half)?)?;
    *hidden = (&*hidden + mlp.wo.forward(&gated)?)?;
    Ok(())
}

pub(super) fn head(hidden: &Tensor, head: &Head) -> Result<Tensor> {
    head.norm.forward(&activate(head.activation, &head.dense.forward(hidden)?)?)
}

pub(super) fn logits(hidden: &Tensor, table: &Table, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = hidden.to_dtype(table.weight.dtype())?.matmul(&table.weight.t()?)?;
    let x = x.to_dtype(DType::F32)?;
    Ok(match bias {
        Some(bias) => x.broadcast_add(bias)?,
        None => x,
    })
}

/// Keys and values of one sequence and layer as tensors `[heads, keys, head_dim]` from position `first`.
#[derive(Debug, Clone, Default)]
pub(crate) struct KvTensors {
    first: usize,
    held: Option<(Tensor, Tensor)>,
}

impl KvTensors {
    /// Appends keys and values that start at position `start` (whatever was held from there on is dropped), forgets
    /// those that no later query can see even after `slack` rows are taken back, and returns all that are held.
    fn append(&mut self, k: &Tensor, v: &Tensor, start: usize, left: Option<usize>) -> Result<(Tensor, Tensor, usize)> {
        let (k, v) = match &self.held {
            Some((held_k, held_v)) if start > self.first => {
                let keep = start - self.first;
                let join = |held: &Tensor, new: &Tensor| Tensor::cat(&[&held.narrow(1, 0, keep)?, new], 1);
                (join(held_k, k)?, join(held_v, v)?)
            }
            _ => {
                self.first = start;
                (k.contiguous()?, v.contiguous()?)
            }
        };
        let all = (k, v, self.first);
        // The next query sits at `end`; up to this step's rows may be taken back, so they count as slack.
        let end = self.first + all.0.dim(1)?;
        let low = left.map_or(0, |left| start.saturating_sub(left)).max(self.first);
        let held = |x: &Tensor| x.narrow(1, low - self.first, end - low)?.contiguous();
        self.held = Some((held(&all.0)?, held(&all.1)?));
        self.first = low;
        Ok(all)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn bytes(&self) -> usize {
        let size = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        self.held.as_ref().map_or(0, |(k, v)| size(k) + size(v))
    }
}
