//! The blocks on the CPU: packed weights, deterministic kernels, one reused workspace; inference-only.

mod attention;
mod vocabulary;

use std::sync::{Arc, Mutex, PoisonError};

use ettin_kernels::{
    Activation, Aligned, Isa, KvBlocks, KvFormat, PackedActivations, PackedWeight, Pooled, Precision, Quantization,
    ReadingOrder, Scheme, Sharing, Store, Team, activate, block, block::Workspace, gemm, layer_norm, pool, rounded,
};

use candle_core::{Device, Tensor};

use super::{
    AttentionParams, Compute, Dtype, HeadParams, KvShape, KvStore, LayerKv, LinearParams, Matrix, MlpParams,
    NormParams, States, StoredRows, Vector, Vocabulary, ropes::Ropes,
};
use crate::{Error, PackedBatch, Result, finite, readout::TopTokens};
use attention::{Attention, Buffers, attention_block};

/// The CPU's kernels on packed weights: deterministic, in any of their number formats, for inference alone.
#[derive(Debug, Clone)]
pub struct Fused(Arc<Cpu>);

/// The instruction set, the number format and the threads that everything of one model runs on.
#[derive(Debug, Clone)]
struct Cpu {
    isa: Isa,
    scheme: Scheme,
    /// Whether weights may choose the number format.
    auto: bool,
    /// How keys and values are kept, by a cache or for the time of a layer.
    kv: KvFormat,
    /// Whether it was said how; else that follows the number format.
    kv_given: bool,
    team: Team,
    ropes: Ropes,
    /// What forwards of few rows worked in, for the next one.
    spare: Arc<Mutex<Vec<Memory>>>,
    /// Weights in the order that they are built in, which is that of a forward.
    order: Arc<ReadingOrder>,
}

/// Floating-point operations of a forward pass, some tens of microseconds' worth, from which waking threads pays.
const SHARED_WORK: usize = 1 << 22;

/// The same on AMX, which is done with few rows by the time that another thread is awake and has read what it needs
/// from this one: bytes of weights and operations of half a millisecond (measured: 16 tokens of the smallest model
/// take a third longer on two threads than on one, 128 tokens a little less).
const SHARED_ON_AMX: (usize, usize) = (12 << 20, 1 << 29);

/// Rows up to which memory is kept for the next forward: a step of decoding should not wait for the allocator, nor a
/// batch of the default size for fresh pages (which cost the smallest model a tenth of its time).
const KEPT_ROWS: usize = 1 << 14;

/// Inputs of a product in int8: what [`PackedWeight::pack`] takes.
const MOST_INPUTS_OF_BYTES: usize = 1 << 16;

/// Memory that is kept, beside one for each thread; a forward and its heads take three at once.
const KEPT: usize = 8;

impl Cpu {
    /// Whether a pass of `tokens` rows over so many weights is worth waking threads for.
    fn shares(&self, tokens: usize, weights: usize) -> bool {
        let work = 2 * tokens * weights;
        let bytes = match self.scheme {
            Scheme::Bf16 => 2,
            Scheme::Bf16x3 => 4,
            Scheme::Bf16x6 => 6,
            Scheme::Int8 => 1,
            Scheme::F32 | Scheme::W8 | Scheme::W4 => return work >= SHARED_WORK,
        };
        match self.isa {
            Isa::Amx => bytes * weights >= SHARED_ON_AMX.0 || work >= SHARED_ON_AMX.1,
            _ => work >= SHARED_WORK,
        }
    }

    fn pack(&self, matrix: Matrix<'_>, scheme: Scheme, sharing: Sharing) -> Result<PackedWeight> {
        let inputs = matrix.inputs();
        if scheme == Scheme::Int8 && inputs > MOST_INPUTS_OF_BYTES {
            return Err(Error::Unsupported(format!(
                "dtype int8 for a matrix of {inputs} inputs; its sums hold {MOST_INPUTS_OF_BYTES} products: use bf16 or w8"
            )));
        }
        let packed = matrix.pack(self.isa, scheme, &self.team)?;
        self.order.push(&packed, sharing);
        Ok(packed)
    }

