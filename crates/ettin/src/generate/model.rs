//! What generation needs of a model.

use crate::{Error, KvCache, PackedBatch, Result};

/// Rows that one step feeds at most, and so what a sequence's cache must be able to take at once.
pub const STEP_ROWS: usize = 512;

/// A model that reads tokens from left to right.
pub(crate) trait CausalModel {
    /// Keys and values of one sequence.
    type Cache: Cache;

    /// The most tokens of a sequence.
    fn positions(&self) -> usize;

    /// An empty cache that takes up to [`STEP_ROWS`] tokens a step.
    fn cache(&self) -> Result<Self::Cache>;

    /// Appends the batch's sequences to `caches`. Replaces `logits` by those of the given rows, `[rows, vocabulary]`.
    fn step(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut Self::Cache],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()>;

    /// Why the logits behind these tokens are not finite.
    fn not_finite(&self, ids: &[u32]) -> Error;
}

/// Keys and values of one sequence.
pub(crate) trait Cache: Sized {
    /// Tokens held.
    fn len(&self) -> usize;

    /// Takes back tokens of the last step from position `len` on.
    fn truncate(&mut self, len: usize) -> Result<()>;

    /// A copy that goes on independently.
    fn fork(&self) -> Self;
}

impl Cache for KvCache {
    fn len(&self) -> usize {
        KvCache::len(self)
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        KvCache::truncate(self, len)
    }

    fn fork(&self) -> Self {
        KvCache::fork(self)
    }
}
