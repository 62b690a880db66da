//! What is asked of a forward at its end: hidden states in several forms, or something over the vocabulary.
//!
//! A readout is a value that says what is wanted; [`Trunk::read`] and [`LanguageModel::read`] compute it. What is not
//! asked for is never stored: of scores over the vocabulary, at most 25 MiB exist at a time, whatever the number of
//! tokens.
//!
//! | wanted | of | result |
//! |---|---|---|
//! | [`Tokens`] | trunk | every hidden state, `[tokens, hidden]` |
//! | [`Rows`] | trunk | chosen rows, `[rows, hidden]` |
//! | [`Pooled`] | trunk | one vector per sequence, `[sequences, hidden]` |
//! | [`Projected`] | trunk | a dense layer on every token, `[tokens, outputs]` (late interaction) |
//! | [`Logits`] | language model | `[rows, vocabulary]` |
//! | [`TopK`] | language model | the best tokens at chosen rows, with their probabilities |
//! | [`LogProbs`] | language model | one number for each chosen token |
//! | [`Splade`], [`SpladeSum`] | language model | one weight per sequence and token of the vocabulary |
//!
//! ```
//! # fn main() -> ettin::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
//! use ettin::{Backend, PackedBatch, files::ModelFiles, heads::LanguageModel, readout::TopK};
//!
//! let model = LanguageModel::load(&ModelFiles::folder(folder)?, &Backend::cpu()?)?;
//! let batch = PackedBatch::new(&[&[2u32, 510, 4, 3][..]])?;
//! let best = model.read(&batch, &TopK { rows: &[2], k: 5 })?;
//! assert_eq!(best[0].tokens.len(), 5);
//! # Ok(())
//! # }
//! ```
//!
//! Whoever wants something else at the end of a forward implements [`Readout`].

use candle_core::Tensor;

use crate::{
    Error, PackedBatch, Pooling, Result, Trunk,
    heads::LanguageModel,
    ops::{self, Hidden, Linear, check_size},
    pooling::normalize,
};

/// What is asked of the model `M` at the end of a forward.
pub trait Readout<M> {
    /// What it gives.
    type Output;

    /// Reads it from the final hidden states of `batch`, `[tokens, hidden]`.
    fn read(&self, model: &M, hidden: Hidden, batch: &PackedBatch) -> Result<Self::Output>;
}

impl Trunk {
    /// Computes a batch and reads what is asked at its end.
    ///
    /// # Errors
    /// For a batch or a readout that does not fit the model; failures of the engine.
    pub fn read<R: Readout<Self>>(&self, batch: &PackedBatch, readout: &R) -> Result<R::Output> {
        readout.read(self, self.forward(batch)?, batch)
    }
}

impl LanguageModel {
    /// Computes a batch and reads what is asked at its end.
    ///
    /// # Errors
    /// For a batch or a readout that does not fit the model; failures of the engine.
    pub fn read<R: Readout<Self>>(&self, batch: &PackedBatch, readout: &R) -> Result<R::Output> {
        readout.read(self, self.trunk().forward(batch)?, batch)
    }
}

/// Every hidden state, `[tokens, hidden]`.
#[derive(Debug, Clone, Copy)]
pub struct Tokens;

impl Readout<Trunk> for Tokens {
    type Output = Hidden;

    fn read(&self, _: &Trunk, hidden: Hidden, _: &PackedBatch) -> Result<Hidden> {
        Ok(hidden)
    }
}

/// Hidden states of chosen rows of the batch, in the order given: `[rows, hidden]`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a>(pub &'a [usize]);

impl Readout<Trunk> for Rows<'_> {
    type Output = Hidden;

    fn read(&self, _: &Trunk, hidden: Hidden, _: &PackedBatch) -> Result<Hidden> {
        hidden.select(self.0)
    }
}

/// One vector per sequence, `[sequences, hidden]`.
#[derive(Debug, Clone, Copy)]
pub struct Pooled<'a> {
    /// How rows become one.
    pub pooling: Pooling,
    /// Leading tokens of each sequence that are left out, as in [`Pooling::pool`].
    pub skip: Option<&'a [usize]>,
}

impl Readout<Trunk> for Pooled<'_> {
    type Output = Hidden;

    fn read(&self, _: &Trunk, hidden: Hidden, batch: &PackedBatch) -> Result<Hidden> {
        self.pooling.pool(&hidden, batch, self.skip)
    }
}

/// A dense layer on every token, `[tokens, outputs]`: the vectors of late interaction (ColBERT).
#[derive(Debug, Clone, Copy)]
pub struct Projected<'a> {
    /// From the hidden size to that of the vectors; [`Backend::linear`](crate::Backend::linear) makes one.
    pub linear: &'a Linear,
    /// Whether vectors are scaled to length 1; zeros stay.
    pub normalize: bool,
}

