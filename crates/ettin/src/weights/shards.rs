//! Which files hold a model's weights: one file or the shards of an index, safetensors before torch's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::names;
use crate::files::{FileData, FileSource, is_plain_name, is_weights_file};
use crate::metadata::{self, CONFIG, ShardIndex, WEIGHTS, is_index};
use crate::{Error, Result};

/// The files that were found.
pub(super) struct FoundShards {
    /// Data of each.
    pub(super) shards: Vec<FileData>,
    pub(super) index: Option<Index>,
}

/// A shard index: which file holds which tensor.
pub(super) struct Index {
    file: String,
    places: BTreeMap<String, String>,
    /// Files that it names and that are not there.
    absent: BTreeSet<String>,
}

impl Index {
    /// The tensors that it names and that `has` does not know, by canonical name.
    pub(super) fn lacking(self, has: impl Fn(&str) -> bool) -> Lacking {
        let named = self.places.into_iter().filter(|(name, _)| !names::is_buffer(name));
        let named = named.map(|(name, shard)| (names::canonical(&name).into_owned(), shard));
        let tensors = named.filter(|(name, _)| !has(name)).collect();
        Lacking { index: self.file, tensors, absent: self.absent }
    }
}

/// What an index names and no shard holds.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    index: String,
    /// Canonical name and shard.
    tensors: BTreeMap<String, String>,
    absent: BTreeSet<String>,
}

impl Lacking {
    /// Where the tensor should be, if an index says so.
    pub(super) fn place(&self, name: &str) -> Option<String> {
        let shard = self.tensors.get(name)?;
        let gone = if self.absent.contains(shard) { ", which is not there" } else { "" };
        Some(format!("{} puts it into {shard}{gone}", self.index))
    }

    /// As [`place`](Self::place), when the whole shard is missing: nobody can tell what the tensor was.
    pub(super) fn with_its_shard(&self, name: &str) -> Option<String> {
        self.tensors.get(name).filter(|shard| self.absent.contains(*shard)).and_then(|_| self.place(name))
    }

    /// Every tensor, with its place.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, String)> {
        self.tensors.keys().filter_map(|name| Some((name.as_str(), self.place(name)?)))
    }
}

/// The file that was named, or that config.json names, or the first form that is there.
pub(super) fn find(source: &dyn FileSource) -> Result<FoundShards> {
    if let Some(name) = source.weights_file() {
        return named(source, name, source.require(name)?);
    }
    if let Some(name) = stated(source)? {
        return named(source, &name, source.require(&name)?);
    }
    for name in WEIGHTS {
        if let Some(file) = source.get(name)? {
            return named(source, name, file);
        }
    }
    Err(Error::MissingFile { place: source.place(), file: format!("weights (looked for {})", WEIGHTS.join(", ")) })
}

/// The weights file that config.json names; transformers loads it before any other.
fn stated(source: &dyn FileSource) -> Result<Option<String>> {
    const KEY: &str = "transformers_weights";
    let Some(map) = metadata::config(source)? else {
        return Ok(None);
    };
    match map.get(KEY) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if is_plain_name(name) && is_weights_file(name) => Ok(Some(name.clone())),
        Some(other) => {
            let message = format!("`{KEY}` is {other}; supported: a weights file beside {CONFIG} (.safetensors, .bin)");
            Err(Error::Config { file: CONFIG.to_owned(), message })
        }
    }
}

/// A whole file, or the shards that an index names; one that is missing is remembered, unless all are.
fn named(source: &dyn FileSource, name: &str, file: FileData) -> Result<FoundShards> {
    if !is_index(name) {
        return Ok(FoundShards { shards: vec![file], index: None });
    }
    let index = ShardIndex::parse(name, &file)?;
    let (mut shards, mut absent, mut first_missing) = (Vec::new(), BTreeSet::new(), None);
    for name in index.files() {
        match source.require(name) {
            Ok(shard) => shards.push(shard),
            Err(error @ Error::MissingFile { .. }) => {
                absent.insert(name.to_owned());
                first_missing.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match first_missing {
        Some(error) if shards.is_empty() => Err(error),
        _ => Ok(FoundShards { shards, index: Some(Index { file: name.to_owned(), places: index.places, absent }) }),
    }
}
