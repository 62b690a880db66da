//! Rewrites a model folder: weights of any form as one safetensors file, the other files beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{EMBEDDINGS, OUTPUT};
use super::names::is_head;
use super::save::{PartialFile, Written, save_sums};
use super::{FileSource, StoredDtype, StoredType, Subfolder, View, Weights};
use crate::config::Config;
use crate::gliner::{GLINER_CONFIG, LABELS_TOKENIZER};
use crate::identity::TELLING;
use crate::json::parse_object;
use crate::metadata::{ADAPTER_CONFIG, BESIDE, CONFIG};
use crate::sentence_transformers::{all_folders, first_folders};
use crate::{Error, Result};

/// The file that weights are written to.
const WEIGHTS: &str = "model.safetensors";

/// Documents that go with a model.
const DOCUMENTS: [&str; 3] = ["README.md", "LICENSE", "LICENSE.md"];

/// Whole numbers about training among the tensors of a `SparseAutoEncoder`; the library wants to read them again.
const TRAINING_STATISTICS: &str = "stats_last_nonzero";

/// What a conversion changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConvertOptions<'a> {
    /// What weights are stored as; `None` keeps each as it is.
    pub dtype: Option<StoredDtype>,
    /// What is taken off the beginning of every tensor's name that has it (`module.`, say); wrappers of single layers
    /// (`_orig_mod.`, `_checkpoint_wrapped_module.`, `_fsdp_wrapped_module.`) go wherever they stand.
    pub strip_prefix: Option<&'a str>,
}

impl<'a> ConvertOptions<'a> {
    /// With weights stored in another format, or each as it is.
    #[must_use]
    pub fn with_dtype(self, dtype: impl Into<Option<StoredDtype>>) -> Self {
        Self { dtype: dtype.into(), ..self }
    }

    /// With something taken off the beginning of every tensor's name, or nothing.
    #[must_use]
    pub fn with_strip_prefix(self, strip_prefix: impl Into<Option<&'a str>>) -> Self {
        Self { strip_prefix: strip_prefix.into(), ..self }
    }
}

impl From<Option<StoredDtype>> for ConvertOptions<'_> {
    fn from(dtype: Option<StoredDtype>) -> Self {
        Self { dtype, strip_prefix: None }
    }
}

/// What a conversion wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converted {
    /// Files written, relative to the output folder.
    pub files: Vec<String>,
    /// Tensors in `model.safetensors`.
    pub tensors: usize,
    /// Parameters in `model.safetensors`.
    pub parameters: u64,
    /// Tensors left out because they repeat another one (a tied output projection).
    pub dropped: Vec<String>,
}

/// Writes the model in `source` to the folder `out_dir` as safetensors, all weights as one dtype when one is given
/// (with `w8` and `w4` the large matrices; what is stored so already can become any dtype again, without what it lost);
/// the name of each file goes to `progress` before it is written. Files that exist are replaced, each one when its
/// successor is complete.
///
/// Adapters are merged: the one beside the weights, and those of the source. The copy has none; where one of them has
/// to do with token vectors or output matrix, it holds both, no longer tied, and where one brings a classifier,
/// `config.json` says so.
///
/// A sentence-transformers model is converted with all its modules, but for a `SparseAutoEncoder`, whose file has whole
/// numbers beside its weights and is copied. Tensors keep the names they were stored under, but
/// for a prefix that is to go.
///
/// # Errors
/// What reading or writing finds wrong: see [`Weights::open`], [`Config::from_json`] and [`save`](super::save());
/// [`Error::Input`] for a prefix that no tensor's name has, or one for a model with an adapter; [`Error::Unsupported`]
/// for an adapter on a model that has no trunk of its own, or several.
pub fn convert<'a>(
    source: &dyn FileSource,
    out_dir: &Path,
    options: impl Into<ConvertOptions<'a>>,
    progress: &mut dyn FnMut(&str),
) -> Result<Converted> {
    let options = options.into();
    if !source.adapters().is_empty() {
        check_one_trunk(source)?;
    }
    let mut folders = all_folders(source)?;
    folders.insert(0, String::new());
    if source.get(GLINER_CONFIG)?.is_some() {
        folders.push(LABELS_TOKENIZER.to_owned());
    }
    let mut conversion = Conversion { out_dir, options, progress, done: Converted::default() };
    for folder in &folders {
        conversion.folder(Subfolder { files: source, folder })?;
    }
    match conversion.done.tensors {
        // Nothing but copies: no weights anywhere.
        0 => Err(Weights::open(source).err().unwrap_or_else(|| Error::input("the model has no tensors"))),
        _ => Ok(conversion.done),
    }
}

