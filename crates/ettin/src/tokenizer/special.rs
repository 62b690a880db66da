//! Which ids are special: read from the model's own files, never assumed.

use serde_json::{Map, Value};
use tokenizers::Tokenizer as Inner;

use super::settings::TokenizerSettings;
use crate::files::FileSource;
use crate::{Result, metadata};

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
    /// Any of these ends a generation: those of `generation_config.json` where the model has one, which may be none.
    /// Where that file cannot be read they are the model's, and a generation that asks for them fails.
    pub eos: Vec<u32>,
    /// Those without regard to `generation_config.json`.
    pub eos_of_model: Vec<u32>,
}

impl SpecialIds {
    /// Whether it is any of them.
    pub fn contains(&self, id: u32) -> bool {
        let one = [self.pad, self.unk, self.cls, self.sep, self.mask, self.bos];
        one.contains(&Some(id)) || self.eos.contains(&id)
    }
}

/// The special ids of a model, and its vocabulary size if `config.json` states one.
///
/// A name in the tokenizer's files wins over an id in `config.json`. An id that the vocabulary does not hold is no
/// token: configurations of small vocabularies keep the defaults of the large one. Generation ends at the ids of
/// `generation_config.json` alone where there is one, else at those of `config.json`.
pub(super) fn load(
    files: &dyn FileSource,
    inner: &Inner,
    settings: &TokenizerSettings,
) -> Result<(SpecialIds, Option<usize>)> {
    let config = metadata::config_as_python_reads_it(files)?.unwrap_or_default();
    let vocab_size = config.get("vocab_size").and_then(Value::as_u64);
    let config = within(config, vocab_size);
    let one = |key: &str| {
        let id_key = format!("{key}_id");
        let named = settings.token(key).and_then(|name| id_within(inner, name, vocab_size));
        named.or_else(|| ids(&config, &id_key).first().copied())
    };

    let usual = by_usual_names(inner, vocab_size);
    let cls = one("cls_token").or(usual.cls);
    let sep = one("sep_token").or(usual.sep);
    let mut eos_of_model = ids(&config, "eos_token_id");
    if eos_of_model.is_empty() {
        eos_of_model.extend(one("eos_token").or(sep));
    }
    eos_of_model.sort_unstable();
    eos_of_model.dedup();
    // A file that only generation needs stops no other task.
    let mut eos = metadata::ends_of_files(files).ok().flatten().unwrap_or_else(|| eos_of_model.clone());
    eos.retain(|&id| vocab_size.is_none_or(|size| u64::from(id) < size));
    let special = SpecialIds {
        pad: one("pad_token").or(usual.pad),
        unk: one("unk_token").or(usual.unk),
        cls,
        sep,
        mask: one("mask_token").or(usual.mask),
        bos: one("bos_token").or(cls),
        eos,
        eos_of_model,
    };
    Ok((special, vocab_size.map(|size| size as usize)))
}

/// The special ids by the names that models of this type use.
pub(super) fn by_usual_names(inner: &Inner, vocab_size: Option<u64>) -> SpecialIds {
    let id = |name| id_within(inner, name, vocab_size);
    SpecialIds {
        pad: id("[PAD]"),
        unk: id("[UNK]"),
        cls: id("[CLS]"),
        sep: id("[SEP]"),
        mask: id("[MASK]"),
        bos: id("[CLS]"),
        eos: id("[SEP]").into_iter().collect(),
        eos_of_model: id("[SEP]").into_iter().collect(),
    }
}

/// The id of a token, if there is one and the vocabulary holds it.
fn id_within(inner: &Inner, name: &str, vocab_size: Option<u64>) -> Option<u32> {
    inner.token_to_id(name).filter(|&id| vocab_size.is_none_or(|size| u64::from(id) < size))
}

/// The file without the ids of tokens that the vocabulary does not hold.
fn within(mut file: Map<String, Value>, vocab_size: Option<u64>) -> Map<String, Value> {
    let holds = |id: &Value| vocab_size.is_none_or(|size| id.as_u64().is_some_and(|id| id < size));
    for (_, value) in file.iter_mut().filter(|(key, _)| key.ends_with("_token_id")) {
        match value {
            Value::Array(list) => list.retain(holds),
            id if !holds(id) => *id = Value::Null,
            _ => {}
        }
    }
    file
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
