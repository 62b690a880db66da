//! Rewrites a model folder: weights of any form as one safetensors file, the other files beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{EMBEDDINGS, OUTPUT};
use super::save::{PartialFile, save};
use super::{FileSource, StoredDtype, StoredType, Subfolder, View, Weights};
use crate::config::Config;
use crate::identity::TELLING;
use crate::json::parse_object;
use crate::metadata::{BESIDE, CONFIG, MODULES};
use crate::sentence_transformers::module_folders;
use crate::{Error, Result};

/// Documents that go with a model.
const DOCUMENTS: [&str; 3] = ["README.md", "LICENSE", "LICENSE.md"];

/// Weights of an adapter, which go with its configuration.
const ADAPTER: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

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
/// A sentence-transformers model is converted with all its modules. Tensors keep the names they were stored under, but
/// for a prefix that is to go.
///
/// # Errors
/// What reading or writing finds wrong: see [`Weights::open`], [`Config::from_json`] and [`save`]; [`Error::Input`] for
/// a prefix that no tensor's name has.
pub fn convert<'a>(
    source: &dyn FileSource,
    out_dir: &Path,
    options: impl Into<ConvertOptions<'a>>,
    progress: &mut dyn FnMut(&str),
) -> Result<Converted> {
    let options = options.into();
    let mut folders = match source.get(MODULES)? {
        Some(modules) => module_folders(MODULES, &modules)?,
        None => Vec::new(),
    };
    folders.insert(0, String::new());
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
        if let Some(weights) = &weights {
            self.weights(folder, weights, config.as_deref())?;
        }
        if let Some(config) = config {
            // A module's configuration says nothing about a dtype.
            let dtype = self.options.dtype.filter(|_| weights.is_some() && is_model(&config));
            self.write(&folder.path(CONFIG), &with_dtype(&config, dtype)?)?;
        }
        // What tells that a model is of another kind stays, or the copy would pass for a plain one.
        for name in BESIDE.into_iter().chain(DOCUMENTS).chain(TELLING).chain(ADAPTER) {
            if let Some(file) = folder.get(name)? {
                self.write(&folder.path(name), &file)?;
            }
        }
        Ok(())
    }

    /// The prefix is the model's; a module's file that lacks it is as it should be.
    fn without_prefix(&self, folder: &Subfolder<'_>, weights: Weights) -> Result<Weights> {
        match self.options.strip_prefix {
            Some(prefix) if folder.folder.is_empty() || weights.has_prefix(prefix) => weights.strip_prefix(prefix),
            _ => Ok(weights),
        }
    }

    fn weights(&mut self, folder: Subfolder<'_>, weights: &Weights, config: Option<&[u8]>) -> Result<()> {
        weights.refuse_foreign()?;
        let tied = match config.filter(|config| is_model(config) || folder.folder.is_empty()) {
            Some(config) => Config::from_json(config, &folder.path(CONFIG))?.tie_word_embeddings,
            None => false,
        };
        weights.refuse_incomplete(tied)?;
        let repeated = tied && weights.output_repeats_embeddings();
        let mut tensors: Vec<(&str, View<'_>)> = Vec::new();
        for (entry, view) in weights.tensors.values().zip(weights.views()) {
            if repeated && view.name() == OUTPUT {
                self.done.dropped.push(entry.stored.clone());
            } else {
                self.done.parameters += view.len() as u64;
                tensors.push((&entry.stored, view));
            }
        }
        self.done.tensors += tensors.len();
        let name = folder.path("model.safetensors");
        let path = self.prepare(&name)?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save(&path, &tensors, self.options.dtype, &metadata)
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

/// `config.json` as it was, but for the dtype it claims and the weights file it names: the one written has the usual
/// name.
fn with_dtype(config: &[u8], dtype: Option<StoredDtype>) -> Result<Vec<u8>> {
    let mut map = parse_object(config, CONFIG)?;
    let renamed = map.shift_remove("transformers_weights").is_some();
    match dtype {
        None if !renamed => return Ok(config.to_vec()),
        None => {}
        Some(dtype) => {
            let key = if map.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
            // What is not quantised is f32, and so is the arithmetic.
            let dtype = if dtype.quantization().is_some() { StoredDtype::F32 } else { dtype };
            map.insert(key.to_owned(), Value::from(dtype.name()));
        }
    }
    Ok(format!("{:#}\n", Value::Object(map)).into_bytes())
}