struct Conversion<'a> {
    out_dir: &'a Path,
    options: ConvertOptions<'a>,
    progress: &'a mut dyn FnMut(&str),
    done: Converted,
}

impl Conversion<'_> {
    /// One folder of the model: its weights rewritten, its other files copied.
    fn folder(&mut self, folder: Subfolder<'_>) -> Result<()> {
        let weights = match Weights::open(&folder) {
            Ok(weights) => Some(self.without_prefix(&folder, weights)?),
            Err(Error::MissingFile { file, .. }) if file.starts_with("weights") => None,
            Err(other) => return Err(other),
        };
        let config = folder.get(CONFIG)?;
        let mut changes = ConfigChanges::default();
        if let Some(weights) = &weights {
            match folder.get(WEIGHTS)?.filter(|_| weights.names().any(|name| name == TRAINING_STATISTICS)) {
                Some(file) => {
                    self.done.tensors += weights.names().count();
                    self.write(&folder.path(WEIGHTS), &file)?;
                }
                None => changes = self.weights(folder, weights, config.as_deref())?,
            }
        }
        if let Some(config) = config {
            // A module's configuration says nothing about a dtype.
            changes.dtype = self.options.dtype.filter(|_| weights.is_some() && is_model(&config));
            self.write(&folder.path(CONFIG), &changes.apply(&config)?)?;
        }
        // What tells that a model is of another kind stays, or the copy would pass for a plain one. An adapter is in
        // the weights now.
        let beside = BESIDE.into_iter().chain(DOCUMENTS).chain(TELLING).filter(|name| *name != ADAPTER_CONFIG);
        for name in beside {
            if let Some(file) = folder.get(name)? {
                self.write(&folder.path(name), &file)?;
            }
        }
        Ok(())
    }

    /// The prefix is the model's; a module's file that lacks it is as it should be.
    fn without_prefix(&self, folder: &Subfolder<'_>, weights: Weights) -> Result<Weights> {
        match self.options.strip_prefix {
            Some(_) if folder.folder.is_empty() && !folder.adapters().is_empty() => Err(Error::input(
                "a prefix is stripped and an adapter merged in two conversions, in this order: the adapter is for the \
                 names without the prefix",
            )),
            Some(prefix) if folder.folder.is_empty() || weights.has_prefix(prefix) => weights.strip_prefix(prefix),
            _ => Ok(weights),
        }
    }

    /// Writes the weights; returns what `config.json` must say otherwise of them.
    fn weights(&mut self, folder: Subfolder<'_>, weights: &Weights, config: Option<&[u8]>) -> Result<ConfigChanges> {
        weights.refuse_foreign()?;
        let config = config.filter(|config| is_model(config) || folder.folder.is_empty());
        let config = config.map(|config| Config::from_json(config, &folder.path(CONFIG))).transpose()?;
        let tied = config.as_ref().is_some_and(|config| config.tie_word_embeddings);
        weights.refuse_incomplete(tied)?;
        let untied = tied && weights.unties() && weights.names().any(is_head);
        let repeated = tied && !untied && weights.output_repeats_embeddings();
        let mut tensors: Vec<(&str, View<'_>)> = Vec::new();
        for (entry, view) in weights.tensors.values().zip(weights.views()) {
            if repeated && view.name() == OUTPUT {
                self.done.dropped.push(entry.stored.clone());
            } else {
                tensors.push((&entry.stored, view));
            }
        }
        if let (true, None, Some(embedding)) = (untied, weights.get(OUTPUT), weights.get(EMBEDDINGS)) {
            tensors.push((OUTPUT, View { name: OUTPUT, ..embedding }));
        }
        self.done.parameters += tensors.iter().map(|(_, view)| view.len() as u64).sum::<u64>();
        self.done.tensors += tensors.len();
        let mut used: Vec<BTreeSet<String>> = weights.adapters().map(|_| BTreeSet::new()).collect();
        let written = tensors.into_iter().map(|(name, view)| {
            let additions = weights.additions(&view, &mut used)?;
            Ok(Written { name, view, additions })
        });
        let written: Vec<Written<'_>> = written.collect::<Result<_>>()?;
        weights.adapters().zip(&used).try_for_each(|(adapter, used)| adapter.check_used(used, |_| false))?;
        let name = folder.path(WEIGHTS);
        let path = self.prepare(&name)?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save_sums(&path, &written, self.options.dtype, &metadata)?;
        let (labels, class) = match config {
            Some(config) => weights.classified(config),
            None => (None, None),
        };
        Ok(ConfigChanges { dtype: None, untied, labels, class })
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.prepare(name)?;
        let partial = PartialFile::beside(&path)?;
        let mut file = partial.create()?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(&path))?;
        partial.finish(&path)
    }

    /// Announces a file and makes its folder.
    fn prepare(&mut self, name: &str) -> Result<PathBuf> {
        (self.progress)(name);
        let path = self.out_dir.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        self.done.files.push(name.to_owned());
        Ok(path)
    }
}

