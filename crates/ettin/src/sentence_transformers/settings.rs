//! `config_sentence_transformers.json`: what concerns the model as a whole.

use std::collections::BTreeMap;

use serde_json::Value;

use super::keys::{count, object, only};
use crate::config::Keys;
use crate::files::FileSource;
use crate::heads::Similarity;
use crate::metadata::SENTENCE_TRANSFORMERS as FILE;
use crate::{Error, Result};

/// No vector is longer.
const MAX_WIDTH: usize = 1 << 20;

/// Keys that are read, and keys that change nothing here: `__version__` and `requirements` are about Python packages,
/// and `keep_in_fp32_modules` about a dtype that is this engine's anyway.
const KNOWN: [&str; 10] = [
    "model_type",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "truncate_dim",
    "max_active_dims",
    "activation_fn",
    "__version__",
    "requirements",
    "keep_in_fp32_modules",
];

/// Which of the library's classes saved a repository, where it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelType {
    /// `SentenceTransformer`: embeddings.
    Embedder,
    /// `CrossEncoder`: scores of pairs of texts.
    CrossEncoder,
    /// `SparseEncoder`: learned sparse vectors.
    SparseEncoder,
}

/// The settings of a chain that concern its input and the comparison of its output.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Texts put before an input, by name.
    pub prompts: BTreeMap<String, String>,
    /// The prompt used when none is named.
    pub default_prompt_name: Option<String>,
    /// How embeddings are compared, by the library's name for it; cosine where there is none, and the dot product of
    /// sparse ones.
    pub similarity_fn_name: Option<String>,
    /// Only so many leading values of each embedding are kept; what was normalised is then not normalised again.
    pub truncate_dim: Option<usize>,
    /// Only so many values of a sparse vector are kept, the largest by magnitude.
    pub max_active_dims: Option<usize>,
    /// Python class of what a reranker applies to its scores.
    pub activation_fn: Option<String>,
    /// Which class saved the repository.
    pub(crate) model_type: Option<ModelType>,
}

impl Settings {
    pub(super) fn load(files: &dyn FileSource) -> Result<Self> {
        let map = object(files, FILE)?;
        let keys = Keys::new(&map, FILE);
        let model_type = match keys.text("model_type")? {
            None => None,
            Some("SentenceTransformer") => Some(ModelType::Embedder),
            Some("CrossEncoder") => Some(ModelType::CrossEncoder),
            Some("SparseEncoder") => Some(ModelType::SparseEncoder),
            Some(other) => {
                return Err(Error::Unsupported(format!("the sentence-transformers model type {other} ({FILE})")));
            }
        };
        only(&keys, &KNOWN)?;
        let prompts = prompts(&keys)?;
        let default_prompt_name = keys.text("default_prompt_name")?.map(str::to_owned);
        // An embedder has prompts for queries and documents, empty ones unless its file says more.
        let implied = |name: &str| model_type != Some(ModelType::CrossEncoder) && IMPLIED_PROMPTS.contains(&name);
        if let Some(name) = &default_prompt_name
            && !prompts.contains_key(name)
            && !implied(name)
        {
            return Err(keys.refuse("default_prompt_name", "it is not among the `prompts`"));
        }
        let foreign = match model_type {
            Some(ModelType::SparseEncoder) => "truncate_dim",
            _ => "max_active_dims",
        };
        if model_type.is_some() && keys.get(foreign).is_some() {
            return Err(keys.refuse(foreign, "a key of another kind of model; remove it"));
        }
        Ok(Self {
            prompts,
            default_prompt_name,
            similarity_fn_name: keys.text("similarity_fn_name")?.map(str::to_owned),
            truncate_dim: count(&keys, "truncate_dim", MAX_WIDTH)?,
            max_active_dims: count(&keys, "max_active_dims", MAX_WIDTH)?,
            activation_fn: keys.text("activation_fn")?.map(str::to_owned),
            model_type,
        })
    }

    /// How embeddings are compared.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a function that is not implemented.
    pub fn similarity(&self) -> Result<Similarity> {
        let default = match self.model_type {
            Some(ModelType::SparseEncoder) => Similarity::Dot,
            _ => Similarity::Cosine,
        };
        self.similarity_fn_name.as_deref().map_or(Ok(default), str::parse)
    }
}

/// Prompts that every embedder has.
pub(crate) const IMPLIED_PROMPTS: [&str; 2] = ["query", "document"];

pub(super) fn prompts(keys: &Keys<'_>) -> Result<BTreeMap<String, String>> {
    let Some(prompts) = keys.object("prompts")? else {
        return Ok(BTreeMap::new());
    };
    // A prompt of null is an empty one: it has a name.
    let Some(Value::Object(map)) = keys.get("prompts") else {
        return Ok(BTreeMap::new());
    };
    map.keys().map(|name| Ok((name.clone(), prompts.text(name)?.unwrap_or_default().to_owned()))).collect()
}
