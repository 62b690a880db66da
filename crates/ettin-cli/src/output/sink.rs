//! Where output goes: stdout, or a file that appears under its name only when it is complete.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::exit::{ClosedPipe, Usage};

/// Buffered output.
pub(crate) struct Sink {
    /// `None` once finished.
    target: Option<Target>,
    name: String,
}

enum Target {
    Stdout(BufWriter<Stdout>),
    /// Something that is no regular file, such as /dev/stdout or a named pipe.
    Device(BufWriter<File>),
    File(BufWriter<File>, Unfinished),
}

/// A file under a temporary name beside its final one; gone unless [`Unfinished::rename`] is called.
struct Unfinished {
    temporary: PathBuf,
    path: PathBuf,
    renamed: bool,
}

impl Sink {
    /// Stdout, or the file of that name.
    ///
    /// # Errors
    /// When the file cannot be made where it should be. An existing file stays as it is until the output is complete.
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Sink> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return Ok(Sink { target: Some(Target::Stdout(BufWriter::new(io::stdout()))), name: "stdout".into() });
        };
        let name = path.display().to_string();
        let target = Self::file(path).with_context(|| format!("cannot write {name}"))?;
        Ok(Sink { target: Some(target), name })
    }

    fn file(path: &Path) -> anyhow::Result<Target> {
        // Through a link to what it points at: renaming would replace the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let existing = path.metadata();
        match &existing {
            Ok(metadata) if metadata.is_dir() => return Err(Usage::error("it is a folder")),
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(&path)?;
                return Ok(Target::Device(BufWriter::new(file)));
            }
            _ => {}
        }
        let Some(name) = path.file_name() else {
            return Err(Usage::error("it has no file name"));
        };
        remove_left_over(&path, name);
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        let unfinished = Unfinished { temporary, path, renamed: false };
        // Says to other runs that this file is being written. Where there are no locks, none of them removes it either.
        let _ = file.try_lock();
        // What others may not read, they may not read in its place either. Elsewhere than on Unix a file has no such
        // permissions, and one that is read-only cannot be renamed.
        #[cfg(unix)]
        if let Ok(existing) = existing {
            file.set_permissions(existing.permissions())?;
        }
        Ok(Target::File(BufWriter::new(file), unfinished))
    }

    /// Writes out what is left, and gives a file its name.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        written(self.flush())?;
        let Some(Target::File(mut file, unfinished)) = self.target.take() else {
            return Ok(());
        };
        let cannot = || format!("cannot write {}", self.name);
        file.flush().with_context(cannot)?;
        file.get_ref().sync_data().with_context(cannot)?;
        unfinished.rename().with_context(cannot)
    }

    fn writer(&mut self) -> io::Result<&mut dyn Write> {
        match &mut self.target {
            Some(Target::Stdout(stdout)) => Ok(stdout),
            Some(Target::Device(file) | Target::File(file, _)) => Ok(file),
            None => Err(io::Error::other("the output has ended")),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer()?.write(bytes)
    }

    /// Passes everything on that a reader may be waiting for; a file has no reader yet.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Some(Target::File(..)) => Ok(()),
            _ => self.writer()?.flush(),
        }
    }
}

/// Removes what runs that were killed have left of this output. One that still writes has a lock on its file.
fn remove_left_over(path: &Path, name: &OsStr) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Nothing here is a reason not to write.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !is_temporary(&entry.file_name(), name) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let file = OpenOptions::new().write(true).open(entry.path());
        if file.is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether it is `.NAME.PID.tmp`.
fn is_temporary(file: &OsStr, name: &OsStr) -> bool {
    let process =
        file.as_encoded_bytes().strip_prefix(b".").and_then(|rest| rest.strip_prefix(name.as_encoded_bytes()));
    let process = process.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".tmp"));
    process.is_some_and(|process| !process.is_empty() && process.iter().all(u8::is_ascii_digit))
}

impl Unfinished {
    fn rename(mut self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.path)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing better can be done about a temporary file that will not go away.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Tells a closed pipe, which ends the run quietly, from other failures to write.
///
/// To be applied to errors of writing only: a broken network connection is no closed pipe.
pub(crate) fn written<T>(result: io::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => anyhow::Error::new(ClosedPipe),
        _ => anyhow::Error::new(error).context("cannot write the output"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut sink = Sink::open(Some(&path)).unwrap();
        sink.write_all(b"half").unwrap();
        sink.flush().unwrap();
        assert!(!path.exists());
        drop(sink);
        assert!(names(folder.path()).is_empty());

        std::fs::write(&path, "old").unwrap();
        let mut sink = Sink::open(Some(&path)).unwrap();
        sink.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        sink.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out.jsonl"]);
    }

    #[test]
    #[cfg(unix)]
    fn links_stay_links_and_devices_stay_devices() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut sink = Sink::open(Some(&link)).unwrap();
        sink.write_all(b"new").unwrap();
        sink.finish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&real).unwrap(), b"new");

        let mut sink = Sink::open(Some(Path::new("/dev/null"))).unwrap();
        sink.write_all(b"text").unwrap();
        sink.finish().unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn an_existing_file_keeps_its_permissions() {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private");
        for mode in [0o600, 0o640, 0o444] {
            std::fs::write(&path, "old").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let mut sink = Sink::open(Some(&path)).unwrap();
            sink.write_all(b"new").unwrap();
            // The half of it is as private as the whole.
            for entry in std::fs::read_dir(folder.path()).unwrap() {
                assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, mode);
            }
            sink.finish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| File::create(folder.path().join(name)).unwrap();
        let written = make(".out.jsonl.2.tmp");
        written.lock().unwrap();
        for name in [".out.jsonl.1.tmp", ".out.jsonl.x.tmp", ".out.jsonl..tmp", ".more.jsonl.1.tmp", "out.jsonl.1.tmp"]
        {
            drop(make(name));
        }
        Sink::open(Some(&folder.path().join("out.jsonl"))).unwrap().finish().unwrap();
        let mut left = names(folder.path());
        left.sort();
        let others = [
            ".more.jsonl.1.tmp",
            ".out.jsonl..tmp",
            ".out.jsonl.2.tmp",
            ".out.jsonl.x.tmp",
            "out.jsonl",
            "out.jsonl.1.tmp",
        ];
        assert_eq!(left, others);
    }

    #[test]
    fn folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Sink::open(Some(folder.path())).is_err());
        assert!(Sink::open(Some(&folder.path().join("no/such/place"))).is_err());
    }
}
