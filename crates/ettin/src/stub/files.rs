//! Stand-in until the real module is merged.
#![allow(missing_docs)]
use crate::{Error, Result};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct ModelFiles {
    folder: PathBuf,
}
impl ModelFiles {
    pub fn folder(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            folder: path.as_ref().to_path_buf(),
        })
    }
    pub fn get(&self, file: &str) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.folder.join(file)) {
            Ok(data) => Ok(Some(data)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(self.folder.join(file))(e)),
        }
    }
    pub fn require(&self, file: &str) -> Result<Vec<u8>> {
        self.get(file)?.ok_or_else(|| Error::MissingFile {
            place: self.name().into(),
            file: file.into(),
        })
    }
    pub fn name(&self) -> &str {
        self.folder.to_str().unwrap_or_default()
    }
}
