//! From many sequences to packed batches, and back to input order.
//!
//! Every task computes its inputs through here, and so can a head of your own: sequences are sorted by length, packed
//! into batches of at most so many tokens, computed batch by batch, and their results return in the order of the
//! inputs. There is no padding, and by the invariance rule a sequence's result does not depend on its neighbours, so
//! the budget changes speed and memory and nothing else.
//!
//! [`run_rows`] takes token ids; [`run_encodings`] takes encoded texts, some of which may have failed.
//! [`Preprocessor::run`](crate::tasks::Preprocessor::run) encodes texts first.
//!
//! ```
//! # fn main() -> ettin::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
//! use std::borrow::Cow;
//!
//! use ettin::{Backend, batching, files::ModelFiles, heads::Embedder};
//!
//! // A head of our own, the length of each sequence's first vector, over token ids of our own.
//! let model = Embedder::load(&ModelFiles::open(folder)?, &Backend::cpu()?)?;
//! let sequences: Vec<Vec<u32>> = vec![vec![2, 300, 3], vec![2, 301, 302, 303, 3], vec![2, 304, 305, 3]];
//! let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
//! let norms = batching::run_rows(&lengths, 4096, |row| Cow::Borrowed(&sequences[row][..]), |batch, rows| {
//!     let firsts = &batch.offsets()[..rows.len()];
//!     let vectors = model.trunk().forward(batch)?.select(firsts)?.to_tensor()?; // [sequences, hidden]
//!     Ok(vectors.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?)
//! })?;
//! assert_eq!(norms.len(), 3);
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;

use rayon::prelude::*;

use crate::batch::PackedBatch;
use crate::tasks::{Outcome, Outcomes};
use crate::tokenizer::Encoding;
use crate::{Error, Result, Team};

/// Tokens packed into one batch unless a caller says otherwise.
pub const BATCH_TOKENS: usize = 4096;

/// One sequence of a batch.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Item<'a> {
    /// Index of the input that it belongs to.
    pub input: usize,
    /// Its tokens.
    pub encoding: &'a Encoding,
}

/// Encodes inputs in parallel: on the threads of `team`, or without one on rayon's global pool. Results are in input
/// order.
pub fn encode_all<I: Sync, E: Send>(
    inputs: &[I],
    team: Option<&Team>,
    encode: impl Fn(&I) -> Result<E> + Sync + Send,
) -> Vec<Result<E>> {
    let Some(team) = team else {
        return inputs.par_iter().map(encode).collect();
    };
    let mut encoded: Vec<Option<Result<E>>> = inputs.iter().map(|_| None).collect();
    // A text takes longer to encode than a thread to be woken.
    team.run_rows(&mut encoded, 1, usize::MAX, |first, slots| {
        for (slot, input) in slots.iter_mut().zip(&inputs[first..]) {
            *slot = Some(encode(input));
        }
    });
    let missing = || Err(Error::internal("an input was not encoded"));
    encoded.into_iter().map(|encoded| encoded.unwrap_or_else(missing)).collect()
}

/// Indices in groups of similar length, the longest first; a group holds at most `budget` tokens or one row.
pub fn groups(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for index in order {
        tokens = lengths[index].saturating_add(tokens);
        match groups.last_mut() {
            Some(group) if tokens <= budget => group.push(index),
            _ => {
                groups.push(vec![index]);
                tokens = lengths[index];
            }
        }
    }
    groups
}

/// Computes rows in packed groups and returns one value per row, in row order.
///
/// `ids` gives the tokens of a row when its group's turn comes. `compute` gets the batch and its rows, sequence `i`
/// of the batch being the `i`-th of them, and returns a value each.
///
/// # Errors
/// The first error of `compute`; [`Error::Input`] for a row without tokens; [`Error::Internal`] when `compute` returns
/// another number of values than it got rows.
pub fn run_rows<'a, T>(
    lengths: &[usize],
    budget: usize,
    ids: impl Fn(usize) -> Cow<'a, [u32]>,
    mut compute: impl FnMut(&PackedBatch, &[usize]) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let mut values: Vec<Option<T>> = lengths.iter().map(|_| None).collect();
    for group in groups(lengths, budget) {
        let sequences: Vec<Cow<'_, [u32]>> = group.iter().map(|&row| ids(row)).collect();
        let computed = compute(&PackedBatch::new(&sequences)?, &group)?;
        if computed.len() != group.len() {
            let message =
                format!("the computation of a batch returned {} results for {} rows", computed.len(), group.len());
            return Err(Error::Internal(message));
        }
        for (row, value) in group.into_iter().zip(computed) {
            values[row] = Some(value);
        }
    }
    let missing = || Error::internal("a row was in no batch");
    values.into_iter().map(|value| value.ok_or_else(missing)).collect()
}

