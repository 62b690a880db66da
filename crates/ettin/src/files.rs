//! Where a model's files are: a local folder, the Hugging Face cache, the Hub, or the binary itself.
//!
//! Everything above this module asks [`ModelFiles`] for a file by its name in the repository (`config.json`,
//! `1_Pooling/config.json`) and gets [`FileData`], bytes that are mapped, read or compiled in. Names also come from
//! files that are themselves downloaded (the shards of an index, the folders of `modules.json`), so every name is
//! checked here: a name that leaves the model's folder is an error.

mod source;

pub use source::{FileSource, Subfolder};

use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ettin_kernels::mapped::MappedFile;

use crate::hub::{self, HubFiles, HubOptions};
use crate::{Error, Result, identity};

/// The files of an embedded model: names as in a repository, with their bytes.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// A model's files, wherever they are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    name: Arc<str>,
    origin: Origin,
    /// By name, first to last.
    adapters: Arc<[(Arc<str>, ModelFiles)]>,
}

#[derive(Clone)]
enum Origin {
    Folder { folder: Arc<Path>, weights: Option<Arc<str>> },
    Embedded(EmbeddedFiles),
    Hub(Arc<HubFiles>),
}

impl ModelFiles {
    /// A model by what a user would type: a local folder or weights file, a name of the [suite](crate::suite)
    /// (`encoder-150m`), a Hub id (`organisation/name`), the latter two with a revision if wanted (`name@revision`).
    ///
    /// The cache, the token and the rest are those of the environment, as Python's hub client has them. A cached
    /// model never touches the network; another is downloaded when a file is first asked for, in a build with the
    /// feature `hub`. [`hub::resolve`] takes other settings.
    ///
    /// ```
    /// use ettin::files::ModelFiles;
    ///
    /// let files = ModelFiles::open("encoder-150m")?;
    /// assert_eq!(files.name(), "jhu-clsp/ettin-encoder-150m");
    /// # Ok::<(), ettin::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownModel`] for a name that cannot be any of these, [`Error::Io`] for a path that does not exist.
    /// That a model is not cached and cannot be downloaded is [`Error::NotCached`], from the first question for a
    /// file.
    pub fn open(name: &str) -> Result<Self> {
        hub::resolve(name, None, &HubOptions::from_env())
    }

