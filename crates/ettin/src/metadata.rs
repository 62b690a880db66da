//! The small files of a repository: each one's name and its reader, here alone.
//!
//! What the files of sentence-transformers mean is `sentence_transformers`, what `config.json` means is `config`, what
//! the tokenizer's files mean is `tokenizer`. This module is below them all.

pub(crate) mod generation;
mod index;

use serde_json::{Map, Value};

use crate::Result;
use crate::files::FileSource;
use crate::json;

pub(crate) use generation::ends_of_files;
pub(crate) use index::ShardIndex;

/// The model's configuration, and that of each module of a chain in its folder.
pub(crate) const CONFIG: &str = "config.json";
/// The modules of a sentence-transformers chain.
pub(crate) const MODULES: &str = "modules.json";
/// The routes of a router of sentence-transformers.
pub(crate) const ROUTER: &str = "router_config.json";
/// What sentence-transformers keeps for the model as a whole.
pub(crate) const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";
/// What sentence-transformers keeps for the first module.
pub(crate) const SENTENCE_BERT: &str = "sentence_bert_config.json";
/// Settings of generation.
pub(crate) const GENERATION: &str = "generation_config.json";
/// The tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// What changes the tokenizer.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Special tokens by name, of older saves.
pub(crate) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// Added tokens by text, of older saves.
pub(crate) const ADDED_TOKENS: &str = "added_tokens.json";

/// What colbert-ai keeps of a late-interaction model.
pub(crate) const ARTIFACT: &str = "artifact.metadata";

/// The settings of an adapter, as PEFT saves it.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Weights of an adapter, in order of preference.
pub(crate) const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// What a model may have beside its configuration and its weights: downloaded with it, and copied when it is converted.
pub(crate) const BESIDE: [&str; 11] = [
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    ADDED_TOKENS,
    "vocab.json",
    "merges.txt",
    GENERATION,
    MODULES,
    SENTENCE_TRANSFORMERS,
    SENTENCE_BERT,
    "chat_template.jinja",
];

/// Weights in order of preference: a whole file, then the index of its shards.
pub(crate) const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Whether a file is the index of shards.
pub(crate) fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

/// `config.json` as an object; `None` where there is none.
///
/// # Errors
/// As [`json::parse_object`].
pub(crate) fn config(files: &dyn FileSource) -> Result<Option<Map<String, Value>>> {
    json::read_object(files, CONFIG)
}

/// The same for what needs a key or two of it and must not fail where Python would not: of a key that appears twice the
/// last one counts.
///
/// # Errors
/// As [`json::parse_object`], but for repeated keys.
pub(crate) fn config_as_python_reads_it(files: &dyn FileSource) -> Result<Option<Map<String, Value>>> {
    files.get(CONFIG)?.map(|bytes| json::parse_object_of_last_keys(&bytes, CONFIG)).transpose()
}

/// `tokenizer_config.json` as an object; `None` where there is none.
///
/// # Errors
/// As [`json::parse_object`].
pub(crate) fn tokenizer_config(files: &dyn FileSource) -> Result<Option<Map<String, Value>>> {
    json::read_object(files, TOKENIZER_CONFIG)
}

/// `special_tokens_map.json` as an object; `None` where there is none.
///
/// # Errors
/// As [`json::parse_object`].
pub(crate) fn special_tokens(files: &dyn FileSource) -> Result<Option<Map<String, Value>>> {
    json::read_object(files, SPECIAL_TOKENS)
}

/// `added_tokens.json` as an object; `None` where there is none.
///
/// # Errors
/// As [`json::parse_object`].
pub(crate) fn added_tokens(files: &dyn FileSource) -> Result<Option<Map<String, Value>>> {
    json::read_object(files, ADDED_TOKENS)
}
