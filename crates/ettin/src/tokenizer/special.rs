//! Which ids are special: read from the model's own files, never assumed.

use serde_json::{Map, Value};
use tokenizers::Tokenizer as Inner;

use crate::weights::FileSource;
use crate::{Error, Result};

/// Ids of the special tokens, where the model has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialIds {
    /// Padding; never added here, but recognised.
    pub pad: Option<u32>,
    /// Unknown token.
    pub unk: Option<u32>,
    /// Start of an encoded text.
    pub cls: Option<u32>,
    /// End of an encoded text.
    pub sep: Option<u32>,
    /// The mask.
    pub mask: Option<u32>,
    /// Put before a text that is continued or scored.
    pub bos: Option<u32>,
    /// Any of these ends a generation.
    pub eos: Vec<u32>,
}

/// The special ids of a model, and its vocabulary size if `config.json` states one.
///
/// A name in `tokenizer_config.json` wins over one in `special_tokens_map.json`, that over an id in `config.json`.
/// Generation ends at any id of `generation_config.json` and `config.json`.
pub(super) fn load(files: &dyn FileSource, inner: &Inner) -> Result<(SpecialIds, Option<usize>)> {
    let names = [object(files, "tokenizer_config.json")?, object(files, "special_tokens_map.json")?];
    let config = object(files, "config.json")?;
    let generation = object(files, "generation_config.json")?;
    let one = |key: &str| {
        let id_key = format!("{key}_id");
        let named = names.iter().find_map(|names| named(names, key, inner));
        named.or_else(|| ids(&config, &id_key).first().copied())
    };

    let usual = by_usual_names(inner);
    let cls = one("cls_token").or(usual.cls);
    let sep = one("sep_token").or(usual.sep);
    let mut eos = ids(&generation, "eos_token_id");
    eos.extend(ids(&config, "eos_token_id"));
    if eos.is_empty() {
        eos.extend(one("eos_token").or(sep));
    }
    eos.sort_unstable();
    eos.dedup();
    let special = SpecialIds {
        pad: one("pad_token").or(usual.pad),
        unk: one("unk_token").or(usual.unk),
        cls,
        sep,
        mask: one("mask_token").or(usual.mask),
        bos: one("bos_token").or(cls),
        eos,
    };
    let vocab_size = config.get("vocab_size").and_then(Value::as_u64);
    Ok((special, vocab_size.map(|size| size as usize)))
}

/// The special ids by the names that models of this type use.
pub(super) fn by_usual_names(inner: &Inner) -> SpecialIds {
    let id = |name| inner.token_to_id(name);
    SpecialIds {
        pad: id("[PAD]"),
        unk: id("[UNK]"),
        cls: id("[CLS]"),
        sep: id("[SEP]"),
        mask: id("[MASK]"),
        bos: id("[CLS]"),
        eos: id("[SEP]").into_iter().collect(),
    }
}

/// A JSON file of the model; empty where it has none.
fn object(files: &dyn FileSource, file: &str) -> Result<Map<String, Value>> {
    let Some(bytes) = files.get(file)? else {
        return Ok(Map::new());
    };
    serde_json::from_slice(&bytes).map_err(|error| Error::Config { file: file.to_owned(), message: error.to_string() })
}

/// The id of a token given as a string or as an object with `content`.
fn named(names: &Map<String, Value>, key: &str, inner: &Inner) -> Option<u32> {
    let value = names.get(key)?;
    let name = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
    inner.token_to_id(name)
}

/// One id or a list of them.
fn ids(config: &Map<String, Value>, key: &str) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config.get(key) {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}
