//! Late interaction: a vector for every token, through the modules that follow the trunk.

use candle_core::Tensor;

use super::chain::Dense;
use crate::{
    Backend, Config, Error, PackedBatch, Result, Trunk,
    files::ModelFiles,
    finite::{self, Traced},
    identity,
    ops::Hidden,
    params::Parameters,
    pooling::normalize,
    sentence_transformers::{LateInteraction, LateModule},
    weights::{Head, Subfolder, Weights},
};

/// A trunk that gives one vector per token (ColBERT).
#[derive(Debug)]
pub struct MultiVectorModel {
    trunk: Trunk,
    modules: Vec<TokenModule>,
    size: usize,
}

/// A module on the vectors of tokens, ready to run.
#[derive(Debug)]
enum TokenModule {
    Dense(Dense),
    Normalize,
}

impl TokenModule {
    fn class(&self) -> &'static str {
        match self {
            TokenModule::Dense(_) => "Dense",
            TokenModule::Normalize => "Normalize",
        }
    }

    /// `[rows, size]` to `[rows, size]`.
    fn forward(&self, vectors: &Hidden) -> Result<Hidden> {
        match self {
            TokenModule::Dense(dense) => dense.forward(vectors),
            TokenModule::Normalize => Ok(Hidden::new(normalize(&vectors.to_tensor()?)?)),
        }
    }
}

impl MultiVectorModel {
    /// Loads the late-interaction model that `files` hold.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models of other kinds, and for settings that are not implemented; what loading the
    /// model's files can meet.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        match LateInteraction::load(files)? {
            Some(late) => Self::of_settings(files, &late, backend),
            None => Err(no_late_interaction(files)),
        }
    }

    /// The same with settings that have been read.
    pub(crate) fn of_settings(files: &ModelFiles, late: &LateInteraction, backend: &Backend) -> Result<Self> {
        identity::check(files, identity::Use::Tokens)?;
        let trunk = Subfolder { files, folder: &late.folder };
        let mut config = Config::load(&trunk).map_err(|error| identity::explained(files, error))?;
        config.allow_length(late.longest());
        let weights = Weights::open(&trunk).map_err(|error| identity::explained(files, error))?;
        let mut parameters = Parameters::from_weights(&weights, &config, Head::None)?;
        let backend = backend.for_stored(parameters.quantization);
        let mut modules = Vec::with_capacity(late.modules.len());
        let mut size = config.hidden_size;
        for module in &late.modules {
            modules.push(match module {
                LateModule::Normalize => TokenModule::Normalize,
                LateModule::Linear(outputs) => {
                    let (dense, outputs) = Dense::of_trunk(&weights, size, *outputs, &backend)?;
                    // It lies among the trunk's tensors, none of which it is.
                    parameters.report.unused.retain(|name| name != "linear.weight");
                    size = outputs;
                    TokenModule::Dense(dense)
                }
                LateModule::Dense(folder, settings) => {
                    settings.check(folder, size)?;
                    size = settings.outputs;
                    TokenModule::Dense(Dense::load(files, folder, settings, &backend)?)
                }
            });
        }
        Ok(Self { trunk: Trunk::build(parameters, &config, &backend)?, modules, size })
    }

    /// The layers under the vectors.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// The configuration of the trunk.
    pub fn config(&self) -> &Config {
        self.trunk.config()
    }

    /// Values per vector.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The vectors of some rows of a batch, in the order given, `[rows, size]`.
    ///
    /// # Errors
    /// For a row that is not there, or a batch that does not fit the model; failures of the engine.
    pub fn vectors(&self, batch: &PackedBatch, rows: &[usize]) -> Result<Tensor> {
        let mut vectors = self.trunk.forward(batch)?.select(rows)?;
        for module in &self.modules {
            vectors = module.forward(&vectors)?;
        }
        vectors.to_tensor()
    }
}

/// The refusal of a model of another kind.
pub(crate) fn no_late_interaction(files: &ModelFiles) -> Error {
    Error::Unsupported(format!(
        "one vector per token of {} for late interaction: its files describe no such model; try embed",
        files.name()
    ))
}

impl Traced for MultiVectorModel {
    const RESULT: &'static str = "the vectors of the tokens";

    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        let mut vectors: Hidden = self.trunk.trace(batch)?;
        for (number, module) in (1..).zip(&self.modules) {
            vectors = module.forward(&vectors)?;
            let place = || format!("module {number} on the vectors of tokens ({})", module.class());
            finite::check(place, vectors.states(), self.trunk.backend().dtype())?;
        }
        Ok(())
    }
}
