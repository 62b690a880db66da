//! The trunk as users hold it: a network with its configuration, over any backend.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{
    Backend, Config, Error, KvCache, PackedBatch, Result,
    cache::Spare,
    finite,
    model::ErasedModel,
    ops::{Hidden, check_size},
    params::Parameters,
    weights::LoadReport,
};

/// Embedding, layers and final norm (a backbone): token ids to hidden states.
/// Cheap to clone: clones share the weights.
#[derive(Debug, Clone)]
pub struct Trunk {
    /// With the head, in a model that has one.
    model: Arc<dyn ErasedModel>,
    config: Config,
    backend: Backend,
    /// Memory of caches that are gone; every cache of this trunk knows it.
    spare: Arc<Spare>,
    report: LoadReport,
}

impl Trunk {
    /// Builds the trunk from its parameters; those of a head are left out.
    ///
    /// # Errors
    /// When they cannot be put on the backend's device; [`Error::Unsupported`] for variables where it cannot train.
    pub fn build(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        let tensors = parameters.tensors.without_head();
        Self::with_head(Parameters { tensors, ..parameters }, config, backend)
    }

    /// The same with the head that the parameters have.
    pub(crate) fn with_head(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        let mut report = parameters.report;
        let computed = backend.dtype().to_string();
        if let Some(stored) =
            parameters.quantization.map(|stored| stored.scheme().name()).filter(|&name| name != computed)
        {
            report.warnings.push(format!(
                "the weights are stored in {stored} and computed in {computed}, which brings back nothing of what \
                 {stored} lost"
            ));
        }
        Ok(Self {
            model: backend.model(parameters.tensors, config)?.into(),
            config: config.clone(),
            backend: backend.clone(),
            spare: Arc::default(),
            report,
        })
    }

    /// What the loading noticed and did not refuse: unused tensors, an untied output matrix.
    pub fn report(&self) -> &LoadReport {
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
        self.forward_to(batch, self.config.num_layers())
    }

    /// Hidden states behind the first `layers` layers, `[tokens, hidden]`, without computing the others: 0 gives the
    /// embedding, all of them the final hidden states.
    ///
    /// # Errors
    /// For more layers than there are.
    pub fn forward_to(&self, batch: &PackedBatch, layers: usize) -> Result<Hidden> {
        let count = self.config.num_layers();
        if layers > count {
            return Err(Error::input(format!("layer {layers} was asked of a model with {count}; 0 is the embedding")));
        }
        self.check(batch)?;
        self.model.forward(batch, layers)
    }

    /// Final hidden states of the next tokens of sequences that `caches` hold the beginnings of, `[tokens, hidden]`.
    ///
    /// `batch` must start each sequence where its cache ends ([`PackedBatch::continuing`]). When the call fails, the
    /// caches are as long as they were.
    ///
    /// # Errors
    /// [`Error::Input`] for caches that are not this trunk's, end elsewhere, or have no room.
    pub fn step(&self, batch: &PackedBatch, caches: &mut [&mut KvCache]) -> Result<Hidden> {
        self.reserve(batch, caches)?;
        let hidden = self.model.step(batch, caches)?;
        advance(batch, caches);
        Ok(hidden)
    }

