//! Names with parts that no model of this type has: what `torch.compile`, DDP, Lightning and state dicts of a larger
//! module put before every name, and what wrappers of single layers put into it.
//!
//! transformers does not load such files either, so they stay an error; it names the prefix and the command that
//! removes it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::Path;

use super::adapt::Adaptation;
use super::shards::Lacking;
use super::{Data, Head, TensorEntry, Weights, names};
use crate::config::Config;
use crate::{Error, Result};

/// A tensor that every model of this type has, by the end of its name.
const ANCHOR: &str = "layers.0.attn.Wo.weight";

/// What the trunk's names begin with in a model that has heads.
const TRUNK: &str = "model.";

/// Modules that wrap others in place, by the attribute that holds what they wrap: `torch.compile` of a part of a model,
/// activation checkpointing, and FSDP. They may stand anywhere in a name, and more than once.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"];

/// What is taken off names: wrappers wherever they stand, and of the rest what is at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Strip<'a> {
    wrappers: Vec<&'a str>,
    /// Ends with a dot, or is empty.
    leading: String,
}

impl<'a> Strip<'a> {
    /// A prefix as it is asked for; its last dot may be missing.
    fn new(prefix: &'a str) -> Self {
        let parts = prefix.split('.').filter(|part| !part.is_empty());
        let (wrappers, leading): (Vec<_>, Vec<_>) = parts.partition(|part| WRAPPERS.contains(part));
        Self { wrappers, leading: leading.iter().map(|part| format!("{part}.")).collect() }
    }

    /// A name without it; `None` for one that has nothing of it.
    fn apply(&self, name: &str) -> Option<String> {
        let parts = name.split('.').filter(|part| !self.wrappers.contains(part));
        let unwrapped = parts.collect::<Vec<_>>().join(".");
        let bare = unwrapped.strip_prefix(&self.leading).filter(|bare| !bare.is_empty()).unwrap_or(&unwrapped);
        (bare != name && !bare.is_empty()).then(|| bare.to_owned())
    }
}

/// A prefix without which the tensors are those of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix {
    prefix: String,
    /// A tensor's name with it, and without.
    example: String,
    bare: String,
    /// Whether the names begin with it; else it is in them somewhere.
    begins: bool,
    /// Tensors that have it, and all.
    carriers: usize,
    tensors: usize,
}

impl Prefix {
    /// What is wrong, and what mends it.
    pub(super) fn error(&self, file: String, folder: &str) -> Error {
        let Prefix { prefix, example, bare, begins, carriers, tensors } = self;
        let where_ = match (carriers == tensors, begins) {
            (true, true) => format!("every name begins with `{prefix}`"),
            (false, true) => format!("{carriers} of {tensors} names begin with `{prefix}`"),
            (_, false) => format!("{carriers} of {tensors} names have `{prefix}` in them"),
        };
        let message = format!(
            "{where_}{}: `{example}` is there where `{bare}` is looked for, here and in transformers. \
             Without it the model is complete: convert it with the prefix stripped",
            origin(prefix),
        );
        let folder = Path::new(folder).parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        Error::TensorPrefix { file, folder, prefix: prefix.clone(), message }
    }
}

/// Where a prefix usually comes from.
fn origin(prefix: &str) -> &'static str {
    match prefix.split('.').next() {
        Some("_orig_mod") => " (a model saved while compiled by torch.compile)",
        Some("_checkpoint_wrapped_module") => " (a model saved while its layers were wrapped for checkpointing)",
        Some("_fsdp_wrapped_module") => " (a model saved inside FSDP)",
        Some("module") => " (a model saved inside DataParallel or DistributedDataParallel)",
        Some("0") => " (the state dict of a SentenceTransformer)",
        _ => " (the state dict of a larger module)",
    }
}

