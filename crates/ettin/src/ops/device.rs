//! The blocks of the trunk on a device's own kernels (`ettin-gpu`): packed attention without padding or masks in
//! memory, the norm fused with the residual addition before it, candle's matrix products between; inference-only.
//!
//! The residual stream and all statistics are f32; what goes into and comes out of a product is in the model's dtype.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use ettin_gpu::{AttentionShape, Cache, Kernels, Segment, Tiles};
use ettin_kernels::{Activation, Pooled, Reduce, RopeTable};

use super::{
    AttentionParams, Compute, Dtype, HeadParams, KvShape, KvStore, LayerKv, LinearParams, Matrix, MlpParams,
    NormParams, Reference, States, Vector,
    reference::{self, ReferenceEmbedding, ReferenceLinear, ReferencePredictionHead},
    ropes::Ropes,
};
use crate::{Error, PackedBatch, Result};

/// A device's own kernels in the trunk, candle's operations in heads; for inference alone.
#[derive(Debug, Clone)]
pub struct OnDevice(Arc<Gpu>);

/// The device that everything of one model runs on.
#[derive(Debug)]
struct Gpu {
    kernels: Kernels,
    dtype: DType,
    /// Computes what has no kernels of its own.
    candle: Reference,
    ropes: Ropes,
    /// Tables that are on the device already: layers of one base share them.
    angles: Mutex<Vec<(Arc<RopeTable>, Angles)>>,
}

/// Cosines and sines, `[positions, head_dim / 2]` in f32.
#[derive(Debug, Clone)]
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

/// Layer normalisation.
#[derive(Debug)]
pub struct DeviceNorm {
    gpu: Arc<Gpu>,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

#[derive(Debug)]
struct DeviceLinear {
    weight: Tensor, // [outputs, inputs]
    bias: Option<Tensor>,
}

/// The attention half of a layer.
#[derive(Debug)]
pub struct DeviceAttention {
    norm: Option<DeviceNorm>,
    qkv: DeviceLinear,
    out: DeviceLinear,
    shape: AttentionShape,
    angles: Angles,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub struct DeviceMlp {
    norm: DeviceNorm,
    wi: DeviceLinear,
    wo: DeviceLinear,
    activation: Activation,
}

impl OnDevice {
    /// Computes with these kernels.
    ///
    /// # Errors
    /// For number formats that devices do not have.
    pub fn new(kernels: Kernels, dtype: Dtype) -> Result<Self> {
        let dtype = dtype.float()?;
        let candle = Reference::of(kernels.device(), dtype);
        Ok(Self(Arc::new(Gpu { kernels, dtype, candle, ropes: Ropes::default(), angles: Mutex::default() })))
    }
}

impl Compute for OnDevice {
    type Hidden = DeviceRows;
    type Embedding = ReferenceEmbedding;
    type Bias = Tensor;
    type Norm = DeviceNorm;
    type Linear = ReferenceLinear;
    type Attention = DeviceAttention;
    type Mlp = DeviceMlp;
    type PredictionHead = ReferencePredictionHead;
    type Kv = KvRows;

    fn device(&self) -> Device {
        self.0.device().clone()
    }

    fn dtype(&self) -> Dtype {
        Dtype::of_float(self.0.dtype)
    }

    fn describe(&self) -> String {
        let Gpu { kernels, dtype, .. } = &*self.0;
        format!("{}, {}, {}", super::device_name(kernels.device()), dtype.as_str(), kernels.describe(*dtype))
    }

    fn kv_bytes(&self) -> f64 {
        self.0.dtype.size_in_bytes() as f64
    }

    fn hidden(&self, vectors: &Tensor) -> Result<DeviceRows> {
        vectors.dims2()?;
        Ok(DeviceRows::new(&self.0, vectors.to_device(self.0.device())?))
    }

    fn embedding(&self, matrix: Matrix<'_>) -> Result<ReferenceEmbedding> {
        self.0.candle.embedding(matrix)
    }

    fn bias(&self, vector: Vector) -> Result<Tensor> {
        self.0.candle.bias(vector)
    }

    fn norm(&self, params: NormParams) -> Result<DeviceNorm> {
        DeviceNorm::new(params, &self.0)
    }

    fn linear(&self, params: LinearParams<'_>) -> Result<ReferenceLinear> {
        self.0.candle.linear(params)
    }