    /// The model in a local folder, or the one whose weights file (`.safetensors`, `.bin`, or the `.index.json` of a
    /// sharded one) is given, with its configuration beside it.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such path, [`Error::Input`] if it is a file of another kind.
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let metadata = path.metadata().map_err(Error::io(&path))?;
        let (folder, weights) = if metadata.is_dir() {
            (path.as_path(), None)
        } else {
            let file = path.file_name().and_then(|name| name.to_str()).filter(|name| is_weights_file(name));
            let Some(file) = file else {
                let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
                if let Some(foreign) = identity::of_file(&name) {
                    return Err(foreign.refusal(&path.display().to_string()));
                }
                return Err(Error::input(format!(
                    "{}: a model is a folder or a weights file (.safetensors, .bin)",
                    path.display()
                )));
            };
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")), Some(file.into()))
        };
        Ok(Self::new(&path.display().to_string(), Origin::Folder { folder: folder.into(), weights }))
    }

    /// A model compiled into the program.
    pub fn embedded(name: &str, files: EmbeddedFiles) -> Self {
        Self::new(name, Origin::Embedded(files))
    }

    pub(crate) fn hub(name: &str, files: HubFiles) -> Self {
        Self::new(name, Origin::Hub(Arc::new(files)))
    }

    fn new(name: &str, origin: Origin) -> Self {
        Self { name: name.into(), origin, adapters: Arc::new([]) }
    }

    /// The same model with an adapter on top (LoRA, as PEFT saves it), known by a name. What is loaded from these files
    /// has it merged into its weights: it costs nothing afterwards. Several add up, each scaled as its own
    /// configuration says; no two may replace the same tensor. An adapter's files are read with the model's weights.
    ///
    /// ```
    /// # fn main() -> ettin::Result<()> {
    /// # let folder = |name: &str| format!("{}/../../models/{name}", env!("CARGO_MANIFEST_DIR"));
    /// # let (base, legal) = (folder("tiny-encoder"), folder("tiny-adapters/list"));
    /// # let plain = folder("tiny-adapters/regex");
    /// use ettin::{Backend, files::ModelFiles, heads::LanguageModel};
    ///
    /// let files = ModelFiles::folder(base)?
    ///     .with_adapter("legal", ModelFiles::folder(legal)?)?
    ///     .with_adapter("plain", ModelFiles::folder(plain)?)?;
    /// let backend = Backend::cpu()?;
    /// let both = LanguageModel::load(&files, &backend)?;
    /// // Whoever serves several loads one model for each choice of adapters.
    /// let legal = LanguageModel::load(&files.choose_adapters(&["legal"])?, &backend)?;
    /// let base = LanguageModel::load(&files.choose_adapters(&[])?, &backend)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] for a name that another adapter has.
    pub fn with_adapter(self, name: &str, files: ModelFiles) -> Result<Self> {
        if self.adapter_names().any(|other| other == name) {
            return Err(Error::input(format!("two adapters are called {name:?}")));
        }
        let added = [(Arc::from(name), files)];
        let adapters = self.adapters.iter().cloned().chain(added).collect();
        Ok(Self { adapters, ..self })
    }

    /// The same model with some of its adapters, in the order of `names`; with none, the base alone.
    ///
    /// # Errors
    /// [`Error::Input`] for a name that no adapter has, or that is there twice.
    pub fn choose_adapters(&self, names: &[&str]) -> Result<Self> {
        let base = Self { adapters: Arc::new([]), ..self.clone() };
        names.iter().try_fold(base, |files, name| match self.adapters.iter().find(|(known, _)| **known == **name) {
            Some((_, adapter)) => files.with_adapter(name, adapter.clone()),
            None => {
                let known: Vec<&str> = self.adapter_names().collect();
                Err(Error::input(format!("no adapter is called {name:?}; there are {known:?}")))
            }
        })
    }

    /// Names of the adapters, first to last.
    pub fn adapter_names(&self) -> impl Iterator<Item = &str> {
        self.adapters.iter().map(|(name, _)| &**name)
    }

    /// What to call the model in messages and records: its path, embedded name or Hub id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit of the repository that the files are of; `None` for files outside the Hub, and until the
    /// first file of a model that is not cached has been asked for.
    pub fn revision(&self) -> Option<&str> {
        match &self.origin {
            Origin::Hub(files) => files.commit(),
            _ => None,
        }
    }

    /// The weights file that was named instead of the model's folder; only this one is to be loaded.
    pub fn weights_file(&self) -> Option<&str> {
        match &self.origin {
            Origin::Folder { weights, .. } => weights.as_deref(),
            _ => None,
        }
    }

    /// The file of that name, or `None` if the model has no such file.
    ///
    /// A model on the Hub is downloaded here, when a file is first asked for that is not cached. For a cached
    /// model this never touches the network (see [`crate::hub`] for what counts as cached).
    ///
    /// # Errors
    /// [`Error::Input`] for a name that leaves the model's folder; [`Error::Io`]; what [`crate::hub`] returns.
    pub fn get(&self, file: &str) -> Result<Option<FileData>> {
        check_name(file)?;
        match &self.origin {
            Origin::Folder { folder, .. } => FileData::open(&folder.join(file)),
            Origin::Embedded(files) => Ok(files
                .iter()
                .find(|(name, _)| *name == file)
                .map(|(_, bytes)| FileData::from_static(self.path_hint(file), bytes))),
            Origin::Hub(files) => files.get(file),
        }
    }

    /// The file of that name if it is here already; unlike [`ModelFiles::get`] this never downloads.
    ///
    /// # Errors
    /// As [`ModelFiles::get`], but for those of a download.
    pub(crate) fn peek(&self, file: &str) -> Result<Option<FileData>> {
        match &self.origin {
            Origin::Hub(files) => {
                check_name(file)?;
                files.peek(file)
            }
            _ => self.get(file),
        }
    }

    /// The file of that name, which the model cannot do without.
    ///
    /// Unlike [`ModelFiles::get`], which takes a cached model as it is, this asks the Hub for a file that the cache
    /// lacks before it gives up: use it for files that other files of the model call for.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if the model has no such file; otherwise as [`ModelFiles::get`].
    pub fn require(&self, file: &str) -> Result<FileData> {
        let found = match &self.origin {
            Origin::Hub(files) => {
                check_name(file)?;
                files.require(file)?
            }
            _ => self.get(file)?,
        };
        found.ok_or_else(|| Error::MissingFile { place: self.place(), file: file.to_owned() })
    }

    /// Names of the files that are there now, those of one level of folders included (`onnx/model.onnx`), sorted; of
    /// a model on the Hub what its repository is known to hold. Downloads nothing.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read.
    pub fn listing(&self) -> Result<Vec<String>> {
        match &self.origin {
            Origin::Folder { folder, .. } => list(folder),
            Origin::Embedded(files) => Ok(files.iter().map(|(name, _)| (*name).to_owned()).collect()),
            Origin::Hub(files) => files.listing(),
        }
    }

    /// Where a file is, or would be, for messages.
    pub fn path_hint(&self, file: &str) -> String {
        match &self.origin {
            Origin::Folder { folder, .. } => folder.join(file).display().to_string(),
            Origin::Embedded(_) => format!("{} (embedded): {file}", self.name),
            Origin::Hub(files) => files.path_hint(file),
        }
    }

    /// What is searched for files, for messages.
    pub fn place(&self) -> String {
        match &self.origin {
            Origin::Folder { folder, .. } => folder.display().to_string(),
            Origin::Embedded(_) => format!("the embedded model {}", self.name),
            Origin::Hub(files) => files.place(),
        }
    }

    /// Downloads everything needed to load the model, so that it can be used offline from now on; files that are
    /// already there are not transferred again. Does nothing for a model that is not on the Hub.
    ///
    /// # Errors
    /// As [`ModelFiles::get`].
    pub fn download(&self) -> Result<()> {
        match &self.origin {
            Origin::Hub(files) => files.download(),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Folder { folder, weights } => {
                f.debug_struct("Folder").field("folder", folder).field("weights", weights).finish()
            }
            Origin::Embedded(files) => f.debug_list().entries(files.iter().map(|(name, _)| name)).finish(),
            Origin::Hub(files) => f.debug_tuple("Hub").field(&files.place()).finish(),
        }
    }
}

