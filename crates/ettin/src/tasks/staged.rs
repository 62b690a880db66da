//! A task in three stages: texts to sequences, sequences to rows, rows to answers.
//!
//! Only the middle one runs the model, and it asks nothing of whose the sequences are. So the sequences of several
//! calls may be computed in one batch, and those of one call in several; by the invariance rule the answers are the
//! same, bit for bit.

use std::borrow::Cow;
use std::fmt::Debug;

use super::{Outcome, Outcomes};
use crate::batching::run_rows;
use crate::tokenizer::{Encoding, PairIds};
use crate::{Error, PackedBatch, Result};

/// A task that can be carried out in stages.
///
/// Each task has a `prepare` that takes what its `run` takes and gives a [`Prepared`]: the sequences to compute.
/// Whoever has the rows of all of them, in order, gives them to [`assemble`](Self::assemble).
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{EmbedRequest, Options, Prepared, Staged, TextEmbedder};
/// use ettin::PackedBatch;
///
/// let embedder = TextEmbedder::load(&ModelFiles::open(folder)?, &Options::default())?;
/// // Two callers, one batch.
/// let calls = [["A cat."], ["A much longer text about a dog."]]
///     .map(|texts| embedder.prepare(&texts, &EmbedRequest::default()));
/// let [first, second] = calls;
/// let (first, second) = (first?, second?);
/// assert_eq!(first.reading(), second.reading());
/// let sequences = [&first.sequences()[0], &second.sequences()[0]];
/// let batch = PackedBatch::new(&sequences.map(|sequence| sequence.ids()))?;
/// let mut rows = embedder.compute(&batch, &sequences, first.reading())?.into_iter();
/// let answers = embedder.assemble(&first, rows.by_ref().take(1).collect());
/// let alone = embedder.run(&["A cat."], &EmbedRequest::default())?;
/// assert_eq!(answers[0].as_ref().unwrap(), alone[0].as_ref().unwrap());
/// # Ok(())
/// # }
/// ```
pub trait Staged: Sized + Send + Sync {
    /// What computing depends on besides the tokens. Sequences with equal readings may share a batch.
    type Reading: Clone + Debug + PartialEq + Send + Sync + 'static;
    /// What the model makes of one sequence.
    type Row: Send + 'static;
    /// How rows become answers.
    type Plan: Send + Sync + 'static;
    /// The answer to one input.
    type Answer: Send + 'static;

    /// Computes a batch: one row for each of its sequences, in their order. A sequence may fail alone.
    ///
    /// # Errors
    /// A reading that does not fit the model; failures of the engine.
    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        reading: &Self::Reading,
    ) -> Result<Vec<Result<Self::Row>>>;

    /// The answers of a call from the rows of its sequences, in their order; `prepared` is of this task.
    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<Self::Row>>) -> Outcomes<Self::Answer>;
}

/// The sequences of one call, and what is to become of them.
#[derive(Debug)]
pub struct Prepared<T: Staged> {
    sequences: Vec<PreparedSequence>,
    reading: T::Reading,
    pub(super) plan: T::Plan,
}

/// One sequence to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedSequence {
    ids: Vec<u32>,
    /// Leading tokens that are left out of a pooling.
    pub(super) skip: usize,
    /// Tokens at its end that no other sees.
    pub(super) unseen: usize,
    /// Tokens whose rows are wanted, where not all of them are.
    pub(super) wanted: Vec<usize>,
    /// Which way it takes through a model that has several.
    pub(super) route: usize,
}

impl PreparedSequence {
    /// A sequence of these tokens, of which there must be one.
    pub fn new(ids: Vec<u32>) -> Self {
        Self { ids, skip: 0, unseen: 0, wanted: Vec::new(), route: 0 }
    }

    /// Its tokens, at least one.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl<T: Staged> Prepared<T> {
    /// What a task of one's own has prepared.
    pub fn new(sequences: Vec<PreparedSequence>, reading: T::Reading, plan: T::Plan) -> Self {
        Self { sequences, reading, plan }
    }

    /// How rows become answers.
    pub fn plan(&self) -> &T::Plan {
        &self.plan
    }

