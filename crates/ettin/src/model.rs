//! The architecture: one trunk for encoders and decoders.
//!
//! Ettin's paired models (arXiv 2507.11412) are ModernBERT (arXiv 2412.13663) trained twice; an encoder and a decoder
//! differ only in the [`Span`](crate::Span) of each layer, which is data in the [`Config`]. Read top to bottom: the
//! embedding, the layer, the trunk.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{
    Config, Error, KvCache, PackedBatch, Result,
    cache::{LayerCache, Spare},
    finite,
    ops::{self, Attention, Backend, Hidden, Mlp, Norm, Table},
    params::Parameters,
    weights::Report,
};

/// Token vectors, normalised; there are no position embeddings.
#[derive(Debug)]
struct Embeddings {
    tokens: Table,
    norm: Norm,
}

impl Embeddings {
    fn forward(&self, batch: &PackedBatch) -> Result<Hidden> {
        ops::embed(&self.tokens, &self.norm, batch)
    }
}

/// One prenorm transformer layer.
#[derive(Debug)]
struct Layer {
    attention: Attention,
    mlp: Mlp,
}

impl Layer {
    fn forward(&self, hidden: &mut Hidden, batch: &PackedBatch, cache: Option<LayerCache<'_, '_>>) -> Result<()> {
        ops::attention_block(hidden, &self.attention, batch, cache)?;
        ops::mlp_block(hidden, &self.mlp)
    }
}

/// Embedding, layers and final norm: token ids to hidden states.
#[derive(Debug)]
pub struct Trunk {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    final_norm: Norm,
    config: Config,
    backend: Backend,
    /// Memory of caches that are gone.
    spare: Arc<Spare>,
    report: Report,
}

impl Trunk {
    /// Builds the trunk from its parameters, taking them out of `parameters`.
    ///
    /// # Errors
    /// When they cannot be put on the backend's device.
    pub fn build(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        let layers = parameters
            .layers
            .into_iter()
            .map(|(attention, mlp)| Ok(Layer { attention: backend.attention(attention)?, mlp: backend.mlp(mlp)? }));
        let mut report = parameters.report;
        let computed = backend.dtype().to_string();
        if let Some(stored) =
            parameters.quantisation.map(|stored| stored.scheme().name()).filter(|&name| name != computed)
        {
            report.warnings.push(format!(
                "the weights are stored in {stored} and computed in {computed}, which brings back nothing of what {stored} lost"
            ));
        }
        Ok(Self {
            embeddings: Embeddings {
                tokens: backend.table(parameters.embeddings)?,
                norm: backend.norm(parameters.embedding_norm)?,
            },
            layers: layers.collect::<Result<_>>()?,
            final_norm: backend.norm(parameters.final_norm)?,
            config: config.clone(),
            backend: backend.clone(),
            spare: Arc::default(),
            report,
        })
    }

    /// What the loading noticed and did not refuse: unused tensors, an untied output matrix.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What computes it.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Final hidden states of whole sequences, `[tokens, hidden]`.
    pub fn forward(&self, batch: &PackedBatch) -> Result<Hidden> {
        self.check(batch)?;
        self.backend.enter(batch.tokens(), &self.config, 0, || {
            let mut hidden = self.embeddings.forward(batch)?;
            for layer in &self.layers {
                layer.forward(&mut hidden, batch, None)?;
            }
            ops::norm(&hidden, &self.final_norm)
        })
    }