/// As [`run_rows`] for inputs that encode to one row each: bad inputs keep their error and are not computed.
///
/// `compute` may fail for single rows.
///
/// # Errors
/// As [`run_rows`]; an input's own failure is in its place.
pub fn run_encodings<T>(
    encodings: Vec<Result<Encoding>>,
    budget: usize,
    mut compute: impl FnMut(&PackedBatch, &[Item<'_>]) -> Result<Vec<Result<T>>>,
) -> Result<Outcomes<T>> {
    let (rows, errors) = split(encodings.into_iter().map(|encoding| encoding.and_then(not_empty)));
    let inputs: Vec<usize> = (0..errors.len()).filter(|&input| errors[input].is_none()).collect();
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let values = run_rows(
        &lengths,
        budget,
        |row| Cow::Borrowed(&rows[row].ids[..]),
        |batch, group| {
            let item = |&row: &usize| Item { input: inputs[row], encoding: &rows[row] };
            compute(batch, &group.iter().map(item).collect::<Vec<_>>())
        },
    )?;
    let outcomes = rows.iter().zip(values).map(|(row, value)| {
        let truncated = row.truncated;
        value.map(|value| Outcome { value, truncated })
    });
    Ok(merge(outcomes, errors))
}

/// Separates good inputs from bad; `errors[i]` is none where the next good one belongs.
pub(crate) fn split<T>(inputs: impl Iterator<Item = Result<T>>) -> (Vec<T>, Vec<Option<Error>>) {
    let mut good = Vec::new();
    let mut errors = Vec::new();
    for input in inputs {
        errors.push(match input {
            Ok(value) => {
                good.push(value);
                None
            }
            Err(error) => Some(error),
        });
    }
    (good, errors)
}

/// Undoes [`split`].
pub(crate) fn merge<T>(good: impl Iterator<Item = Result<T>>, errors: Vec<Option<Error>>) -> Vec<Result<T>> {
    let mut good = good;
    errors
        .into_iter()
        .filter_map(|error| match error {
            Some(error) => Some(Err(error)),
            None => good.next(),
        })
        .collect()
}

/// A text of no tokens at all (an empty one, under a template without special tokens) cannot be computed.
fn not_empty(encoding: Encoding) -> Result<Encoding> {
    if encoding.ids.is_empty() {
        return Err(Error::input("the input is empty: it has no tokens"));
    }
    Ok(encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_index_once_and_keep_the_budget() {
        let lengths = [3, 9, 1, 4, 4, 12, 2];
        let groups = groups(&lengths, 8);
        let mut seen: Vec<usize> = groups.concat();
        for group in &groups {
            let tokens: usize = group.iter().map(|&index| lengths[index]).sum();
            assert!(tokens <= 8 || group.len() == 1, "{group:?}");
        }
        assert_eq!(groups[0], [5]);
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
        assert!(super::groups(&[], 8).is_empty());
        assert_eq!(super::groups(&[1, 1], 0).len(), 2);
    }

    #[test]
    fn results_return_in_input_order_around_errors() {
        let row = |len: u32| Encoding {
            ids: (0..len).collect(),
            tokens: Vec::new(),
            offsets: Vec::new(),
            sequences: Vec::new(),
            words: Vec::new(),
            special: Vec::new(),
            truncated: len == 2,
        };
        let inputs = vec![Ok(row(1)), Err(Error::input("bad")), Ok(row(4)), Ok(row(0)), Ok(row(2)), Ok(row(3))];
        let outcomes = run_encodings(inputs, 5, |batch, rows| {
            assert_eq!(batch.sequences(), rows.len());
            let values = rows.iter().map(|row| match row.encoding.ids.len() {
                3 => Err(Error::input("odd one")),
                len => Ok((row.input, len)),
            });
            Ok(values.collect())
        })
        .unwrap();
        let values: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().ok().map(|good| good.value)).collect();
        assert_eq!(values, [Some((0, 1)), None, Some((2, 4)), None, Some((4, 2)), None]);
        assert!(outcomes[4].as_ref().unwrap().truncated && !outcomes[0].as_ref().unwrap().truncated);
    }

    #[test]
    fn a_computation_that_loses_a_result_is_named() {
        let ids = |_| Cow::Borrowed(&[1, 2][..]);
        let error = run_rows(&[2, 2], 8, ids, |_, _| Ok(vec![0])).unwrap_err();
        assert!(matches!(error, Error::Internal(_)) && error.to_string().contains("1 results for 2 rows"), "{error}");
    }

    #[test]
    fn a_team_encodes_every_input_in_its_place() {
        let inputs: Vec<usize> = (0..100).collect();
        let encode = |&input: &usize| if input == 7 { Err(Error::input("bad")) } else { Ok(input * 2) };
        for team in [None, Some(Team::single()), Some(Team::with_threads(3).unwrap())] {
            let encoded = encode_all(&inputs, team.as_ref(), encode);
            let doubled: Vec<usize> = encoded.into_iter().map(|encoded| encoded.unwrap_or(14)).collect();
            assert_eq!(doubled, inputs.iter().map(|input| input * 2).collect::<Vec<_>>());
        }
    }
}
