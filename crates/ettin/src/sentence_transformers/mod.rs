//! The metadata of sentence-transformers repositories, each file read in one place.
//!
//! | file | what it says | read by |
//! |---|---|---|
//! | `modules.json` | the modules of the chain, their classes and folders | [`modules`] |
//! | `config_sentence_transformers.json` | kind of model, prompts, similarity, width, activation | [`settings`] |
//! | `router_config.json` | the routes of a router, and which texts take which | [`router`], [`routing`], [`routes`] |
//! | `sentence_bert_config.json` | how text becomes tokens, lengths included | [`transformer`] |
//! | `N_Class/config.json` | one module's settings | [`parts`], [`layers`], [`sparse`], [`lookup`] |
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
mod lookup;
mod modules;
mod parts;
mod router;
mod routes;
mod routing;
mod settings;
mod sparse;
mod transformer;

use crate::{Result, files::FileSource};

pub(crate) use late_interaction::{
    Expansion, Inserter, LateInput, LateInteraction, LateModule, SideSettings, TokenMask, TokenPooling, WordLookup,
};
pub(crate) use layers::{WeightedLayersConfig, WordWeightsConfig};
pub(crate) use lookup::SparseLookup;
#[cfg(any(feature = "hub", test))]
pub(crate) use modules::module_folders;
pub(crate) use modules::{Class, all_folders, first_folders, module_classes, trunk_folder};
pub(crate) use parts::{DenseConfig, NormalizeConfig, PoolingConfig, Slot, check_dropout, check_layer_norm};
pub(crate) use routes::{LookupChain, RouteChain, Routes};
pub(crate) use routing::Routing;
pub use settings::Settings;
pub(crate) use settings::{IMPLIED_PROMPTS, ModelType};
pub(crate) use sparse::{AutoEncoderConfig, LogitScoreConfig, SpladeConfig};
pub use transformer::SearchSide;
pub(crate) use transformer::{Task, Transformer};

/// One chain of a repository of sentence-transformers over a trunk, the settings of modules after the first left out.
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
    /// Reads the chain of a repository with a `modules.json`, that of the default route where it has several; `None`
    /// for one without.
    ///
    /// # Errors
    /// As [`Routes::load`]; [`Error::Unsupported`] for a chain without a trunk.
    pub(crate) fn load(files: &dyn FileSource) -> Result<Option<Self>> {
        Routes::load(files)?.map(Routes::into_trunk).transpose()
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
