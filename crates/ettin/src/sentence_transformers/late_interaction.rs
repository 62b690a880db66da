//! Late-interaction models: what their files say of queries, documents and the vectors of their tokens.
//!
//! Two libraries keep them as a chain of modules: [`pylate`] reads PyLate's folders, [`encoder`] those of the
//! `MultiVectorEncoder` of sentence-transformers. [`stanford`] reads those of colbert-ai, which have no modules. All
//! come to the same [`LateInteraction`].

mod encoder;
mod pylate;
mod stanford;

use serde_json::Value;

use super::modules::{self, ModuleEntry};
use super::parts::DenseConfig;
use super::settings::Settings;
use super::transformer::{SearchSide, Transformer};
use crate::config::Keys;
use crate::files::FileSource;
use crate::json::parse_object;
use crate::metadata::{ARTIFACT, MODULES, SENTENCE_TRANSFORMERS as FILE};
use crate::{Error, Result};

/// No text is longer: a bound on hostile configurations.
const MAX_LENGTH: usize = 1 << 16;

/// Python's `string.punctuation`, the default skiplist.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// What the files of a late-interaction model say.
#[derive(Debug)]
pub(crate) struct LateInteraction {
    /// Where the trunk is.
    pub(crate) folder: String,
    /// How text becomes tokens.
    pub(crate) input: LateInput,
    /// Prompts and similarity.
    pub(crate) settings: Settings,
    /// How queries are made longer.
    pub(crate) expansion: Option<Expansion>,
    /// Which tokens' vectors are kept.
    pub(crate) mask: TokenMask,
    /// What is done to the vector of every token, in order.
    pub(crate) modules: Vec<LateModule>,
    /// How vectors are brought together behind all of that.
    pub(crate) pooling: Option<TokenPooling>,
    /// Whether a score is divided by the number of the query's vectors.
    pub(crate) mean: bool,
}

/// How text becomes tokens.
#[derive(Debug)]
pub(crate) enum LateInput {
    /// With a prefix of one token, whose id is put in.
    Inserted { inserter: Inserter, query: SideSettings, document: SideSettings, lower_case: bool },
    /// As sentence-transformers does it for every model: prefixes are prompts.
    SentenceTransformers(Box<Transformer>),
}

/// Which library puts in the id of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserter {
    /// Texts are stripped first.
    PyLate,
    /// colbert-ai: texts are as they are, and padding written in a text is no part of it.
    Stanford,
}

impl Inserter {
    /// The file that names the prefixes.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Inserter::PyLate => FILE,
            Inserter::Stanford => ARTIFACT,
        }
    }
}

/// Of one side of a search.
#[derive(Debug)]
pub(crate) struct SideSettings {
    /// The token that is put behind the first one.
    pub(crate) prefix: Option<String>,
    /// The most tokens, special tokens and prefix included.
    pub(crate) length: usize,
}

/// Queries are filled up with a token, mostly the mask, whose vectors are compared like all others.
#[derive(Debug, Clone)]
pub(crate) struct Expansion {
    /// Tokens with it.
    pub(crate) length: usize,
    /// Whether longer queries are cut to that.
    pub(crate) cuts: bool,
    /// Whether other tokens see them.
    pub(crate) attended: bool,
    /// The token, if it is another than the mask.
    pub(crate) token: Option<String>,
}

/// Which tokens' vectors are kept.
#[derive(Debug, Default)]
pub(crate) struct TokenMask {
    /// Words whose tokens are left out.
    pub(crate) words: Vec<String>,
    /// Which token a word stands for.
    pub(crate) lookup: WordLookup,
    /// The sides that it is for.
    pub(crate) sides: Vec<SearchSide>,
    /// The only ids that are kept of documents.
    pub(crate) only: Option<Vec<u32>>,
}

/// Which token a word of a skiplist stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WordLookup {
    /// The token of that spelling; a word that is none stands for nothing.
    #[default]
    Known,
    /// The same, but a word that is none stands for the unknown token.
    OrUnknown,
    /// The first token that it is encoded to.
    FirstToken,
}

/// A module on the vectors of tokens.
#[derive(Debug)]
pub(crate) enum LateModule {
    /// With its folder.
    Dense(String, DenseConfig),
    /// `linear.weight` beside the trunk's weights; with its outputs, where they are stated.
    Linear(Option<usize>),
    /// To length 1.
    Normalize,
}

/// Vectors that are alike become one (Ward's method).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenPooling {
    /// At least 1: one vector is left of about so many.
    pub(crate) factor: f64,
    /// Leading vectors that stay as they are.
    pub(crate) protected: usize,
    /// Whether all vectors are scaled to length 1 behind it.
    pub(crate) normalize: bool,
    /// The sides that it is for.
    pub(crate) sides: Vec<SearchSide>,
}

impl LateInteraction {
    /// Reads what a late-interaction model says of itself; `None` for a model of another kind.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for modules that are not implemented, [`Error::Config`] for malformed files and keys that
    /// are not known.
    pub(crate) fn load(files: &dyn FileSource) -> Result<Option<Self>> {
        let Some(data) = files.get(MODULES)? else {
            return stanford::load(files);
        };
        let has =
            |part: &str| modules::module_classes(&data).any(|(_, class)| class.split('.').any(|name| name == part));
        let settings = files.get(FILE)?.and_then(|data| parse_object(&data, FILE).ok()).unwrap_or_default();
        let model_type = settings.get("model_type").and_then(Value::as_str);
        let (pylate, encoder) = match model_type {
            // PyLate's older saves name no type.
            _ if has("pylate") => (true, false),
            Some("ColBERT") => (true, false),
            Some("MultiVectorEncoder") => (false, true),
            _ => (false, has("multi_vector_encoder")),
        };
        if !pylate && !encoder {
            return Ok(None);
        }
        let entries = modules::entries(files)?.unwrap_or_default();
        let Some((first, rest)) = entries.split_first() else {
            return Err(Error::Config { file: MODULES.to_owned(), message: "it lists no module".to_owned() });
        };
        if first.name() != "Transformer" {
            return Err(Error::Unsupported(format!("{} as the first module of {MODULES}", first.path())));
        }
        match pylate {
            true => pylate::load(files, first, rest).map(Some),
            false => encoder::load(files, first, rest).map(Some),
        }
    }

    /// The longest text, which may pass the positions that the trunk's configuration states.
    pub(crate) fn longest(&self) -> Option<usize> {
        let stated = match &self.input {
            LateInput::Inserted { query, document, .. } => Some(query.length.max(document.length)),
            LateInput::SentenceTransformers(transformer) => transformer.longest(),
        };
        stated.max(self.expansion.as_ref().map(|expansion| expansion.length))
    }
}

/// The refusal of a module.
fn refused(entry: &ModuleEntry) -> Error {
    Error::Unsupported(format!("the module {} of {MODULES} in a late-interaction model", entry.path()))
}

/// A default prompt must be there.
fn check_default_prompt(keys: &Keys<'_>, settings: &Settings) -> Result<()> {
    match &settings.default_prompt_name {
        Some(name) if !settings.prompts.contains_key(name) => {
            Err(keys.refuse("default_prompt_name", "it is not among the `prompts`"))
        }
        _ => Ok(()),
    }
}
