//! The transfer of one file into the cache.
//!
//! Bytes are appended to `blobs/<etag>.incomplete` by whoever holds the file's lock; the finished file is checked and
//! renamed to `blobs/<etag>`, and only then linked into the snapshot. A crash leaves an incomplete file, which nobody
//! reads as a model. What an earlier process left is resumed only where the whole can be checked afterwards: the ETag
//! of a file in large-file storage is its SHA-256. Other files are small and start over.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::RepoCache;
use super::client::{Client, Failure, Metadata, Rest, file_url};
use super::store::{create_parent, writer};
use super::{HubOptions, Progress};
use crate::{Error, Result};

const CHUNK: usize = 256 << 10;
/// How often a file may turn into another one between two requests, or come out wrong, before we give up.
const RESTARTS: usize = 2;

/// One file to be brought into the cache.
pub(super) struct Transfer<'a> {
    pub(super) client: &'a Client,
    pub(super) cache: &'a RepoCache,
    pub(super) options: &'a HubOptions,
    pub(super) model: &'a str,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
}

/// How a transfer ended that did not fail.
enum TransferOutcome {
    Received,
    /// The endpoint now has another file under this address.
    Changed,
}

impl Transfer<'_> {
    /// Brings the file into the snapshot; `false` if there is none.
    pub(super) fn run(&self) -> Result<bool> {
        let url = file_url(self.options, self.model, self.commit, self.file);
        for _ in 0..=RESTARTS {
            let Some(metadata) = self.client.head(&url)? else {
                return Ok(false);
            };
            if let Some(other) = metadata.commit.as_ref().filter(|other| !other.eq_ignore_ascii_case(self.commit)) {
                return Err(self.wrong(&url, format!("sends the commit {other}, not {}", self.commit)));
            }
            let pointer = self.cache.snapshot(self.commit).path(self.file);
            let lock = Lock::acquire(&self.cache.lock_path(&metadata.etag))?;
            if pointer.is_file() {
                return Ok(true);
            }
            let blob = self.cache.blob_path(&metadata.etag);
            let fresh = !blob.is_file();
            if fresh {
                match self.receive(&url, &metadata, &blob, &lock)? {
                    TransferOutcome::Received => {}
                    TransferOutcome::Changed => continue,
                }
            }
            self.link(&blob, &pointer, fresh)?;
            return Ok(true);
        }
        Err(self.wrong(&url, "the file keeps changing while it is downloaded".to_owned()))
    }

    fn receive(&self, url: &str, metadata: &Metadata, blob: &Path, lock: &Lock) -> Result<TransferOutcome> {
        create_parent(blob)?;
        let path = partial_path(blob, lock);
        let mut partial = PartialBlob::open(path, is_sha256(&metadata.etag).then_some(metadata.etag.as_str()))?;
        for _ in 0..=RESTARTS {
            let outcome = self.client.retrying(|| self.append(url, metadata, &mut partial))?;
            if let TransferOutcome::Changed = outcome {
                partial.discard();
                return Ok(outcome);
            }
            if partial.is_intact() {
                partial.finish(blob)?;
                return Ok(outcome);
            }
            // Damaged before it was resumed, or in transit.
            partial.clear()?;
        }
        partial.discard();
        Err(self.wrong(url, "what arrives does not have the SHA-256 that the Hub states".to_owned()))
    }

    /// Asks for what is still missing and appends it.
    fn append(&self, url: &str, metadata: &Metadata, partial: &mut PartialBlob) -> Result<TransferOutcome, Failure> {
        if metadata.size.is_some_and(|size| partial.len > size) {
            partial.clear()?;
        }
        self.report(partial.len, metadata.size);
        if metadata.size == Some(partial.len) {
            return Ok(TransferOutcome::Received);
        }
        let unless_changed = metadata.strong_etag.as_deref();
        let from = (partial.len > 0).then_some(Rest { start: partial.len, unless_changed });
        let reply = self.client.get(url, from)?;
        if reply.status == 404 {
            return Err(self.wrong(url, "the file is gone from the Hub".to_owned()).into());
        }
        if reply.blob_name().is_some_and(|now| now != metadata.etag) {
            return Ok(TransferOutcome::Changed);
        }
        if reply.status == 416 {
            partial.clear()?;
            return Err(Failure::again(self.wrong(url, "the rest of the file cannot be had (HTTP 416)".to_owned())));
        }
        let (start, total) = reply.extent()?;
        if start == 0 && partial.len > 0 {
            partial.clear()?;
        }
        if start != partial.len {
            let message = format!("sends the file from byte {start}, not {}", partial.len);
            return Err(self.wrong(url, message).into());
        }
        let total = match (metadata.size, total) {
            (Some(stated), Some(sent)) if stated != sent => {
                partial.clear()?;
                return Err(self.wrong(url, format!("sends {sent} bytes of a file of {stated}")).into());
            }
            (stated, sent) => stated.or(sent),
        };
        self.copy(url, reply.into_reader(), total, partial)?;
        Ok(TransferOutcome::Received)
    }

    fn copy(
        &self,
        url: &str,
        mut body: impl Read,
        total: Option<u64>,
        partial: &mut PartialBlob,
    ) -> Result<(), Failure> {
        let start = partial.len;
        let mut chunk = vec![0; CHUNK];
        let broken = loop {
            match body.read(&mut chunk) {
                Ok(0) => break "the connection ended".to_owned(),
                Ok(read) => {
                    partial.append(&chunk[..read])?;
                    self.report(partial.len, total);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error.to_string(),
            }
        };
        match total {
            Some(total) if partial.len > total => {
                partial.clear()?;
                Err(self.wrong(url, format!("sends more than the {total} bytes it states")).into())
            }
            Some(total) if partial.len < total => Err(Failure::Again {
                error: self.wrong(url, format!("{broken} after {} of {total} bytes", partial.len)),
                after: None,
                progressed: partial.len > start,
            }),
            _ => Ok(()),
        }
    }

    fn report(&self, done: u64, total: Option<u64>) {
        if let Some(progress) = &self.options.progress {
            progress(Progress { model: self.model, file: self.file, done, total: total.unwrap_or(done) });
        }
    }

    /// Puts a finished blob into the snapshot: a relative link, or the file itself where links cannot be made.
    fn link(&self, blob: &Path, pointer: &Path, fresh: bool) -> Result<()> {
        create_parent(pointer)?;
        if pointer.symlink_metadata().is_ok() {
            // A link whose blob was deleted.
            std::fs::remove_file(pointer).map_err(Error::io(pointer))?;
        }
        if self.options.symlinks {
            let up = "../".repeat(self.file.split('/').count() + 1);
            let name = blob.file_name().unwrap_or_default().to_string_lossy();
            match symlink(Path::new(&format!("{up}blobs/{name}")), pointer) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                Err(_) => {}
            }
        }
        if fresh {
            return std::fs::rename(blob, pointer).map_err(Error::io(pointer));
        }
        // Another snapshot may be made of this blob, so it is copied, and aside first: half a copy must not show.
        let aside = blob.with_extension(format!("copy.{}.incomplete", writer()));
        std::fs::copy(blob, &aside).map_err(Error::io(&aside))?;
        std::fs::rename(&aside, pointer).map_err(Error::io(pointer))
    }

    fn wrong(&self, url: &str, message: String) -> Error {
        Error::Hub { url: url.to_owned(), message }
    }
}

