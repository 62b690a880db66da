//! Scoring at masks: pseudo-log-likelihood, and left to right as the Ettin paper evaluates encoders.
//!
//! Every scored token is a sequence of its own; all of them, of all texts, are packed together.

use std::borrow::Cow;

use super::Scorer;
use super::pieces::Pieces;
use crate::Result;
use crate::batching::run_rows;
use crate::readout::LogProbs;

/// One scored token.
struct Probe {
    /// Index of its text.
    input: usize,
    /// Index in the text.
    token: usize,
    /// Length of its sequence.
    len: usize,
}

impl Scorer {
    /// `[CLS] context text [SEP]` with each token of the text masked once.
    pub(super) fn pll(&self, pieces: &[Pieces]) -> Result<Vec<Result<Vec<Option<f32>>>>> {
        let mask = self.special("mask", self.preprocessor.tokenizer.special().mask)?;
        let sep = self.special("sep", self.preprocessor.tokenizer.special().sep)?;
        let len = |pieces: &Pieces, _| pieces.before.len() + pieces.text.len() + 1;
        self.probe(pieces, len, 0, |pieces, token| {
            let mut ids = [&pieces.before[..], &pieces.text, &[sep]].concat();
            ids[pieces.before.len() + token] = mask;
            ids
        })
    }

    /// `[CLS] context text[..t] [MASK][MASK][MASK][SEP]`, read at the first mask, or one position before it.
    pub(super) fn left_to_right(&self, pieces: &[Pieces], earlier: bool) -> Result<Vec<Result<Vec<Option<f32>>>>> {
        let mask = self.special("mask", self.preprocessor.tokenizer.special().mask)?;
        let sep = self.special("sep", self.preprocessor.tokenizer.special().sep)?;
        let len = |pieces: &Pieces, token| pieces.before.len() + token + 4;
        self.probe(pieces, len, usize::from(earlier), |pieces, token| {
            [&pieces.before[..], &pieces.text[..token], &[mask, mask, mask, sep]].concat()
        })
    }

    /// Computes one sequence per scored token and reads its probability `back` positions before its place.
    fn probe(
        &self,
        pieces: &[Pieces],
        len: impl Fn(&Pieces, usize) -> usize,
        back: usize,
        ids: impl Fn(&Pieces, usize) -> Vec<u32>,
    ) -> Result<Vec<Result<Vec<Option<f32>>>>> {
        let of_input = |(input, one): (usize, &Pieces)| {
            let probe = |token| Probe { input, token, len: len(one, token) };
            (0..one.text.len()).map(probe).collect::<Vec<_>>()
        };
        let probes: Vec<Probe> = pieces.iter().enumerate().flat_map(of_input).collect();
        let lengths: Vec<usize> = probes.iter().map(|probe| probe.len).collect();
        let sequence = |row: usize| Cow::Owned(ids(&pieces[probes[row].input], probes[row].token));
        let scores = run_rows(&lengths, self.preprocessor.batch_tokens, sequence, |batch, group| {
            let targets = group.iter().enumerate().map(|(index, &row)| {
                let Probe { input, token, .. } = probes[row];
                let Pieces { before, text, .. } = &pieces[input];
                // `before` starts with cls, so one position back is in the sequence.
                (batch.rows(index).start + before.len() + token - back, text[token])
            });
            let targets: Vec<(usize, u32)> = targets.collect();
            let logprobs = self.model.read(batch, &LogProbs { targets: &targets })?;
            let scored =
                logprobs.into_iter().zip(&targets).enumerate().map(|(index, (logprob, &(_, token)))| {
                    self.checked(logprob, token, &batch.ids()[batch.rows(index)])
                });
            Ok(scored.collect())
        })?;
        let mut scores = scores.into_iter();
        let of_text = |one: &Pieces| {
            // All of the text's, so that the next one's follow.
            let scores: Vec<Result<f32>> = scores.by_ref().take(one.text.len()).collect();
            scores.into_iter().map(|score| score.map(Some)).collect()
        };
        Ok(pieces.iter().map(of_text).collect())
    }
}
