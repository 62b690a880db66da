//! Files of keys, with unknown ones refused.

use serde_json::{Map, Value};

use crate::config::Keys;
use crate::files::FileSource;
use crate::json::read_object;
use crate::{Error, Result};

/// The file `name` of a repository as an object without its null keys; empty where there is no such file.
pub(super) fn object(files: &dyn FileSource, name: &str) -> Result<Map<String, Value>> {
    Ok(stated(files, name)?.unwrap_or_default())
}

/// As [`object`], of a file that must be there.
pub(super) fn required(files: &dyn FileSource, name: &str) -> Result<Map<String, Value>> {
    stated(files, name)?.ok_or_else(|| Error::MissingFile { place: files.place(), file: name.to_owned() })
}

fn stated(files: &dyn FileSource, name: &str) -> Result<Option<Map<String, Value>>> {
    let mut map = read_object(files, name)?;
    map.iter_mut().for_each(|map| map.retain(|_, value| !value.is_null()));
    Ok(map)
}

/// Refuses every key but those in `known`.
pub(super) fn only(keys: &Keys<'_>, known: &[&str]) -> Result<()> {
    match keys.names().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => Err(keys.refuse(
            name,
            "a key that this engine does not know and that may change results; remove it if it does not",
        )),
    }
}

/// A whole number in `1..=limit`, where the key is there.
pub(super) fn count(keys: &Keys<'_>, key: &str, limit: usize) -> Result<Option<usize>> {
    match keys.get(key) {
        None => Ok(None),
        Some(_) => keys.size(key, 1, limit).map(Some),
    }
}

/// The path of a file in a folder of the repository; the folder may be the top.
pub(super) fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}
