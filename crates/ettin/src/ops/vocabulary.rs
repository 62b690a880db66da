//! What is read from scores over the vocabulary, without storing those that are not asked for.
//!
//! Rows pass through the prediction head and the output matrix in chunks; what is wanted of a chunk's scores is taken,
//! and its memory serves the next. Scores do not depend on the rows beside them, so the cut changes no result. The
//! functions here are the forms by candle's operations; the CPU kernels' own stand in `fused/vocabulary.rs`.

use std::ops::Range;

use candle_core::Tensor;
use ettin_kernels::vocabulary;

use super::{Compute, States, check_rows};
use crate::{Error, PackedBatch, Result, readout::TopTokens};

/// Bytes of scores that are held at once: 128 rows over Ettin's vocabulary. With fewer rows the time to read the output
/// matrix counts; more would be more memory for the same speed.
const MAX_LOGIT_BYTES: usize = 25 << 20;

/// Rows of a chunk are a multiple of this where they can be: the largest register tile.
const TILE_ROWS: usize = 32;

/// What turns hidden states into scores over the vocabulary.
#[derive(Debug)]
pub struct Vocabulary<'a, C: Compute> {
    /// The prediction head.
    pub head: &'a C::PredictionHead,
    /// The output matrix, `[size, hidden]`.
    pub output: &'a C::Embedding,
    /// Added to the scores, `[size]`.
    pub bias: Option<&'a C::Bias>,
    /// Entries of the vocabulary.
    pub size: usize,
}

impl<C: Compute> Vocabulary<'_, C> {
    /// Scores at some rows of final hidden states, `[rows, size]` in f32.
    pub fn logits(&self, compute: &C, hidden: &C::Hidden, rows: &[usize]) -> Result<Tensor> {
        compute.logits(&compute.apply_head(&hidden.select(rows)?, self.head)?, self.output, self.bias)
    }

    /// Fails where a target is outside the rows or the vocabulary.
    pub(crate) fn check(&self, targets: &[(usize, u32)], rows: usize) -> Result<()> {
        for &(row, id) in targets {
            check_rows(&[row], rows)?;
            if id as usize >= self.size {
                return Err(Error::input(format!("token id {id} is outside the model's vocabulary of {}", self.size)));
            }
        }
        Ok(())
    }

    /// Cuts so many rows into chunks whose scores may be held at once.
    pub fn chunks(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<C> {
        let most = match MAX_LOGIT_BYTES / (size_of::<f32>() * self.size.max(1)) {
            few @ 0..TILE_ROWS => few.max(1),
            many => many / TILE_ROWS * TILE_ROWS,
        };
        // Of nearly equal size: a last chunk of few rows would read the whole matrix for them.
        let chunks = rows.div_ceil(most).max(1);
        let size = rows.div_ceil(chunks).next_multiple_of(TILE_ROWS).clamp(1, most);
        (0..rows).step_by(size).map(move |start| start..(start + size).min(rows))
    }
}

/// Rows with the ids of the tokens that are wanted there.
type Targets = [(usize, u32)];

/// Targets by rows: neighbours of one row are one entry.
pub(super) fn by_row(targets: &Targets) -> (Vec<usize>, Vec<&Targets>) {
    targets.chunk_by(|a, b| a.0 == b.0).map(|targets| (targets[0].0, targets)).unzip()
}

pub(super) fn top_k<C: Compute>(
    compute: &C,
    hidden: &C::Hidden,
    vocabulary: &Vocabulary<'_, C>,
    rows: &[usize],
    k: usize,
) -> Result<Vec<TopTokens>> {
    let mut best = Vec::with_capacity(rows.len());
    for chunk in vocabulary.chunks(rows.len()) {
        let logits = vocabulary.logits(compute, hidden, &rows[chunk])?;
        let sums = logits.log_sum_exp(1)?.to_vec1::<f32>()?;
        best.extend(logits.to_vec2()?.iter().zip(sums).map(|(row, sum)| best_of(row, k, sum.into())));
    }
    Ok(best)
}

