//! The blocks in plain candle operations: every device, differentiable, the oracle of the other forms. This file is the
//! model as mathematics.
//!
//! The residual stream and the norms stay in f32; products run in the number format of the backend. A variable is held
//! as it is and cast where it is used: gradients reach it in every number format, and so does an optimiser's step.

use candle_core::{D, DType, Device, Tensor};
use ettin_kernels::{Activation, RopeTable, Span};

use super::{
    AttentionParams, Compute, Dtype, HeadParams, KvShape, KvStore, LayerKv, LinearParams, LowRank, Matrix, MlpParams,
    NormParams, States, Vector, ropes::Ropes,
};
use crate::{Error, PackedBatch, Result};

/// Query rows attended to at a time: bounds the scores to `[heads, 256, keys]`.
const QUERY_CHUNK: usize = 256;

/// candle's operations on any device.
#[derive(Debug, Clone)]
pub struct Reference {
    device: Device,
    dtype: DType,
    ropes: Ropes,
}

/// Token vectors, `[vocabulary, hidden]`.
#[derive(Debug)]
pub struct ReferenceEmbedding {
    weight: Tensor,
    dtype: DType,
}

/// Layer normalisation.
#[derive(Debug)]
pub struct ReferenceNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

/// A dense layer, and adapters that are not merged into it.
#[derive(Debug)]
pub struct ReferenceLinear {
    weight: Tensor, // [outputs, inputs]
    bias: Option<Tensor>,
    adapters: Vec<LowRank>,
    dtype: DType,
}

/// The attention half of a layer.
#[derive(Debug)]
pub struct ReferenceAttention {
    norm: Option<ReferenceNorm>,
    qkv: ReferenceLinear,
    out: ReferenceLinear,
    heads: usize,
    head_dim: usize,
    span: Span,
    cos: Tensor, // [positions, head_dim / 2]
    sin: Tensor,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub struct ReferenceMlp {
    norm: ReferenceNorm,
    wi: ReferenceLinear,
    wo: ReferenceLinear,
    activation: Activation,
}

/// The prediction head.
#[derive(Debug)]
pub struct ReferencePredictionHead {
    dense: ReferenceLinear,
    activation: Activation,
    norm: ReferenceNorm,
}

impl Reference {
    /// For inference on `device`.
    ///
    /// # Errors
    /// For number formats that candle has no products in; for bf16 and f16 on the CPU, where every product would widen
    /// its operands first: [`for_training`](Self::for_training) allows them.
    pub fn new(device: &Device, dtype: Dtype) -> Result<Self> {
        let reference = Self::for_training(device, dtype)?;
        if device.is_cpu() && reference.dtype != DType::F32 {
            return Err(Error::Unsupported(format!(
                "dtype {dtype} on the reference path of the CPU, where it is slower than f32 and no smaller in memory \
                 traffic; use f32, or Backend::training to train with products in {dtype}"
            )));
        }
        Ok(reference)
    }

    /// The same with bf16 and f16 on the CPU too: slow there, and right. For what trains, and for tests.
    ///
    /// # Errors
    /// For number formats that candle has no products in.
    pub fn for_training(device: &Device, dtype: Dtype) -> Result<Self> {
        Ok(Self::of(device, dtype.float()?))
    }

    pub(super) fn of(device: &Device, dtype: DType) -> Self {
        Self { device: device.clone(), dtype, ropes: Ropes::default() }
    }
}

impl States for Tensor {
    fn rows(&self) -> usize {
        self.dims()[0]
    }

    fn size(&self) -> usize {
        self.dims()[1]
    }

    fn to_tensor(&self) -> Result<Tensor> {
        Ok(self.clone())
    }

    fn select(&self, rows: &[usize]) -> Result<Self> {
        let index: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let index = Tensor::from_vec(index, rows.len(), self.device())?;
        Ok(self.index_select(&index, 0)?)
    }
}

impl Compute for Reference {
    /// In f32 whatever the dtype of the products: the residual of the larger models reaches 2e4.
    type Hidden = Tensor;
    type Embedding = ReferenceEmbedding;
    type Bias = Tensor;
    type Norm = ReferenceNorm;
    type Linear = ReferenceLinear;
    type Attention = ReferenceAttention;
    type Mlp = ReferenceMlp;
    type PredictionHead = ReferencePredictionHead;
    type Kv = KvTensors;

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn dtype(&self) -> Dtype {
        Dtype::of_float(self.dtype)
    }

    fn describe(&self) -> String {
        format!("{}, {}, candle operations", super::device_name(&self.device), self.dtype.as_str())
    }

    fn trains(&self) -> bool {
        true
    }

    fn hides_keys(&self) -> bool {
        true
    }

