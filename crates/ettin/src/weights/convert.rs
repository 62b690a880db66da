//! Rewrites a model folder: weights of any form as one safetensors file, the other files beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::checkpoint::{EMBEDDINGS, OUTPUT};
use super::save::{Partial, save};
use super::{FileSource, Stored, StoredDtype, View, Weights};
use crate::config::{Config, parse_object};
use crate::{Error, Result};

/// Files of a model that a conversion copies as they are, where they exist.
const COPIED: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "README.md",
    "LICENSE",
    "LICENSE.md",
];

/// Files of a sentence-transformers module, in a folder of its own.
const MODULE_FILES: [&str; 1] = ["config.json"];

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

/// Writes the model in `source` to the folder `out_dir` as safetensors, all weights as `dtype` when one is given; a step's
/// file name goes to `progress`. Existing files are replaced, each one only when its successor is complete.
///
/// # Errors
/// What reading or writing finds wrong: see [`Weights::open`], [`Config::from_json`] and [`save`].
pub fn convert(
    source: &(impl FileSource + ?Sized),
    out_dir: &Path,
    dtype: Option<StoredDtype>,
    mut progress: impl FnMut(&str),
) -> Result<Converted> {
    let config_file = source
        .get("config.json")?
        .ok_or_else(|| Error::MissingFile {
            place: source.place(),
            file: "config.json".to_owned(),
        })?;
    let config = Config::from_json(&config_file, "config.json")?;
    let weights = Weights::open(source)?;
    weights.refuse_foreign()?;
    fs::create_dir_all(out_dir).map_err(Error::io(out_dir))?;

    let mut done = Converted::default();
    let tied = config.tie_word_embeddings && weights.output_repeats_embeddings();
    let mut tensors: Vec<(&str, View<'_>)> = Vec::new();
    for (name, entry) in &weights.tensors {
        match weights.get(name) {
            Some(_) if tied && name == OUTPUT => done.dropped.push(entry.stored.clone()),
            Some(view) => {
                done.parameters += view.len() as u64;
                tensors.push((&entry.stored, view));
            }
            None => {}
        }
    }
    done.tensors = tensors.len();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    progress("model.safetensors");
    save(
        &out_dir.join("model.safetensors"),
        &tensors,
        dtype,
        &metadata,
    )?;
    done.files.push("model.safetensors".to_owned());

    progress("config.json");
    write(
        &out_dir.join("config.json"),
        &with_dtype(&config_file, dtype)?,
    )?;
    done.files.push("config.json".to_owned());
    for name in COPIED {
        if let Some(file) = source.get(name)? {
            progress(name);
            write(&out_dir.join(name), &file)?;
            done.files.push(name.to_owned());
        }
    }
    convert_modules(source, out_dir, dtype, &mut progress, &mut done)?;
    Ok(done)
}

/// The folders that `modules.json` names: their configurations copied, their weights rewritten.
fn convert_modules(
    source: &(impl FileSource + ?Sized),
    out_dir: &Path,
    dtype: Option<StoredDtype>,
    progress: &mut impl FnMut(&str),
    done: &mut Converted,
) -> Result<()> {
    let Some(modules) = source.get("modules.json")? else {
        return Ok(());
    };
    for folder in module_folders(&modules)? {
        let module = Folder {
            source,
            folder: &folder,
        };
        let out = out_dir.join(&folder);
        fs::create_dir_all(&out).map_err(Error::io(&out))?;
        for name in MODULE_FILES {
            if let Some(file) = module.get(name)? {
                write(&out.join(name), &file)?;
                done.files.push(format!("{folder}/{name}"));
            }
        }
        match Weights::open(&module) {
            Err(Error::MissingFile { .. }) => {}
            Err(other) => return Err(other),
            Ok(weights) => {
                weights.refuse_foreign()?;
                let name = format!("{folder}/model.safetensors");
                progress(&name);
                let tensors: Vec<_> = weights.views().map(|view| (view.name(), view)).collect();
                save(&out_dir.join(&name), &tensors, dtype, &BTreeMap::new())?;
                done.files.push(name);
            }
        }
    }
    Ok(())
}

/// The non-empty paths in `modules.json`, each a plain folder name.
fn module_folders(modules: &[u8]) -> Result<Vec<String>> {
    let fail = |message: String| Error::Config {
        file: "modules.json".to_owned(),
        message,
    };
    let list: Value = serde_json::from_slice(modules)
        .map_err(|error| fail(format!("not valid JSON: {error}")))?;
    let paths = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|module| module.get("path")?.as_str());
    paths
        .filter(|path| !path.is_empty())
        .map(|path| {
            match path
                .chars()
                .all(|c| c.is_alphanumeric() || "_-".contains(c))
            {
                true => Ok(path.to_owned()),
                false => Err(fail(format!(
                    "the module path \"{path}\" is no plain folder name"
                ))),
            }
        })
        .collect()
}

/// A folder inside a source, as a source.
struct Folder<'a, S: FileSource + ?Sized> {
    source: &'a S,
    folder: &'a str,
}

impl<S: FileSource + ?Sized> FileSource for Folder<'_, S> {
    fn get(&self, name: &str) -> Result<Option<super::FileData>> {
        self.source.get(&format!("{}/{name}", self.folder))
    }

    fn place(&self) -> String {
        format!("{}/{}", self.source.place(), self.folder)
    }
}

impl Weights {
    /// Whether the output projection holds the embedding's values over again.
    fn output_repeats_embeddings(&self) -> bool {
        match (self.get(OUTPUT), self.get(EMBEDDINGS)) {
            (Some(output), Some(embeddings)) => output.same_values(&embeddings),
            _ => false,
        }
    }

    fn refuse_foreign(&self) -> Result<()> {
        let foreign = self
            .tensors
            .values()
            .filter_map(|entry| match &entry.dtype {
                Stored::Known(_) => None,
                Stored::Foreign(dtype) => Some(format!("`{}` is stored as {dtype}", entry.stored)),
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

/// `config.json` as it was, but for the dtype it claims.
fn with_dtype(config: &[u8], dtype: Option<StoredDtype>) -> Result<Vec<u8>> {
    let Some(dtype) = dtype else {
        return Ok(config.to_vec());
    };
    let mut map = parse_object(config, "config.json")?;
    let key = if map.contains_key("torch_dtype") {
        "torch_dtype"
    } else {
        "dtype"
    };
    map.insert(key.to_owned(), Value::from(dtype.name()));
    Ok(format!("{:#}\n", Value::Object(map)).into_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = Partial::beside(path)?;
    let mut file = partial.create()?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io(path))?;
    partial.finish(path)
}
