//! The blocks of the trunk on a device's own kernels (`ettin-gpu`): packed attention without padding or masks in memory,
//! the norm fused with the residual addition before it, candle's matrix products between; inference-only.
//!
//! The residual stream and all statistics are f32; what goes into and comes out of a product is in the model's dtype.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use ettin_gpu::{AttentionShape, Cache, Kernels, Segment, Tiles};
use ettin_kernels::{Activation, Pooled, RopeTable};

use super::{AttentionParams, KvRepr, LinearParams, MlpParams, NormParams, reference};
use crate::{Error, PackedBatch, Result, cache::LayerCache};

/// The device that everything of one model runs on.
#[derive(Debug)]
pub(super) struct Gpu {
    kernels: Kernels,
    dtype: DType,
    /// Tables that are on the device already: layers of one base share them.
    angles: Mutex<Vec<(Arc<RopeTable>, Angles)>>,
}

/// Cosines and sines, `[positions, head_dim / 2]` in f32.
#[derive(Debug, Clone)]
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

#[derive(Debug)]
pub(super) struct Norm {
    gpu: Arc<Gpu>,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

#[derive(Debug)]
struct Linear {
    weight: Tensor, // [outputs, inputs]
    bias: Option<Tensor>,
}

#[derive(Debug)]
pub(super) struct Attention {
    norm: Option<Norm>,
    qkv: Linear,
    out: Linear,
    shape: AttentionShape,
    angles: Angles,
}

#[derive(Debug)]
pub(super) struct Mlp {
    norm: Norm,
    wi: Linear,
    wo: Linear,
    activation: Activation,
}

impl Gpu {
    pub(super) fn new(kernels: Kernels, dtype: DType) -> Self {
        Self { kernels, dtype, angles: Mutex::default() }
    }

    pub(super) fn device(&self) -> &Device {
        self.kernels.device()
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn describe(&self) -> &'static str {
        self.kernels.describe(self.dtype)
    }

    fn angles(&self, rope: &Arc<RopeTable>) -> Result<Angles> {
        let mut known = self.angles.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, angles)) = known.iter().find(|(table, _)| Arc::ptr_eq(table, rope)) {
            return Ok(angles.clone());
        }
        let shape = (rope.positions(), rope.head_dim() / 2);
        let rows = (0..rope.positions()).map(|position| rope.angles(position));
        let (cos, sin): (Vec<&[f32]>, Vec<&[f32]>) = rows.unzip();
        let on_device = |rows: Vec<&[f32]>| Tensor::from_vec(rows.concat(), shape, self.device());
        let angles = Angles { cos: on_device(cos)?, sin: on_device(sin)? };
        known.push((rope.clone(), angles.clone()));
        Ok(angles)
    }
}

impl Norm {
    pub(super) fn new(params: NormParams, gpu: &Arc<Gpu>) -> Result<Self> {
        Ok(Self {
            gpu: gpu.clone(),
            weight: params.weight.tensor(gpu.device())?,
            bias: params.bias.map(|bias| bias.tensor(gpu.device())).transpose()?,
            eps: params.eps,
        })
    }

    fn parts(&self) -> ettin_gpu::Norm<'_> {
        ettin_gpu::Norm { weight: &self.weight, bias: self.bias.as_ref(), eps: self.eps }
    }

    /// Normalises every row of `x` in f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.gpu.kernels.norm(&x.contiguous()?, self.parts(), DType::F32)?)
    }
}

impl Linear {
    fn new(params: LinearParams<'_>, gpu: &Gpu) -> Result<Self> {
        let bias = params.bias.map(|bias| bias.tensor(gpu.device())).transpose()?;
        Ok(Self {
            weight: params.weight.tensor(gpu.device(), gpu.dtype)?,
            bias: bias.map(|bias| bias.to_dtype(gpu.dtype)).transpose()?,
        })
    }

    /// `[rows, inputs]` to `[rows, outputs]`, a tensor that nobody else holds.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => x.broadcast_add(bias)?,
            None => x,
        })
    }
}

impl Attention {
    pub(super) fn new(params: AttentionParams<'_>, rope: &Arc<RopeTable>, gpu: &Arc<Gpu>) -> Result<Self> {
        if !Kernels::supports_head(params.head_dim) {
            return Err(Error::Unsupported(format!(
                "heads of {} on this device, whose kernels take up to 128; ETTIN_REFERENCE=1 computes without them",
                params.head_dim
            )));
        }
        Ok(Self {
            norm: params.norm.map(|norm| Norm::new(norm, gpu)).transpose()?,
            qkv: Linear::new(params.qkv, gpu)?,
            out: Linear::new(params.out, gpu)?,
            shape: AttentionShape { heads: params.heads, head_dim: params.head_dim, span: params.span },
            angles: gpu.angles(rope)?,
        })
    }
}

