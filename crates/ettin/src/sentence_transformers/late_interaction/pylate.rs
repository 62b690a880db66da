//! PyLate's folders: a chain with `Dense` modules of its own, everything else in `config_sentence_transformers.json`.
//!
//! What the library (1.6) does with missing keys is done here.

use super::super::keys::{count, join, object, only};
use super::super::modules::ModuleEntry;
use super::super::parts::DenseConfig;
use super::super::settings::{Settings, prompts};
use super::super::transformer::SearchSide;
use super::{
    Expansion, FILE, Inserter, LateInput, LateInteraction, LateModule, MAX_LENGTH, PUNCTUATION, SideSettings,
    TokenMask, WordLookup, check_default_prompt, refused,
};
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::{MODULES, SENTENCE_BERT};
use crate::{Error, Result};

/// The library's keys, and those of sentence-transformers that change nothing here.
const KEYS: [&str; 12] = [
    "model_type",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
    "__version__",
];

pub(super) fn load(files: &dyn FileSource, first: &ModuleEntry, rest: &[ModuleEntry]) -> Result<LateInteraction> {
    let mut modules = Vec::with_capacity(rest.len() + 1);
    for entry in rest {
        let known = ["pylate.", "sentence_transformers."].iter().any(|package| entry.path().starts_with(package));
        if !known || entry.name() != "Dense" {
            return Err(refused(entry));
        }
        modules.push(LateModule::Dense(entry.folder.clone(), DenseConfig::load(files, &entry.folder)?));
    }
    if modules.is_empty() {
        return Err(Error::Unsupported(format!(
            "a late-interaction model without a Dense module in {MODULES}: PyLate would add one with random weights"
        )));
    }
    modules.push(LateModule::Normalize);
    let map = object(files, FILE)?;
    let keys = Keys::new(&map, FILE);
    only(&keys, &KEYS)?;
    let side = |prefix: &str, default: &str, length: &str, tokens: usize| {
        let prefix = keys.text(prefix)?.unwrap_or(default);
        Ok::<_, Error>(SideSettings {
            prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
            length: count(&keys, length, MAX_LENGTH)?.unwrap_or(tokens),
        })
    };
    let query = side("query_prefix", "[Q] ", "query_length", 32)?;
    let document = side("document_prefix", "[D] ", "document_length", 180)?;
    let attended = keys.flag("attend_to_expansion_tokens", false)?;
    let expansion = keys.flag("do_query_expansion", true)?.then_some(Expansion {
        length: query.length,
        cuts: true,
        attended,
        token: None,
    });
    let words = match keys.texts("skiplist_words")? {
        Some(words) => words.into_iter().map(str::to_owned).collect(),
        None => PUNCTUATION.chars().map(String::from).collect(),
    };
    let settings = Settings {
        prompts: prompts(&keys)?,
        default_prompt_name: keys.text("default_prompt_name")?.map(str::to_owned),
        similarity_fn_name: keys.text("similarity_fn_name")?.map(str::to_owned),
        ..Settings::default()
    };
    check_default_prompt(&keys, &settings)?;
    Ok(LateInteraction {
        folder: first.folder.clone(),
        input: LateInput::Inserted {
            inserter: Inserter::PyLate,
            query,
            document,
            lower_case: lower_case(files, &first.folder)?,
        },
        settings,
        expansion,
        mask: TokenMask { words, lookup: WordLookup::OrUnknown, sides: vec![SearchSide::Document], only: None },
        modules,
        pooling: None,
        mean: false,
    })
}

/// `do_lower_case` of the first module. Its length is a leftover of whatever was encoded last, and counts for nothing.
fn lower_case(files: &dyn FileSource, folder: &str) -> Result<bool> {
    let file = join(folder, SENTENCE_BERT);
    let map = object(files, &file)?;
    let keys = Keys::new(&map, &file);
    only(&keys, &["max_seq_length", "do_lower_case"])?;
    keys.flag("do_lower_case", false)
}