/// Names of files in a folder and in the folders in it, `/` between the two.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = |path: &Path| -> Result<Vec<(String, bool)>> {
        let entries = std::fs::read_dir(path).map_err(Error::io(path))?;
        // A name that is no text is none that is looked for.
        Ok(entries
            .flatten()
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().is_dir())))
            .collect())
    };
    let mut names = Vec::new();
    for (name, is_folder) in entries(folder)? {
        if is_folder {
            let inner = entries(&folder.join(&name)).unwrap_or_default();
            names.extend(inner.into_iter().map(|(inner, _)| format!("{name}/{inner}")));
        } else {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a file name is one that holds weights, or the index of one that is sharded.
pub(crate) fn is_weights_file(name: &str) -> bool {
    [".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json"].iter().any(|end| name.ends_with(end))
}

/// Whether a name is that of a file in one folder: no way into another, no way out.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ':', '\0'])
}

/// Refuses names that could leave the model's folder or mean something else on another system.
pub(crate) fn check_name(file: &str) -> Result<()> {
    let fine = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    if file.split('/').all(fine) {
        Ok(())
    } else {
        Err(Error::input(format!("{file:?} is not the name of a file inside a model's folder")))
    }
}

/// The bytes of one file: memory-mapped, read, or compiled in. Cheap to clone.
#[derive(Clone)]
pub struct FileData {
    name: Arc<str>,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Static(&'static [u8]),
    Read(Arc<[u8]>),
    Mapped(Arc<MappedFile>),
}

/// Smaller files are read: their bytes are then ours, and JSON is gone through once anyway.
const MAP_FROM: u64 = 1 << 20;

impl FileData {
    /// The file at that path; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if it is there and cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        // Reading anything else may never end.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            return Err(Error::io(path)(io::Error::other("it is no regular file")));
        }
        match read(path) {
            Ok(bytes) => Ok(Some(Self { name: path.display().to_string().into(), bytes })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::io(path)(error)),
        }
    }

    /// Bytes that are part of the program, under a name for messages.
    pub fn from_static(name: impl Into<Arc<str>>, bytes: &'static [u8]) -> Self {
        Self { name: name.into(), bytes: Bytes::Static(bytes) }
    }

    /// Bytes from elsewhere, under a name for messages.
    pub fn from_bytes(name: impl Into<Arc<str>>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), bytes: Bytes::Read(bytes.into()) }
    }

    /// Says that a range of bytes is not needed soon, so that a mapped file's pages can leave memory. Only a hint.
    pub fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(file) = &self.bytes {
            file.release(range);
        }
    }

    /// Whether its bytes are in memory of this process's own, rather than paged in from a file or the program.
    pub(crate) fn takes_memory(&self) -> bool {
        matches!(self.bytes, Bytes::Read(_))
    }

    /// What to call the file in messages: its path, or its name in the embedded model.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Deref for FileData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Static(bytes) => bytes,
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(file) => file,
        }
    }
}

