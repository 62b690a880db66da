//! Causal scoring: a token's probability after all tokens before it.

use std::borrow::Cow;

use super::Scorer;
use super::pieces::Pieces;
use crate::batching::run_rows;
use crate::readout::LogProbs;
use crate::{PackedBatch, Result};

/// A sequence as the model reads it: the last token is predicted and never read.
struct CausalRow {
    ids: Vec<u32>,
    /// The first token whose probability is wanted; at least 1.
    from: usize,
}

impl CausalRow {
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
        let rows: Vec<CausalRow> = pieces.iter().map(CausalRow::new).collect();
        let readable: Vec<&CausalRow> = rows.iter().filter(|row| row.len() > 0).collect();
        let lengths: Vec<usize> = readable.iter().map(|row| row.len()).collect();
        let ids = |index: usize| Cow::Borrowed(&readable[index].ids[..readable[index].len()]);
        let known = run_rows(&lengths, self.preprocessor.batch_tokens, ids, |batch, group| {
            let members: Vec<&CausalRow> = group.iter().map(|&index| readable[index]).collect();
            self.packed(batch, &members)
        })?;
        let mut known = known.into_iter();
        let of_text = |(row, pieces): (&CausalRow, &Pieces)| {
            let known = if row.len() > 0 { known.next() } else { None }.unwrap_or_else(|| Ok(Vec::new()))?;
            let unknown = pieces.text.len() - known.len();
            Ok(std::iter::repeat_n(None, unknown).chain(known.into_iter().map(Some)).collect())
        };
        Ok(rows.iter().zip(pieces).map(of_text).collect())
    }

    /// Log-probabilities of the wanted tokens of every sequence of a batch.
    fn packed(&self, batch: &PackedBatch, members: &[&CausalRow]) -> Result<Vec<Result<Vec<f32>>>> {
        let of_row = |(index, row): (usize, &&CausalRow)| {
            // A token is read at the row before its own.
            batch.rows(index).skip(row.from - 1).zip(row.ids[row.from..].to_vec())
        };
        let targets: Vec<(usize, u32)> = members.iter().enumerate().flat_map(of_row).collect();
        let mut logprobs = self.model.read(batch, &LogProbs { targets: &targets })?.into_iter();
        let scored = members.iter().map(|row| {
            let wanted = &row.ids[row.from..];
            // All of the row's, so that the next one's follow.
            let logprobs: Vec<f32> = logprobs.by_ref().take(wanted.len()).collect();
            let scored = logprobs.into_iter().zip(wanted);
            scored.map(|(logprob, &token)| self.checked(logprob, token, &row.ids[..row.len()])).collect()
        });
        Ok(scored.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ScoreInput, ScoreRequest};
    use super::*;
    use crate::files::ModelFiles;
    use crate::tasks::Options;

    #[test]
    fn a_long_text_begins_with_the_scores_of_its_beginning() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-decoder");
        let scorer = Scorer::load(&ModelFiles::folder(folder).unwrap(), &Options::default()).unwrap();
        let score = |repeats: usize, context: Option<&str>| {
            let text = "The little girl went to the park. ".repeat(repeats);
            let inputs = [ScoreInput { text: &text, context }];
            let scored = scorer.run(&inputs, &ScoreRequest::default()).unwrap().remove(0).unwrap().value;
            scored.tokens.into_iter().map(|token| token.logprob.unwrap().to_bits()).collect::<Vec<_>>()
        };
        for context in [None, Some("Once upon a time")] {
            // More rows than scores over the vocabulary are held of at once.
            let (long, short) = (score(90, context), score(3, context));
            assert!(long.len() > 600);
            // The last token, a space, is another one in the long text.
            let same = short.len() - 1;
            assert_eq!(long[..same], short[..same]);
        }
    }
}