    fn attention(&self, params: AttentionParams<'_>) -> Result<DeviceAttention> {
        let rope = self.0.ropes.of(&params);
        DeviceAttention::new(params, &rope, &self.0)
    }

    fn mlp(&self, params: MlpParams<'_>) -> Result<DeviceMlp> {
        DeviceMlp::new(params, &self.0)
    }

    fn prediction_head(&self, params: HeadParams<'_>) -> Result<ReferencePredictionHead> {
        self.0.candle.prediction_head(params)
    }

    fn kv_store(&self, shape: KvShape) -> KvRows {
        KvRows::new(shape.ring)
    }

    fn look_up(&self, embedding: &ReferenceEmbedding, ids: &[u32]) -> Result<DeviceRows> {
        Ok(DeviceRows::new(&self.0, self.0.candle.look_up(embedding, ids)?))
    }

    fn embed(&self, embedding: &ReferenceEmbedding, norm: &DeviceNorm, batch: &PackedBatch) -> Result<DeviceRows> {
        let vectors = self.0.candle.look_up(embedding, batch.ids())?;
        Ok(DeviceRows::new(&self.0, norm.forward(&vectors)?))
    }

    fn attention_block(
        &self,
        rows: &mut DeviceRows,
        attention: &DeviceAttention,
        batch: &PackedBatch,
        cache: Option<LayerKv<'_, KvRows>>,
    ) -> Result<()> {
        attention_block(rows, attention, batch, cache)
    }

    fn mlp_block(&self, rows: &mut DeviceRows, mlp: &DeviceMlp) -> Result<()> {
        let wide = mlp.wi.forward(&rows.normed(&mlp.norm)?)?; // [rows, activated | gate]
        let gated = self.0.kernels.geglu(&wide, mlp.activation)?;
        rows.pending = Some(mlp.wo.forward(&gated)?);
        Ok(())
    }

    fn apply_norm(&self, rows: &DeviceRows, norm: &DeviceNorm) -> Result<DeviceRows> {
        Ok(DeviceRows::new(&self.0, norm.forward(&rows.tensor()?)?))
    }

    fn apply_linear(&self, rows: &DeviceRows, linear: &ReferenceLinear) -> Result<DeviceRows> {
        Ok(DeviceRows::new(&self.0, self.0.candle.apply_linear(&rows.tensor()?, linear)?))
    }

    fn apply_head(&self, rows: &DeviceRows, head: &ReferencePredictionHead) -> Result<DeviceRows> {
        Ok(DeviceRows::new(&self.0, self.0.candle.apply_head(&rows.tensor()?, head)?))
    }

    fn logits(&self, rows: &DeviceRows, output: &ReferenceEmbedding, bias: Option<&Tensor>) -> Result<Tensor> {
        self.0.candle.logits(&rows.tensor()?, output, bias)
    }
}

impl Gpu {
    fn device(&self) -> &Device {
        self.kernels.device()
    }

    fn angles(&self, rope: &Arc<RopeTable>) -> Result<Angles> {
        let mut known = self.angles.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, angles)) = known.iter().find(|(table, _)| Arc::ptr_eq(table, rope)) {
            return Ok(angles.clone());
        }
        let (cos, sin) = reference::angles(rope, self.device())?;
        let angles = Angles { cos, sin };
        known.push((rope.clone(), angles.clone()));
        Ok(angles)
    }
}

impl DeviceNorm {
    fn new(params: NormParams, gpu: &Arc<Gpu>) -> Result<Self> {
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
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.gpu.kernels.norm(&x.contiguous()?, self.parts(), DType::F32)?)
    }
}

impl DeviceLinear {
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

impl DeviceAttention {
    fn new(params: AttentionParams<'_>, rope: &Arc<RopeTable>, gpu: &Arc<Gpu>) -> Result<Self> {
        if !Kernels::supports_head(params.head_dim) {
            return Err(Error::Unsupported(format!(
                "heads of {} on this device, whose kernels take up to 128; ETTIN_REFERENCE=1 computes without them",
                params.head_dim
            )));
        }
        Ok(Self {
            norm: params.norm.map(|norm| DeviceNorm::new(norm, gpu)).transpose()?,
            qkv: DeviceLinear::new(params.qkv, gpu)?,
            out: DeviceLinear::new(params.out, gpu)?,
            shape: AttentionShape { heads: params.heads, head_dim: params.head_dim, span: params.span },
            angles: gpu.angles(rope)?,
        })
    }
}

impl DeviceMlp {
    fn new(params: MlpParams<'_>, gpu: &Arc<Gpu>) -> Result<Self> {
        Ok(Self {
            norm: DeviceNorm::new(params.norm, gpu)?,
            wi: DeviceLinear::new(params.wi, gpu)?,
            wo: DeviceLinear::new(params.wo, gpu)?,
            activation: params.activation,
        })
    }
}

/// Rows of the residual stream, with what the blocks know of the batch.
#[derive(Debug)]
pub struct DeviceRows {
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

impl DeviceRows {
    fn new(gpu: &Arc<Gpu>, residual: Tensor) -> Self {
        Self { gpu: gpu.clone(), residual, pending: None, plan: None }
    }

