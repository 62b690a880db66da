//! Prompts that a model's files keep: texts put before an input.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::sentence_transformers::{IMPLIED_PROMPTS, ModelType, SearchSide, Settings};
use crate::{Error, Result};

/// Which prompt is put before each text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PromptChoice {
    /// The model's `default_prompt_name`, if it has one.
    #[default]
    Default,
    /// No prompt.
    None,
    /// A prompt by its name in `config_sentence_transformers.json`.
    Named(String),
}

impl PromptChoice {
    /// The prompt of texts on a side of a search, unless another is chosen: as `encode_query` and `encode_document` of
    /// sentence-transformers do.
    pub(super) fn on_side(&self, side: Option<SearchSide>) -> PromptChoice {
        match (self, side) {
            (PromptChoice::Default, Some(side)) => PromptChoice::Named(side.name().to_owned()),
            (choice, _) => choice.clone(),
        }
    }

    /// The side of a search that it is for: `encode_query` and `encode_document` of sentence-transformers go by these
    /// names.
    pub(super) fn role(&self) -> Option<SearchSide> {
        match self {
            PromptChoice::Named(name) if name == "query" => Some(SearchSide::Query),
            PromptChoice::Named(name) if name == "document" => Some(SearchSide::Document),
            _ => None,
        }
    }
}

/// A model's prompts by name.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    texts: BTreeMap<String, String>,
    default: Option<String>,
    /// Whether it has the prompts of every embedder, be they empty.
    embedder: bool,
}

impl Prompts {
    /// Those that a repository's settings name.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            texts: settings.prompts.clone(),
            default: settings.default_prompt_name.clone(),
            embedder: settings.model_type != Some(ModelType::CrossEncoder),
        }
    }

    /// Those of an embedder whose files name none.
    pub(super) fn of_embedder() -> Self {
        Self { embedder: true, ..Self::default() }
    }

    /// Every name, those of all embedders included.
    pub(super) fn names(&self) -> Vec<&str> {
        let implied = IMPLIED_PROMPTS.into_iter().filter(|name| self.embedder && !self.texts.contains_key(*name));
        let mut names: Vec<&str> = self.texts.keys().map(String::as_str).chain(implied).collect();
        names.sort_unstable();
        names
    }

    /// The text of the chosen prompt; empty for none.
    pub(super) fn text(&self, choice: &PromptChoice) -> Result<&str> {
        let name = match choice {
            PromptChoice::None => return Ok(""),
            PromptChoice::Default => match &self.default {
                Some(name) => name,
                None => return Ok(""),
            },
            PromptChoice::Named(name) => name,
        };
        match self.texts.get(name) {
            Some(text) => Ok(text),
            None if self.embedder && IMPLIED_PROMPTS.contains(&name.as_str()) => Ok(""),
            None => Err(Error::input(match self.names().as_slice() {
                [] => format!("the model has no prompts, so none named {name:?}"),
                known => format!("the model has no prompt {name:?}; it has {}", known.join(", ")),
            })),
        }
    }
}

/// A text behind its prompt.
pub(super) fn prompted<'a>(prompt: &str, text: &'a str) -> Cow<'a, str> {
    match prompt {
        "" => Cow::Borrowed(text),
        prompt => Cow::Owned([prompt, text].concat()),
    }
}