    /// Memory with undefined contents.
    fn memory(&self) -> Memory {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps memory for later, in the order of size: a forward takes the largest. It would let another one grow to its
    /// size if it took what a readout of few rows left.
    fn keep(&self, mut memory: Memory) {
        memory.largest = memory.largest.max(memory.hidden.len());
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < KEPT + self.team.threads() {
            let place = spare.partition_point(|kept| kept.largest <= memory.largest);
            spare.insert(place, memory);
        }
    }

    /// In which numbers attention multiplies.
    fn precision(&self) -> Precision {
        if self.scheme.rounds_activations() { Precision::Bf16 } else { Precision::F32 }
    }

    /// How token vectors and the output matrix are kept: rounding them to bytes with the activations would cost most
    /// and gain least.
    fn table_scheme(&self) -> Scheme {
        match self.scheme {
            Scheme::Int8 => Scheme::Bf16,
            scheme => scheme,
        }
    }
}

/// Keys and values lose no more than what is multiplied with them, or than the weights that they come from.
fn default_kv(scheme: Scheme) -> KvFormat {
    match scheme {
        Scheme::F32 | Scheme::Bf16x3 | Scheme::Bf16x6 => KvFormat::F32,
        Scheme::Bf16 | Scheme::Int8 | Scheme::W8 | Scheme::W4 => KvFormat::Bf16,
    }
}

impl Fused {
    /// Kernels of a given instruction set and number format on given threads.
    pub fn new(isa: Isa, scheme: Scheme, team: Team) -> Self {
        Self(Arc::new(Cpu {
            isa,
            scheme,
            auto: false,
            kv: default_kv(scheme),
            kv_given: false,
            team,
            ropes: Ropes::default(),
            spare: Arc::default(),
            order: Arc::default(),
        }))
    }

    /// The same, but weights that are stored in few bits choose their own number format.
    #[must_use]
    pub fn auto(self) -> Self {
        Self(Arc::new(Cpu { auto: true, ..(*self.0).clone() }))
    }
}

impl Compute for Fused {
    type Hidden = Rows;
    type Embedding = Embedding;
    type Bias = Vec<f32>;
    type Norm = Norm;
    type Linear = Linear;
    type Attention = Attention;
    type Mlp = Mlp;
    type PredictionHead = PredictionHead;
    type Kv = Kv;

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn dtype(&self) -> Dtype {
        Dtype::of(self.0.scheme)
    }

    fn describe(&self) -> String {
        let Cpu { scheme, isa, team, .. } = &*self.0;
        format!("cpu, {scheme}, {isa} kernels, {} threads", team.threads())
    }

    fn kv_bytes(&self) -> f64 {
        match self.0.kv {
            KvFormat::F32 => 4.0,
            KvFormat::Bf16 => 2.0,
            KvFormat::Int8 => 1.0,
        }
    }

    fn isa(&self) -> Option<Isa> {
        Some(self.0.isa)
    }

    fn team(&self) -> Team {
        self.0.team.clone()
    }

    fn on_team(&self, team: Team) -> Option<Self> {
        Some(Self(Arc::new(Cpu { team, ..(*self.0).clone() })))
    }

    fn with_kv(&self, kv: KvFormat) -> Option<Self> {
        Some(Self(Arc::new(Cpu { kv, kv_given: true, ..(*self.0).clone() })))
    }

    fn for_stored(&self, quantization: Quantization) -> Option<Self> {
        self.0.auto.then(|| {
            let scheme = quantization.scheme();
            let kv = if self.0.kv_given { self.0.kv } else { default_kv(scheme) };
            Self(Arc::new(Cpu { scheme, kv, ..(*self.0).clone() }))
        })
    }

    fn enter<R>(&self, tokens: usize, weights: usize, work: impl FnOnce() -> Result<R>) -> Result<R> {
        match self.0.shares(tokens, weights) {
            true => self.0.team.enter(work),
            // A pass too short to be shared stays with the caller.
            false => self.0.team.alone(work),
        }
    }

    fn hidden(&self, vectors: &Tensor) -> Result<Rows> {
        let (_, size) = vectors.dims2()?;
        let mut rows = Rows::empty(&self.0, size);
        rows.memory.hidden.extend_from_slice(&vectors.flatten_all()?.to_vec1::<f32>()?);
        Ok(rows)
    }

    fn embedding(&self, matrix: Matrix<'_>) -> Result<Embedding> {
        Embedding::new(matrix, &self.0)
    }

    fn bias(&self, vector: Vector) -> Result<Vec<f32>> {
        vector.values()
    }