impl Mlp {
    pub(super) fn new(params: MlpParams<'_>, gpu: &Arc<Gpu>) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(params.norm, gpu)?,
            wi: Linear::new(params.wi, gpu)?,
            wo: Linear::new(params.wo, gpu)?,
            activation: params.activation,
        })
    }
}

/// Rows of the residual stream, with what the blocks know of the batch.
#[derive(Debug)]
pub(super) struct Rows {
    gpu: Arc<Gpu>,
    residual: Tensor, // [rows, size] in f32
    /// What the last block adds to the residual, `[rows, size]`: the next norm does it on its way.
    pending: Option<Tensor>,
    /// Made by the first layer.
    plan: Option<Plan>,
}

/// What every layer needs of a batch, on the device.
#[derive(Debug)]
struct Plan {
    batch: PackedBatch,
    positions: Tensor, // [rows], u32
    /// Tiles of the whole batch, once a layer has attended to it without a cache.
    packed: Option<Tiles>,
    /// Tiles of each sequence that needs them, once a layer has attended to caches.
    cached: Vec<Option<Tiles>>,
}

impl Plan {
    fn new(gpu: &Gpu, batch: &PackedBatch) -> Result<Self> {
        let positions = Tensor::new(batch.positions(), gpu.device())?;
        Ok(Self { batch: batch.clone(), positions, packed: None, cached: Vec::new() })
    }
}

impl Rows {
    pub(super) fn new(gpu: &Arc<Gpu>, residual: Tensor) -> Self {
        Self { gpu: gpu.clone(), residual, pending: None, plan: None }
    }

    pub(super) fn dims(&self) -> &[usize] {
        self.residual.dims()
    }

    /// The residual stream, `[rows, size]`.
    pub(super) fn tensor(&self) -> Result<Tensor> {
        Ok(match &self.pending {
            Some(pending) => (&self.residual + pending.to_dtype(DType::F32)?)?,
            None => self.residual.clone(),
        })
    }

    /// Runs of rows brought together, `[runs, size]`.
    pub(super) fn pool(&self, runs: &[Pooled]) -> Result<Tensor> {
        Ok(self.gpu.kernels.pool(&self.tensor()?, runs, DType::F32)?)
    }

    /// Adds what is pending and normalises: `[rows, size]` in the model's dtype.
    fn normed(&mut self, norm: &Norm) -> Result<Tensor> {
        let kernels = &self.gpu.kernels;
        let Some(pending) = self.pending.take() else {
            return Ok(kernels.norm(&self.residual, norm.parts(), self.gpu.dtype)?);
        };
        let (residual, normed) = kernels.add_norm(&self.residual, &pending, norm.parts())?;
        self.residual = residual;
        Ok(normed)
    }

    /// Adds what is pending and rounds to the model's dtype.
    fn rounded(&mut self) -> Result<Tensor> {
        self.residual = self.tensor()?;
        self.pending = None;
        Ok(self.residual.to_dtype(self.gpu.dtype)?)
    }
}

pub(super) fn embed(table: &reference::Table, norm: &Norm, batch: &PackedBatch) -> Result<Rows> {
    let residual = norm.forward(&table.gather(batch.ids())?.to_dtype(DType::F32)?)?;
    Ok(Rows::new(&norm.gpu, residual))
}

pub(super) fn norm(rows: &Rows, norm: &Norm) -> Result<Rows> {
    Ok(Rows::new(&norm.gpu, norm.forward(&rows.tensor()?)?))
}

pub(super) fn attention_block(
    rows: &mut Rows,
    block: &Attention,
    batch: &PackedBatch,
    cache: Option<LayerCache<'_, '_>>,
) -> Result<()> {
    let gpu = rows.gpu.clone();
    let mut plan = match rows.plan.take() {
        Some(plan) if plan.batch == *batch => plan,
        _ => Plan::new(&gpu, batch)?,
    };
    let x = match &block.norm {
        Some(norm) => rows.normed(norm)?,
        None => rows.rounded()?,
    };
    let qkv = block.qkv.forward(&x)?; // [rows, q | k | v]
    let Angles { cos, sin } = &block.angles;
    gpu.kernels.rope(&qkv, &plan.positions, cos, sin, block.shape.heads)?;
    let attended = match cache {
        None => block.attend(&gpu, &mut plan, &qkv)?,
        Some(cache) => block.attend_over_caches(&gpu, &mut plan, &qkv, cache)?,
    };
    rows.plan = Some(plan);
    rows.pending = Some(block.out.forward(&attended)?);
    Ok(())
}

