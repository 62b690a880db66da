//! One text with each of several others: what zero-shot classification and multiple choice compute.

use std::borrow::Cow;
use std::collections::HashMap;

use super::staged::EachInput;
use super::{Outcome, Outcomes, PreparedSequence, Preprocessor};
use crate::tokenizer::PairCut;
use crate::{Error, PackedBatch, Result, batching};

/// A text, and those that it is paired with.
#[derive(Debug)]
pub(super) struct PairGroup<'a> {
    /// The first text of every pair.
    pub(super) first: &'a str,
    /// The second text of each.
    pub(super) seconds: Vec<Cow<'a, str>>,
}

/// Groups whose pairs are encoded.
#[derive(Debug)]
pub(super) struct EncodedGroups {
    /// The ids of all pairs that could be encoded.
    pub(super) sequences: Vec<PreparedSequence>,
    /// What the groups wait for.
    pub(super) plan: PairPlan,
}

/// How the values of pairs become those of groups.
#[derive(Debug)]
pub struct PairPlan {
    pairs: EachInput,
    /// How many pairs each group has, or why it has none.
    groups: Vec<Result<usize>>,
}

impl Preprocessor {
    /// Encodes every text once and puts the pairs of all groups together.
    pub(super) fn encode_pairs(&self, groups: &[Result<PairGroup<'_>>], cut: PairCut) -> EncodedGroups {
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
        let (sequences, pairs) = EachInput::of_pairs(encoded);
        let pairs_of =
            |group: &Result<PairGroup<'_>>| group.as_ref().map(|group| group.seconds.len()).map_err(Error::clone);
        EncodedGroups { sequences, plan: PairPlan { pairs, groups: groups.iter().map(pairs_of).collect() } }
    }

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
        let EncodedGroups { sequences, plan } = self.encode_pairs(groups, cut);
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.ids().len()).collect();
        let ids = |row: usize| Cow::Borrowed(sequences[row].ids());
        let values = batching::run_rows(&lengths, self.batch_tokens, ids, |batch, group| {
            compute(batch, &group.iter().map(|&row| sequences[row].ids()).collect::<Vec<_>>())
        })?;
        Ok(plan.together(values))
    }
}

impl PairPlan {
    /// The values of each group's pairs; a group fails in its place if one of its pairs does.
    pub(super) fn together<T>(&self, rows: Vec<Result<T>>) -> Outcomes<Vec<T>> {
        let mut outcomes = self.pairs.answers(rows, |_, value| Ok(value)).into_iter();
        let of_group = |pairs: &Result<usize>| together(outcomes.by_ref().take(pairs.clone()?).collect());
        self.groups.iter().map(of_group).collect()
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
