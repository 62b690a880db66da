//! Folders that are something else than they look: what is said of them, and what mends them.

#[path = "../common/mod.rs"]
mod common;
mod kinds;
mod prefixes;

use std::collections::HashMap;
use std::path::Path;

use common::{copy, root};
use safetensors::SafeTensors;

/// A copy of a model of `models/`, to be changed.
pub(crate) fn copied(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&root("models").join(model), folder.path());
    folder
}

/// Writes a folder's `model.safetensors` anew, every tensor under the name that `rename` gives it; none is left out.
pub(crate) fn rename_tensors(folder: &Path, rename: impl Fn(&str) -> Option<String>) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: HashMap<String, _> =
        tensors.tensors().into_iter().filter_map(|(name, tensor)| Some((rename(&name)?, tensor))).collect();
    let written = safetensors::serialize(&renamed, None).unwrap();
    std::fs::write(path, written).unwrap();
}

/// Changes a JSON file of a folder.
pub(crate) fn change_json(folder: &Path, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}
