//! Keys and values between steps: what a backend stores, and who keeps the stores.

use std::fmt;

/// Keys and values of one sequence in one layer, as a backend stores them.
pub trait KvStore: fmt::Debug + Clone + Send + Sync + 'static {
    /// Makes room for `len` positions where everything is kept, doubling up to `max`; a ring has its size.
    fn reserve(&mut self, len: usize, max: usize);

    /// Forgets everything and keeps the memory.
    fn clear(&mut self);

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// Whether its memory is worth keeping for another sequence.
    fn reusable(&self) -> bool {
        false
    }
}

/// What a store is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Attention heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Positions of a ring that keeps the latest alone; `None` keeps every position.
    pub ring: Option<usize>,
}

/// The caches of a batch's sequences: whoever keeps stores, however he finds them.
///
/// Blocks know nothing else of a cache. Stores of different sequences are different ones.
pub trait Caches<S> {
    /// The store of one sequence in one layer.
    fn store_mut(&mut self, layer: usize, sequence: usize) -> &mut S;

    /// Shows the layer's store of every sequence, in order.
    fn stores_mut<'s>(&'s mut self, layer: usize, show: &mut dyn FnMut(&'s mut S));
}

/// One layer of the caches of a batch's sequences.
pub struct LayerKv<'a, S> {
    caches: &'a mut dyn Caches<S>,
    layer: usize,
}

impl<'a, S> LayerKv<'a, S> {
    /// Layer `layer`, counted from 0.
    pub fn new(caches: &'a mut dyn Caches<S>, layer: usize) -> Self {
        Self { caches, layer }
    }

    /// The store of a sequence of the batch.
    pub fn store_mut(&mut self, sequence: usize) -> &mut S {
        self.caches.store_mut(self.layer, sequence)
    }

    /// Shows the store of every sequence, in order.
    pub fn stores_mut<'s>(&'s mut self, show: &mut dyn FnMut(&'s mut S)) {
        self.caches.stores_mut(self.layer, show);
    }
}