impl fmt::Debug for FileData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileData({}, {} bytes)", self.name, self.len())
    }
}

fn read(path: &Path) -> io::Result<Bytes> {
    if path.metadata()?.len() >= MAP_FROM {
        return Ok(Bytes::Mapped(Arc::new(MappedFile::open(path)?)));
    }
    Ok(Bytes::Read(std::fs::read(path)?.into()))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: EmbeddedFiles = &[("config.json", b"{}"), ("1_Pooling/config.json", b"[]")];

    #[test]
    fn a_folder_serves_its_files_and_names_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        assert_eq!(&*files.get("config.json").unwrap().unwrap(), b"{}");
        assert!(files.get("modules.json").unwrap().is_none());
        assert!(files.get("config.json/inner").unwrap().is_none());
        assert_eq!(files.revision(), None);
        let error = files.require("tokenizer.json").unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(&*folder.path().to_string_lossy()), "{error}");
    }

    #[test]
    fn a_weights_file_stands_for_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "ema.safetensors", "old.bin", "notes.txt"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let files = ModelFiles::folder(folder.path().join("ema.safetensors")).unwrap();
        assert_eq!(files.weights_file(), Some("ema.safetensors"));
        assert_eq!(&*files.require("config.json").unwrap(), b"config.json");
        assert_eq!(&*files.require(files.weights_file().unwrap()).unwrap(), b"ema.safetensors");
        assert!(ModelFiles::folder(folder.path().join("old.bin")).is_ok());
        assert!(matches!(ModelFiles::folder(folder.path().join("notes.txt")), Err(Error::Input(_))));
        assert!(matches!(ModelFiles::folder(folder.path().join("gone.bin")), Err(Error::Io { .. })));
    }

    #[test]
    fn embedded_files_are_found_by_their_whole_name() {
        let files = ModelFiles::embedded("nano", FILES);
        assert_eq!(files.name(), "nano");
        assert_eq!(&*files.require("1_Pooling/config.json").unwrap(), b"[]");
        assert!(files.get("Pooling/config.json").unwrap().is_none());
        let error = files.require("tokenizer.json").unwrap_err().to_string();
        assert!(error.contains("nano") && error.contains("tokenizer.json"), "{error}");
    }

    #[test]
    fn a_large_file_is_the_same_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..MAP_FROM as usize + 7).map(|i| (i % 251) as u8).collect();
        std::fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        let data = files.require("model.safetensors").unwrap();
        assert!(matches!(data.bytes, Bytes::Mapped(_)));
        data.release(0..bytes.len());
        assert!(data[..] == bytes[..]);
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config.json")).unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        assert!(matches!(files.get("config.json"), Err(Error::Io { .. })));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let files = ModelFiles::embedded("nano", FILES);
        for name in
            ["", "/etc/passwd", "../secret", "a/../../b", "a//b", "a/", "./config.json", "..", "a\\b", "C:x", "a\0b"]
        {
            assert!(matches!(files.get(name), Err(Error::Input(_))), "{name:?}");
            assert!(matches!(files.require(name), Err(Error::Input(_))), "{name:?}");
        }
        assert!(files.get("..config..json").unwrap().is_none());
    }
}
