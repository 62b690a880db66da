//! What files are read from: a model, a folder of it, or whatever a caller brings.

use std::sync::Arc;

use super::{FileData, ModelFiles};
use crate::{Error, Result};

/// Where a model's files come from.
pub trait FileSource {
    /// The file called `name`, or `None` when there is none.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or cannot be fetched.
    fn get(&self, name: &str) -> Result<Option<FileData>>;

    /// The file called `name`, which another file of the model calls for.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Error::MissingFile`] when there is none.
    fn require(&self, name: &str) -> Result<FileData> {
        self.get(name)?.ok_or_else(|| Error::MissingFile { place: self.place(), file: name.to_owned() })
    }

    /// The one weights file to load instead of looking for the usual names.
    fn weights_file(&self) -> Option<&str> {
        None
    }

    /// Adapters that go on top of the model's weights, by name, first to last.
    fn adapters(&self) -> &[(Arc<str>, ModelFiles)] {
        &[]
    }

    /// What is searched, for error messages: a folder, a repository.
    fn place(&self) -> String;
}

impl FileSource for ModelFiles {
    fn get(&self, name: &str) -> Result<Option<FileData>> {
        ModelFiles::get(self, name)
    }

    fn require(&self, name: &str) -> Result<FileData> {
        ModelFiles::require(self, name)
    }

    fn weights_file(&self) -> Option<&str> {
        ModelFiles::weights_file(self)
    }

    fn adapters(&self) -> &[(Arc<str>, ModelFiles)] {
        &self.adapters
    }

    fn place(&self) -> String {
        ModelFiles::place(self)
    }
}

/// A folder of a source, as a source of its own: a module of a sentence-transformers chain.
#[derive(Clone, Copy)]
pub struct Subfolder<'a> {
    /// The source that the folder is in.
    pub files: &'a dyn FileSource,
    /// Its path there; empty for the source's own top.
    pub folder: &'a str,
}

impl Subfolder<'_> {
    /// What the source calls the file `name` of this folder.
    pub fn path(&self, name: &str) -> String {
        match self.folder {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        }
    }
}

impl FileSource for Subfolder<'_> {
    fn get(&self, name: &str) -> Result<Option<FileData>> {
        self.files.get(&self.path(name))
    }

    fn require(&self, name: &str) -> Result<FileData> {
        self.files.require(&self.path(name))
    }

    fn weights_file(&self) -> Option<&str> {
        // A named weights file lies at the top.
        self.files.weights_file().filter(|_| self.folder.is_empty())
    }

    fn adapters(&self) -> &[(Arc<str>, ModelFiles)] {
        self.files.adapters()
    }

    fn place(&self) -> String {
        match self.folder {
            "" => self.files.place(),
            folder => format!("{}/{folder}", self.files.place()),
        }
    }
}