/// The incomplete file, with the hash of what it holds if there is one to compare with.
struct PartialBlob<'a> {
    path: PathBuf,
    file: File,
    len: u64,
    expected: Option<&'a str>,
    hash: Sha256,
}

impl<'a> PartialBlob<'a> {
    /// Opens what an earlier attempt left, or an empty file.
    fn open(path: PathBuf, expected: Option<&'a str>) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        let mut partial = Self { path, file, len: 0, expected, hash: Sha256::new() };
        if expected.is_some() {
            partial.len = io::copy(&mut partial.file, &mut partial.hash).map_err(Error::io(&partial.path))?;
        } else {
            partial.clear()?;
        }
        Ok(partial)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        if self.expected.is_some() {
            self.hash.update(bytes);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(Error::io(&self.path))?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }

    fn is_intact(&self) -> bool {
        let digest = || self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.expected.is_none_or(|expected| expected.eq_ignore_ascii_case(&digest()))
    }

    /// Gives the finished file its name. It reaches the disk first, so that a power failure cannot leave the name
    /// alone.
    fn finish(self, blob: &Path) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))?;
        drop(self.file);
        std::fs::rename(&self.path, blob).map_err(Error::io(blob))
    }

    /// Removes the file; one that stays is only wasted space.
    fn discard(self) {
        drop(self.file);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The name while incomplete: one that can be resumed, or one of our own where the file system cannot lock.
fn partial_path(blob: &Path, lock: &Lock) -> PathBuf {
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    match lock {
        Lock::Held(_) => blob.with_file_name(format!("{name}.incomplete")),
        Lock::Unavailable => blob.with_file_name(format!("{name}.{}.incomplete", writer())),
    }
}

/// A lock between processes and threads; the system releases it when its holder dies.
enum Lock {
    Held(#[expect(dead_code, reason = "held until dropped")] File),
    Unavailable,
}

impl Lock {
    fn acquire(path: &Path) -> Result<Self> {
        create_parent(path)?;
        loop {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).open(path).map_err(Error::io(path))?;
            match file.lock() {
                // Python may have deleted the lock file while we waited, and another process made a new one.
                Ok(()) if !is_at(&file, path) => {}
                Ok(()) => return Ok(Lock::Held(file)),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Lock::Unavailable);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(path)(error)),
            }
        }
    }
}

/// Whether a path still leads to this open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |metadata: io::Result<std::fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    inode(file.metadata()) == inode(path.metadata())
}

/// An open file cannot be deleted here.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}
