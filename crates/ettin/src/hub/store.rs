//! What downloads write into a repository's folder of the cache, beside the files themselves.

use std::io;
use std::path::{Path, PathBuf};

use super::cache::{RepoCache, Snapshot, is_commit};
use crate::{Error, Result};

impl RepoCache {
    /// The lock that guards the blob of that name, shared with Python.
    pub(super) fn lock_path(&self, etag: &str) -> PathBuf {
        let repo = self.folder.file_name().unwrap_or_default();
        self.folder.with_file_name(".locks").join(repo).join(format!("{etag}.lock"))
    }

    pub(super) fn blob_path(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Notes which commit a branch or tag stands for. A commit needs no note.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        create_parent(&path)?;
        // Written aside and renamed: a reader never sees half a hash.
        let aside = path.with_file_name(format!(".{commit}.{}.tmp", writer()));
        std::fs::write(&aside, commit).map_err(Error::io(&aside))?;
        std::fs::rename(&aside, &path).map_err(Error::io(&path))
    }
}

impl Snapshot<'_> {
    pub(super) fn mark_absent(&self, file: &str) -> Result<()> {
        let marker = self.marker(file);
        create_parent(&marker)?;
        std::fs::write(&marker, "").map_err(Error::io(&marker))
    }
}

/// Names this thread of this process, for files that no other may write.
pub(super) fn writer() -> String {
    let thread = format!("{:?}", std::thread::current().id());
    let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
    format!("{}-{thread}", std::process::id())
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().ok_or_else(|| Error::io(path)(io::ErrorKind::InvalidInput.into()))?;
    std::fs::create_dir_all(parent).map_err(Error::io(parent))
}
