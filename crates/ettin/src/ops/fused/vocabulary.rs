//! Readouts over the vocabulary by the CPU kernels.

use std::ops::Range;

use candle_core::{Device, Tensor};
use ettin_kernels::{
    PackedActivations,
    vocabulary::{log_sum_exps, relu_max_products},
};

use super::{
    super::{
        Compute, States,
        vocabulary::{Vocabulary, best_of, by_row},
    },
    Fused, FusedRows,
};
use crate::{PackedBatch, Result, readout::TopTokens};

/// Operations of an element of a row in a search for its largest, about.
const SEARCH_WORK: usize = 4;

/// Rows whose largest scores are taken at once: packed, they stay in L2 while the output matrix passes once.
const MAXIMA_ROWS: usize = 512;

/// Operations of a logarithm, about.
const LOG_WORK: usize = 16;

impl Fused {
    /// Shows the scores of rows, `[rows, vocabulary]`, chunk by chunk in one memory.
    fn each_logits(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        rows: &[usize],
        mut show: impl FnMut(Range<usize>, &[f32]),
    ) -> Result<()> {
        let mut logits = Vec::new();
        for chunk in vocabulary.chunks(rows.len()) {
            let head = self.apply_head(&hidden.select(&rows[chunk.clone()])?, vocabulary.head)?;
            self.logits_into(&head, vocabulary.output, vocabulary.bias, &mut logits)?;
            show(chunk, &logits);
        }
        Ok(())
    }

    pub(super) fn best_tokens(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        rows: &[usize],
        k: usize,
    ) -> Result<Vec<TopTokens>> {
        let (cpu, size) = (&self.0, vocabulary.size);
        let mut best = vec![TopTokens { tokens: Vec::new(), log_sum_exp: 0.0 }; rows.len()];
        let mut sums = vec![0.0; rows.len()];
        self.each_logits(hidden, vocabulary, rows, |chunk, logits| {
            let sums = &mut sums[chunk.clone()];
            log_sum_exps(cpu.isa, &cpu.team, logits, size, sums);
            cpu.team.run_rows(&mut best[chunk], 1, SEARCH_WORK * logits.len(), |first, best| {
                for (row, best) in (first..).zip(best) {
                    *best = best_of(&logits[row * size..(row + 1) * size], k, sums[row]);
                }
            });
        })?;
        Ok(best)
    }

    pub(super) fn chosen_log_probs(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        targets: &[(usize, u32)],
    ) -> Result<Vec<f32>> {
        let (rows, by_row) = by_row(targets);
        let mut chosen = Vec::with_capacity(targets.len());
        let mut sums = vec![0.0; rows.len()];
        self.each_logits(hidden, vocabulary, &rows, |chunk, logits| {
            let sums = &mut sums[chunk.clone()];
            log_sum_exps(self.0.isa, &self.0.team, logits, vocabulary.size, sums);
            for ((targets, logits), sum) in by_row[chunk].iter().zip(logits.chunks_exact(vocabulary.size)).zip(sums) {
                let log_prob = |&(_, id): &(usize, u32)| (f64::from(logits[id as usize]) - *sum) as f32;
                chosen.extend(targets.iter().map(log_prob));
            }
        })?;
        Ok(chosen)
    }

    pub(super) fn largest_weights(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        batch: &PackedBatch,
    ) -> Result<Tensor> {
        let (cpu, size) = (&self.0, vocabulary.size);
        let matrix = vocabulary.output.matrix()?;
        let mut weights = vec![0.0f32; batch.sequences() * size];
        let rows: Vec<usize> = (0..batch.tokens()).collect();
        let mut operand = PackedActivations::default();
        let mut first = 0;
        for chunk in rows.chunks(MAXIMA_ROWS) {
            let head = self.apply_head(&hidden.select(chunk)?, vocabulary.head)?;
            operand.encode(&cpu.team, matrix, head.values());
            // A chunk may begin and end inside a sequence.
            let place = chunk[0]..chunk[0] + chunk.len();
            while batch.rows(first).end <= place.start {
                first += 1;
            }
            let count = batch.offsets()[first + 1..].partition_point(|&end| end < place.end) + 1;
            let ends = batch.offsets()[first..=first + count].iter();
            let offsets: Vec<usize> = ends.map(|end| (*end).clamp(place.start, place.end) - place.start).collect();
            let weights = &mut weights[first * size..(first + count) * size];
            relu_max_products(&cpu.team, &operand, matrix, vocabulary.bias.map(Vec::as_slice), &offsets, weights);
        }
        let work = LOG_WORK * weights.len();
        // The logarithm grows with its argument: it is taken of the largest alone.
        cpu.team.run_rows(&mut weights, 1, work, |_, weights| weights.iter_mut().for_each(|x| *x = x.ln_1p()));
        Ok(Tensor::from_vec(weights, (batch.sequences(), size), &Device::Cpu)?)
    }

    pub(super) fn summed_weights(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        batch: &PackedBatch,
        twice: bool,
    ) -> Result<Tensor> {
        let (cpu, size) = (&self.0, vocabulary.size);
        let weights = self.by_sequence(hidden, vocabulary, batch, |logits, weights| {
            // Row after row, so that the order of additions does not depend on chunks or threads.
            cpu.team.run_rows(weights, 1, LOG_WORK * logits.len(), |first, weights| {
                for row in logits.chunks_exact(size) {
                    for (weight, &logit) in weights.iter_mut().zip(&row[first..]) {
                        *weight += log_relu(logit, twice);
                    }
                }
            });
        })?;
        Ok(Tensor::from_vec(weights, (batch.sequences(), size), &Device::Cpu)?)
    }

    /// One number for each sequence and entry of the vocabulary, `[sequences, vocabulary]`, from 0 on: `add` is shown
    /// runs of rows of scores `[rows, vocabulary]`, each with the numbers of their sequence.
    fn by_sequence(
        &self,
        hidden: &FusedRows,
        vocabulary: &Vocabulary<'_, Self>,
        batch: &PackedBatch,
        mut add: impl FnMut(&[f32], &mut [f32]),
    ) -> Result<Vec<f32>> {
        let size = vocabulary.size;
        let mut weights = vec![0.0f32; batch.sequences() * size];
        let rows: Vec<usize> = (0..batch.tokens()).collect();
        let mut sequence = 0;
        self.each_logits(hidden, vocabulary, &rows, |chunk, logits| {
            // A chunk may begin and end inside a sequence.
            let mut row = chunk.start;
            while row < chunk.end {
                let end = batch.rows(sequence).end.min(chunk.end);
                let logits = &logits[(row - chunk.start) * size..(end - chunk.start) * size];
                add(logits, &mut weights[sequence * size..(sequence + 1) * size]);
                sequence += usize::from(end == batch.rows(sequence).end);
                row = end;
            }
        })?;
        Ok(weights)
    }
}

/// `ln(1 + relu(x))`, the logarithm taken once or twice. NaN and +∞ stay what they are.
fn log_relu(x: f32, twice: bool) -> f32 {
    if x <= 0.0 {
        return 0.0;
    }
    if twice { x.ln_1p().ln_1p() } else { x.ln_1p() }
}
