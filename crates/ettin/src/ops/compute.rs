//! What computes a model: the trait behind which everything is decided that `model.rs` does not say.

use std::fmt;

use candle_core::{Device, Tensor};
use ettin_kernels::{Isa, KvFormat, Pooled, Quantization, Team};

use super::{
    AttentionParams, Dtype, HeadParams, KvShape, KvStore, LayerKv, LinearParams, Matrix, MlpParams, NormParams, Vector,
    vocabulary::{self, Vocabulary},
};
use crate::{Error, PackedBatch, Result, finite, readout::TopTokens};

/// A block that is built once and shared between threads.
pub trait Block: fmt::Debug + Send + Sync + 'static {}

impl<B: fmt::Debug + Send + Sync + 'static> Block for B {}

/// Hidden states of a packed batch, `[rows, size]`, as a backend holds them.
pub trait States: fmt::Debug + Send + Sync + 'static {
    /// Number of rows (tokens of the batch, or those selected).
    fn rows(&self) -> usize;

    /// Values per row.
    fn size(&self) -> usize;

    /// A copy as a tensor, `[rows, size]` in f32, on the device that computed it.
    fn to_tensor(&self) -> Result<Tensor>;

    /// The given rows alone, in the given order; each is below [`rows`](Self::rows).
    fn select(&self, rows: &[usize]) -> Result<Self>
    where
        Self: Sized;

    /// Whether every value is a number.
    fn is_finite(&self) -> Result<bool> {
        Ok(finite::is_finite(&self.to_tensor()?.flatten_all()?.to_vec1::<f32>()?))
    }

    /// Runs of rows brought together, `[runs, size]`, where there are kernels for it; elsewhere `None`.
    fn reduce(&self, _runs: &[Pooled]) -> Result<Option<Self>>
    where
        Self: Sized,
    {
        Ok(None)
    }
}

