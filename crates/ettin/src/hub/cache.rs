//! One repository in the Hugging Face cache, as files on disk: no network, and compiled in every build.
//!
//! ```text
//! models--jhu-clsp--ettin-encoder-17m/
//!   refs/main                     the commit that a branch or tag stood for when it was last asked for
//!   snapshots/<commit>/<file>     a link to ../../blobs/<etag>, or the file itself where links cannot be made or are not used;
//!                                 a folder laid out by hand may have a name that is no commit
//!   blobs/<etag>                  contents; <etag>.incomplete while they arrive
//!   .no_exist/<commit>/<file>     an empty marker: the repository has no such file at that commit
//!   trees/<commit>.json           the list of all files, where Python downloaded a whole snapshot
//! ```

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layout::{metadata, shards};
use crate::Result;
use crate::files::{FileData, FileSource, check_name, is_plain_name};
use crate::gliner::GLINER_CONFIG;
use crate::metadata::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, MODULES, ROUTER, TOKENIZER, WEIGHTS, is_index};
use crate::sentence_transformers::{all_folders, first_folders};

/// A repository's folder in the cache.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    pub(super) folder: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, id: &str) -> Self {
        let folder = cache.join(hf_hub::Repo::model(id.to_owned()).folder_name());
        Self { folder }
    }

    /// The snapshot that a revision stands for in the cache: itself, or what `refs` says.
    ///
    /// Snapshots that were laid out by hand may have any name, and stand for themselves as a commit does, where no ref
    /// of that name leads elsewhere; Python finds them so, too.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_ascii_lowercase());
        }
        let referred = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let name = referred.as_deref().map_or(revision, str::trim);
        (is_commit(name) || (is_plain_name(name) && self.snapshot(name).exists())).then(|| name.to_owned())
    }

    /// Names of all snapshots, sorted.
    pub(super) fn snapshots(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("snapshots")).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn snapshot<'a>(&'a self, commit: &'a str) -> Snapshot<'a> {
        Snapshot { repo: self, commit }
    }
}

/// One commit of a repository in the cache.
#[derive(Clone, Copy)]
pub(super) struct Snapshot<'a> {
    repo: &'a RepoCache,
    commit: &'a str,
}

impl Snapshot<'_> {
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.repo.folder.join("snapshots").join(self.commit).join(file)
    }

    /// Whether anything of this commit was ever cached.
    pub(super) fn exists(&self) -> bool {
        self.path("").is_dir()
    }

    /// Whether the file's contents are there; a link whose blob was deleted does not count.
    pub(super) fn has(&self, file: &str) -> bool {
        self.path(file).is_file()
    }

    pub(super) fn open(&self, file: &str) -> Result<Option<FileData>> {
        FileData::open(&self.path(file))
    }

    pub(super) fn marker(&self, file: &str) -> PathBuf {
        self.repo.folder.join(".no_exist").join(self.commit).join(file)
    }

    /// Whether it is a commit's, by its name. What was laid out by hand under another name is no commit of the Hub:
    /// nothing can be added to it from there.
    pub(super) fn is_commit(&self) -> bool {
        is_commit(self.commit)
    }

    /// Whether it is certain that the repository has no such file at this commit.
    pub(super) fn is_known_absent(&self, file: &str) -> bool {
        (!self.is_commit() && !self.has(file))
            || self.marker(file).is_file()
            || self.tree().is_some_and(|files| !files.contains_key(file))
    }

    /// Names of the repository's files: of all of them where Python left their list, else of those that are here.
    pub(super) fn listing(&self) -> Result<Vec<String>> {
        match self.tree() {
            Some(files) => Ok(files.into_iter().map(|(name, _)| name).collect()),
            None if self.exists() => crate::files::list(&self.path("")),
            None => Ok(Vec::new()),
        }
    }

    /// The repository's list of files, as Python's `snapshot_download` leaves it.
    fn tree(&self) -> Option<serde_json::Map<String, Value>> {
        let path = self.repo.folder.join("trees").join(format!("{}.json", self.commit));
        let Value::Object(mut tree) = serde_json::from_slice(&std::fs::read(path).ok()?).ok()? else {
            return None;
        };
        match (tree.get("format_version").and_then(Value::as_u64), tree.remove("files")) {
            (Some(1), Some(Value::Object(files))) => Some(files),
            _ => None,
        }
    }

    /// Whether the model can be loaded from here: configuration, tokenizer (unless it is known to have none), every
    /// file of one form of weights, and the folders of its chain. Behind a router, and of static embeddings, these are
    /// where its routes begin, and a table has no configuration.
    ///
    /// A complete snapshot is taken as it is: a file it lacks is one that the model does not have.
    pub(super) fn is_complete(&self) -> bool {
        if self.is_adapter() {
            return true;
        }
        let there = |file: &str| self.has(file) || self.is_known_absent(file);
        let begins = |folder: &String| there(&join(folder, TOKENIZER)) && self.has_weights(folder);
        if (self.has(CONFIG) || self.has(GLINER_CONFIG)) && begins(&String::new()) {
            return self.has_modules();
        }
        self.has(MODULES) && first_folders(self).is_ok_and(|folders| folders.iter().all(begins)) && self.has_modules()
    }

    /// Whether it is all of an adapter, which lies beside no model.
    fn is_adapter(&self) -> bool {
        !self.has(CONFIG) && self.has(ADAPTER_CONFIG) && ADAPTER_WEIGHTS.iter().any(|file| self.has(file))
    }

    fn has_weights(&self, folder: &str) -> bool {
        WEIGHTS.iter().any(|form| {
            let file = join(folder, form);
            let shard = |shard: &String| self.has(&join(folder, shard));
            self.has(&file) && (!is_index(form) || self.listed(&file, shards).is_some_and(|all| all.iter().all(shard)))
        })
    }

    fn has_modules(&self) -> bool {
        !self.has(MODULES)
            || all_folders(self).is_ok_and(|folders| {
                // A module without settings (Normalize) may have no folder at all, and is then marked so; a router has
                // a file of its own, and a table no settings.
                folders.iter().all(|folder| {
                    let has = |file: &str| self.has(&join(folder, file));
                    has(CONFIG)
                        || has(ROUTER)
                        || self.is_known_absent(&join(folder, CONFIG))
                        || self.has_weights(folder)
                        || folder.ends_with("Normalize")
                })
            })
    }

    fn listed(&self, file: &str, parse: fn(&str, &[u8]) -> Result<Vec<String>>) -> Option<Vec<String>> {
        let bytes = self.open(file).ok()??;
        parse(bytes.name(), &bytes).ok()
    }

    /// Bytes of the files this engine reads.
    pub(super) fn size(&self) -> u64 {
        let mut files: Vec<String> = metadata().chain(WEIGHTS).map(str::to_owned).collect();
        for index in WEIGHTS.iter().filter(|form| is_index(form)) {
            files.extend(self.listed(index, shards).unwrap_or_default());
        }
        for folder in all_folders(self).unwrap_or_default() {
            files.extend(metadata().chain(WEIGHTS).map(|file| format!("{folder}/{file}")));
        }
        files.iter().filter_map(|file| self.path(file).metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

impl FileSource for Snapshot<'_> {
    fn get(&self, name: &str) -> Result<Option<FileData>> {
        check_name(name)?;
        self.open(name)
    }

    fn place(&self) -> String {
        self.path("").display().to_string()
    }
}

/// The path of a file in a folder, which may be the top.
fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// A full commit hash, which stands for itself; anything shorter is a branch or tag.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
