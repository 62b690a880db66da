//! Modules that change token vectors before they are pooled: `WeightedLayerPooling` and `WordWeights`.

use candle_core::Tensor;

use crate::{
    Error, PackedBatch, Pooling, Result,
    ops::Hidden,
    sentence_transformers::{WeightedLayersConfig, WordWeightsConfig},
    weights::{FileSource, Subfolder, Weights},
};

/// What sentence-transformers divides by at least.
const LEAST_SUM: f32 = 1e-9;

/// A weighted mean of the hidden states behind the last layers; the last of them is normalised by the final norm.
#[derive(Debug)]
pub(super) struct LayerMean {
    start: usize,
    /// Of each state from `start` on.
    weights: Vec<f32>,
}

impl LayerMean {
    /// Reads the module in `folder`, over vectors of `width` values and a trunk of so many layers.
    pub(super) fn load(files: &dyn FileSource, folder: &str, width: usize, layers: usize) -> Result<Self> {
        let config = WeightedLayersConfig::load(files, folder, width)?;
        config.check(folder, layers)?;
        let weights = Weights::open(&Subfolder { files, folder })?;
        let weights = weights.require("layer_weights", &[config.weights])?.to_f32();
        Ok(Self { start: config.start, weights })
    }

    /// The mean of the states of all layers, `[tokens, hidden]` each.
    pub(super) fn of(&self, layers: &[Tensor]) -> Result<Hidden> {
        let mut sum: Option<Tensor> = None;
        for (state, &weight) in layers.iter().skip(self.start).zip(&self.weights) {
            let weighted = (state * f64::from(weight))?;
            sum = Some(match sum {
                None => weighted,
                Some(sum) => (sum + weighted)?,
            });
        }
        let sum = sum.ok_or_else(|| Error::internal("a mean of layers was asked for without their states"))?;
        Ok(Hidden::new((sum / f64::from(self.weights.iter().sum::<f32>()))?))
    }
}

/// A number for every token of the vocabulary, which its vectors are multiplied by.
#[derive(Debug)]
pub(super) struct TokenWeights(Vec<f32>);

impl TokenWeights {
    pub(super) fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        Ok(Self(WordWeightsConfig::load(files, folder)?.weights))
    }

    /// Of a token; no number for one that the module does not know, so that its text fails and no other.
    fn of(&self, id: u32) -> f32 {
        self.0.get(id as usize).copied().unwrap_or(f32::NAN)
    }

    /// Weighs token vectors, `[tokens, size]`.
    pub(super) fn apply(&self, tokens: &Hidden, batch: &PackedBatch) -> Result<Hidden> {
        let tokens = tokens.to_tensor()?;
        let weights: Vec<f32> = batch.ids().iter().map(|&id| self.of(id)).collect();
        let weights = Tensor::from_vec(weights, (batch.tokens(), 1), tokens.device())?;
        Ok(Hidden::new(tokens.broadcast_mul(&weights)?))
    }

    /// The sum of the weights of each sequence's tokens.
    pub(super) fn sums(&self, batch: &PackedBatch) -> Vec<f32> {
        let sum = |sequence| batch.ids()[batch.rows(sequence)].iter().map(|&id| self.of(id)).sum();
        (0..batch.sequences()).map(sum).collect()
    }
}

/// Pools token vectors that were weighed, `[sequences, size]`. As in sentence-transformers, means are divided by the sum
/// of the weights of all tokens: those of a prompt that is left out, too, and whatever a token's place weighs.
pub(super) fn pooled(
    pooling: Pooling,
    tokens: &Hidden,
    batch: &PackedBatch,
    skip: Option<&[usize]>,
    sums: &[f32],
) -> Result<Hidden> {
    let root = match pooling {
        Pooling::Mean | Pooling::WeightedMean => false,
        Pooling::MeanSqrtLen => true,
        Pooling::Cls | Pooling::Last | Pooling::Max => return pooling.pool(tokens, batch, skip),
    };
    let means = pooling.pool(tokens, batch, skip)?.to_tensor()?;
    // From the pooling's own divisor to that of the weights.
    let factor = |(sequence, &sum): (usize, &f32)| {
        let rows = batch.rows(sequence).len();
        let skipped = skip.map_or(0, |skip| skip.get(sequence).copied().unwrap_or(0));
        let skipped = if skipped < rows { skipped } else { 0 };
        let own = match pooling {
            Pooling::WeightedMean => (skipped + 1..=rows).sum::<usize>() as f32,
            _ => (rows - skipped) as f32,
        };
        // A comparison that keeps NaN.
        let sum = if sum < LEAST_SUM { LEAST_SUM } else { sum };
        if root { (own / sum).sqrt() } else { own / sum }
    };
    let factors: Vec<f32> = sums.iter().enumerate().map(factor).collect();
    let factors = Tensor::from_vec(factors, (batch.sequences(), 1), means.device())?;
    Ok(Hidden::new(means.broadcast_mul(&factors)?))
}
