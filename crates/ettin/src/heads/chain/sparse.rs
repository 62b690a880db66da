//! Modules that make sparse vectors, and the one that makes a score of the logits of two tokens.

use std::cmp::Ordering;

use candle_core::Tensor;

use crate::{
    Backend, PackedBatch, Result, Trunk,
    ops::{self, Hidden, Linear},
    params,
    sentence_transformers::{AutoEncoderConfig, LogitScoreConfig, SpladeConfig},
    weights::{FileSource, Subfolder, Weights},
};

/// Added to the deviation that a vector is divided by.
const DEVIATION_EPS: f64 = 1e-5;

/// Rows whose scores over the vocabulary are held at once, as in the readouts.
const LOGIT_ROWS: usize = 128;

/// The weights of every entry of the vocabulary, `[sequences, vocabulary]`, from final hidden states.
pub(super) fn splade(config: SpladeConfig, trunk: &Trunk, hidden: &Hidden, batch: &PackedBatch) -> Result<Hidden> {
    let SpladeConfig { sum, twice } = config;
    if sum {
        return Ok(Hidden::new(trunk.model().splade_sum(hidden, batch, twice)?));
    }
    let weights = trunk.model().splade(hidden, batch)?;
    // The logarithm grows with its argument, so it may be taken of the largest alone.
    Ok(Hidden::new(if twice { ln_1p(&weights)? } else { weights }))
}

/// `ln(1 + x)`, exact for small x.
fn ln_1p(x: &Tensor) -> Result<Tensor> {
    let values: Vec<f32> = x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::ln_1p).collect();
    Ok(Tensor::from_vec(values, x.dims(), x.device())?)
}

/// The logit of one token at the last place of each sequence, less that of another if there is one: `[sequences, 1]`.
pub(super) fn logit_score(
    config: LogitScoreConfig,
    trunk: &Trunk,
    hidden: &Hidden,
    batch: &PackedBatch,
) -> Result<Hidden> {
    let rows: Vec<usize> = batch.offsets()[1..].iter().map(|end| end - 1).collect();
    let mut scores = Vec::new();
    for rows in rows.chunks(LOGIT_ROWS) {
        let logits = trunk.model().logits(hidden, rows)?; // [rows, vocabulary]
        let wanted = logits.narrow(1, config.wanted, 1)?.contiguous()?;
        scores.push(match config.unwanted {
            None => wanted,
            Some(unwanted) => (wanted - logits.narrow(1, unwanted, 1)?)?,
        });
    }
    Ok(Hidden::new(Tensor::cat(&scores, 0)?))
}

/// The encoder of a sparse autoencoder (CSR): the largest features of a dense vector.
#[derive(Debug)]
pub(super) struct AutoEncoder {
    config: AutoEncoderConfig,
    /// Subtracted from a vector, `[1, inputs]`.
    before: Tensor,
    linear: Linear,
}

impl AutoEncoder {
    pub(super) fn load(files: &dyn FileSource, folder: &str, width: usize, backend: &Backend) -> Result<Self> {
        let config = AutoEncoderConfig::load(files, folder, width)?;
        let weights = Weights::open(&Subfolder { files, folder })?;
        // Encoder and decoder are one matrix, which safetensors keeps under the decoder's name alone.
        let name = match weights.get("encoder.weight") {
            Some(_) => "encoder.weight",
            None => "decoder.linear.weight",
        };
        let weight = weights.require(name, &[config.features, config.inputs])?;
        let bias = weights.require("latent_bias", &[config.features])?;
        let before = weights.require("pre_bias", &[config.inputs])?.to_f32();
        Ok(Self {
            config,
            before: Tensor::from_vec(before, (1, config.inputs), &backend.device())?,
            linear: backend.linear(params::dense(&weights, weight, Some(bias)))?,
        })
    }

    /// Values of a vector.
    pub(super) fn features(&self) -> usize {
        self.config.features
    }

    /// How many of them may differ from 0.
    pub(super) fn kept(&self) -> usize {
        self.config.kept
    }

    /// `[rows, inputs]` to `[rows, features]`: of each row the `kept` largest features, those below 0 left out.
    pub(super) fn forward(&self, vectors: &Hidden, kept: Option<usize>) -> Result<Hidden> {
        let mut x = vectors.to_tensor()?;
        if self.config.standardizes {
            x = standardized(&x)?;
        }
        let x = x.broadcast_sub(&self.before.to_device(x.device())?)?;
        let features = ops::linear(&Hidden::new(x), &self.linear)?.to_tensor()?;
        let mut rows = features.to_vec2::<f32>()?;
        let kept = kept.unwrap_or(self.config.kept);
        rows.iter_mut().for_each(|row| keep_largest(row, kept));
        Ok(Hidden::new(Tensor::from_vec(rows.concat(), features.dims(), features.device())?))
    }
}

/// Every row with mean 0 and deviation 1, that of a sample: divided by one less than there are values.
fn standardized(x: &Tensor) -> Result<Tensor> {
    let size = x.dim(1)?;
    let x = x.broadcast_sub(&x.mean_keepdim(1)?)?;
    let deviation = (x.sqr()?.sum_keepdim(1)? / size.saturating_sub(1) as f64)?.sqrt()?;
    Ok(x.broadcast_div(&(deviation + DEVIATION_EPS)?)?)
}

/// Leaves the `kept` largest values of a row, and of these the ones above 0; of equal ones the first. NaN stays, as
/// the largest.
fn keep_largest(row: &mut [f32], kept: usize) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    let descending = |&a: &usize, &b: &usize| match (row[a].is_nan(), row[b].is_nan()) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        _ => row[b].total_cmp(&row[a]).then(a.cmp(&b)),
    };
    if kept < order.len() {
        order.select_nth_unstable_by(kept, descending);
    }
    for &index in order.iter().skip(kept) {
        row[index] = 0.0;
    }
    for value in row {
        if *value <= 0.0 {
            *value = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_features_stay_and_none_below_zero() {
        let kept = |kept| {
            let mut row = [-1.0f32, 3.0, 2.0, -0.0, 3.0, 1.0];
            keep_largest(&mut row, kept);
            row
        };
        assert_eq!(kept(1), [0.0, 3.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(kept(3), [0.0, 3.0, 2.0, 0.0, 3.0, 0.0]);
        assert_eq!(kept(6), [0.0, 3.0, 2.0, 0.0, 3.0, 1.0]);
        assert_eq!(kept(60), kept(6));
        let mut row = [f32::NAN, 1.0, -f32::NAN];
        keep_largest(&mut row, 1);
        assert!(row.iter().any(|value| value.is_nan()));
    }
}