impl Weights {
    /// The prefix, or the wrappers, that keep the tensors of the trunk from being found, if there are such; where the
    /// trunk is there, the wrappers that keep those of `head` from it.
    pub(super) fn hiding_prefix(&self, config: &Config, head: Head) -> Option<Prefix> {
        let trunk = self.read(config, Head::None).1.is_empty();
        let candidates = if trunk { Vec::new() } else { self.leading() };
        // A head's own names begin as they like: what is missing there is missing, unless it is wrapped.
        let wanted = if trunk { head } else { Head::None };
        let completes = |prefix: &str| match self.shapes().strip_prefix(prefix) {
            Ok(stripped) => stripped.read(config, wanted).1.is_empty(),
            Err(_) => false,
        };
        let prefix = candidates.into_iter().find(|prefix| completes(prefix)).or_else(|| {
            let stored = || self.tensors.values().flat_map(|entry| entry.stored.split('.'));
            let wrappers = WRAPPERS.iter().filter(|wrapper| stored().any(|part| part == **wrapper));
            let wrappers: String = wrappers.map(|wrapper| format!("{wrapper}.")).collect();
            let unwrapped = self.shapes().strip_prefix(&wrappers).ok()?;
            let leading = if trunk { Vec::new() } else { unwrapped.leading() };
            let prefixes =
                std::iter::once(wrappers.clone()).chain(leading.iter().map(|prefix| format!("{wrappers}{prefix}")));
            prefixes.into_iter().find(|prefix| completes(prefix))
        })?;
        let strip = Strip::new(&prefix);
        let carriers = || self.tensors.values().filter_map(|entry| Some((&entry.stored, strip.apply(&entry.stored)?)));
        let (example, bare) = carriers().next()?;
        Some(Prefix {
            begins: carriers().all(|(name, _)| name.starts_with(&prefix)),
            carriers: carriers().count(),
            tensors: self.tensors.len(),
            example: example.clone(),
            bare,
            prefix,
        })
    }

    /// What stands before the trunk's names, shortest first.
    fn leading(&self) -> Vec<String> {
        let anchors = self.tensors.values().filter_map(|entry| entry.stored.strip_suffix(ANCHOR));
        let mut candidates: Vec<&str> = anchors
            // `X.model.layers…` beside `X.head…`: the head's names tell how much is too much.
            .flat_map(|prefix| [prefix.strip_suffix(TRUNK), Some(prefix)])
            .flatten()
            .filter(|prefix| prefix.ends_with('.'))
            .collect();
        candidates.sort_by_key(|prefix| prefix.len());
        candidates.dedup();
        candidates.into_iter().map(str::to_owned).collect()
    }

    /// The same tensors under names without `prefix`, whose last dot may be left out: a wrapper of single layers in it
    /// goes wherever it stands, the rest from the beginning of names. Those that have nothing of it keep theirs.
    ///
    /// # Errors
    /// [`Error::Input`] when no name has it, [`Error::Tensors`] when two tensors would get one name.
    pub(super) fn strip_prefix(self, prefix: &str) -> Result<Self> {
        let place = self.place();
        if !self.has_prefix(prefix) {
            let example = self.tensors.values().next().map_or("", |entry| &entry.stored);
            let dot = if prefix.ends_with('.') { "" } else { "." };
            return Err(Error::input(format!(
                "{place}: no tensor's name begins with `{prefix}{dot}`; the first is `{example}`"
            )));
        }
        let strip = Strip::new(prefix);
        let mut tensors = BTreeMap::new();
        for mut entry in self.tensors.into_values() {
            if let Some(bare) = strip.apply(&entry.stored) {
                entry.stored = bare;
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
        Ok(Self { files: self.files, tensors, lacking: self.lacking, adaptation: self.adaptation })
    }

    /// Whether a tensor's name has something of `prefix`.
    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        let strip = Strip::new(prefix);
        self.tensors.values().any(|entry| strip.apply(&entry.stored).is_some())
    }

    /// Names and shapes alone, to try a change of names on.
    fn shapes(&self) -> Self {
        let tensors = self.tensors.iter().map(|(name, entry)| {
            let TensorEntry { stored, file, dtype, shape, .. } = entry;
            let data = Data::Mapped(0..0);
            (
                name.clone(),
                TensorEntry { stored: stored.clone(), file: *file, dtype: dtype.clone(), shape: shape.clone(), data },
            )
        });
        Self {
            files: self.files.clone(),
            tensors: tensors.collect(),
            lacking: Lacking::default(),
            adaptation: Adaptation::default(),
        }
    }
}