    /// The residual stream, `[rows, size]`.
    fn tensor(&self) -> Result<Tensor> {
        Ok(match &self.pending {
            Some(pending) => (&self.residual + pending.to_dtype(DType::F32)?)?,
            None => self.residual.clone(),
        })
    }

    /// Runs of rows brought together, `[runs, size]`.
    fn pool(&self, runs: &[Pooled]) -> Result<Tensor> {
        Ok(self.gpu.kernels.pool(&self.tensor()?, runs, DType::F32)?)
    }

    /// Adds what is pending and normalises: `[rows, size]` in the model's dtype.
    fn normed(&mut self, norm: &DeviceNorm) -> Result<Tensor> {
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

impl States for DeviceRows {
    fn rows(&self) -> usize {
        self.residual.dims()[0]
    }

    fn size(&self) -> usize {
        self.residual.dims()[1]
    }

    fn to_tensor(&self) -> Result<Tensor> {
        self.tensor()
    }

    fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(Self::new(&self.gpu, self.tensor()?.select(rows)?))
    }

    fn reduce(&self, runs: &[Pooled]) -> Result<Option<Self>> {
        let pooled = self.pool(runs)?;
        if runs.iter().all(|run| run.reduce != Reduce::Max) {
            return Ok(Some(Self::new(&self.gpu, pooled)));
        }
        // The largest of NaN and a number is the number there; a sum is not.
        let sums: Vec<Pooled> =
            runs.iter().map(|run| Pooled { reduce: Reduce::Sum, divisor: 1.0, ..run.clone() }).collect();
        let pooled = pooled.broadcast_mul(&((self.pool(&sums)? * 0.0)? + 1.0)?)?;
        Ok(Some(Self::new(&self.gpu, pooled)))
    }
}

fn attention_block(
    rows: &mut DeviceRows,
    block: &DeviceAttention,
    batch: &PackedBatch,
    cache: Option<LayerKv<'_, KvRows>>,
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

impl DeviceAttention {
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
            None => Err(Error::internal("a batch without tiles")),
        }
    }

    /// Over each sequence's cache, to which the batch's keys are appended first.
    fn attend_over_caches(
        &self,
        gpu: &Gpu,
        plan: &mut Plan,
        qkv: &Tensor,
        mut cache: LayerKv<'_, KvRows>,
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
            let cache = cache.store_mut(sequence).append(gpu, qkv, segment, size)?;
            let tiles = plan.cached[sequence].as_ref();
            gpu.kernels.attention_over_cache(&out, qkv, segment, tiles, cache, self.shape)?;
        }
        Ok(out)
    }
}

/// Keys and values of one sequence and layer, `[capacity, k | v]`.
#[derive(Debug, Clone)]
pub struct KvRows {
    /// Shared by forks until one of them writes.
    kv: Option<Arc<Tensor>>,
    capacity: usize,
    ring: bool,
}

impl KvRows {
    /// A ring of so many positions, or all of them.
    fn new(ring: Option<usize>) -> Self {
        Self { kv: None, capacity: ring.unwrap_or(0), ring: ring.is_some() }
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

impl KvStore for KvRows {
    /// Room for `len` positions, doubling up to `max`; a ring has its size.
    fn reserve(&mut self, len: usize, max: usize) {
        if !self.ring && self.capacity < len {
            self.capacity = len.next_power_of_two().min(max);
        }
    }

    // Every position that a query sees was written since.
    fn clear(&mut self) {}

    fn bytes(&self) -> usize {
        self.kv.as_ref().map_or(0, |kv| kv.elem_count() * kv.dtype().size_in_bytes())
    }
}
