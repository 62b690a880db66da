//! What generation needs of a model.

use std::sync::Arc;

use crate::finite::Traced;
use crate::heads::LanguageModel;
use crate::{Error, KvCache, PackedBatch, Result};

/// Tokens that one step computes at most, unless an engine is told otherwise.
pub const STEP_ROWS: usize = 512;

/// A model that reads tokens from left to right.
///
/// An [`Engine`](super::Engine) owns one, or shares it: references and `Arc`s of a model are models.
///
/// What an engine promises (a request's tokens do not depend on what runs beside it) holds where the logits of a row
/// depend on nothing but the tokens of its sequence up to that row, bit for bit: not on the other sequences of a batch,
/// and not on how the sequence is cut into steps.
pub trait CausalModel {
    /// Keys and values of one sequence.
    type Cache: Cache;

    /// The most tokens of a sequence.
    fn positions(&self) -> usize;

    /// How many tokens there are: ids lie below.
    fn vocabulary(&self) -> usize;

    /// Bytes that keys and values of one token take in all layers. A cache may come to more, as it may grow ahead, and
    /// to less, as local layers forget.
    fn bytes_per_token(&self) -> usize;

    /// An empty cache that takes up to `max_step` tokens in one step.
    ///
    /// # Errors
    /// Whatever the model meets.
    fn cache(&self, max_step: usize) -> Result<Self::Cache>;

    /// Appends the batch's sequences to `caches`, in order. Replaces `logits` by those of the given rows of the batch,
    /// `[rows, vocabulary]`.
    ///
    /// # Errors
    /// Whatever the model meets; `caches` are then of no use.
    fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut Self::Cache],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()>;

    /// Why the logits behind these tokens are not finite.
    fn not_finite(&self, ids: &[u32]) -> Error {
        Error::NotFinite {
            place: format!("the logits behind {} tokens", ids.len()),
            dtype: "the number format".to_owned(),
        }
    }
}

/// Keys and values of one sequence.
pub trait Cache: Sized {
    /// Tokens held.
    fn len(&self) -> usize;

    /// Whether no token is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes back tokens of the last step from position `len` on.
    ///
    /// # Errors
    /// [`Error::Input`] for a length that is out of reach.
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

impl CausalModel for LanguageModel {
    type Cache = KvCache;

    fn positions(&self) -> usize {
        self.config().max_position_embeddings
    }

    fn vocabulary(&self) -> usize {
        self.config().vocab_size
    }

    fn bytes_per_token(&self) -> usize {
        let (config, backend) = (self.config(), self.trunk().backend());
        let numbers = config.hidden_size as f64 * backend.kv_bytes();
        let scales = if backend.kv_bytes() == 1.0 { config.num_heads * size_of::<f32>() } else { 0 };
        2 * config.layers.len() * (numbers as usize + scales)
    }

    fn cache(&self, max_step: usize) -> Result<KvCache> {
        LanguageModel::cache(self, max_step)
    }

    fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut KvCache],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        LanguageModel::step_into(self, batch, caches, rows, logits)
    }

    fn not_finite(&self, ids: &[u32]) -> Error {
        Traced::not_finite(self, ids)
    }
}

/// A pointer to a model is that model.
macro_rules! pointer {
    ($pointer:ty) => {
        impl<M: CausalModel> CausalModel for $pointer {
            type Cache = M::Cache;

            fn positions(&self) -> usize {
                M::positions(self)
            }

            fn vocabulary(&self) -> usize {
                M::vocabulary(self)
            }

            fn bytes_per_token(&self) -> usize {
                M::bytes_per_token(self)
            }

            fn cache(&self, max_step: usize) -> Result<M::Cache> {
                M::cache(self, max_step)
            }

            fn step_into(
                &self,
                batch: &PackedBatch,
                caches: &mut [&mut M::Cache],
                rows: &[usize],
                logits: &mut Vec<f32>,
            ) -> Result<()> {
                M::step_into(self, batch, caches, rows, logits)
            }

            fn not_finite(&self, ids: &[u32]) -> Error {
                M::not_finite(self, ids)
            }
        }
    };
}

pointer!(&M);
pointer!(Arc<M>);
