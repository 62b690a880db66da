//! The files of one model of the Hub: from the cache if it can answer, from the Hub otherwise.

use std::sync::{Mutex, OnceLock};

use super::HubOptions;
use super::cache::{RepoCache, Snapshot, is_commit};
use super::download::{self, Download};
use crate::files::FileData;
use crate::suite::Entry;
use crate::{Error, Result};

/// One revision of a repository. See [`crate::hub`] for the rules.
#[derive(Debug)]
pub(crate) struct HubFiles {
    id: String,
    /// What to ask the Hub for as long as the commit is not known.
    revision: String,
    options: HubOptions,
    cache: RepoCache,
    commit: OnceLock<String>,
    download: Mutex<Option<Download>>,
}

impl HubFiles {
    /// Looks the revision up in the caches. The first in which the model is complete is used, else the first of all.
    pub(super) fn new(id: &str, entry: Option<&Entry>, revision: Option<&str>, options: &HubOptions) -> Self {
        let target = revision.or_else(|| entry.and_then(Entry::commit)).unwrap_or("main");
        let ask_anew = options.refresh && !options.offline && !is_commit(target);
        let look = |folder: &std::path::PathBuf| {
            let cache = RepoCache::new(folder, id);
            let commit = if ask_anew { None } else { cached_commit(&cache, entry, revision, options.offline) };
            (cache, commit)
        };
        let mut found: Vec<_> = std::iter::once(&options.cache).chain(&options.other_caches).map(look).collect();
        let complete = found
            .iter()
            .position(|(cache, commit)| commit.as_ref().is_some_and(|commit| cache.snapshot(commit).is_complete()));
        let (cache, commit) = found.swap_remove(complete.unwrap_or(0));
        Self {
            id: id.to_owned(),
            revision: target.to_owned(),
            options: options.clone(),
            cache,
            commit: commit.map(OnceLock::from).unwrap_or_default(),
            download: Mutex::new(None),
        }
    }

    pub(crate) fn commit(&self) -> Option<&str> {
        self.commit.get().map(String::as_str)
    }

    fn snapshot(&self) -> Option<Snapshot<'_>> {
        self.commit().map(|commit| self.cache.snapshot(commit))
    }

    pub(crate) fn get(&self, file: &str) -> Result<Option<FileData>> {
        if let Some(snapshot) = self.snapshot() {
            if let Some(data) = snapshot.open(file)? {
                return Ok(Some(data));
            }
            if snapshot.is_known_absent(file) || snapshot.is_complete() {
                return Ok(None);
            }
        }
        self.fetch(file)
    }

    /// The file if it is in the cache.
    pub(crate) fn peek(&self, file: &str) -> Result<Option<FileData>> {
        self.snapshot().map_or(Ok(None), |snapshot| snapshot.open(file))
    }

    /// Names of the repository's files: all of them where it was listed, else those that are cached.
    pub(crate) fn listing(&self) -> Result<Vec<String>> {
        let slot = self.download.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(names) = slot.as_ref().and_then(Download::listing) {
            return Ok(names);
        }
        match self.snapshot() {
            Some(snapshot) => snapshot.listing(),
            None => Ok(Vec::new()),
        }
    }

    pub(crate) fn require(&self, file: &str) -> Result<Option<FileData>> {
        match self.get(file)? {
            None if !self.snapshot().is_some_and(|snapshot| snapshot.is_known_absent(file)) => self.fetch(file),
            found => Ok(found),
        }
    }

    fn fetch(&self, file: &str) -> Result<Option<FileData>> {
        self.with_download(file, |download| download.fetch(file))?;
        match self.snapshot() {
            Some(snapshot) => snapshot.open(file),
            None => Ok(None),
        }
    }

    pub(crate) fn download(&self) -> Result<()> {
        if self.snapshot().is_some_and(|snapshot| snapshot.is_complete()) {
            return Ok(());
        }
        self.with_download("", Download::fetch_all)
    }

    /// Runs an action on the download, which is started at its first use; one at a time.
    fn with_download<T>(&self, file: &str, action: impl FnOnce(&Download) -> Result<T>) -> Result<T> {
        let offline = "offline mode is on: leave it (HF_HUB_OFFLINE may set it), or fetch the model first";
        if let Some(reason) = self.options.offline.then_some(offline).or(download::REASON) {
            let revision = self.commit().unwrap_or(&self.revision);
            let there = self.cache.snapshots();
            let what = match self.commit() {
                Some(_) if !file.is_empty() => format!("{file} at {revision}"),
                // Nothing leads to what is there: whoever laid it out knows which one is meant.
                None if !there.is_empty() => {
                    format!("{revision}; there are {}, each of which would do as the revision", there.join(", "))
                }
                _ => revision.to_owned(),
            };
            return Err(Error::NotCached { model: self.id.clone(), what, cache: self.options.cache.clone(), reason });
        }
        // A panic in a progress callback poisons the lock; what it guards is replaced as a whole, so it stays valid.
        let mut slot = self.download.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if slot.is_none() {
            // The commit, once known, is what all later files come from, wherever the branch has gone meanwhile.
            let revision = self.commit().unwrap_or(&self.revision);
            let download = Download::start(&self.cache, &self.id, revision, &self.options)?;
            self.commit.get_or_init(|| download.commit().to_owned());
            *slot = Some(download);
        }
        match slot.as_ref() {
            Some(download) => action(download),
            None => unreachable!("filled above"),
        }
    }

    pub(crate) fn path_hint(&self, file: &str) -> String {
        match self.snapshot() {
            Some(snapshot) => snapshot.path(file).display().to_string(),
            None => format!("{}: {file}", self.place()),
        }
    }

    pub(crate) fn place(&self) -> String {
        format!("{}@{}", self.id, self.commit().unwrap_or(&self.revision))
    }
}

/// The snapshot to read from the cache: the first candidate that is complete, or else that has anything. One that is no
/// commit's cannot be completed from the Hub, so with a network only a complete one will do.
fn cached_commit(cache: &RepoCache, entry: Option<&Entry>, revision: Option<&str>, offline: bool) -> Option<String> {
    let known = || entry.into_iter().flat_map(Entry::known_commits).map(str::to_owned);
    let main = || cache.commit("main").into_iter();
    let candidates: Vec<String> = match revision {
        None => known().chain(main()).collect(),
        Some("main") => main().chain(known()).collect(),
        Some(revision) => cache.commit(revision).into_iter().collect(),
    };
    let found = |fits: &dyn Fn(Snapshot<'_>) -> bool| candidates.iter().find(|commit| fits(cache.snapshot(commit)));
    found(&|snapshot| snapshot.is_complete())
        .or_else(|| found(&|snapshot| snapshot.exists() && (offline || snapshot.is_commit())))
        .cloned()
}

/// What the cache holds of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cached {
    /// The commit.
    pub commit: String,
    /// Whether the model can be loaded without the network.
    pub complete: bool,
    /// Bytes of its files, as far as they are there.
    pub bytes: u64,
}

/// What the cache holds of a suite model, at the revision given or at the one used when none is given.
pub fn cached(entry: &Entry, revision: Option<&str>, options: &HubOptions) -> Option<Cached> {
    let cache = RepoCache::new(&options.cache, entry.hub_id());
    let commit = cached_commit(&cache, Some(entry), revision, options.offline)?;
    let snapshot = cache.snapshot(&commit);
    Some(Cached { complete: snapshot.is_complete(), bytes: snapshot.size(), commit: commit.clone() })
}
