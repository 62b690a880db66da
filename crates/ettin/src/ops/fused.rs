//! The blocks on the CPU: packed weights, deterministic kernels, one reused workspace; inference-only.

mod attention;
mod blocks;
mod cpu;
mod embedding;
mod rows;
mod vocabulary;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use ettin_kernels::{
    Isa, IsaError, KvBlocks, KvFormat, PackedActivations, PackedWeight, Quantization, Scheme, Store, Team, activate,
    block, gemm,
};

use super::{
    AttentionParams, Compute, Dtype, HeadParams, KvShape, LayerKv, LinearParams, Matrix, MlpParams, NormParams, States,
    Vector, Vocabulary, ropes::Ropes,
};
use crate::{PackedBatch, Result, readout::TopTokens};
use attention::{FusedAttention, attention_block};
use cpu::{Cpu, default_kv};
use rows::{KEPT_ROWS, Memory};

pub use blocks::{FusedLinear, FusedMlp, FusedNorm, FusedPredictionHead};
pub use embedding::FusedEmbedding;
pub use rows::{FusedRows, Kv};

/// The CPU's kernels on packed weights: deterministic, in any of their number formats, for inference alone.
#[derive(Debug, Clone)]
pub struct Fused(Arc<Cpu>);

impl Fused {
    /// Kernels of a given instruction set and number format on given threads.
    ///
    /// # Panics
    /// If this CPU lacks the instruction set. [`Isa::select`], [`Isa::best`] and [`Isa::available`] never give one;
    /// [`Isa::supported`] asks.
    pub fn new(isa: Isa, scheme: Scheme, team: Team) -> Self {
        assert!(isa.supported(), "{}", IsaError::Unsupported(isa));
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
    type Hidden = FusedRows;
    type Embedding = FusedEmbedding;
    type Bias = Vec<f32>;
    type Norm = FusedNorm;
    type Linear = FusedLinear;
    type Attention = FusedAttention;
    type Mlp = FusedMlp;
    type PredictionHead = FusedPredictionHead;
    type Kv = Kv;

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn dtype(&self) -> Dtype {
        Dtype::of(self.0.scheme)
    }

    fn hides_keys(&self) -> bool {
        true
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

    fn hidden(&self, vectors: &Tensor) -> Result<FusedRows> {
        let (_, size) = vectors.dims2()?;
        let mut rows = FusedRows::empty(&self.0, size);
        rows.memory.hidden.extend_from_slice(&vectors.flatten_all()?.to_vec1::<f32>()?);
        Ok(rows)
    }

    fn embedding(&self, matrix: Matrix<'_>) -> Result<FusedEmbedding> {
        FusedEmbedding::new(matrix, &self.0)
    }

    fn bias(&self, vector: Vector) -> Result<Vec<f32>> {
        vector.values()
    }

    fn norm(&self, params: NormParams) -> Result<FusedNorm> {
        FusedNorm::new(params)
    }

    fn linear(&self, params: LinearParams<'_>) -> Result<FusedLinear> {
        FusedLinear::exact(params, &self.0)
    }

    fn attention(&self, params: AttentionParams<'_>) -> Result<FusedAttention> {
        let rope = self.0.ropes.of(&params);
        FusedAttention::new(params, &rope, &self.0)
    }

    fn mlp(&self, params: MlpParams<'_>) -> Result<FusedMlp> {
        FusedMlp::new(params, &self.0)
    }

    fn prediction_head(&self, params: HeadParams<'_>) -> Result<FusedPredictionHead> {
        FusedPredictionHead::new(params, &self.0)
    }

    fn kv_store(&self, shape: KvShape) -> Kv {
        let KvShape { heads, head_dim, ring } = shape;
        Kv { blocks: KvBlocks::new(heads, head_dim, ring.unwrap_or(0), self.0.kv), grows: ring.is_none() }
    }

    fn look_up(&self, embedding: &FusedEmbedding, ids: &[u32]) -> Result<FusedRows> {
        let mut rows = embedding.room(ids, &self.0)?;
        embedding.look_up(ids, self.0.isa, &mut rows.memory.hidden);
        Ok(rows)
    }

    fn embed(&self, embedding: &FusedEmbedding, norm: &FusedNorm, batch: &PackedBatch) -> Result<FusedRows> {
        let (cpu, ids) = (&self.0, batch.ids());
        let mut rows = embedding.room(ids, cpu)?;
        let look_up = |ids: &[u32], out: &mut [f32]| embedding.look_up(ids, cpu.isa, out);
        ettin_kernels::embed(cpu.isa, &cpu.team, ids, &look_up, norm.kernel(), &mut rows.memory.hidden);
        Ok(rows)
    }

    fn attention_block(
        &self,
        hidden: &mut FusedRows,
        attention: &FusedAttention,
        batch: &PackedBatch,
        cache: Option<LayerKv<'_, Kv>>,
    ) -> Result<()> {
        attention_block(hidden, attention, batch, cache);
        Ok(())
    }

    fn mlp_block(&self, rows: &mut FusedRows, mlp: &FusedMlp) -> Result<()> {
        let kernel = block::Mlp {
            norm: mlp.norm.kernel(),
            wi: mlp.wi.kernel(),
            activation: mlp.activation,
            wo: mlp.wo.kernel(),
        };
        block::mlp(&self.0.team, &mut rows.memory.hidden, kernel, &mut rows.memory.workspace);
        Ok(())
    }

    fn apply_norm(&self, rows: &FusedRows, norm: &FusedNorm) -> Result<FusedRows> {
        let mut out = FusedRows::empty(&self.0, rows.size);
        norm.apply(&self.0, rows.values(), &mut out.memory.hidden);
        Ok(out)
    }

    fn apply_linear(&self, rows: &FusedRows, linear: &FusedLinear) -> Result<FusedRows> {
        let mut out = FusedRows::empty(&self.0, linear.weight.n());
        let Memory { hidden, operand, .. } = &mut out.memory;
        hidden.resize(rows.rows() * linear.weight.n());
        self.product(rows, &linear.weight, linear.bias.as_deref(), operand, hidden);
        Ok(out)
    }

    fn apply_head(&self, rows: &FusedRows, head: &FusedPredictionHead) -> Result<FusedRows> {
        let mut dense = self.apply_linear(rows, &head.dense)?;
        activate(self.0.isa, &self.0.team, head.activation, &mut dense.memory.hidden);
        self.apply_norm(&dense, &head.norm)
    }

    fn logits(&self, rows: &FusedRows, output: &FusedEmbedding, bias: Option<&Vec<f32>>) -> Result<Tensor> {
        let mut out = Vec::new();
        self.logits_into(rows, output, bias, &mut out)?;
        let vocabulary = out.len() / rows.rows().max(1);
        Ok(Tensor::from_vec(out, (rows.rows(), vocabulary), &Device::Cpu)?)
    }

    fn logits_into(
        &self,
        rows: &FusedRows,
        output: &FusedEmbedding,
        bias: Option<&Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
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
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        rows: &[usize],
        k: usize,
    ) -> Result<Vec<TopTokens>> {
        self.best_tokens(hidden, vocabulary, rows, k)
    }

    fn log_probs(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        targets: &[(usize, u32)],
    ) -> Result<Vec<f32>> {
        self.chosen_log_probs(hidden, vocabulary, targets)
    }

    fn splade(&self, hidden: &FusedRows, vocabulary: &Vocabulary<'_, Self>, batch: &PackedBatch) -> Result<Tensor> {
        self.largest_weights(hidden, vocabulary, batch)
    }

    fn splade_sum(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        batch: &PackedBatch,
        twice: bool,
    ) -> Result<Tensor> {
        self.summed_weights(hidden, vocabulary, batch, twice)
    }
}

impl Fused {
    fn product(
        &self,
        rows: &FusedRows,
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
