//! Keys and values of the tokens already computed: one cache per sequence.
//!
//! A global layer keeps everything. A local layer keeps a ring of `left + 1` positions plus the most rows one step
//! may add, so that rows rejected after a step can be taken back without recomputing. What a step computes does not
//! depend on how the tokens before it were cut into steps.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    Config, Error, Result,
    model::ErasedModel,
    ops::{Caches, KvShape, KvStore},
};

/// The cache of one sequence, for every layer of a model.
#[derive(Debug, Clone)]
pub struct KvCache {
    shape: Arc<Shape>,
    spare: Arc<Spare>,
    layers: Box<dyn KvLayers>,
    len: usize,
    /// One past the highest position ever written since the cache was empty: older ring slots are gone.
    written: usize,
}

#[derive(Debug)]
struct Shape {
    max_len: usize,
    max_step: usize,
    /// Widest `left` of the local layers; `None` without local layers.
    local: Option<usize>,
}

/// Memory of caches that are gone, for the next ones of the same model: of a sequence's first hundred tokens, the
/// system would spend a tenth of the time on clearing pages for what was given back to it a moment before.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<(usize, Box<dyn KvLayers>)>>);

/// The stores of every layer, of whichever backend.
pub(crate) trait KvLayers: fmt::Debug + Any + Send + Sync {
    fn reserve(&mut self, len: usize, max: usize);
    fn clear(&mut self);
    fn bytes(&self) -> usize;
    fn reusable(&self) -> bool;
    fn copy(&self) -> Box<dyn KvLayers>;
}

impl<S: KvStore> KvLayers for Vec<S> {
    fn reserve(&mut self, len: usize, max: usize) {
        self.iter_mut().for_each(|layer| layer.reserve(len, max));
    }

    fn clear(&mut self) {
        self.iter_mut().for_each(S::clear);
    }

    fn bytes(&self) -> usize {
        self.iter().map(S::bytes).sum()
    }

    fn reusable(&self) -> bool {
        self.iter().all(S::reusable)
    }

    fn copy(&self) -> Box<dyn KvLayers> {
        Box::new(self.clone())
    }
}

/// What a cache that is being dropped leaves behind.
impl KvLayers for () {
    fn reserve(&mut self, _: usize, _: usize) {}
    fn clear(&mut self) {}

    fn bytes(&self) -> usize {
        0
    }

    fn reusable(&self) -> bool {
        false
    }

    fn copy(&self) -> Box<dyn KvLayers> {
        Box::new(())
    }
}

impl Clone for Box<dyn KvLayers> {
    fn clone(&self) -> Self {
        (**self).copy()
    }
}

/// Bytes that are kept of caches that are gone, no more: some sequences of some hundred tokens.
const MAX_SPARE_BYTES: usize = 256 << 20;

impl Spare {
    /// Layers of a cache of this `max_step`, empty.
    fn take(&self, max_step: usize) -> Option<Box<dyn KvLayers>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().rposition(|(step, _)| *step == max_step)?;
        Some(kept.swap_remove(index).1)
    }

    fn keep(&self, max_step: usize, mut layers: Box<dyn KvLayers>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = kept.iter().map(|(_, layers)| layers.bytes()).sum();
        if layers.reusable() && held + layers.bytes() <= MAX_SPARE_BYTES {
            layers.clear();
            kept.push((max_step, layers));
        }
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        self.spare.keep(self.shape.max_step, std::mem::replace(&mut self.layers, Box::new(())));
    }
}

