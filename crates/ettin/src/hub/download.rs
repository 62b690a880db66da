//! What to download of a repository, and in which order.

use std::collections::HashSet;

use serde::Deserialize;

use super::HubOptions;
use super::cache::{RepoCache, Snapshot, is_commit};
use super::client::{Client, encoded, file_url};
use super::layout::{metadata, shards};
use super::transfer::Transfer;
use crate::gliner::{GLINER_CONFIG, GLINER2_ENCODER, LABELS_TOKENIZER};
use crate::metadata::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, MODULES, TOKENIZER, WEIGHTS, is_index};
use crate::sentence_transformers::{all_folders, module_folders};
use crate::suite::Suite;
use crate::{Error, Result};

/// Why this build cannot download: it can.
pub(super) const REASON: Option<&str> = None;

/// The tokenizer is fetched after all other metadata: with it, a snapshot that has weights counts as complete.
const LAST: &str = TOKENIZER;

/// One commit of a repository, as the Hub lists it.
pub(super) struct Download {
    client: Client,
    cache: RepoCache,
    options: HubOptions,
    id: String,
    commit: String,
    /// The repository's files; `None` where the endpoint (a plain mirror) does not list them.
    files: Option<HashSet<String>>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Download({}@{})", self.id, self.commit)
    }
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Download {
    /// Asks the Hub for the list of files and fetches all that are not weights.
    pub(super) fn start(cache: &RepoCache, id: &str, revision: &str, options: &HubOptions) -> Result<Self> {
        let client = Client::new(options)?;
        let (commit, files) = match list(&client, id, revision, options)? {
            Some(info) => (info.sha, Some(info.siblings.into_iter().map(|file| file.rfilename).collect())),
            None => (commit_of_config(&client, id, revision, options)?, None),
        };
        if !is_commit(&commit) || (is_commit(revision) && !commit.eq_ignore_ascii_case(revision)) {
            return Err(Error::Hub {
                url: options.endpoint.clone(),
                message: format!("answers with the commit {commit:?} when asked for {revision} of {id}"),
            });
        }
        let download =
            Self { client, cache: cache.clone(), options: options.clone(), id: id.to_owned(), commit, files };
        download.fetch_metadata()?;
        cache.write_ref(revision, &download.commit)?;
        Ok(download)
    }

    pub(super) fn commit(&self) -> &str {
        &self.commit
    }

    /// The repository's files, sorted, where the endpoint lists them.
    pub(super) fn listing(&self) -> Option<Vec<String>> {
        let mut names: Vec<String> = self.files.as_ref()?.iter().cloned().collect();
        names.sort_unstable();
        Some(names)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        self.cache.snapshot(&self.commit)
    }

    /// Makes sure that a file is in the snapshot; `false` if the repository has no such file.
    pub(super) fn fetch(&self, file: &str) -> Result<bool> {
        let snapshot = self.snapshot();
        if snapshot.has(file) {
            return Ok(true);
        }
        let listed = self.files.as_ref().is_none_or(|files| files.contains(file));
        let transfer = Transfer {
            client: &self.client,
            cache: &self.cache,
            options: &self.options,
            model: &self.id,
            commit: &self.commit,
            file,
        };
        let found = listed && transfer.run()?;
        if !found && !snapshot.is_known_absent(file) {
            snapshot.mark_absent(file)?;
        }
        Ok(found)
    }

    fn fetch_metadata(&self) -> Result<()> {
        for file in metadata().filter(|&file| file != LAST) {
            self.fetch(file)?;
        }
        if let Some(modules) = self.snapshot().open(MODULES)? {
            let listed = module_folders(modules.name(), &modules)?;
            listed.iter().try_for_each(|folder| self.fetch_folder(folder))?;
            // A router, which is there now, names folders of its own.
            let routes = all_folders(&self.snapshot())?.into_iter().filter(|folder| !listed.contains(folder));
            routes.into_iter().try_for_each(|folder| self.fetch_folder(&folder))?;
        }
        if self.snapshot().open(GLINER_CONFIG)?.is_some() {
            for file in metadata() {
                self.fetch(&format!("{LABELS_TOKENIZER}/{file}"))?;
            }
        }
        if let Some(files) = &self.files {
            if files.contains(GLINER2_ENCODER) {
                self.fetch(GLINER2_ENCODER)?;
            }
            for file in WEIGHTS.iter().filter(|&&file| !files.contains(file)) {
                self.fetch(file)?;
            }
        }
        self.fetch(LAST)?;
        Ok(())
    }

    /// Everything in a module's folder.
    fn fetch_folder(&self, folder: &str) -> Result<()> {
        for file in metadata() {
            self.fetch(&format!("{folder}/{file}"))?;
        }
        self.fetch_weights(&format!("{folder}/"))?;
        Ok(())
    }

    /// Everything that loading the model needs.
    pub(super) fn fetch_all(&self) -> Result<()> {
        let (weights, adapter) = (self.fetch_weights("")?, self.fetch_adapter()?);
        if weights || adapter {
            return Ok(());
        }
        if self.snapshot().is_complete() {
            // The weights are in the folders of its modules.
            return Ok(());
        }
        Err(Error::NotFound {
            what: format!("weights in {} at {}", self.id, self.commit),
            message: format!("none of {} is there", WEIGHTS.join(", ")),
        })
    }

    /// The weights of an adapter, which may lie beside a model's; whether there are any.
    fn fetch_adapter(&self) -> Result<bool> {
        if self.snapshot().open(ADAPTER_CONFIG)?.is_some() {
            for file in ADAPTER_WEIGHTS {
                if self.fetch(file)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The first form of weights that the repository has, in the folder of that prefix.
    fn fetch_weights(&self, prefix: &str) -> Result<bool> {
        for form in WEIGHTS {
            let file = format!("{prefix}{form}");
            if !self.fetch(&file)? {
                continue;
            }
            if let Some(index) = self.snapshot().open(&file)?.filter(|_| is_index(form)) {
                for shard in shards(index.name(), &index)? {
                    let shard = format!("{prefix}{shard}");
                    if !self.fetch(&shard)? {
                        let place = format!("{}@{}", self.id, self.commit);
                        return Err(Error::MissingFile { place, file: shard });
                    }
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}

/// The repository's commit and files; `None` if the endpoint has no such list, as a plain mirror may not.
fn list(client: &Client, id: &str, revision: &str, options: &HubOptions) -> Result<Option<ModelInfo>> {
    let url = format!("{}/api/models/{id}/revision/{}", options.endpoint, encoded(revision, false));
    client.retrying(|| {
        let reply = client.get(&url, None)?;
        if reply.status == 404 {
            return match reply.error_code().as_deref() {
                None | Some("EntryNotFound") => Ok(None),
                Some(code) => Err(not_found(id, revision, code == "RevisionNotFound").into()),
            };
        }
        let body = reply.read()?;
        let info = serde_json::from_slice(&body).map_err(|error| Error::Hub {
            url: url.clone(),
            message: format!("not a list of a model's files ({error}): check HF_ENDPOINT"),
        })?;
        Ok(Some(info))
    })
}

/// The commit of a revision by way of the file that every model has, or every adapter.
fn commit_of_config(client: &Client, id: &str, revision: &str, options: &HubOptions) -> Result<String> {
    let mut url = file_url(options, id, revision, CONFIG);
    let mut metadata = client.head(&url)?;
    if metadata.is_none() {
        url = file_url(options, id, revision, ADAPTER_CONFIG);
        metadata = client.head(&url)?;
    }
    let metadata = metadata.ok_or_else(|| not_found(id, revision, false))?;
    let own = is_commit(revision).then(|| revision.to_owned());
    metadata.commit.or(own).ok_or_else(|| Error::Hub {
        url,
        message: "the answer has no X-Repo-Commit, so this is not a Hub: check HF_ENDPOINT".to_owned(),
    })
}

fn not_found(id: &str, revision: &str, revision_only: bool) -> Error {
    if revision_only {
        let message = format!("see {id} on the Hub for its branches and tags, or leave the revision out");
        return Error::NotFound { what: format!("revision {revision} of {id}"), message };
    }
    let message = match Suite::get().suggest(id).filter(|_| Suite::get().find(id).is_none()) {
        Some(name) => format!("did you mean {name}?"),
        None => "check the name; if the model is private, set HF_TOKEN".to_owned(),
    };
    Error::NotFound { what: format!("model {id} (revision {revision})"), message }
}
