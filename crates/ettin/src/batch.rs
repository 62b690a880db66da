//! The packed batch: all sequences end to end, no padding, ever.

use std::ops::Range;

use crate::{Error, Result};

/// Token ids of one or more sequences laid end to end.
///
/// Sequence `i` occupies rows `offsets[i]..offsets[i + 1]`; `positions` counts from the sequence's own start,
/// or from what its cache already holds when the batch continues earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    offsets: Vec<usize>,
    max_len: usize,
}

impl PackedBatch {
    /// Packs whole sequences; every one must hold at least one token.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Result<Self> {
        Self::continuing(sequences, &vec![0; sequences.len()])
    }

    /// Packs sequences of which `starts[i]` tokens were computed before (their keys are in a cache).
    pub fn continuing<S: AsRef<[u32]>>(sequences: &[S], starts: &[usize]) -> Result<Self> {
        if sequences.is_empty() {
            return Err(Error::input("a batch needs at least one sequence"));
        }
        if starts.len() != sequences.len() {
            return Err(Error::input("a batch needs one start per sequence"));
        }
        let tokens = sequences.iter().map(|s| s.as_ref().len()).sum();
        let mut batch = Self {
            ids: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            offsets: Vec::with_capacity(sequences.len() + 1),
            max_len: 0,
        };
        batch.offsets.push(0);
        for (index, (sequence, &start)) in sequences.iter().zip(starts).enumerate() {
            let sequence = sequence.as_ref();
            if sequence.is_empty() {
                return Err(Error::input(format!("sequence {index} of the batch is empty")));
            }
            let end = u32::try_from(start + sequence.len())
                .map_err(|_| Error::input(format!("sequence {index} of the batch is too long")))?;
            batch.ids.extend_from_slice(sequence);
            batch.positions.extend(end - sequence.len() as u32..end);
            batch.offsets.push(batch.ids.len());
            batch.max_len = batch.max_len.max(end as usize);
        }
        Ok(batch)
    }

    /// Token ids, `[tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Position of each token in its own sequence, `[tokens]`.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Row borders of the sequences, `[sequences + 1]`, from 0 to [`tokens`](Self::tokens).
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Rows of the batch.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many sequences it holds; at least one.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Length that the longest sequence reaches, tokens in caches included.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Rows of sequence `index`.
    ///
    /// # Panics
    /// When `index` is not below [`sequences`](Self::sequences).
    pub fn rows(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }

    /// Position of the first row of sequence `index`: what its cache holds already.
    pub fn start(&self, index: usize) -> usize {
        self.positions[self.offsets[index]] as usize
    }
}
