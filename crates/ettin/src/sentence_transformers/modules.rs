//! `modules.json`: which modules follow each other, and where their files are.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Value};

use super::Module;
use super::keys::only;
use super::router::RouterFile;
use crate::config::Keys;
use crate::files::{FileSource, check_name};
use crate::json::parse_list;
pub(super) use crate::metadata::MODULES as FILE;
use crate::named::Named;
use crate::{Error, Result};

/// Where the library's own classes are; what comes from elsewhere is code that a repository brings along.
const PACKAGE: &str = "sentence_transformers.";

/// One entry of the list.
#[derive(Debug)]
pub(super) struct ModuleEntry {
    /// The module's folder, empty for the top of the repository.
    pub(super) folder: String,
    /// Its Python class with the path of its package; empty where there is none.
    path: String,
    map: Map<String, Value>,
}

/// A module that this engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Transformer,
    Pooling,
    Dense,
    LayerNorm,
    Normalize,
    Dropout,
    WeightedLayerPooling,
    WordWeights,
    LogitScore,
    MlmTransformer,
    SpladePooling,
    SparseAutoEncoder,
    Router,
    StaticEmbedding,
    SparseStaticEmbedding,
}

impl Class {
    /// Whether it makes learned sparse vectors.
    pub(crate) fn is_sparse(self) -> bool {
        use Class::{MlmTransformer, SparseAutoEncoder, SparseStaticEmbedding, SpladePooling};
        matches!(self, MlmTransformer | SpladePooling | SparseAutoEncoder | SparseStaticEmbedding)
    }
}

impl Named for Class {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Class::Transformer, "Transformer"),
        (Class::Pooling, "Pooling"),
        (Class::Dense, "Dense"),
        (Class::LayerNorm, "LayerNorm"),
        (Class::Normalize, "Normalize"),
        (Class::Dropout, "Dropout"),
        (Class::WeightedLayerPooling, "WeightedLayerPooling"),
        (Class::WordWeights, "WordWeights"),
        (Class::LogitScore, "LogitScore"),
        (Class::MlmTransformer, "MLMTransformer"),
        (Class::SpladePooling, "SpladePooling"),
        (Class::SparseAutoEncoder, "SparseAutoEncoder"),
        (Class::Router, "Router"),
        // Older names come behind the newer ones.
        (Class::Router, "Asym"),
        (Class::StaticEmbedding, "StaticEmbedding"),
        (Class::SparseStaticEmbedding, "SparseStaticEmbedding"),
        (Class::SparseStaticEmbedding, "IDF"),
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The list of a repository; `None` where it has none.
pub(super) fn entries(files: &dyn FileSource) -> Result<Option<Vec<ModuleEntry>>> {
    files.get(FILE)?.map(|data| parse(FILE, &data)).transpose()
}

/// The folder of the first module of a repository, of the default route where it has several: it has the tokenizer and
/// mostly a trunk. Not the top only in old saves and behind a router.
///
/// # Errors
/// What reading `modules.json` finds wrong.
pub(crate) fn trunk_folder(files: &dyn FileSource) -> Result<String> {
    let (mut folders, default) = beginnings(files)?;
    Ok(folders.swap_remove(default))
}

/// The folder of the first module of every route.
///
/// # Errors
/// What reading `modules.json` finds wrong.
pub(crate) fn first_folders(files: &dyn FileSource) -> Result<Vec<String>> {
    Ok(beginnings(files)?.0)
}

/// The folder of the first module of every route, of which there is one at least, and the index of the default route.
fn beginnings(files: &dyn FileSource) -> Result<(Vec<String>, usize)> {
    let Some(first) = entries(files)?.unwrap_or_default().into_iter().next() else {
        return Ok((vec![String::new()], 0));
    };
    if Class::of_name(first.name()) != Some(Class::Router) {
        return Ok((vec![first.folder], 0));
    }
    let RouterFile { routing, routes } = RouterFile::load(files, &first.folder)?;
    let first = |route: &Vec<Module>| route.first().map(|module| module.folder.clone()).unwrap_or_default();
    Ok((routes.iter().map(first).collect(), routing.resolve(None).unwrap_or(0)))
}

/// The folders of a chain, the top left out, from the bytes of a `modules.json` that is called `name`.
///
/// # Errors
/// [`Error::Config`] for what is no list of modules, or has a folder outside the repository.
#[cfg(any(feature = "hub", test))]
pub(crate) fn module_folders(name: &str, modules: &[u8]) -> Result<Vec<String>> {
    let folders = parse(name, modules)?.into_iter().map(|entry| entry.folder);
    Ok(folders.filter(|folder| !folder.is_empty()).collect())
}

