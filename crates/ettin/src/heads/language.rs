//! Language models: masked (encoders) and causal (decoders). The head is one and the same.

use candle_core::Tensor;

use super::{open, require, trace_head};
use crate::{
    Backend, Config, Error, KvCache, PackedBatch, Result, Trunk,
    config::Objective,
    files::ModelFiles,
    finite::Traced,
    ops::{Hidden, check_rows, check_size},
    params::Parameters,
    weights,
};

/// A trunk with a prediction head and an output matrix over the vocabulary.
#[derive(Debug)]
pub struct LanguageModel {
    trunk: Trunk,
}

impl LanguageModel {
    /// Loads the model that `files` hold.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        open(files, backend, |_| weights::Head::Language, Self::build)
    }

    /// Builds the model from parameters with [`Head::Language`](weights::Head::Language).
    pub fn build(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        require(parameters.tensors.head.is_some(), "prediction head")?;
        Ok(Self { trunk: Trunk::with_head(parameters, config, backend)? })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &Config {
        self.trunk.config()
    }

    /// The layers without the head.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// Scores over the vocabulary at the given rows of a packed batch, `[rows, vocabulary]` in f32.
    pub fn logits(&self, batch: &PackedBatch, rows: &[usize]) -> Result<Tensor> {
        self.project(&self.trunk.forward(batch)?, rows)
    }

    /// The same for the next tokens of sequences whose beginnings are in `caches`; see [`Trunk::step`].
    ///
    /// With no `rows` only the caches are filled, and the tensor is `[0, vocabulary]`.
    pub fn step(&self, batch: &PackedBatch, caches: &mut [&mut KvCache], rows: &[usize]) -> Result<Tensor> {
        check_rows(rows, batch.tokens())?;
        self.project(&self.trunk.step(batch, caches)?, rows)
    }

    /// An empty cache for one sequence, of which a step adds at most `max_step` rows.
    pub fn cache(&self, max_step: usize) -> Result<KvCache> {
        if self.config().objective == Objective::Encoder {
            return Err(Error::input("an encoder has no key-value cache: it sees the whole text"));
        }
        self.trunk.cache(max_step)
    }

    /// The same in memory that is used again and again: `logits` are replaced.
    pub fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut KvCache],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.trunk.step_into(batch, caches, rows, logits)
    }

    /// Head and output matrix on some rows of final hidden states.
    pub fn project(&self, hidden: &Hidden, rows: &[usize]) -> Result<Tensor> {
        if rows.is_empty() {
            let shape = (0, self.config().vocab_size);
            return Ok(Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu)?);
        }
        check_size(hidden, self.config().hidden_size)?;
        self.trunk.model().logits(hidden, rows)
    }
}

impl Traced for LanguageModel {
    const RESULT: &str = "the logits";

    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        trace_head(&self.trunk.trace(batch)?, &self.trunk)
    }
}
