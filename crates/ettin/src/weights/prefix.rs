//! Names under a prefix that no model of this type has: what `torch.compile`, DDP, Lightning and state dicts of a larger
//! module put before every name.
//!
//! transformers does not load such files either, so they stay an error; it names the prefix and the command that removes
//! it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::Path;

use super::shards::Lacking;
use super::{Data, Entry, Head, Weights, names};
use crate::config::Config;
use crate::{Error, Result};

/// A tensor that every model of this type has, by the end of its name.
const ANCHOR: &str = "layers.0.attn.Wo.weight";

/// What the trunk's names begin with in a model that has heads.
const TRUNK: &str = "model.";

/// A prefix without which the tensors are those of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix {
    prefix: String,
    /// A tensor's name with it.
    example: String,
    /// Tensors that begin with it, and all.
    carriers: usize,
    tensors: usize,
}

impl Prefix {
    /// What is wrong, and the command that mends it, with the model's folder in it.
    pub(super) fn explain(&self, file: &str) -> String {
        let Prefix { prefix, example, carriers, tensors } = self;
        let who = match carriers == tensors {
            true => "every name begins".to_owned(),
            false => format!("{carriers} of {tensors} names begin"),
        };
        let folder = Path::new(file).parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.map_or(".".to_owned(), |folder| folder.display().to_string());
        let bare = example.strip_prefix(prefix.as_str()).unwrap_or(example);
        format!(
            "{who} with `{prefix}`{}: `{example}` is there where `{bare}` is looked for, here and in transformers. \
             Without it the model is complete; `ettin-run convert {folder} --output NEW_FOLDER --strip-prefix {prefix}` \
             writes it so",
            origin(prefix),
        )
    }
}

/// Where a prefix usually comes from.
fn origin(prefix: &str) -> &'static str {
    match prefix.split('.').next() {
        Some("_orig_mod") => " (a model saved while compiled by torch.compile)",
        Some("module") => " (a model saved inside DataParallel or DistributedDataParallel)",
        Some("0") => " (the state dict of a SentenceTransformer)",
        _ => " (the state dict of a larger module)",
    }
}

impl Weights {
    /// The prefix that keeps the trunk's tensors from being found, if there is one.
    pub(super) fn hiding_prefix(&self, config: &Config) -> Option<Prefix> {
        if self.read(config, Head::None).1.is_empty() {
            // The trunk is there: what is missing is missing from its head.
            return None;
        }
        let anchors = self.tensors.values().filter_map(|entry| entry.stored.strip_suffix(ANCHOR));
        let mut candidates: Vec<&str> = anchors
            // `X.model.layers…` beside `X.head…`: the head's names tell how much is too much.
            .flat_map(|prefix| [prefix.strip_suffix(TRUNK), Some(prefix)])
            .flatten()
            .filter(|prefix| prefix.ends_with('.'))
            .collect();
        candidates.sort_by_key(|prefix| prefix.len());
        candidates.dedup();
        candidates.into_iter().find_map(|prefix| {
            let stripped = self.shapes().strip_prefix(prefix).ok()?;
            if !stripped.read(config, Head::None).1.is_empty() {
                return None;
            }
            Some(Prefix {
                prefix: prefix.to_owned(),
                example: self.tensors.values().find(|entry| entry.stored.starts_with(prefix))?.stored.clone(),
                carriers: self.tensors.values().filter(|entry| entry.stored.starts_with(prefix)).count(),
                tensors: self.tensors.len(),
            })
        })
    }

    /// The same tensors under names without `prefix`; those that do not begin with it keep theirs.
    ///
    /// # Errors
    /// [`Error::Input`] when no name begins with it, [`Error::Tensors`] when two tensors would get one name.
    pub(super) fn strip_prefix(self, prefix: &str) -> Result<Self> {
        let place = self.place();
        if !self.has_prefix(prefix) {
            let example = self.tensors.values().next().map_or("", |entry| &entry.stored);
            return Err(Error::input(format!(
                "{place}: no tensor's name begins with `{prefix}`; the first is `{example}`"
            )));
        }
        let mut tensors = BTreeMap::new();
        for mut entry in self.tensors.into_values() {
            if let Some(rest) = entry.stored.strip_prefix(prefix).filter(|rest| !rest.is_empty()) {
                entry.stored = rest.to_owned();
            }
            if names::is_buffer(&entry.stored) {
                continue;
            }
            match tensors.entry(names::canonical(&entry.stored).into_owned()) {
                Slot::Vacant(slot) => slot.insert(entry),
                Slot::Occupied(_) => {
                    return Err(Error::Tensors {
                        file: place,
                        message: format!("without `{prefix}` two tensors are called `{}`", entry.stored),
                    });
                }
            };
        }
        Ok(Self { files: self.files, tensors, lacking: self.lacking })
    }

    /// Whether a tensor's name begins with `prefix`.
    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.values().any(|entry| entry.stored.starts_with(prefix))
    }

    /// Names and shapes alone, to try a change of names on.
    fn shapes(&self) -> Self {
        let tensors = self.tensors.iter().map(|(name, entry)| {
            let Entry { stored, file, dtype, shape, .. } = entry;
            let data = Data::Mapped(0..0);
            (
                name.clone(),
                Entry { stored: stored.clone(), file: *file, dtype: dtype.clone(), shape: shape.clone(), data },
            )
        });
        Self { files: self.files.clone(), tensors: tensors.collect(), lacking: Lacking::default() }
    }
}