/// The folders of a repository that hold modules, those of all routes of a router included and the top left out.
///
/// # Errors
/// As [`module_folders`]; what reading a router finds wrong.
pub(crate) fn all_folders(files: &dyn FileSource) -> Result<Vec<String>> {
    let mut folders = Vec::new();
    for entry in entries(files)?.unwrap_or_default() {
        if Class::of_name(entry.name()) == Some(Class::Router) {
            let router = RouterFile::load(files, &entry.folder)?;
            folders.push(entry.folder);
            folders.extend(router.routes.into_iter().flatten().map(|module| module.folder));
        } else {
            folders.push(entry.folder);
        }
    }
    let mut seen = HashSet::new();
    folders.retain(|folder| !folder.is_empty() && seen.insert(folder.clone()));
    Ok(folders)
}

/// Folder and class of every module, from the bytes of a `modules.json`; none of what is no list of modules, as whoever
/// needs the list says what is wrong with it.
pub(crate) fn module_classes(modules: &[u8]) -> impl Iterator<Item = (String, String)> + use<> {
    let entries = parse(FILE, modules).unwrap_or_default();
    entries.into_iter().map(|entry| (entry.folder, entry.path))
}

fn parse(file: &str, bytes: &[u8]) -> Result<Vec<ModuleEntry>> {
    let fail = |message: String| Error::Config { file: file.to_owned(), message };
    let mut entries: Vec<ModuleEntry> = Vec::new();
    for (index, value) in parse_list(bytes, file)?.into_iter().enumerate() {
        let Value::Object(map) = value else {
            return Err(fail(format!("module {index} is no object")));
        };
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let path = text("path").ok_or_else(|| fail(format!("module {index} has no `path`")))?;
        let folder = folder(path)
            .ok_or_else(|| fail(format!("the `path` {path:?} of module {index} is no folder inside the repository")))?;
        // Who copies or downloads a module has no use for its class.
        let path = text("type").unwrap_or_default().to_owned();
        entries.push(ModuleEntry { folder, path, map });
    }
    Ok(entries)
}

/// The folder that a path of the list stands for: the library joins it to the repository's own, so that `./1_Pooling`,
/// `1_Pooling/` and `.` are fine. None for what leads out.
fn folder(path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let folder = parts.join("/");
    (folder.is_empty() || check_name(&folder).is_ok()).then_some(folder)
}

/// The folder of the module with this id, of the router in `router`; the id may be empty, which is the router's own
/// folder. None for what leads out.
pub(super) fn folder_in(router: &str, id: &str) -> Option<String> {
    let inner = folder(id)?;
    Some(match (router, inner.as_str()) {
        ("", _) => inner,
        (_, "") => router.to_owned(),
        _ => format!("{router}/{inner}"),
    })
}

impl ModuleEntry {
    /// Its Python class with the path of its package.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The last component of that.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// The class, if this engine runs it.
    pub(super) fn class(&self) -> Result<Class> {
        // `kwargs` names what a caller may hand on to the module: nobody hands on anything here.
        only(&Keys::new(&self.map, FILE), &["idx", "name", "path", "type", "kwargs"])?;
        if self.path.is_empty() {
            let message = format!("the module in {:?} has no `type`", self.folder);
            return Err(Error::Config { file: FILE.to_owned(), message });
        }
        class_of(&self.path, FILE)
    }
}

/// The class of a path that `file` names, if this engine runs it; class paths were moved twice by their library
/// (`sentence_transformers.models.Pooling`, `….models.Pooling.Pooling`,
/// `….sentence_transformer.modules.pooling.Pooling`), so its package and last component count.
pub(super) fn class_of(path: &str, file: &str) -> Result<Class> {
    let name = path.rsplit('.').next().unwrap_or(path);
    if !path.starts_with(PACKAGE) {
        return Err(Error::Unsupported(format!(
            "the module {path} of {file}: code from outside sentence-transformers{}",
            if path.starts_with("pylate.") { " (late interaction)" } else { "" },
        )));
    }
    Class::of_name(name).ok_or_else(|| Error::Unsupported(format!("the module {name} of {file}{}", reason(name))))
}

/// What a module that is not run would do.
fn reason(name: &str) -> &'static str {
    match name {
        "MultiVectorMask" | "HierarchicalTokenPooling" => ": late interaction",
        "CNN" => {
            ": it convolves over the padding between texts, so that its result for a text depends on those beside it"
        }
        "LSTM" => {
            ": it needs the lengths that WordEmbeddings alone provides, and the library runs it on no transformer"
        }
        "WordEmbeddings" | "BoW" => ": vectors of words, cut by a tokenizer of its own",
        "CLIPModel" => ": images",
        _ => "",
    }
}
