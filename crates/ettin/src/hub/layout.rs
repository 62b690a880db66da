//! Which files of a repository this engine reads, and which of them say that others exist.

use serde_json::Value;

use crate::files::check_name;
use crate::identity::TELLING;
pub(super) use crate::sentence_transformers::module_folders;
use crate::{Error, Result};

/// Weights at the root of a model (or of a module's folder), the preferred form first.
pub(super) const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Everything but weights that a model may have at its root, or a sentence-transformers module in its folder.
pub(super) const METADATA: [&str; 16] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "chat_template.jinja",
    TELLING[0],
    TELLING[1],
    TELLING[2],
    TELLING[3],
];

/// The shards that an index lists, each once, in order of their names.
pub(super) fn shards(name: &str, index: &[u8]) -> Result<Vec<String>> {
    let wrong = |message: &str| Error::Config { file: name.to_owned(), message: message.to_owned() };
    let value: Value = serde_json::from_slice(index).map_err(|error| wrong(&error.to_string()))?;
    let map = value.get("weight_map").and_then(Value::as_object).ok_or_else(|| wrong("it has no weight_map"))?;
    let mut shards = Vec::new();
    for shard in map.values() {
        let shard = shard.as_str().ok_or_else(|| wrong("a shard's name is not a string"))?;
        check_name(shard)?;
        shards.push(shard.to_owned());
    }
    shards.sort_unstable();
    shards.dedup();
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_listed_once_and_stay_inside_the_folder() {
        let index = br#"{"weight_map": {"a": "m-2.bin", "b": "m-1.bin", "c": "m-2.bin"}}"#;
        assert_eq!(shards("index", index).unwrap(), ["m-1.bin", "m-2.bin"]);
        for bad in [
            &br#"{"weight_map": {"a": "../../token"}}"#[..],
            br#"{"weight_map": {"a": "/etc/passwd"}}"#,
            br#"{"weight_map": {"a": 1}}"#,
            br#"{"weight_map": []}"#,
            b"[]",
            b"{",
        ] {
            assert!(shards("index", bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