/// Computes the blocks of a model, in types of its own.
///
/// A model is a network over one `Compute`, chosen when it is built, so blocks of two of them cannot meet. The
/// first half of the trait says what it is, the second builds blocks from parameters, the third runs them.
/// [`Fused`](super::Fused), [`Reference`](super::Reference) and [`OnDevice`](super::OnDevice) are the ones of this
/// crate; any other becomes a [`Backend`](crate::Backend) by [`Backend::custom`](crate::Backend::custom).
pub trait Compute: fmt::Debug + Send + Sync + Sized + 'static {
    /// The residual stream between blocks.
    type Hidden: States;
    /// Token vectors, `[vocabulary, hidden]`; also the output matrix of a language model.
    type Embedding: Block;
    /// What a language model adds to its scores, `[vocabulary]`.
    type Bias: Block;
    /// Layer normalisation (weight, optional bias).
    type Norm: Block;
    /// A dense layer `x · Wᵀ + b`.
    type Linear: Block;
    /// The attention half of a layer: norm, projections, RoPE, attention over a span, output projection.
    type Attention: Block;
    /// The feed-forward half of a layer: norm, `Wi`, gated activation, `Wo`.
    type Mlp: Block;
    /// The prediction head: `norm(activation(dense(h)))`.
    type PredictionHead: Block;
    /// Keys and values of one sequence in one layer.
    type Kv: KvStore;

    /// The device that results live on.
    fn device(&self) -> Device;

    /// The number format that products are computed in.
    fn dtype(&self) -> Dtype;

    /// One line for people and benchmark records: device, number format, kernels, threads.
    fn describe(&self) -> String;

    /// Whether blocks hold the variables that they are built from, so that gradients and an optimiser reach them.
    fn trains(&self) -> bool {
        false
    }

    /// Whether attention leaves out the keys that [`PackedBatch::unseen`] names, and gives zeros to a row that is left
    /// without any; batches with such rows are refused elsewhere.
    fn hides_keys(&self) -> bool {
        false
    }

    /// Bytes of one kept number of a key or value, but for scales.
    fn kv_bytes(&self) -> f64 {
        4.0
    }

    /// The instruction set of the CPU kernels, where these compute.
    fn isa(&self) -> Option<Isa> {
        None
    }

    /// The threads that the CPU computes on.
    fn team(&self) -> Team {
        Team::global()
    }

    /// The same on other threads, where it can choose them.
    fn on_team(&self, _team: Team) -> Option<Self> {
        None
    }

    /// The same with keys and values kept in another format, where it can choose that.
    fn with_kv(&self, _kv: KvFormat) -> Option<Self> {
        None
    }

    /// The same for weights that are stored so, where they may choose the number format.
    fn for_stored(&self, _quantization: Quantization) -> Option<Self> {
        None
    }

    /// Runs `work`, which takes `tokens` rows through so many weights, among the threads that will share it, so
    /// that they are called once and not for every block.
    fn enter<R>(&self, _tokens: usize, _weights: usize, work: impl FnOnce() -> Result<R>) -> Result<R> {
        work()
    }

    /// Vectors `[rows, size]` in f32 as the input of blocks.
    fn hidden(&self, vectors: &Tensor) -> Result<Self::Hidden>;

    /// Token vectors, or an output matrix.
    fn embedding(&self, matrix: Matrix<'_>) -> Result<Self::Embedding>;

    /// A bias over the vocabulary.
    fn bias(&self, vector: Vector) -> Result<Self::Bias>;

    /// A layer norm.
    fn norm(&self, params: NormParams) -> Result<Self::Norm>;

    /// A dense layer of its own, outside the trunk.
    fn linear(&self, params: LinearParams<'_>) -> Result<Self::Linear>;

    /// The attention half of a layer.
    fn attention(&self, params: AttentionParams<'_>) -> Result<Self::Attention>;

    /// The feed-forward half of a layer.
    fn mlp(&self, params: MlpParams<'_>) -> Result<Self::Mlp>;

    /// A prediction head.
    fn prediction_head(&self, params: HeadParams<'_>) -> Result<Self::PredictionHead>;

    /// Room for one sequence's keys and values in one layer.
    fn kv_store(&self, shape: KvShape) -> Self::Kv;

    /// The vectors of some tokens, `[ids, hidden]`.
    ///
    /// # Errors
    /// For an id outside the vocabulary.
    fn look_up(&self, embedding: &Self::Embedding, ids: &[u32]) -> Result<Self::Hidden>;

    /// Starts the residual stream: `norm(embedding[ids])`, `[tokens, hidden]`.
    ///
    /// # Errors
    /// For an id outside the vocabulary.
    fn embed(&self, embedding: &Self::Embedding, norm: &Self::Norm, batch: &PackedBatch) -> Result<Self::Hidden>;

    /// `hidden += Wo · attention(RoPE(q), RoPE(k), v)` of `norm(hidden)`, over each sequence's own span; with a
    /// cache, keys of the batch are appended to it first and attended to together with those it held.
    fn attention_block(
        &self,
        hidden: &mut Self::Hidden,
        attention: &Self::Attention,
        batch: &PackedBatch,
        cache: Option<LayerKv<'_, Self::Kv>>,
    ) -> Result<()>;

    /// `hidden += Wo · (activation(a) ⊙ b)` with `[a, b] = Wi · norm(hidden)`.
    fn mlp_block(&self, hidden: &mut Self::Hidden, mlp: &Self::Mlp) -> Result<()>;

    /// Normalises every row.
    fn apply_norm(&self, hidden: &Self::Hidden, norm: &Self::Norm) -> Result<Self::Hidden>;

    /// A dense layer on every row.
    fn apply_linear(&self, hidden: &Self::Hidden, linear: &Self::Linear) -> Result<Self::Hidden>;

    /// The prediction head on every row.
    fn apply_head(&self, hidden: &Self::Hidden, head: &Self::PredictionHead) -> Result<Self::Hidden>;

    /// Scores of every row against every entry of the vocabulary, `[rows, vocabulary]` in f32: `h · outputᵀ + bias`.
    fn logits(&self, hidden: &Self::Hidden, output: &Self::Embedding, bias: Option<&Self::Bias>) -> Result<Tensor>;

    /// The same in memory that is used again and again: `out` is replaced.
    fn logits_into(
        &self,
        hidden: &Self::Hidden,
        output: &Self::Embedding,
        bias: Option<&Self::Bias>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        *out = self.logits(hidden, output, bias)?.flatten_all()?.to_vec1()?;
        Ok(())
    }

    /// The `k` best tokens at each of `rows`, which are below the number of rows; see [`TopK`](crate::readout::TopK).
    fn top_k(
        &self,
        hidden: &Self::Hidden,
        vocabulary: &Vocabulary<'_, Self>,
        rows: &[usize],
        k: usize,
    ) -> Result<Vec<TopTokens>> {
        vocabulary::top_k(self, hidden, vocabulary, rows, k)
    }

    /// Log-probabilities of tokens at rows, both of which exist; see [`LogProbs`](crate::readout::LogProbs).
    fn log_probs(
        &self,
        hidden: &Self::Hidden,
        vocabulary: &Vocabulary<'_, Self>,
        targets: &[(usize, u32)],
    ) -> Result<Vec<f32>> {
        vocabulary::log_probs(self, hidden, vocabulary, targets)
    }

    /// `max ln(1 + relu(logits))` over each sequence's rows, `[sequences, vocabulary]`; see
    /// [`Splade`](crate::readout::Splade).
    fn splade(&self, hidden: &Self::Hidden, vocabulary: &Vocabulary<'_, Self>, batch: &PackedBatch) -> Result<Tensor> {
        vocabulary::splade(self, hidden, vocabulary, batch)
    }

    /// `Σ ln(1 + relu(logits))` over each sequence's rows, the logarithm taken once or twice, `[sequences, vocabulary]`;
    /// see [`SpladeSum`](crate::readout::SpladeSum).
    fn splade_sum(
        &self,
        hidden: &Self::Hidden,
        vocabulary: &Vocabulary<'_, Self>,
        batch: &PackedBatch,
        twice: bool,
    ) -> Result<Tensor> {
        vocabulary::splade_sum(self, hidden, vocabulary, batch, twice)
    }
}

/// Refuses parameters that are to be trained where blocks keep copies: nothing would be learned.
pub(crate) fn refuse_training<C: Compute>(compute: &C, trainable: bool) -> Result<()> {
    if !trainable || compute.trains() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "training on {}: it computes with copies of the weights that no optimiser reaches; build the model on \
         Backend::reference (or Backend::training), or from detached tensors",
        compute.describe()
    )))
}