    /// Final hidden states of the next tokens of sequences that `caches` hold the beginnings of, `[tokens, hidden]`.
    ///
    /// `batch` must start each sequence where its cache ends ([`PackedBatch::continuing`]). When the call fails, the
    /// caches are as long as they were.
    pub fn step(&self, batch: &PackedBatch, caches: &mut [&mut KvCache]) -> Result<Hidden> {
        self.check(batch)?;
        if caches.len() != batch.sequences() {
            return Err(Error::input(format!("{} caches for {} sequences", caches.len(), batch.sequences())));
        }
        for (index, cache) in caches.iter_mut().enumerate() {
            if batch.start(index) != cache.len() {
                return Err(Error::input(format!(
                    "sequence {index} starts at position {} but its cache holds {} tokens",
                    batch.start(index),
                    cache.len()
                )));
            }
            cache.reserve(batch.rows(index).len())?;
        }
        self.backend.enter(batch.tokens(), &self.config, 0, || {
            let mut hidden = self.embeddings.forward(batch)?;
            for (index, layer) in self.layers.iter().enumerate() {
                layer.forward(&mut hidden, batch, Some(LayerCache::new(caches, index)))?;
            }
            for (index, cache) in caches.iter_mut().enumerate() {
                cache.advance(batch.rows(index).len());
            }
            ops::norm(&hidden, &self.final_norm)
        })
    }

    /// Hidden states after every layer, as transformers returns them: entry 0 is the embedding, entry `i` the output of
    /// layer `i − 1`, and the last is normalised by the final norm; each `[tokens, hidden]`.
    pub fn hidden_states(&self, batch: &PackedBatch) -> Result<Vec<Tensor>> {
        let mut states = self.residuals(batch)?;
        let last = states.pop().ok_or_else(|| Error::input("a model without layers"))?;
        states.push(ops::norm(&self.backend.hidden(&last)?, &self.final_norm)?.to_tensor()?);
        Ok(states)
    }

    /// The residual stream: the embedding, then the output of every layer before the final norm.
    pub fn residuals(&self, batch: &PackedBatch) -> Result<Vec<Tensor>> {
        let mut states = Vec::with_capacity(self.layers.len() + 1);
        self.walk(batch, &mut |_, hidden| {
            states.push(hidden.to_tensor()?);
            Ok(())
        })?;
        Ok(states)
    }

    /// [`forward`](Self::forward) with a look at every step.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first step whose result is not finite.
    pub(crate) fn trace(&self, batch: &PackedBatch) -> Result<Hidden> {
        let hidden = self.trace_layers(batch, self.layers.len())?;
        let normed = ops::norm(&hidden, &self.final_norm)?;
        finite::check(|| "the final norm".to_owned(), &normed, self.backend.dtype())?;
        Ok(normed)
    }

    /// The same for the output of a layer, of which the embedding is number 0, before the final norm.
    pub(crate) fn trace_layers(&self, batch: &PackedBatch, last: usize) -> Result<Hidden> {
        self.walk(batch, &mut |number, hidden| {
            let place = || match number {
                0 => "the embeddings".to_owned(),
                number => format!("layer {number} of {}", self.layers.len()),
            };
            if number <= last { finite::check(place, hidden, self.backend.dtype()) } else { Ok(()) }
        })
    }

    /// Shows the residual stream after the embedding, which is number 0, and after every layer.
    fn walk(&self, batch: &PackedBatch, show: &mut dyn FnMut(usize, &Hidden) -> Result<()>) -> Result<Hidden> {
        self.check(batch)?;
        let mut hidden = self.embeddings.forward(batch)?;
        show(0, &hidden)?;
        for (number, layer) in (1..).zip(&self.layers) {
            layer.forward(&mut hidden, batch, None)?;
            show(number, &hidden)?;
        }
        Ok(hidden)
    }

    /// An empty key-value cache for one sequence, of which a step adds at most `max_step` rows.
    pub fn cache(&self, max_step: usize) -> Result<KvCache> {
        KvCache::new(&self.config, &self.backend, &self.spare, max_step)
    }

    /// The token table, for language models whose output matrix is tied to it.
    pub(crate) fn table(&self) -> &Table {
        &self.embeddings.tokens
    }

    fn check(&self, batch: &PackedBatch) -> Result<()> {
        let limit = self.config.max_position_embeddings;
        if batch.max_len() > limit {
            return Err(Error::too_long(batch.max_len(), limit));
        }
        match batch.ids().iter().find(|&&id| id as usize >= self.config.vocab_size) {
            Some(id) => Err(Error::input(format!(
                "token id {id} is outside the model's vocabulary of {}",
                self.config.vocab_size
            ))),
            None => Ok(()),
        }
    }
}
