//! One text with each of several others: what zero-shot classification and multiple choice compute.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{Outcome, Outcomes, Preprocessor};
use crate::tokenizer::PairCut;
use crate::{PackedBatch, Result, batching};

/// A text, and those that it is paired with.
#[derive(Debug)]
pub(super) struct PairGroup<'a> {
    /// The first text of every pair.
    pub(super) first: &'a str,
    /// The second text of each.
    pub(super) seconds: Vec<Cow<'a, str>>,
}

impl Preprocessor {
    /// Encodes every text once, packs the pairs of all groups into batches, and gives each group the values of its
    /// pairs in the order of its second texts.
    ///
    /// `compute` gets a batch and the ids of each of its sequences, and returns a value each.
    ///
    /// # Errors
    /// As [`batching::run_rows`]; a group fails in its place if one of its pairs does.
    pub(super) fn run_pairs<T>(
        &self,
        groups: &[Result<PairGroup<'_>>],
        cut: PairCut,
        mut compute: impl FnMut(&PackedBatch, &[&[u32]]) -> Result<Vec<Result<T>>>,
    ) -> Result<Outcomes<Vec<T>>> {
        let mut texts = Distinct::default();
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for group in groups.iter().flatten() {
            let first = texts.number(group.first);
            pairs.extend(group.seconds.iter().map(|second| (first, texts.number(second))));
        }
        let parts = self.encode_all(&texts.list, |text| self.tokenizer.part(text));
        let encoded = self.encode_all(&pairs, |&(first, second)| match (&parts[first], &parts[second]) {
            (Ok(first), Ok(second)) => self.pair(first, second, cut),
            (Err(error), _) | (_, Err(error)) => Err(error.clone()),
        });
        let (rows, errors) = batching::split(encoded.into_iter());
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let ids = |row: usize| Cow::Borrowed(&rows[row].ids[..]);
        let values = batching::run_rows(&lengths, self.batch_tokens, ids, |batch, group| {
            compute(batch, &group.iter().map(|&row| &rows[row].ids[..]).collect::<Vec<_>>())
        })?;
        let outcomes = rows.iter().zip(values).map(|(row, value)| {
            let truncated = row.truncated;
            value.map(|value| Outcome { value, truncated })
        });
        let mut outcomes = batching::merge(outcomes, errors).into_iter();
        let of_group = |group: &Result<PairGroup<'_>>| match group {
            Ok(group) => together(outcomes.by_ref().take(group.seconds.len()).collect()),
            Err(error) => Err(error.clone()),
        };
        Ok(groups.iter().map(of_group).collect())
    }
}

/// The values of a group's pairs, or its first failure.
fn together<T>(pairs: Outcomes<T>) -> Result<Outcome<Vec<T>>> {
    let mut truncated = false;
    let value = pairs.into_iter().map(|outcome| {
        let outcome = outcome?;
        truncated |= outcome.truncated;
        Ok(outcome.value)
    });
    let value = value.collect::<Result<Vec<T>>>()?;
    Ok(Outcome { value, truncated })
}

/// Texts, each once.
#[derive(Default)]
struct Distinct<'a> {
    list: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
}

impl<'a> Distinct<'a> {
    /// Where a text stands in the list.
    fn number(&mut self, text: &'a str) -> usize {
        *self.numbers.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() - 1
        })
    }
}
