//! Causal scoring: a token's probability after all tokens before it.

use std::borrow::Cow;

use super::Scorer;
use super::pieces::Pieces;
use crate::generate::STEP_ROWS;
use crate::tasks::batching::run_rows;
use crate::{PackedBatch, Result};

/// Rows of logits held at once: 200 MB over Ettin's vocabulary.
const MAX_LOGIT_ROWS: usize = 1024;

/// A sequence as the model reads it: the last token is predicted and never read.
struct Row {
    ids: Vec<u32>,
    /// The first token whose probability is wanted; at least 1.
    from: usize,
}

impl Row {
    fn new(pieces: &Pieces) -> Self {
        Self { ids: [&pieces.before[..], &pieces.text].concat(), from: pieces.before.len().max(1) }
    }

    /// Tokens read.
    fn len(&self) -> usize {
        self.ids.len() - 1
    }
}

impl Scorer {
    /// Log-probabilities of each text's tokens; none for a token with nothing before it.
    pub(super) fn causal(&self, pieces: &[Pieces]) -> Result<Vec<Result<Vec<Option<f32>>>>> {
        let rows: Vec<Row> = pieces.iter().map(Row::new).collect();
        let budget = self.frontend.batch_tokens.min(MAX_LOGIT_ROWS);
        let short: Vec<usize> =
            (0..rows.len()).filter(|&row| (1..=MAX_LOGIT_ROWS).contains(&rows[row].len())).collect();
        let lengths: Vec<usize> = short.iter().map(|&row| rows[row].len()).collect();
        let ids = |index: usize| {
            let row = &rows[short[index]];
            Cow::Borrowed(&row.ids[..row.len()])
        };
        let packed = run_rows(&lengths, budget, ids, |batch, group| {
            let members: Vec<&Row> = group.iter().map(|&index| &rows[short[index]]).collect();
            self.packed(batch, &members)
        })?;
        let mut packed = packed.into_iter();
        let mut scores = Vec::with_capacity(rows.len());
        for (row, pieces) in rows.iter().zip(pieces) {
            let known = match row.len() {
                0 => Ok(Vec::new()),
                len if len <= MAX_LOGIT_ROWS => packed.next().unwrap_or_else(|| Ok(Vec::new())),
                _ => self.in_steps(row),
            };
            scores.push(known.map(|known| {
                let unknown = pieces.text.len() - known.len();
                std::iter::repeat_n(None, unknown).chain(known.into_iter().map(Some)).collect()
            }));
        }
        Ok(scores)
    }

    /// Whole sequences at once.
    fn packed(&self, batch: &PackedBatch, members: &[&Row]) -> Result<Vec<Result<Vec<f32>>>> {
        let wanted = members.iter().enumerate();
        let rows: Vec<usize> = wanted.flat_map(|(index, row)| batch.rows(index).skip(row.from - 1)).collect();
        let mut logits = self.model.logits(batch, &rows)?.to_vec2::<f32>()?.into_iter();
        let scored = members.iter().map(|row| {
            let wanted = &row.ids[row.from..];
            // All of the row's, so that the next one's follow.
            let logits: Vec<_> = logits.by_ref().take(wanted.len()).collect();
            wanted.iter().zip(logits).map(|(&id, logits)| self.logprob(&logits, id, &row.ids[..row.len()])).collect()
        });
        Ok(scored.collect())
    }

    /// One long sequence through a cache, so that its logits need not be held at once.
    fn in_steps(&self, row: &Row) -> Result<Vec<f32>> {
        let mut cache = self.model.cache(STEP_ROWS)?;
        let mut scores = Vec::with_capacity(row.ids.len() - row.from);
        let mut start = 0;
        for step in row.ids[..row.len()].chunks(STEP_ROWS) {
            let batch = PackedBatch::continuing(&[step], &[start])?;
            let rows: Vec<usize> = (0..step.len()).filter(|offset| start + offset + 1 >= row.from).collect();
            let logits = self.model.step(&batch, &mut [&mut cache], &rows)?.to_vec2::<f32>()?;
            for (offset, logits) in rows.into_iter().zip(logits) {
                scores.push(self.logprob(&logits, row.ids[start + offset + 1], &row.ids[..row.len()])?);
            }
            start += step.len();
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ScoreInput, ScoreMethod, ScoreRequest};
    use super::*;
    use crate::files::ModelFiles;
    use crate::tasks::Options;

    #[test]
    fn steps_through_a_cache_equal_the_whole_text() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-decoder");
        let scorer = Scorer::load(&ModelFiles::folder(folder).unwrap(), &Options::default()).unwrap();
        let text = "The little girl went to the park. ".repeat(90);
        let request = ScoreRequest::default();
        for context in [None, Some("Once upon a time")] {
            let input = ScoreInput { text: &text, context };
            let pieces = scorer.pieces(&input, ScoreMethod::Causal, &request).unwrap();
            let row = Row::new(&pieces);
            assert!(row.len() > STEP_ROWS);
            let steps = scorer.in_steps(&row).unwrap();
            let whole: Option<Vec<f32>> = scorer.causal(&[pieces]).unwrap().remove(0).unwrap().into_iter().collect();
            assert_eq!(Some(steps), whole);
        }
    }
}
