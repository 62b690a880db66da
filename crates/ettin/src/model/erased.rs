//! A network whose backend is not known by type: what trunks and heads hold.

use std::fmt;

use candle_core::Tensor;

use super::Network;
use crate::{
    KvCache, PackedBatch, Result,
    cache::{CacheList, KvLayers},
    ops::{Compute, Hidden, KvShape, States},
    readout::TopTokens,
};

/// A [`Network`] over some [`Compute`]; each method is the network's of that name.
pub(crate) trait ErasedModel: fmt::Debug + Send + Sync {
    fn forward(&self, batch: &PackedBatch, layers: usize) -> Result<Hidden>;

    /// Caches must be of this model, and have room.
    fn step(&self, batch: &PackedBatch, caches: &mut [&mut KvCache]) -> Result<Hidden>;

    fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut KvCache],
        rows: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<()>;

    fn walk(&self, batch: &PackedBatch, show: &mut dyn FnMut(usize, &dyn States) -> Result<()>) -> Result<Hidden>;

    fn layer(&self, index: usize, residual: &Hidden, batch: &PackedBatch) -> Result<Hidden>;

    fn normalize(&self, hidden: &Hidden) -> Result<Hidden>;

    fn predict(&self, hidden: &Hidden) -> Result<Hidden>;

    fn logits(&self, hidden: &Hidden, rows: &[usize]) -> Result<Tensor>;

    fn top_k(&self, hidden: &Hidden, rows: &[usize], k: usize) -> Result<Vec<TopTokens>>;

    fn log_probs(&self, hidden: &Hidden, targets: &[(usize, u32)]) -> Result<Vec<f32>>;

    fn splade(&self, hidden: &Hidden, batch: &PackedBatch) -> Result<Tensor>;

    fn splade_sum(&self, hidden: &Hidden, batch: &PackedBatch, twice: bool) -> Result<Tensor>;

    fn classify(&self, hidden: &Hidden) -> Result<Tensor>;

    /// The vectors of some tokens as they are stored, `[ids, hidden]`.
    fn look_up(&self, ids: &[u32]) -> Result<Hidden>;

    /// Every row against every token's vector, `[rows, vocabulary]`.
    fn embedding_logits(&self, hidden: &Hidden) -> Result<Tensor>;

    /// Stores for the keys and values of one sequence, a layer each.
    fn kv_layers(&self, layers: &[KvShape]) -> Box<dyn KvLayers>;
}

impl<C: Compute> ErasedModel for Network<C> {
    fn forward(&self, batch: &PackedBatch, layers: usize) -> Result<Hidden> {
        Ok(Hidden::new(Network::forward(self, batch, layers)?))
    }

    fn step(&self, batch: &PackedBatch, caches: &mut [&mut KvCache]) -> Result<Hidden> {
        Ok(Hidden::new(Network::step(self, batch, &mut CacheList(caches))?))
    }

    fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut KvCache],
        rows: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<()> {
        Network::step_into(self, batch, &mut CacheList(caches), rows, out)
    }

    fn walk(&self, batch: &PackedBatch, show: &mut dyn FnMut(usize, &dyn States) -> Result<()>) -> Result<Hidden> {
        Ok(Hidden::new(Network::walk(self, batch, show)?))
    }

    fn layer(&self, index: usize, residual: &Hidden, batch: &PackedBatch) -> Result<Hidden> {
        residual.within(&*self.compute, |own| Ok(Hidden::new(Network::layer(self, index, own, batch)?)))
    }

    fn normalize(&self, hidden: &Hidden) -> Result<Hidden> {
        hidden.within(&*self.compute, |own| Ok(Hidden::new(Network::normalize(self, own)?)))
    }

    fn predict(&self, hidden: &Hidden) -> Result<Hidden> {
        hidden.within(&*self.compute, |own| Ok(Hidden::new(Network::predict(self, own)?)))
    }

    fn logits(&self, hidden: &Hidden, rows: &[usize]) -> Result<Tensor> {
        hidden.within(&*self.compute, |own| Network::logits(self, own, rows))
    }

    fn top_k(&self, hidden: &Hidden, rows: &[usize], k: usize) -> Result<Vec<TopTokens>> {
        hidden.within(&*self.compute, |own| Network::top_k(self, own, rows, k))
    }

    fn log_probs(&self, hidden: &Hidden, targets: &[(usize, u32)]) -> Result<Vec<f32>> {
        hidden.within(&*self.compute, |own| Network::log_probs(self, own, targets))
    }

    fn splade(&self, hidden: &Hidden, batch: &PackedBatch) -> Result<Tensor> {
        hidden.within(&*self.compute, |own| Network::splade(self, own, batch))
    }

    fn splade_sum(&self, hidden: &Hidden, batch: &PackedBatch, twice: bool) -> Result<Tensor> {
        hidden.within(&*self.compute, |own| Network::splade_sum(self, own, batch, twice))
    }

    fn classify(&self, hidden: &Hidden) -> Result<Tensor> {
        hidden.within(&*self.compute, |own| Network::classify(self, own))
    }

    fn look_up(&self, ids: &[u32]) -> Result<Hidden> {
        Ok(Hidden::new(self.compute.look_up(&self.embeddings.tokens, ids)?))
    }

    fn embedding_logits(&self, hidden: &Hidden) -> Result<Tensor> {
        hidden.within(&*self.compute, |own| self.compute.logits(own, &self.embeddings.tokens, None))
    }

    fn kv_layers(&self, layers: &[KvShape]) -> Box<dyn KvLayers> {
        Box::new(layers.iter().map(|&shape| self.compute.kv_store(shape)).collect::<Vec<_>>())
    }
}