    fn norm(&self, params: NormParams) -> Result<Norm> {
        Norm::new(params)
    }

    fn linear(&self, params: LinearParams<'_>) -> Result<Linear> {
        Linear::exact(params, &self.0)
    }

    fn attention(&self, params: AttentionParams<'_>) -> Result<Attention> {
        let rope = self.0.ropes.of(&params);
        Attention::new(params, &rope, &self.0)
    }

    fn mlp(&self, params: MlpParams<'_>) -> Result<Mlp> {
        Mlp::new(params, &self.0)
    }

    fn prediction_head(&self, params: HeadParams<'_>) -> Result<PredictionHead> {
        PredictionHead::new(params, &self.0)
    }

    fn kv_store(&self, shape: KvShape) -> Kv {
        let KvShape { heads, head_dim, ring } = shape;
        Kv { blocks: KvBlocks::new(heads, head_dim, ring.unwrap_or(0), self.0.kv), grows: ring.is_none() }
    }

    fn look_up(&self, embedding: &Embedding, ids: &[u32]) -> Result<Rows> {
        let mut rows = embedding.room(ids, &self.0)?;
        embedding.look_up(ids, self.0.isa, &mut rows.memory.hidden);
        Ok(rows)
    }

    fn embed(&self, embedding: &Embedding, norm: &Norm, batch: &PackedBatch) -> Result<Rows> {
        let (cpu, ids) = (&self.0, batch.ids());
        let mut rows = embedding.room(ids, cpu)?;
        let look_up = |ids: &[u32], out: &mut [f32]| embedding.look_up(ids, cpu.isa, out);
        ettin_kernels::embed(cpu.isa, &cpu.team, ids, &look_up, norm.kernel(), &mut rows.memory.hidden);
        Ok(rows)
    }

    fn attention_block(
        &self,
        hidden: &mut Rows,
        attention: &Attention,
        batch: &PackedBatch,
        cache: Option<LayerKv<'_, Kv>>,
    ) -> Result<()> {
        attention_block(hidden, attention, batch, cache);
        Ok(())
    }

    fn mlp_block(&self, rows: &mut Rows, mlp: &Mlp) -> Result<()> {
        let kernel = block::Mlp {
            norm: mlp.norm.kernel(),
            wi: mlp.wi.kernel(),
            activation: mlp.activation,
            wo: mlp.wo.kernel(),
        };
        block::mlp(&self.0.team, &mut rows.memory.hidden, kernel, &mut rows.memory.workspace);
        Ok(())
    }

    fn apply_norm(&self, rows: &Rows, norm: &Norm) -> Result<Rows> {
        let mut out = Rows::empty(&self.0, rows.size);
        norm.apply(&self.0, rows.values(), &mut out.memory.hidden);
        Ok(out)
    }

    fn apply_linear(&self, rows: &Rows, linear: &Linear) -> Result<Rows> {
        let mut out = Rows::empty(&self.0, linear.weight.n());
        let Memory { hidden, operand, .. } = &mut out.memory;
        hidden.resize(rows.rows() * linear.weight.n());
        self.product(rows, &linear.weight, linear.bias.as_deref(), operand, hidden);
        Ok(out)
    }

    fn apply_head(&self, rows: &Rows, head: &PredictionHead) -> Result<Rows> {
        let mut dense = self.apply_linear(rows, &head.dense)?;
        activate(self.0.isa, &self.0.team, head.activation, &mut dense.memory.hidden);
        self.apply_norm(&dense, &head.norm)
    }

    fn logits(&self, rows: &Rows, output: &Embedding, bias: Option<&Vec<f32>>) -> Result<Tensor> {
        let mut out = Vec::new();
        self.logits_into(rows, output, bias, &mut out)?;
        let vocabulary = out.len() / rows.rows().max(1);
        Ok(Tensor::from_vec(out, (rows.rows(), vocabulary), &Device::Cpu)?)
    }

    fn logits_into(&self, rows: &Rows, output: &Embedding, bias: Option<&Vec<f32>>, out: &mut Vec<f32>) -> Result<()> {
        let matrix = output.matrix()?;
        let mut memory = self.0.memory();
        out.resize(rows.rows() * matrix.n(), 0.0);
        self.product(rows, matrix, bias.map(Vec::as_slice), &mut memory.operand, out);
        if rows.rows() <= KEPT_ROWS {
            self.0.keep(memory);
        }
        Ok(())
    }
    fn top_k(
        &self,
        hidden: &Rows,
        vocabulary: &Vocabulary<'_, Self>,
        rows: &[usize],
        k: usize,
    ) -> Result<Vec<TopTokens>> {
        self.best_tokens(hidden, vocabulary, rows, k)
    }