    /// Scores over the vocabulary of some rows of what a step gives; `out` is replaced.
    pub(crate) fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut KvCache],
        rows: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.reserve(batch, caches)?;
        self.model.step_into(batch, caches, rows, out)?;
        advance(batch, caches);
        Ok(())
    }

    /// Makes room in caches for the rows of a batch that continues them.
    fn reserve(&self, batch: &PackedBatch, caches: &mut [&mut KvCache]) -> Result<()> {
        self.check(batch)?;
        if !batch.unseen().is_empty() {
            return Err(Error::input("sequences with unseen rows are whole: no cache holds their beginning"));
        }
        if caches.len() != batch.sequences() {
            return Err(Error::input(format!("{} caches for {} sequences", caches.len(), batch.sequences())));
        }
        for (index, cache) in caches.iter_mut().enumerate() {
            if !cache.is_of(&self.spare) {
                return Err(Error::input(format!(
                    "the cache of sequence {index} was made by another model; take one from this model's `cache`"
                )));
            }
            if batch.start(index) != cache.len() {
                return Err(Error::input(format!(
                    "sequence {index} starts at position {} but its cache holds {} tokens",
                    batch.start(index),
                    cache.len()
                )));
            }
            cache.reserve(batch.rows(index).len())?;
        }
        Ok(())
    }

    /// Hidden states after every layer, as transformers returns them: entry 0 is the embedding, entry `i` the output of
    /// layer `i − 1`, and the last is normalised by the final norm; each `[tokens, hidden]`.
    pub fn hidden_states(&self, batch: &PackedBatch) -> Result<Vec<Tensor>> {
        let mut states = self.residuals(batch)?;
        let last = states.pop().ok_or_else(|| Error::internal("a model without layers"))?;
        states.push(self.final_norm(&Hidden::new(last))?.to_tensor()?);
        Ok(states)
    }

    /// The residual stream: the embedding, then the output of every layer before the final norm.
    pub fn residuals(&self, batch: &PackedBatch) -> Result<Vec<Tensor>> {
        self.check(batch)?;
        let mut states = Vec::with_capacity(self.config.num_layers() + 1);
        self.model.walk(batch, &mut |_, hidden| {
            states.push(hidden.to_tensor()?);
            Ok(())
        })?;
        Ok(states)
    }

    /// One layer alone, number 0 first: what it makes of a residual stream `[tokens, hidden]` of whole sequences, which
    /// may be another backend's.
    ///
    /// # Errors
    /// When there is no such layer, or the stream is not of this batch and model.
    pub fn layer(&self, index: usize, residual: &Hidden, batch: &PackedBatch) -> Result<Hidden> {
        self.check(batch)?;
        let (shape, expected) = ([residual.rows(), residual.size()], [batch.tokens(), self.config.hidden_size]);
        if shape != expected {
            return Err(Error::input(format!("a residual stream of shape {shape:?} where {expected:?} belongs")));
        }
        self.model.layer(index, residual, batch)
    }

    /// The final norm alone, of a residual stream `[rows, hidden]`.
    ///
    /// # Errors
    /// When the stream is not of this model's size.
    pub fn final_norm(&self, residual: &Hidden) -> Result<Hidden> {
        check_size(residual, self.config.hidden_size)?;
        self.model.normalize(residual)
    }

    /// The vectors of some tokens, `[ids, hidden]`, before the norm.
    ///
    /// # Errors
    /// For an id outside the vocabulary.
    pub fn embedding(&self, ids: &[u32]) -> Result<Hidden> {
        self.check_ids(ids)?;
        self.model.look_up(ids)
    }

    /// Every row of `hidden` against every token's vector, `[rows, vocabulary]`: the output of a head that is tied
    /// to the embedding.
    ///
    /// # Errors
    /// Where the embedding is only looked up in, and stays in its file: build the trunk within a language model then;
    /// for rows of another size.
    pub fn embedding_logits(&self, hidden: &Hidden) -> Result<Tensor> {
        check_size(hidden, self.config.hidden_size)?;
        self.model.embedding_logits(hidden)
    }

    /// [`forward`](Self::forward) with a look at every step.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first step whose result is not finite.
    pub(crate) fn trace(&self, batch: &PackedBatch) -> Result<Hidden> {
        let hidden = self.trace_layers(batch, self.config.num_layers())?;
        let normed = self.model.normalize(&hidden)?;
        finite::check(|| "the final norm".to_owned(), normed.states(), self.backend.dtype())?;
        Ok(normed)
    }

    /// The same for the output of a layer, of which the embedding is number 0, before the final norm.
    pub(crate) fn trace_layers(&self, batch: &PackedBatch, last: usize) -> Result<Hidden> {
        self.check(batch)?;
        self.model.walk(batch, &mut |number, hidden| {
            let place = || match number {
                0 => "the embeddings".to_owned(),
                number => format!("layer {number} of {}", self.config.num_layers()),
            };
            if number <= last { finite::check(place, hidden, self.backend.dtype()) } else { Ok(()) }
        })
    }

    /// An empty key-value cache for one sequence, of which a step adds at most `max_step` rows.
    pub fn cache(&self, max_step: usize) -> Result<KvCache> {
        KvCache::new(&self.config, &*self.model, &self.spare, max_step)
    }

    /// The network, for the heads that stand on it.
    pub(crate) fn model(&self) -> &dyn ErasedModel {
        &*self.model
    }

    fn check(&self, batch: &PackedBatch) -> Result<()> {
        if batch.sequences() == 0 {
            return Err(Error::input("a batch needs at least one sequence"));
        }
        let limit = self.config.max_position_embeddings;
        if batch.max_len() > limit {
            return Err(Error::too_long(batch.max_len(), limit));
        }
        self.check_ids(batch.ids())
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            Some(id) => Err(Error::input(format!(
                "token id {id} is outside the model's vocabulary of {}",
                self.config.vocab_size
            ))),
            None => Ok(()),
        }
    }
}

/// Counts the rows of a step in, once every layer holds them.
fn advance(batch: &PackedBatch, caches: &mut [&mut KvCache]) {
    for (index, cache) in caches.iter_mut().enumerate() {
        cache.advance(batch.rows(index).len());
    }
}