    fn kv_bytes(&self) -> f64 {
        self.dtype.size_in_bytes() as f64
    }

    fn hidden(&self, vectors: &Tensor) -> Result<Tensor> {
        vectors.dims2()?;
        Ok(vectors.to_device(&self.device)?)
    }

    fn embedding(&self, matrix: Matrix<'_>) -> Result<ReferenceEmbedding> {
        Ok(ReferenceEmbedding { weight: matrix.tensor(&self.device, self.dtype)?, dtype: self.dtype })
    }

    fn bias(&self, vector: Vector) -> Result<Tensor> {
        vector.tensor(&self.device)
    }

    fn norm(&self, params: NormParams) -> Result<ReferenceNorm> {
        Ok(ReferenceNorm {
            weight: params.weight.tensor(&self.device)?,
            bias: params.bias.map(|bias| bias.tensor(&self.device)).transpose()?,
            eps: f64::from(params.eps),
        })
    }

    fn linear(&self, params: LinearParams<'_>) -> Result<ReferenceLinear> {
        let (mut weight, mut updates) = (params.weight, Vec::new());
        while let Matrix::Adapted { base, update } = weight {
            updates.push(update);
            weight = *base;
        }
        let weight = weight.tensor(&self.device, self.dtype)?;
        let (outputs, inputs) = weight.dims2()?;
        Ok(ReferenceLinear {
            weight,
            bias: params.bias.map(|bias| bias.tensor(&self.device)).transpose()?,
            adapters: updates
                .into_iter()
                .map(|update| update.on(&self.device, outputs, inputs))
                .collect::<Result<_>>()?,
            dtype: self.dtype,
        })
    }

    fn attention(&self, params: AttentionParams<'_>) -> Result<ReferenceAttention> {
        let (cos, sin) = angles(&self.ropes.of(&params), &self.device)?;
        Ok(ReferenceAttention {
            norm: params.norm.map(|norm| self.norm(norm)).transpose()?,
            qkv: self.linear(params.qkv)?,
            out: self.linear(params.out)?,
            heads: params.heads,
            head_dim: params.head_dim,
            span: params.span,
            cos,
            sin,
        })
    }

    fn mlp(&self, params: MlpParams<'_>) -> Result<ReferenceMlp> {
        Ok(ReferenceMlp {
            norm: self.norm(params.norm)?,
            wi: self.linear(params.wi)?,
            wo: self.linear(params.wo)?,
            activation: params.activation,
        })
    }

    fn prediction_head(&self, params: HeadParams<'_>) -> Result<ReferencePredictionHead> {
        Ok(ReferencePredictionHead {
            dense: self.linear(params.dense)?,
            activation: params.activation,
            norm: self.norm(params.norm)?,
        })
    }

    fn kv_store(&self, _: KvShape) -> KvTensors {
        KvTensors::default()
    }

    fn look_up(&self, embedding: &ReferenceEmbedding, ids: &[u32]) -> Result<Tensor> {
        Ok(embedding.gather(ids)?.to_dtype(DType::F32)?)
    }

    fn embed(&self, embedding: &ReferenceEmbedding, norm: &ReferenceNorm, batch: &PackedBatch) -> Result<Tensor> {
        norm.forward(&embedding.gather(batch.ids())?)
    }

    fn attention_block(
        &self,
        hidden: &mut Tensor,
        attention: &ReferenceAttention,
        batch: &PackedBatch,
        cache: Option<LayerKv<'_, KvTensors>>,
    ) -> Result<()> {
        attention_block(hidden, attention, batch, cache)
    }

    fn mlp_block(&self, hidden: &mut Tensor, mlp: &ReferenceMlp) -> Result<()> {
        let x = mlp.wi.forward(&mlp.norm.forward(hidden)?)?;
        let half = x.dim(1)? / 2;
        let gated = (activate(mlp.activation, &x.narrow(1, 0, half)?)? * x.narrow(1, half, half)?)?;
        *hidden = (&*hidden + mlp.wo.forward(&gated)?)?;
        Ok(())
    }

    fn apply_norm(&self, hidden: &Tensor, norm: &ReferenceNorm) -> Result<Tensor> {
        norm.forward(hidden)
    }

    fn apply_linear(&self, hidden: &Tensor, linear: &ReferenceLinear) -> Result<Tensor> {
        linear.forward(hidden)
    }

    fn apply_head(&self, hidden: &Tensor, head: &ReferencePredictionHead) -> Result<Tensor> {
        head.norm.forward(&activate(head.activation, &head.dense.forward(hidden)?)?)
    }