    fn log_probs(
        &self,
        hidden: &Rows,
        vocabulary: &Vocabulary<'_, Self>,
        targets: &[(usize, u32)],
    ) -> Result<Vec<f32>> {
        self.chosen_log_probs(hidden, vocabulary, targets)
    }

    fn splade(&self, hidden: &Rows, vocabulary: &Vocabulary<'_, Self>, batch: &PackedBatch) -> Result<Tensor> {
        self.largest_weights(hidden, vocabulary, batch)
    }
}

impl Fused {
    fn product(
        &self,
        rows: &Rows,
        weight: &PackedWeight,
        bias: Option<&[f32]>,
        operand: &mut PackedActivations,
        out: &mut [f32],
    ) {
        let team = &self.0.team;
        operand.encode(team, weight, rows.values());
        gemm(team, operand, weight, bias, Store::Write, out);
    }
}

/// Token vectors, `[vocabulary, hidden]`, stored once: where they are only looked up, in their file.
#[derive(Debug)]
pub enum Embedding {
    /// As panels, to be multiplied by as well.
    Packed(PackedWeight),
    /// Rows in their file, and what is done to them to be what packing would have made of them.
    Stored(StoredRows, Option<Scheme>),
}

/// Layer normalisation.
#[derive(Debug)]
pub struct Norm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

/// A dense layer with packed weights.
#[derive(Debug)]
pub struct Linear {
    weight: PackedWeight, // [outputs, inputs]
    bias: Option<Vec<f32>>,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub struct Mlp {
    norm: Norm,
    wi: Linear,
    wo: Linear,
    activation: Activation,
}

/// The prediction head.
#[derive(Debug)]
pub struct PredictionHead {
    dense: Linear,
    activation: Activation,
    norm: Norm,
}

impl Embedding {
    fn new(matrix: Matrix<'_>, cpu: &Cpu) -> Result<Self> {
        let scheme = cpu.table_scheme();
        Ok(match matrix {
            Matrix::Stored(rows) => {
                let rounding = rows.quantization.is_none_or(|stored| stored.scheme() != scheme).then_some(scheme);
                Embedding::Stored(rows, rounding)
            }
            matrix => Embedding::Packed(cpu.pack(matrix, scheme, Sharing::Outputs)?),
        })
    }

    /// Vocabulary and hidden size.
    fn shape(&self) -> (usize, usize) {
        match self {
            Embedding::Packed(matrix) => (matrix.n(), matrix.k()),
            Embedding::Stored(rows, _) => (rows.outputs, rows.inputs),
        }
    }

    /// Room for the vectors of tokens that are all in the vocabulary.
    fn room(&self, ids: &[u32], cpu: &Arc<Cpu>) -> Result<Rows> {
        let (vocabulary, size) = self.shape();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::input(format!("token id {id} is outside the vocabulary of {vocabulary}")));
        }
        let mut rows = Rows::empty(cpu, size);
        rows.memory.hidden.resize(ids.len() * size);
        Ok(rows)
    }

    /// The vectors of some tokens of the vocabulary, `[ids, hidden]`.
    fn look_up(&self, ids: &[u32], isa: Isa, out: &mut [f32]) {
        match self {
            Embedding::Packed(matrix) => matrix.rows(ids, out),
            Embedding::Stored(rows, rounding) => {
                for (&id, out) in ids.iter().zip(out.chunks_exact_mut(rows.inputs)) {
                    (rows.fill)(id as usize, out);
                }
                if let Some(scheme) = *rounding {
                    rounded(isa, scheme, rows.inputs, out);
                }
            }
        }
    }

    /// The output matrix of a language model.
    fn matrix(&self) -> Result<&PackedWeight> {
        match self {
            Embedding::Packed(matrix) => Ok(matrix),
            Embedding::Stored(..) => {
                Err(Error::input("these parameters are not a language model's: they have no output matrix"))
            }
        }
    }
}

impl Norm {
    fn new(params: NormParams) -> Result<Self> {
        Ok(Self {
            weight: params.weight.values()?,
            bias: params.bias.map(|bias| bias.values()).transpose()?,
            eps: params.eps,
        })
    }

