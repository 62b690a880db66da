//! Language models: masked (encoders) and causal (decoders). The head is one and the same.

use candle_core::Tensor;

use super::{open, prediction_head, trace_head};
use crate::{
    Config, Error, KvCache, PackedBatch, Result, Trunk,
    config::Objective,
    files::ModelFiles,
    finite::Traced,
    ops::{self, Backend, Bias, Hidden, Table, TableParams},
    params::Parameters,
    weights,
};

/// A trunk with a prediction head and an output matrix over the vocabulary.
#[derive(Debug)]
pub struct LanguageModel {
    trunk: Trunk,
    head: ops::Head,
    /// `None` when the output matrix is the token table.
    output: Option<Table>,
    bias: Option<Bias>,
}

impl LanguageModel {
    /// Loads the model that `files` hold.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        open(files, backend, |_| weights::Head::Language, Self::build)
    }

    /// Builds the model from parameters with [`Head::Language`](weights::Head::Language).
    pub fn build(mut parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        Ok(Self {
            head: prediction_head(&mut parameters, backend)?,
            output: parameters.output.take().map(|matrix| backend.table(TableParams::Matrix(matrix))).transpose()?,
            bias: parameters.output_bias.take().map(|bias| backend.bias(bias)).transpose()?,
            trunk: Trunk::build(parameters, config, backend)?,
        })
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
        let head = if rows.is_empty() { 0 } else { self.config().vocab_size * self.config().hidden_size };
        self.trunk.backend().enter(batch.tokens(), self.config(), head, || {
            let hidden = self.trunk.step(batch, caches)?;
            if rows.is_empty() {
                logits.clear();
                return Ok(());
            }
            ops::logits_into(&self.head(&hidden, rows)?, self.table(), self.bias.as_ref(), logits)
        })
    }

    /// Head and output matrix on some rows of final hidden states.
    pub fn project(&self, hidden: &Hidden, rows: &[usize]) -> Result<Tensor> {
        if rows.is_empty() {
            let shape = (0, self.config().vocab_size);
            return Ok(Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu)?);
        }
        ops::logits(&self.head(hidden, rows)?, self.table(), self.bias.as_ref())
    }

    fn head(&self, hidden: &Hidden, rows: &[usize]) -> Result<Hidden> {
        ops::head(&hidden.select(rows)?, &self.head)
    }

    fn table(&self) -> &Table {
        self.output.as_ref().unwrap_or_else(|| self.trunk.table())
    }
}

impl Traced for LanguageModel {
    const RESULT: &str = "the logits";

    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        trace_head(&self.trunk.trace(batch)?, &self.head, self.trunk.backend())
    }
}