impl KvCache {
    /// An empty cache for models of `config`, of which a step adds at most `max_step` rows; `spare` is the model's.
    pub(crate) fn new(config: &Config, model: &dyn ErasedModel, spare: &Arc<Spare>, max_step: usize) -> Result<Self> {
        if max_step == 0 {
            return Err(Error::input("a step of a cache must allow at least one row"));
        }
        if let Some(layer) = config.layers.iter().position(|layer| layer.span.right != Some(0)) {
            return Err(Error::input(format!(
                "a key-value cache needs causal attention, but layer {layer} also looks ahead: \
                 the model is an encoder"
            )));
        }
        // A step cannot add more than the model has positions.
        let max_step = max_step.min(config.max_position_embeddings);
        let made = || {
            let shapes = config.layers.iter().map(|layer| KvShape {
                heads: config.num_heads,
                head_dim: config.head_dim(),
                ring: layer.span.left.map(|left| left + 1 + max_step),
            });
            model.kv_layers(&shapes.collect::<Vec<_>>())
        };
        Ok(Self {
            layers: spare.take(max_step).unwrap_or_else(made),
            spare: spare.clone(),
            shape: Arc::new(Shape {
                max_len: config.max_position_embeddings,
                max_step,
                local: config.layers.iter().filter_map(|layer| layer.span.left).max(),
            }),
            len: 0,
            written: 0,
        })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most rows that one step may add.
    pub fn max_step(&self) -> usize {
        self.shape.max_step
    }

    /// The most tokens that the model has positions for.
    pub fn max_len(&self) -> usize {
        self.shape.max_len
    }

    /// Takes back every token from position `len` on, as when drafted tokens are rejected.
    ///
    /// Any length down to the one before the last step is reachable, and 0 always is; further back the local layers
    /// have forgotten keys, and the call is refused.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len == 0 {
            self.clear();
            return Ok(());
        }
        if len > self.len {
            return Err(Error::input(format!("cannot truncate a cache of {} tokens to {len}", self.len)));
        }
        if self.shape.local.is_some() && self.written - len > self.shape.max_step {
            return Err(Error::input(format!(
                "cannot truncate to {len} tokens: {} were written, and local layers keep no more than {} to take back",
                self.written, self.shape.max_step
            )));
        }
        self.len = len;
        Ok(())
    }

    /// A copy that goes on independently: several continuations of one prompt.
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
        self.written = 0;
        self.layers.clear();
    }

    /// Bytes held by keys and values.
    pub fn bytes(&self) -> usize {
        self.layers.bytes()
    }

    /// Whether it was made by the model that has this spare memory.
    pub(crate) fn is_of(&self, spare: &Arc<Spare>) -> bool {
        Arc::ptr_eq(&self.spare, spare)
    }

    /// Makes room for `rows` more tokens; refuses more than a step or the model's positions allow.
    pub(crate) fn reserve(&mut self, rows: usize) -> Result<()> {
        if rows > self.shape.max_step {
            return Err(Error::input(format!(
                "a step of {rows} rows on a cache made for at most {}",
                self.shape.max_step
            )));
        }
        let end = self.len + rows;
        if end > self.shape.max_len {
            return Err(Error::too_long(end, self.shape.max_len));
        }
        self.layers.reserve(end, self.shape.max_len);
        self.written = self.written.max(end);
        Ok(())
    }

    /// Counts rows in, once every layer holds them.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }
}

/// The caches of a batch's sequences, for the blocks of the model that made them.
pub(crate) struct CacheList<'a, 'b>(pub(crate) &'a mut [&'b mut KvCache]);

impl<S: KvStore> Caches<S> for CacheList<'_, '_> {
    fn store_mut(&mut self, layer: usize, sequence: usize) -> &mut S {
        stores_mut(self.0[sequence], layer)
    }

    fn stores_mut<'s>(&'s mut self, layer: usize, show: &mut dyn FnMut(&'s mut S)) {
        self.0.iter_mut().for_each(|cache| show(stores_mut(cache, layer)));
    }
}

fn stores_mut<S: KvStore>(cache: &mut KvCache, layer: usize) -> &mut S {
    let stores: Option<&mut Vec<S>> = (&mut *cache.layers as &mut dyn Any).downcast_mut();
    &mut stores.unwrap_or_else(foreign)[layer]
}

fn foreign<T>() -> T {
    unreachable!("a step begins by refusing the caches of other models")
}