    /// Sequences, reading and plan.
    pub(super) fn into_parts(self) -> (Vec<PreparedSequence>, T::Reading, T::Plan) {
        (self.sequences, self.reading, self.plan)
    }

    /// What is to be computed; nothing where every input has failed already.
    pub fn sequences(&self) -> &[PreparedSequence] {
        &self.sequences
    }

    /// What computing depends on besides the tokens.
    pub fn reading(&self) -> &T::Reading {
        &self.reading
    }

    /// Carries out what is left, in batches of at most `budget` tokens or one sequence.
    ///
    /// # Errors
    /// As [`Staged::compute`].
    pub fn run(&self, task: &T, budget: usize) -> Result<Outcomes<T::Answer>> {
        let lengths: Vec<usize> = self.sequences.iter().map(|sequence| sequence.ids.len()).collect();
        let ids = |row: usize| Cow::Borrowed(&self.sequences[row].ids[..]);
        let rows = run_rows(&lengths, budget, ids, |batch, group| {
            let sequences: Vec<&PreparedSequence> = group.iter().map(|&row| &self.sequences[row]).collect();
            task.compute(batch, &sequences, &self.reading)
        })?;
        Ok(task.assemble(self, rows))
    }
}

/// The plan of inputs with one sequence each: whether each was cut, or why it has none.
#[derive(Debug)]
pub struct EachInput(Vec<Result<bool>>);

impl EachInput {
    /// Sequences of what could be encoded, each with so many leading tokens left out of a pooling.
    pub(super) fn new(encodings: Vec<Result<Encoding>>, skip: usize) -> (Vec<PreparedSequence>, Self) {
        Self::of_ids(
            encodings.into_iter().map(|encoding| encoding.map(|encoding| (encoding.ids, encoding.truncated))),
            skip,
        )
    }

    /// The same of pairs.
    pub(super) fn of_pairs(pairs: Vec<Result<PairIds>>) -> (Vec<PreparedSequence>, Self) {
        Self::of_ids(pairs.into_iter().map(|pair| pair.map(|pair| (pair.ids, pair.truncated))), 0)
    }

    fn of_ids(inputs: impl Iterator<Item = Result<(Vec<u32>, bool)>>, skip: usize) -> (Vec<PreparedSequence>, Self) {
        let mut sequences = Vec::with_capacity(inputs.size_hint().0);
        let inputs = inputs.map(|input| {
            let (ids, truncated) = input?;
            if ids.is_empty() {
                return Err(Error::input("the input is empty: it has no tokens"));
            }
            sequences.push(PreparedSequence { skip, ..PreparedSequence::new(ids) });
            Ok(truncated)
        });
        let inputs = inputs.collect();
        (sequences, Self(inputs))
    }

    /// The answers, from each input's index and row.
    pub(super) fn answers<R, A>(
        &self,
        rows: Vec<Result<R>>,
        mut answer: impl FnMut(usize, R) -> Result<A>,
    ) -> Outcomes<A> {
        let mut rows = rows.into_iter();
        let outcome = |(input, truncated): (usize, &Result<bool>)| {
            let truncated = truncated.clone()?;
            let row = rows.next().unwrap_or_else(|| Err(no_row()))?;
            Ok(Outcome { value: answer(input, row)?, truncated })
        };
        self.0.iter().enumerate().map(outcome).collect()
    }
}

/// The next `count` rows, or the first failure among them; all of them are taken.
pub(super) fn take_rows<R>(rows: &mut impl Iterator<Item = Result<R>>, count: usize) -> Result<Vec<R>> {
    let taken: Vec<Result<R>> = rows.take(count).collect();
    match taken.len() == count {
        true => taken.into_iter().collect(),
        false => Err(no_row()),
    }
}

/// Only where somebody gave fewer rows than there are sequences.
pub(super) fn no_row() -> Error {
    Error::internal("a sequence has no row")
}

/// What pooling leaves out of each sequence; none where it leaves nothing out.
pub(super) fn skipped(sequences: &[&PreparedSequence]) -> Option<Vec<usize>> {
    let skips = sequences.iter().any(|sequence| sequence.skip > 0);
    skips.then(|| sequences.iter().map(|sequence| sequence.skip).collect())
}
