//! The metadata of sentence-transformers repositories, each file read in one place.
//!
//! | file | what it says | read by |
//! |---|---|---|
//! | `modules.json` | the modules of the chain, their classes and folders | [`modules`] |
//! | `config_sentence_transformers.json` | kind of model, prompts, similarity, width, activation | [`settings`] |
//! | `sentence_bert_config.json` | how text becomes tokens, lengths included | [`transformer`] |
//! | `N_Class/config.json` | one module's settings | [`parts`], [`layers`], [`sparse`] |
//! | all of them, of a late-interaction model | queries, documents, vectors of tokens | [`late_interaction`] |
//! | `artifact.metadata` | the same of a model of colbert-ai | [`late_interaction`] |
//!
//! Versions 1 to 6.2 of the library wrote these files. Every one goes through the strict JSON door of `config`, a key
//! that is null counts as absent, a key that changes nothing here is known to, and any other is refused by name: the
//! library gives every key of these files a meaning.

mod describe;
mod keys;
mod late_interaction;
mod layers;
mod modules;
mod parts;
mod settings;
mod sparse;
mod transformer;

use crate::{Error, Result, files::FileSource};

pub(crate) use late_interaction::{
    Expansion, Inserter, LateInput, LateInteraction, LateModule, SideSettings, TokenMask, TokenPooling, WordLookup,
};
pub(crate) use layers::{WeightedLayersConfig, WordWeightsConfig};
pub(crate) use modules::{Class, module_classes, module_folders, trunk_folder};
pub(crate) use parts::{DenseConfig, NormalizeConfig, PoolingConfig, Slot, check_dropout, check_layer_norm};
pub use settings::Settings;
pub(crate) use settings::{IMPLIED_PROMPTS, ModelType};
pub(crate) use sparse::{AutoEncoderConfig, LogitScoreConfig, SpladeConfig};
pub use transformer::SearchSide;
pub(crate) use transformer::{Task, Transformer};

/// What the metadata of a sentence-transformers repository says, the settings of modules after the first left out.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    /// Prompts, similarity and what else concerns the model as a whole.
    pub(crate) settings: Settings,
    /// The first module, which runs the trunk.
    pub(crate) transformer: Transformer,
    /// The modules after it, in order.
    pub(crate) modules: Vec<Module>,
}

/// One module after the trunk.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    pub(crate) class: Class,
    /// Its folder in the repository.
    pub(crate) folder: String,
}

impl Repository {
    /// Reads what a repository with a `modules.json` says of itself; `None` for one without.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for modules and kinds of model that are not implemented, [`Error::Config`] for malformed
    /// files and keys that are not known.
    pub(crate) fn load(files: &dyn FileSource) -> Result<Option<Self>> {
        let Some(entries) = modules::entries(files)? else {
            return Ok(None);
        };
        // A kind of model says more than the first module that only it has.
        let mut settings = Settings::load(files)?;
        let mut modules = Vec::with_capacity(entries.len());
        for entry in &entries {
            modules.push(Module { class: entry.class()?, folder: entry.folder.clone() });
        }
        if settings.model_type.is_none() && modules.iter().any(|module| module.class.is_sparse()) {
            // What only one class of the library can make sense of was saved by it.
            settings.model_type = Some(ModelType::SparseEncoder);
        }
        let mut modules = modules.into_iter();
        let transformer = match modules.next() {
            Some(Module { class, folder }) if class.is_transformer() => {
                let default = if class.is_sparse() { Task::FillMask } else { Task::FeatureExtraction };
                Transformer::load(files, &folder, default)?
            }
            Some(Module { class, .. }) => {
                return Err(Error::Unsupported(format!("{class} as the first module of {}", modules::FILE)));
            }
            None => {
                return Err(Error::Config { file: modules::FILE.to_owned(), message: "it lists no module".to_owned() });
            }
        };
        Ok(Some(Self { settings, transformer, modules: modules.collect() }))
    }
}

impl Repository {
    /// What `SparseEncoder` makes of a masked language model without a `modules.json`: SPLADE by the largest, which no file
    /// describes. Files that sentence-transformers keeps beside a chain are not read, as the library does not read them.
    pub(crate) fn bare_splade() -> Self {
        Self {
            settings: Settings { model_type: Some(ModelType::SparseEncoder), ..Settings::default() },
            transformer: Transformer::plain(Task::FillMask),
            modules: Vec::new(),
        }
    }

    /// How many scores the modules give for a pair of texts; none where they make embeddings, or the trunk has labels
    /// itself.
    ///
    /// # Errors
    /// What reading the settings of a Dense module finds wrong.
    pub(crate) fn scores(&self, files: &dyn FileSource) -> Result<Option<usize>> {
        let mut scores = None;
        for module in &self.modules {
            match module.class {
                Class::Dense => {
                    let dense = DenseConfig::load(files, &module.folder)?;
                    if dense.output == Slot::Scores {
                        scores = Some(dense.outputs);
                    }
                }
                Class::LogitScore => scores = Some(1),
                _ => {}
            }
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests;
