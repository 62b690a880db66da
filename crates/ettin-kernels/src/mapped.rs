//! A file mapped read-only.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    path::Path,
};

use memmap2::Mmap;

/// A file's bytes without a copy.
///
/// # Safety argument
/// A map shows the file as it is now: another process that writes to the file while it is mapped changes the bytes
/// under a `&[u8]`, and one that truncates it makes reads fault (SIGBUS). Neither can be excluded from inside the
/// process. The crate takes the position of every loader of weights: model files are replaced by renaming, not
/// rewritten in place (as the Hub's cache and this engine's downloads do), bytes are validated where they are read,
/// and no validity of a Rust type depends on them (they are only ever read as bytes and plain numbers).
#[derive(Debug)]
pub struct MappedFile(Option<Mmap>);

impl MappedFile {
    /// Maps the file at `path`; an empty file gives an empty slice.
    ///
    /// # Errors
    /// If it cannot be opened or mapped, or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(MappedFile(None));
        }
        // SAFETY: see the type's safety argument.
        Ok(MappedFile(Some(unsafe { Mmap::map(&file)? })))
    }

    /// Tells the system that the bytes of `range` are not needed soon: the pages that lie wholly inside leave this
    /// process's memory, and are read from the file again if touched. Only a hint; does nothing where unsupported.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Some(map) = &self.0 {
            /// At least a page on every system we know; smaller pages only make the hint coarser.
            const PAGE: usize = 1 << 16;
            let (start, end) =
                (range.start.min(map.len()).next_multiple_of(PAGE), range.end.min(map.len()) / PAGE * PAGE);
            if start < end {
                // SAFETY: dropping clean pages of a read-only file map loses nothing: they are read again.
                // A failing hint is of no consequence.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch_file(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ettin-kernels-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn bytes_survive_a_release() {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let path = scratch_file("bytes", &bytes);
        let map = MappedFile::open(&path).unwrap();
        assert_eq!(*map, *bytes);
        map.release(0..bytes.len());
        map.release(100..200_000);
        map.release(200_000..usize::MAX);
        assert_eq!(*map, *bytes);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let path = scratch_file("empty", b"");
        let map = MappedFile::open(&path).unwrap();
        assert!(map.is_empty());
        map.release(0..10);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_folder_or_nothing_is_an_error() {
        assert!(MappedFile::open(std::env::temp_dir()).is_err());
        assert!(MappedFile::open("no such file").is_err());
    }
}