impl Attention {
    /// Over the batch alone, `[rows, q | k | v]` to `[rows, size]`.
    fn attend(&self, gpu: &Gpu, plan: &mut Plan, qkv: &Tensor) -> Result<Tensor> {
        if plan.packed.is_none() {
            let segments = (0..plan.batch.sequences()).map(|sequence| {
                let rows = plan.batch.rows(sequence);
                // Spans depend on distances only, so positions may count from the first row that is here.
                Segment { row: rows.start, rows: rows.len(), start: 0, base: rows.start }
            });
            let segments: Vec<Segment> = segments.collect();
            plan.packed = Some(gpu.kernels.tiles(gpu.dtype, self.shape.head_dim, &segments)?);
        }
        match &plan.packed {
            Some(tiles) => Ok(gpu.kernels.attention(qkv, tiles, self.shape)?),
            None => Err(Error::input("a batch without tiles")),
        }
    }

    /// Over each sequence's cache, to which the batch's keys are appended first.
    fn attend_over_caches(
        &self,
        gpu: &Gpu,
        plan: &mut Plan,
        qkv: &Tensor,
        mut cache: LayerCache<'_, '_>,
    ) -> Result<Tensor> {
        let size = self.shape.heads * self.shape.head_dim;
        let out = Tensor::zeros((qkv.dim(0)?, size), gpu.dtype, gpu.device())?;
        for sequence in 0..plan.batch.sequences() {
            let (rows, start) = (plan.batch.rows(sequence), plan.batch.start(sequence));
            let segment = Segment { row: rows.start, rows: rows.len(), start, base: 0 };
            if plan.cached.len() == sequence {
                let tiles = || gpu.kernels.tiles(gpu.dtype, self.shape.head_dim, &[segment]);
                plan.cached.push(if Kernels::splits_keys(rows.len()) { None } else { Some(tiles()?) });
            }
            let KvRepr::Device(store) = &mut cache.store_mut(sequence).0 else {
                return Err(super::mixed());
            };
            let cache = store.append(gpu, qkv, segment, size)?;
            let tiles = plan.cached[sequence].as_ref();
            gpu.kernels.attention_over_cache(&out, qkv, segment, tiles, cache, self.shape)?;
        }
        Ok(out)
    }
}

pub(super) fn mlp_block(rows: &mut Rows, block: &Mlp) -> Result<()> {
    let wide = block.wi.forward(&rows.normed(&block.norm)?)?; // [rows, activated | gate]
    let gated = rows.gpu.kernels.geglu(&wide, block.activation)?;
    rows.pending = Some(block.wo.forward(&gated)?);
    Ok(())
}

/// Keys and values of one sequence and layer, `[capacity, k | v]`.
#[derive(Debug, Clone)]
pub(crate) struct KvRows {
    /// Shared by forks until one of them writes.
    kv: Option<Arc<Tensor>>,
    capacity: usize,
    ring: bool,
}

impl KvRows {
    /// A ring of so many positions, or all of them.
    pub(super) fn new(ring: Option<usize>) -> Self {
        Self { kv: None, capacity: ring.unwrap_or(0), ring: ring.is_some() }
    }

    /// Room for `len` positions, doubling up to `max`; a ring has its size.
    pub(super) fn reserve(&mut self, len: usize, max: usize) {
        if !self.ring && self.capacity < len {
            self.capacity = len.next_power_of_two().min(max);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.kv.as_ref().map_or(0, |kv| kv.elem_count() * kv.dtype().size_in_bytes())
    }

    /// Writes the keys and values of a segment at their positions; gives all that are held, which a failure leaves as
    /// they were.
    fn append(&mut self, gpu: &Gpu, qkv: &Tensor, segment: Segment, size: usize) -> Result<Cache<'_>> {
        let zeros = |rows: usize| Tensor::zeros((rows, 2 * size), gpu.dtype, gpu.device());
        let kv = match &self.kv {
            None => Arc::new(zeros(self.capacity)?),
            Some(kv) => match kv.dim(0)? {
                held if held < self.capacity => Arc::new(Tensor::cat(&[&**kv, &zeros(self.capacity - held)?], 0)?),
                _ if Arc::strong_count(kv) > 1 => Arc::new(kv.copy()?),
                _ => kv.clone(),
            },
        };
        let kv = self.kv.insert(kv);
        let cache = Cache { kv, ring: self.ring };
        gpu.kernels.append(cache, qkv, segment)?;
        Ok(cache)
    }
}
