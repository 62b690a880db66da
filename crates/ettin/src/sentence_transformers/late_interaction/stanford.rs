//! Folders of Stanford's colbert-ai: a trunk and `linear.weight` in one file, everything else in `artifact.metadata`.
//!
//! Texts are encoded as colbert-ai (0.2.22) encodes them, in training as well: the id of a marker token is put behind the
//! first token. PyLate does the same. sentence-transformers 6 puts the marker before the text instead, with a space,
//! so that the text's first word is another token; its numbers for such a folder are others.

use super::super::keys::{count, object};
use super::super::parts::MAX_FEATURES;
use super::super::settings::Settings;
use super::super::transformer::SearchSide;
use super::{
    Expansion, Inserter, LateInput, LateInteraction, LateModule, MAX_LENGTH, PUNCTUATION, SideSettings, TokenMask,
    WordLookup,
};
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::{ARTIFACT as FILE, CONFIG};
use crate::{Error, Result};

/// The class that colbert-ai saves its models from.
const CLASS: &str = "HF_ColBERT";

/// Reads the settings of a folder without a `modules.json`; `None` where nothing says that colbert-ai saved it.
pub(super) fn load(files: &dyn FileSource) -> Result<Option<LateInteraction>> {
    let stated = object(files, FILE)?;
    if stated.is_empty() {
        let config = object(files, CONFIG).unwrap_or_default();
        let class = config.get("architectures").and_then(|classes| classes.get(0)).and_then(|class| class.as_str());
        return match class {
            Some(CLASS) => Err(Error::Unsupported(format!(
                "a Stanford ColBERT (`architectures` of {CONFIG} names {CLASS}) without its {FILE}, which says how texts \
                 are encoded"
            ))),
            _ => Ok(None),
        };
    }
    let keys = Keys::new(&stated, FILE);
    // Artifacts of indexes have the settings one level down.
    let keys = keys.object("config")?.unwrap_or(keys);
    // What changes numbers and is not implemented; the other keys are about training, indexing and search.
    for (key, known) in [("similarity", "cosine"), ("interaction", "colbert")] {
        if keys.text(key)?.is_some_and(|name| name != known) {
            return Err(keys.refuse(key, format_args!("supported: {known:?}")));
        }
    }
    if keys.flag("reranker", false)? {
        return Err(keys.refuse("reranker", "a cross-encoder of colbert-ai is not supported"));
    }
    // The libraries have different defaults where a key is missing; colbert-ai writes them all.
    let absent = |key: &str| keys.refuse(key, "it is expected: colbert-ai writes it");
    let side = |marker: &str, length: &str| {
        let prefix = keys.text(marker)?.ok_or_else(|| absent(marker))?;
        let length = count(&keys, length, MAX_LENGTH)?.ok_or_else(|| absent(length))?;
        Ok::<_, Error>(SideSettings { prefix: Some(prefix.to_owned()), length })
    };
    let query = side("query_token_id", "query_maxlen")?;
    let document = side("doc_token_id", "doc_maxlen")?;
    let expansion = Expansion {
        length: query.length,
        cuts: true,
        attended: keys.flag("attend_to_mask_tokens", false)?,
        token: None,
    };
    let words = match keys.flag("mask_punctuation", true)? {
        true => PUNCTUATION.chars().map(String::from).collect(),
        // colbert-ai fails without its skiplist, and PyLate uses its own; this is what the key says.
        false => Vec::new(),
    };
    Ok(Some(LateInteraction {
        folder: String::new(),
        input: LateInput::Inserted { inserter: Inserter::Stanford, query, document, lower_case: false },
        settings: Settings::default(),
        expansion: Some(expansion),
        mask: TokenMask { words, lookup: WordLookup::FirstToken, sides: vec![SearchSide::Document], only: None },
        modules: vec![LateModule::Linear(count(&keys, "dim", MAX_FEATURES)?), LateModule::Normalize],
        pooling: None,
        mean: false,
    }))
}