impl Readout<Trunk> for Projected<'_> {
    type Output = Tensor;

    fn read(&self, _: &Trunk, hidden: Hidden, _: &PackedBatch) -> Result<Tensor> {
        let vectors = ops::linear(&hidden, self.linear)?.to_tensor()?;
        if self.normalize { normalize(&vectors) } else { Ok(vectors) }
    }
}

/// Scores over the vocabulary at chosen rows of the batch, `[rows, vocabulary]` in f32.
///
/// The one readout whose memory grows with rows × vocabulary.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    /// Rows of the batch.
    pub rows: &'a [usize],
}

impl Readout<LanguageModel> for Logits<'_> {
    type Output = Tensor;

    fn read(&self, model: &LanguageModel, hidden: Hidden, _: &PackedBatch) -> Result<Tensor> {
        model.project(&hidden, self.rows)
    }
}

/// The best tokens at chosen rows of the batch.
#[derive(Debug, Clone, Copy)]
pub struct TopK<'a> {
    /// Rows of the batch.
    pub rows: &'a [usize],
    /// How many tokens at each; more than the vocabulary has are all of it.
    pub k: usize,
}

/// The best tokens at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct TopTokens {
    /// Ids and logits, best first; of equal logits the lower id first.
    pub tokens: Vec<(u32, f32)>,
    /// `ln Σ exp(logit)` over the whole vocabulary. Not finite where the logits cannot be compared: one is NaN or +∞,
    /// or all are −∞.
    pub log_sum_exp: f64,
}

impl TopTokens {
    /// Every token with its probability over the whole vocabulary.
    pub fn probabilities(&self) -> impl Iterator<Item = (u32, f32)> {
        self.tokens.iter().map(|&(id, logit)| (id, (f64::from(logit) - self.log_sum_exp).exp() as f32))
    }
}

impl Readout<LanguageModel> for TopK<'_> {
    type Output = Vec<TopTokens>;

    fn read(&self, model: &LanguageModel, hidden: Hidden, _: &PackedBatch) -> Result<Vec<TopTokens>> {
        model.trunk().model().top_k(&hidden, self.rows, self.k)
    }
}

/// Natural logarithms of the probabilities of chosen tokens, in the order given.
///
/// −∞ for a token that the model excludes (its logit is −∞); NaN where the logits cannot be compared.
#[derive(Debug, Clone, Copy)]
pub struct LogProbs<'a> {
    /// Rows of the batch, each with the id of a token. Neighbours of one row share its logits.
    pub targets: &'a [(usize, u32)],
}

impl Readout<LanguageModel> for LogProbs<'_> {
    type Output = Vec<f32>;

    fn read(&self, model: &LanguageModel, hidden: Hidden, _: &PackedBatch) -> Result<Vec<f32>> {
        model.trunk().model().log_probs(&hidden, self.targets)
    }
}

/// The largest `ln(1 + relu(logit))` of each token of the vocabulary over a sequence's rows, `[sequences, vocabulary]`
/// in f32: the weights of learned sparse retrieval (SPLADE). All rows of the sequence count, special tokens included.
///
/// Not finite where a logit is NaN or +∞.
#[derive(Debug, Clone, Copy)]
pub struct Splade;

impl Readout<LanguageModel> for Splade {
    type Output = Tensor;

    fn read(&self, model: &LanguageModel, hidden: Hidden, batch: &PackedBatch) -> Result<Tensor> {
        check_size(&hidden, model.config().hidden_size)?;
        if hidden.rows() != batch.tokens() {
            let (rows, tokens) = (hidden.rows(), batch.tokens());
            return Err(Error::input(format!("hidden states of {rows} tokens for a batch of {tokens}")));
        }
        model.trunk().model().splade(&hidden, batch)
    }
}

/// The sum of `ln(1 + relu(logit))` of each token of the vocabulary over a sequence's rows, `[sequences, vocabulary]` in
/// f32: [`Splade`] with `pooling_strategy: "sum"`.
///
/// Not finite where a logit is NaN or +∞.
#[derive(Debug, Clone, Copy)]
pub struct SpladeSum {
    /// Whether the logarithm is taken twice (`log1p_relu`).
    pub twice: bool,
}

impl Readout<LanguageModel> for SpladeSum {
    type Output = Tensor;

    fn read(&self, model: &LanguageModel, hidden: Hidden, batch: &PackedBatch) -> Result<Tensor> {
        model.trunk().model().splade_sum(&hidden, batch, self.twice)
    }
}
