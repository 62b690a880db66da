//! The packed batch: all sequences end to end, no padding, ever.

use std::ops::Range;

use crate::{Error, Result};

/// Token ids of one or more sequences laid end to end.
///
/// Sequence `i` occupies rows `offsets[i]..offsets[i + 1]`; `positions` counts from the sequence's own start,
/// or from what its cache already holds when the batch continues earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedBatch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    /// Borders; empty while there is no sequence.
    offsets: Vec<usize>,
    max_len: usize,
    /// One for each sequence, or nothing.
    unseen: Vec<usize>,
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
        let mut batch = Self::default();
        for (sequence, &start) in sequences.iter().zip(starts) {
            batch.push(sequence.as_ref(), start)?;
        }
        Ok(batch)
    }

    /// Takes all sequences out and keeps the memory: for loops that fill a batch again and again.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.offsets.clear();
        self.max_len = 0;
        self.unseen.clear();
    }

    /// With so many rows at the end of each sequence that no row sees as keys, themselves included: the expansion of
    /// queries in late interaction. Every other row is computed as it is without them.
    ///
    /// # Errors
    /// [`Error::Input`] for another number of sequences, or a sequence without a row that is seen.
    pub fn with_unseen(mut self, unseen: Vec<usize>) -> Result<Self> {
        let fits = unseen.len() == self.sequences()
            && unseen.iter().enumerate().all(|(sequence, &rows)| rows < self.rows(sequence).len());
        if !fits {
            return Err(Error::input(format!(
                "{unseen:?} unseen rows for sequences with the borders {:?}",
                self.offsets
            )));
        }
        self.unseen = if unseen.iter().all(|&rows| rows == 0) { Vec::new() } else { unseen };
        Ok(self)
    }

    /// How many rows at the end of each sequence no row sees as keys, `[sequences]`; nothing where all are seen.
    pub fn unseen(&self) -> &[usize] {
        &self.unseen
    }

    /// Adds a sequence of which `start` tokens were computed before; it must hold at least one.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty sequence, or one too long to count.
    pub fn push(&mut self, sequence: &[u32], start: usize) -> Result<()> {
        let index = self.offsets.len().saturating_sub(1);
        if sequence.is_empty() {
            return Err(Error::input(format!("sequence {index} of the batch is empty")));
        }
        let end = start.checked_add(sequence.len()).and_then(|end| u32::try_from(end).ok());
        let end = end.ok_or_else(|| Error::input(format!("sequence {index} of the batch is too long")))?;
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.ids.extend_from_slice(sequence);
        self.positions.extend(end - sequence.len() as u32..end);
        self.offsets.push(self.ids.len());
        if !self.unseen.is_empty() {
            self.unseen.push(0);
        }
        self.max_len = self.max_len.max(end as usize);
        Ok(())
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

    /// How many sequences it holds.
    pub fn sequences(&self) -> usize {
        self.offsets.len().saturating_sub(1)
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
