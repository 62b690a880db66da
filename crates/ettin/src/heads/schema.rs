//! Classification by labels that stand before the text (GLiNER2).

use super::spans::{layer, relu, trunk, values};
use crate::{
    Backend, Config, Error, PackedBatch, Result, Trunk,
    files::ModelFiles,
    finite::Traced,
    gliner::schema_trunk,
    metadata::ADAPTER_CONFIG,
    ops::{self, Linear},
    weights::Weights,
};

/// A trunk whose token vectors at the marks of labels become scores.
#[derive(Debug)]
pub struct SchemaModel {
    trunk: Trunk,
    first: Linear,
    second: Linear,
}

impl SchemaModel {
    /// Loads the GLiNER2 model that `files` hold, without what it extracts with.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models of other kinds, and for GLiNER2 of another architecture;
    /// [`Error::Tensors`] for tensors that are missing or of another shape.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        let Some(mut config) = schema_trunk(files)? else {
            return Err(Error::Unsupported(format!("labels before the text: {} is no GLiNER2 model", files.name())));
        };
        if files.adapter_names().next().is_some() || files.peek(ADAPTER_CONFIG)?.is_some() {
            let message = format!("an adapter on the GLiNER2 model {}: merge it with PEFT first", files.name());
            return Err(Error::Unsupported(message));
        }
        let weights = Weights::open(files)?;
        // The library grows the vocabulary by its marks, whatever the configuration says.
        if let Some(rows) = weights.get("encoder.embeddings.tok_embeddings.weight").map(|view| view.rows()) {
            config.vocab_size = rows;
        }
        let hidden = config.hidden_size;
        Ok(Self {
            first: layer(&weights, "classifier.0", [2 * hidden, hidden], backend)?,
            second: layer(&weights, "classifier.2", [1, 2 * hidden], backend)?,
            trunk: trunk(&weights, "encoder.", &config, backend)?,
        })
    }

    /// The layers under the scores.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// The configuration of the trunk.
    pub fn config(&self) -> &Config {
        self.trunk.config()
    }

    /// The raw scores at rows of a batch, in the order given.
    ///
    /// # Errors
    /// For a row that is not there, or a batch that does not fit the model; failures of the engine.
    pub fn scores(&self, batch: &PackedBatch, rows: &[usize]) -> Result<Vec<f32>> {
        let labels = self.trunk.forward(batch)?.select(rows)?;
        values(&ops::linear(&relu(&ops::linear(&labels, &self.first)?)?, &self.second)?)
    }
}

impl Traced for SchemaModel {
    const RESULT: &'static str = "the scores of labels";

    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        self.trunk.trace(batch).map(drop)
    }
}
