//! The index of weights in shards: which file holds which tensor.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::files::is_plain_name;
use crate::json::parse_object;
use crate::{Error, Result};

/// An index of more files than this is no model's.
const MAX_SHARDS: usize = 10_000;

/// A checked index.
#[derive(Debug)]
pub(crate) struct ShardIndex {
    /// The file of each tensor, which lies beside the index.
    pub(crate) places: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Parses the index that is called `name`.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no JSON object, [`Error::Weights`] for what is no index or names files elsewhere.
    pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let map = parse_object(bytes, name)?;
        let fail = |message: String| Error::Weights { file: name.to_owned(), message };
        let Some(Value::Object(entries)) = map.get("weight_map") else {
            return Err(fail("there is no `weight_map` object".to_owned()));
        };
        let mut places = BTreeMap::new();
        for (tensor, place) in entries {
            match place.as_str().filter(|place| is_plain_name(place)) {
                Some(place) => places.insert(tensor.clone(), place.to_owned()),
                None => {
                    return Err(fail(format!(
                        "`weight_map` puts `{tensor}` into {place}, which is no plain file name"
                    )));
                }
            };
        }
        let index = Self { places };
        let files = index.files().len();
        if files == 0 || files > MAX_SHARDS {
            return Err(fail(format!("`weight_map` names {files} files")));
        }
        Ok(index)
    }

    /// The shards, each once, in order of their names.
    pub(crate) fn files(&self) -> BTreeSet<&str> {
        self.places.values().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_listed_once_and_stay_beside_the_index() {
        let index = br#"{"weight_map": {"a": "m-2.bin", "b": "m-1.bin", "c": "m-2.bin"}}"#;
        let index = ShardIndex::parse("index", index).unwrap();
        assert_eq!(index.files().into_iter().collect::<Vec<_>>(), ["m-1.bin", "m-2.bin"]);
        for bad in [
            &br#"{"weight_map": {"a": "../../token"}}"#[..],
            br#"{"weight_map": {"a": "/etc/passwd"}}"#,
            br#"{"weight_map": {"a": "shards/m-1.bin"}}"#,
            br#"{"weight_map": {"a": 1}}"#,
            br#"{"weight_map": []}"#,
            br#"{"weight_map": {}}"#,
            b"[]",
            b"{",
        ] {
            assert!(ShardIndex::parse("index", bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
