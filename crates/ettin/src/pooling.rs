//! From token vectors to one vector per sequence, over the offsets of a packed batch.
//!
//! Definitions are those of sentence-transformers' `Pooling`; there is no padding to mask.

use std::{fmt, ops::Range, str::FromStr};

use candle_core::Tensor;
use ettin_kernels::{Pooled, Reduce};

use crate::{Error, PackedBatch, Result, finite, named::Named, ops::Hidden};

/// How the token vectors of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token.
    Cls,
    /// The mean of all tokens.
    Mean,
    /// The last token.
    Last,
    /// The mean with weights 1, 2, 3 … by position.
    WeightedMean,
    /// The largest value of each dimension.
    Max,
    /// The sum divided by the square root of the number of tokens.
    MeanSqrtLen,
}

impl Pooling {
    /// Every pooling with its name.
    pub const ALL: [(Pooling, &'static str); 6] = [
        (Pooling::Cls, "cls"),
        (Pooling::Mean, "mean"),
        (Pooling::Last, "last"),
        (Pooling::WeightedMean, "weighted-mean"),
        (Pooling::Max, "max"),
        (Pooling::MeanSqrtLen, "mean-sqrt-len"),
    ];

    /// Pools token vectors `[tokens, size]` to `[sequences, size]`.
    ///
    /// `skip[i]` leading tokens of sequence `i` (a prompt) are left out; position weights still count them, as in
    /// sentence-transformers. A sequence of which nothing would be left pools all its tokens.
    pub fn pool(self, tokens: &Hidden, batch: &PackedBatch, skip: Option<&[usize]>) -> Result<Hidden> {
        if tokens.rows() != batch.tokens() {
            let (rows, tokens) = (tokens.rows(), batch.tokens());
            return Err(Error::input(format!("{rows} token vectors for a batch of {tokens} tokens")));
        }
        let kept = (0..batch.sequences()).map(|index| {
            let rows = batch.rows(index);
            let skipped = skip.map_or(0, |skip| skip.get(index).copied().unwrap_or(0));
            let skipped = if skipped < rows.len() { skipped } else { 0 };
            (rows.start + skipped..rows.end, skipped)
        });
        if let Some(pooled) = tokens.reduce(kept.clone().map(|(rows, first)| self.reduction(rows, first)))? {
            return Ok(pooled);
        }
        let tokens = tokens.to_tensor()?;
        let pooled = kept.map(|(rows, first)| self.pool_rows(&tokens, rows, first)).collect::<Result<Vec<_>>>()?;
        Ok(Hidden::new(Tensor::cat(&pooled, 0)?))
    }

    /// One sequence for the kernels.
    fn reduction(self, rows: Range<usize>, first: usize) -> Pooled {
        let count = rows.len();
        let (rows, reduce, divisor) = match self {
            Pooling::Cls => (rows.start..rows.start + 1, Reduce::Sum, 1.0),
            Pooling::Last => (rows.end - 1..rows.end, Reduce::Sum, 1.0),
            Pooling::Max => (rows, Reduce::Max, 1.0),
            Pooling::Mean => (rows, Reduce::Sum, count as f32),
            Pooling::MeanSqrtLen => (rows, Reduce::Sum, (count as f32).sqrt()),
            Pooling::WeightedMean => {
                let total = (first + 1..=first + count).sum::<usize>();
                (rows, Reduce::Ramp { first: first + 1 }, total as f32)
            }
        };
        Pooled { rows, reduce, divisor }
    }

    /// One sequence by candle's operations: `[rows, size]` to `[1, size]`; `first` is the position of its first row.
    fn pool_rows(self, tokens: &Tensor, rows: Range<usize>, first: usize) -> Result<Tensor> {
        let count = rows.len();
        let sequence = tokens.narrow(0, rows.start, count)?;
        Ok(match self {
            Pooling::Cls => sequence.narrow(0, 0, 1)?,
            Pooling::Last => sequence.narrow(0, count - 1, 1)?,
            Pooling::Max => finite::largest(&sequence)?,
            Pooling::Mean => (sequence.sum_keepdim(0)? / count as f64)?,
            Pooling::MeanSqrtLen => (sequence.sum_keepdim(0)? / (count as f64).sqrt())?,
            Pooling::WeightedMean => {
                let weights: Vec<f32> = (first + 1..=first + count).map(|w| w as f32).collect();
                let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
                let weights = Tensor::from_vec(weights, (count, 1), tokens.device())?;
                (sequence.broadcast_mul(&weights)?.sum_keepdim(0)? / total)?
            }
        })
    }
}

impl Named for Pooling {
    const NAMES: &'static [(Self, &'static str)] = &Self::ALL;
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::of_name(name)
            .ok_or_else(|| Error::input(format!("unknown pooling {name:?}; known are {}", Self::known())))
    }
}

/// Scales every row to length 1 (rows of zeros stay zero), like `torch.nn.functional.normalize`.
pub fn normalize(vectors: &Tensor) -> Result<Tensor> {
    let norms = vectors.sqr()?.sum_keepdim(1)?.sqrt()?.clamp(1e-12, f64::MAX)?;
    Ok(vectors.broadcast_div(&norms)?)
}