    fn logits(&self, hidden: &Tensor, output: &ReferenceEmbedding, bias: Option<&Tensor>) -> Result<Tensor> {
        product(hidden, &output.weight, bias, output.dtype)
    }
}

/// Cosines and sines of every position, `[positions, head_dim / 2]` in f32.
pub(super) fn angles(rope: &RopeTable, device: &Device) -> Result<(Tensor, Tensor)> {
    let shape = (rope.positions(), rope.head_dim() / 2);
    let rows = (0..rope.positions()).map(|position| rope.angles(position));
    let (cos, sin): (Vec<&[f32]>, Vec<&[f32]>) = rows.unzip();
    Ok((Tensor::from_vec(cos.concat(), shape, device)?, Tensor::from_vec(sin.concat(), shape, device)?))
}

impl ReferenceEmbedding {
    /// Rows of the given tokens, `[tokens, hidden]`, in the number format of products.
    pub(super) fn gather(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, self.weight.device())?;
        Ok(self.weight.index_select(&ids, 0)?.to_dtype(self.dtype)?)
    }
}

impl ReferenceNorm {
    /// `(x − mean) / √(variance + ε) · weight + bias` in f32. Composed here because candle's own layer norm is not
    /// differentiable in its fast form and looks for a bias in its checked one.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let x = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        let x = x.broadcast_mul(&self.weight.to_dtype(DType::F32)?)?;
        with_bias(x, self.bias.as_ref())
    }
}

impl ReferenceLinear {
    /// `[rows, inputs]` of any dtype to `[rows, outputs]` in f32.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = product(x, &self.weight, self.bias.as_ref(), self.dtype)?;
        for adapter in &self.adapters {
            y = (y + adapter.forward(x, self.dtype)?)?;
        }
        Ok(y)
    }
}

/// `x · Wᵀ + b` in f32, with the product in `dtype`.
fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
    let x = x.to_dtype(dtype)?.matmul(&weight.to_dtype(dtype)?.t()?)?;
    with_bias(x.to_dtype(DType::F32)?, bias)
}

fn with_bias(x: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(match bias {
        Some(bias) => x.broadcast_add(&bias.to_dtype(DType::F32)?)?,
        None => x,
    })
}

impl ReferenceAttention {
    /// Rotates `[tokens, heads, head_dim]` in the half-split layout (transformers' `rotate_half`), in f32.
    fn rotate(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let half = self.head_dim / 2;
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        Ok(Tensor::cat(&[first, second], 2)?)
    }

    /// One sequence: `q` `[heads, rows, head_dim]` from position `start`, keys and values `[heads, keys, head_dim]`
    /// from position `first`; gives `[rows, heads · head_dim]`, zeros for a row behind all the keys that it could see.
    fn attend(&self, q: &Tensor, start: usize, k: &Tensor, v: &Tensor, first: usize) -> Result<Tensor> {
        let (rows, keys) = (q.dim(1)?, k.dim(1)?);
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let mut outputs = Vec::with_capacity(rows.div_ceil(QUERY_CHUNK) + 1);
        let seeing = (start..start + rows).take_while(|&query| !self.span.keys(query, first + keys).is_empty()).count();
        for row in (0..seeing).step_by(QUERY_CHUNK) {
            let count = QUERY_CHUNK.min(seeing - row);
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
        if seeing < rows {
            outputs.push(Tensor::zeros((rows - seeing, self.heads * self.head_dim), v.dtype(), v.device())?);
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

fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Silu => x.silu()?,
        // candle's gives 0 for NaN: 1 or NaN times it passes that on.
        Activation::Relu => (x.relu()? * ((x * 0.0)? + 1.0)?)?,
    })
}

fn attention_block(
    hidden: &mut Tensor,
    attention: &ReferenceAttention,
    batch: &PackedBatch,
    mut cache: Option<LayerKv<'_, KvTensors>>,
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
    let dtype = attention.qkv.dtype;
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
            let store = cache.store_mut(sequence);
            (keys, values, first) = store.append(&keys, &values, first, attention.span.left)?;
        }
        if let Some(&unseen) = batch.unseen().get(sequence) {
            let seen = keys.dim(1)? - unseen;
            (keys, values) = (keys.narrow(1, 0, seen)?, values.narrow(1, 0, seen)?);
        }
        outputs.push(attention.attend(&take(&q)?, batch.start(sequence), &keys, &values, first)?);
    }
    let output = attention.out.forward(&Tensor::cat(&outputs, 0)?)?;
    *hidden = (&*hidden + output)?;
    Ok(())
}

/// Keys and values of one sequence and layer as tensors `[heads, keys, head_dim]` from position `first`.
#[derive(Debug, Clone, Default)]
pub struct KvTensors {
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
}

impl KvStore for KvTensors {
    fn reserve(&mut self, _: usize, _: usize) {}

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn bytes(&self) -> usize {
        let size = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        self.held.as_ref().map_or(0, |(k, v)| size(k) + size(v))
    }
}