/// The best tokens of a row.
pub(super) fn best_of(logits: &[f32], k: usize, log_sum_exp: f64) -> TopTokens {
    let tokens = vocabulary::top_k(logits, k).into_iter().map(|(id, logit)| (id as u32, logit));
    TopTokens { tokens: tokens.collect(), log_sum_exp }
}

pub(super) fn log_probs<C: Compute>(
    compute: &C,
    hidden: &C::Hidden,
    vocabulary: &Vocabulary<'_, C>,
    targets: &[(usize, u32)],
) -> Result<Vec<f32>> {
    let (rows, by_row) = by_row(targets);
    let mut chosen = Vec::with_capacity(targets.len());
    for chunk in vocabulary.chunks(rows.len()) {
        let logits = vocabulary.logits(compute, hidden, &rows[chunk.clone()])?;
        let (mut places, mut row_of) = (Vec::new(), Vec::new());
        for (row, targets) in by_row[chunk].iter().enumerate() {
            places.extend(targets.iter().map(|&(_, id)| (row * vocabulary.size) as u32 + id));
            row_of.extend(targets.iter().map(|_| row as u32));
        }
        let index = |index: Vec<u32>| Tensor::new(index, logits.device());
        let scores = logits.flatten_all()?.index_select(&index(places)?, 0)?;
        let sums = logits.log_sum_exp(1)?.index_select(&index(row_of)?, 0)?;
        chosen.extend((scores - sums)?.to_vec1::<f32>()?);
    }
    Ok(chosen)
}

pub(super) fn splade<C: Compute>(
    compute: &C,
    hidden: &C::Hidden,
    vocabulary: &Vocabulary<'_, C>,
    batch: &PackedBatch,
) -> Result<Tensor> {
    let mut weights = Vec::with_capacity(batch.sequences());
    for sequence in 0..batch.sequences() {
        let rows: Vec<usize> = batch.rows(sequence).collect();
        let mut most: Option<Tensor> = None;
        for chunk in vocabulary.chunks(rows.len()) {
            let logits = vocabulary.logits(compute, hidden, &rows[chunk])?;
            // Of a NaN, relu and the maximum make a number; 0 · tanh is NaN there and 0 elsewhere.
            let one_or_nan = ((logits.tanh()? * 0.0)?.sum_keepdim(0)? + 1.0)?;
            let chunk = logits.relu()?.max_keepdim(0)?;
            let most_so_far = match &most {
                // In case the maximum drops a NaN of the chunks before.
                Some(before) => ((before * 0.0)? + chunk.maximum(before)?)?,
                None => chunk,
            };
            most = Some((most_so_far * one_or_nan)?);
        }
        weights.extend(most);
    }
    Ok((Tensor::cat(&weights, 0)? + 1.0)?.log()?)
}

pub(super) fn splade_sum<C: Compute>(
    compute: &C,
    hidden: &C::Hidden,
    vocabulary: &Vocabulary<'_, C>,
    batch: &PackedBatch,
    twice: bool,
) -> Result<Tensor> {
    let mut weights = Vec::with_capacity(batch.sequences());
    for sequence in 0..batch.sequences() {
        let rows: Vec<usize> = batch.rows(sequence).collect();
        let mut sum: Option<Tensor> = None;
        for chunk in vocabulary.chunks(rows.len()) {
            let logits = vocabulary.logits(compute, hidden, &rows[chunk])?;
            // 0 · tanh is NaN where a logit is, which relu would hide.
            let zero_or_nan = (logits.tanh()? * 0.0)?;
            let mut chunk = (logits.relu()? + 1.0)?.log()?;
            if twice {
                chunk = (chunk + 1.0)?.log()?;
            }
            let chunk = (chunk + zero_or_nan)?.sum_keepdim(0)?;
            sum = Some(match sum {
                None => chunk,
                Some(sum) => (sum + chunk)?,
            });
        }
        weights.extend(sum);
    }
    Ok(Tensor::cat(&weights, 0)?)
}