/// An adapter is for one trunk: of several, nothing says which, and without one there is nothing to merge.
fn check_one_trunk(source: &dyn FileSource) -> Result<()> {
    let mut trunks = BTreeSet::new();
    for folder in first_folders(source)? {
        let config = Subfolder { files: source, folder: &folder }.get(CONFIG)?;
        if config.is_some_and(|config| is_model(&config)) {
            trunks.insert(folder);
        }
    }
    match trunks.len() {
        1 => Ok(()),
        count => Err(Error::Unsupported(format!(
            "an adapter merged into a model of {count} trunks: it is for one, and nothing says which"
        ))),
    }
}

/// Whether a `config.json` is a model's, not a module's.
fn is_model(config: &[u8]) -> bool {
    parse_object(config, CONFIG).is_ok_and(|map| map.contains_key("model_type"))
}

impl Weights {
    /// Whether the output projection holds the embedding's values over again.
    fn output_repeats_embeddings(&self) -> bool {
        match (self.get(OUTPUT), self.get(EMBEDDINGS)) {
            (Some(output), Some(embeddings)) => output.same_values(&embeddings),
            _ => false,
        }
    }

    /// A model can be run without what only another part of it needs; converted, it must be whole.
    fn refuse_incomplete(&self, tied: bool) -> Result<()> {
        let spare = |name: &str| tied && name == OUTPUT && self.tensors.contains_key(EMBEDDINGS);
        let lacking = self.lacking.all().filter(|(name, _)| !spare(name));
        let lacking: Vec<String> = lacking.map(|(name, place)| format!("`{name}` is missing: {place}")).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors { file: self.place(), message: lacking.join("; ") })
    }

    fn refuse_foreign(&self) -> Result<()> {
        let foreign = self.tensors.values().filter_map(|entry| match &entry.dtype {
            StoredType::Known(_) => None,
            StoredType::Foreign(dtype) => Some(format!("`{}` is stored as {dtype}", entry.stored)),
        });
        let foreign: Vec<String> = foreign.collect();
        if foreign.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors {
            file: self.place(),
            message: format!("{}; supported: F32, F16, BF16", foreign.join("; ")),
        })
    }
}

/// What `config.json` must say otherwise than it did.
#[derive(Debug, Default)]
struct ConfigChanges {
    dtype: Option<StoredDtype>,
    /// Whether token vectors and output matrix were one, and are two.
    untied: bool,
    /// Names of labels.
    labels: Option<Vec<String>>,
    /// transformers' class of the model.
    class: Option<String>,
}

impl ConfigChanges {
    /// `config.json` as it was, but for these and the weights file it names: the one written has the usual name.
    fn apply(self, config: &[u8]) -> Result<Vec<u8>> {
        let mut map = parse_object(config, CONFIG)?;
        let before = map.clone();
        map.shift_remove("transformers_weights");
        if let Some(dtype) = self.dtype {
            let key = if map.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
            // What is not quantised is f32, and so is the arithmetic.
            let dtype = if dtype.quantization().is_some() { StoredDtype::F32 } else { dtype };
            map.insert(key.to_owned(), Value::from(dtype.name()));
        }
        if self.untied {
            map.insert("tie_word_embeddings".to_owned(), Value::from(false));
        }
        if let Some(labels) = self.labels {
            map.shift_remove("num_labels");
            let numbered = || labels.iter().enumerate();
            let names = numbered().map(|(index, label)| (index.to_string(), Value::from(label.as_str())));
            map.insert("id2label".to_owned(), Value::Object(names.collect()));
            let numbers = numbered().map(|(index, label)| (label.clone(), Value::from(index)));
            map.insert("label2id".to_owned(), Value::Object(numbers.collect()));
        }
        if let Some(class) = self.class {
            map.insert("architectures".to_owned(), Value::from(vec![class]));
        }
        match map == before {
            true => Ok(config.to_vec()),
            false => Ok(format!("{:#}\n", Value::Object(map)).into_bytes()),
        }
    }
}