    fn apply(&self, cpu: &Cpu, x: &[f32], out: &mut Aligned) {
        out.resize(x.len());
        layer_norm(cpu.isa, &cpu.team, x, self.kernel(), out);
    }

    fn kernel(&self) -> ettin_kernels::Norm<'_> {
        ettin_kernels::Norm { weight: &self.weight, bias: self.bias.as_deref(), eps: self.eps }
    }
}

impl Linear {
    /// A layer of its own: small ones that end a model are kept exact.
    fn exact(params: LinearParams<'_>, cpu: &Cpu) -> Result<Self> {
        Self::of(params, Scheme::F32, Sharing::Outputs, cpu)
    }

    fn new(params: LinearParams<'_>, cpu: &Cpu) -> Result<Self> {
        Self::shared(params, Sharing::Outputs, cpu)
    }

    fn shared(params: LinearParams<'_>, sharing: Sharing, cpu: &Cpu) -> Result<Self> {
        Self::of(params, cpu.scheme, sharing, cpu)
    }

    fn of(params: LinearParams<'_>, scheme: Scheme, sharing: Sharing, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            weight: cpu.pack(params.weight, scheme, sharing)?,
            bias: params.bias.map(|bias| bias.values()).transpose()?,
        })
    }

    fn kernel(&self) -> block::Linear<'_> {
        block::Linear { weight: &self.weight, bias: self.bias.as_deref() }
    }
}

impl Mlp {
    fn new(params: MlpParams<'_>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(params.norm)?,
            wi: Linear::shared(params.wi, Sharing::Gates, cpu)?,
            wo: Linear::new(params.wo, cpu)?,
            activation: params.activation,
        })
    }
}

impl PredictionHead {
    fn new(params: HeadParams<'_>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            dense: Linear::new(params.dense, cpu)?,
            activation: params.activation,
            norm: Norm::new(params.norm)?,
        })
    }
}

/// Rows of the residual stream with the buffers that the blocks reuse from layer to layer.
#[derive(Debug)]
pub struct Rows {
    cpu: Arc<Cpu>,
    size: usize,
    memory: Memory,
}

/// The buffers of [`Rows`].
#[derive(Debug, Default)]
struct Memory {
    hidden: Aligned, // [rows, size]
    buffers: Buffers,
    workspace: Workspace,
    /// For products outside blocks.
    operand: PackedActivations,
    /// The most values that `hidden` held when it was kept.
    largest: usize,
}

impl Drop for Rows {
    fn drop(&mut self) {
        if self.rows() <= KEPT_ROWS {
            self.cpu.keep(std::mem::take(&mut self.memory));
        }
    }
}

impl Rows {
    /// Rows to be filled.
    fn empty(cpu: &Arc<Cpu>, size: usize) -> Self {
        let mut memory = cpu.memory();
        memory.hidden.resize(0);
        Self { cpu: cpu.clone(), size, memory }
    }

    fn values(&self) -> &[f32] {
        &self.memory.hidden
    }
}

impl States for Rows {
    fn rows(&self) -> usize {
        self.memory.hidden.len() / self.size
    }

    fn size(&self) -> usize {
        self.size
    }

    fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(self.values(), (self.rows(), self.size), &Device::Cpu)?)
    }

    fn select(&self, rows: &[usize]) -> Result<Self> {
        let mut selected = Rows::empty(&self.cpu, self.size);
        for &row in rows {
            selected.memory.hidden.extend_from_slice(&self.values()[row * self.size..][..self.size]);
        }
        Ok(selected)
    }

    fn is_finite(&self) -> Result<bool> {
        Ok(finite::is_finite(self.values()))
    }

    fn reduce(&self, runs: &[Pooled]) -> Result<Option<Self>> {
        let mut pooled = Rows::empty(&self.cpu, self.size);
        pooled.memory.hidden.resize(runs.len() * self.size);
        pool(self.cpu.isa, &self.cpu.team, self.values(), self.size, runs, &mut pooled.memory.hidden);
        Ok(Some(pooled))
    }
}

/// Keys and values of one sequence and layer, for the kernels.
#[derive(Debug, Clone)]
pub struct Kv {
    blocks: KvBlocks,
    /// Whether every position is kept; else the latest, in a ring of fixed size.
    grows: bool,
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
