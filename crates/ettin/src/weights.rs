//! Weights files → borrowed views under canonical names.
//!
//! Whatever the form (safetensors or torch's zip archive, whole or in shards), a tensor becomes a [`View`] of the
//! mapped file's bytes; nothing is copied but tensors that a torch file stores with gaps. Checkpoint spellings live in
//! this module alone: [`Weights::checkpoint`] presents a model's tensors by role, every one of them checked.

mod adapt;
mod checkpoint;
mod convert;
mod kept;
mod names;
mod numbers;
mod pickle;
mod prefix;
mod quantized;
mod safetensors;
mod save;
mod shards;
mod tensors;
mod torch;
mod view;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::ops::Range;

use ettin_kernels::Quantization;

pub use crate::tensors::Head;
pub use checkpoint::{Checkpoint, LoadReport};
pub use convert::{ConvertOptions, Converted, convert};
pub use kept::Kept;
pub(crate) use names::{canonical, is_head};
pub use save::save;
pub(crate) use tensors::save_tensors;
pub use view::{Stack, View};

use crate::{Error, Result};

pub use crate::dtype::StoredDtype;
pub use crate::files::{FileData, FileSource, Subfolder};

/// All tensors of one model (or of one module of it), by canonical name; owns the mapped files.
pub struct Weights {
    files: Vec<FileData>,
    tensors: BTreeMap<String, TensorEntry>,
    /// What an index names and no shard holds.
    lacking: shards::Lacking,
    adaptation: adapt::Adaptation,
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({} tensors in {:?})", self.tensors.len(), self.files)
    }
}

/// Where one tensor is.
#[derive(Clone)]
struct TensorEntry {
    /// The name as the file spells it.
    stored: String,
    /// Index into [`Weights::files`].
    file: usize,
    dtype: StoredType,
    shape: Vec<usize>,
    data: Data,
}

/// What a file's tensors were found to be, before names are canonical.
struct FoundTensor {
    name: String,
    dtype: StoredType,
    shape: Vec<usize>,
    data: Data,
}

/// A tensor's element type as stored: one of ours, or the name of one that no weight may have.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StoredType {
    Known(StoredDtype),
    Foreign(String),
}

#[derive(Clone)]
enum Data {
    /// A range of the file's bytes, inside it.
    Mapped(Range<usize>),
    /// Gathered from a torch tensor that was stored with strides.
    Gathered(Vec<u8>),
    /// Ranges of the file's bytes, inside it: of the codes and the scales of quantised rows.
    Quantized { codes: Range<usize>, scales: Range<usize> },
}

impl TensorEntry {
    /// What is wrong where another entry is the same tensor.
    fn beside(&self, other: &Self) -> String {
        let in_few_bits = |entry: &Self| matches!(entry.data, Data::Quantized { .. });
        let (plain, quantized) = match (in_few_bits(self), in_few_bits(other)) {
            (false, true) => (self, other),
            (true, false) => (other, self),
            _ => return format!("`{}` is stored twice (the other copy is called `{}`)", other.stored, self.stored),
        };
        format!(
            "`{}` is stored in full, and in few bits as `{}`; nothing says which of the two is meant",
            plain.stored,
            quantized::codes(&quantized.stored)
        )
    }
}

impl StoredType {
    /// As safetensors or torch name it.
    fn tag(&self) -> &str {
        match self {
            StoredType::Known(dtype) => dtype.tag(),
            StoredType::Foreign(name) => name,
        }
    }
}

impl Weights {
    /// Opens a model's weights: `model.safetensors`, else its shards, else `pytorch_model.bin`, else its shards; before
    /// all of them the file that config.json names (`transformers_weights`).
    ///
    /// Of an index, transformers reads only which files there are. So a tensor may lie in another shard than it says,
    /// and what it names and no shard holds is missing once something asks for it, not before.
    ///
    /// Adapters are put on: the one that lies beside the weights, and those of the source
    /// ([`FileSource::adapters`]). What they replace is replaced; what they add to a matrix is added when parameters
    /// are made of the weights, and not part of a [`View`].
    ///
    /// # Errors
    /// [`Error::MissingFile`] when there is none of them, [`Error::Weights`] when one is corrupt; those of
    /// [`Adapter::load`](crate::params::Adapter::load).
    pub fn open(source: &dyn FileSource) -> Result<Self> {
        let files = shards::find(source)?;
        let mut weights = Self::empty();
        for shard in files.shards {
            weights.add(shard)?;
        }
        if let Some(index) = files.index {
            weights.lacking = index.lacking(|name| weights.tensors.contains_key(name));
        }
        weights.adapt(source)?;
        Ok(weights)
    }

    /// The tensors of one file, of whichever form its first bytes show.
    ///
    /// # Errors
    /// [`Error::Weights`] when it is of no known form or corrupt.
    pub fn from_file(file: FileData) -> Result<Self> {
        let mut weights = Self::empty();
        weights.add(file)?;
        Ok(weights)
    }

    fn empty() -> Self {
        Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            lacking: shards::Lacking::default(),
            adaptation: adapt::Adaptation::default(),
        }
    }

    fn add(&mut self, file: FileData) -> Result<()> {
        let found = match torch::looks_like_torch(&file) {
            true => torch::read(&file)?,
            false => safetensors::read(&file)?,
        };
        let index = self.files.len();
        for tensor in found {
            let FoundTensor { name, dtype, shape, data } = tensor;
            if names::is_buffer(&name) {
                continue;
            }
            let entry = TensorEntry { stored: name, file: index, dtype, shape, data };
            match self.tensors.entry(names::canonical(&entry.stored).into_owned()) {
                Slot::Vacant(slot) => slot.insert(entry),
                Slot::Occupied(slot) => {
                    return Err(Error::Weights { file: file.name().to_owned(), message: slot.get().beside(&entry) });
                }
            };
        }
        self.files.push(file);
        Ok(())
    }

    /// The tensors whose names begin with `prefix`, under names without it: one model of several that lie in one file.
    /// Adapters are not put on them.
    pub(crate) fn part(&self, prefix: &str) -> Self {
        let within = self.tensors.values().filter_map(|entry| Some((entry.stored.strip_prefix(prefix)?, entry)));
        let tensors = within.filter(|(bare, _)| !names::is_buffer(bare)).map(|(bare, entry)| {
            (names::canonical(bare).into_owned(), TensorEntry { stored: bare.to_owned(), ..entry.clone() })
        });
        Self { files: self.files.clone(), tensors: tensors.collect(), ..Self::empty() }
    }

    /// Canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Every tensor of a supported dtype, sorted by canonical name.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.names().filter_map(|name| self.get(name))
    }

    /// The tensor called `name` (canonically), when there is one of a supported dtype.
    pub fn get(&self, name: &str) -> Option<View<'_>> {
        let (name, entry) = self.tensors.get_key_value(name)?;
        let StoredType::Known(dtype) = entry.dtype else {
            return None;
        };
        // Ranges were checked when the file was read.
        let part = |range: &Range<usize>| self.files[entry.file].get(range.clone()).unwrap_or_default();
        let (bytes, scales) = match &entry.data {
            Data::Mapped(range) => (part(range), &[][..]),
            Data::Gathered(bytes) => (bytes.as_slice(), &[][..]),
            Data::Quantized { codes, scales } => (part(codes), part(scales)),
        };
        Some(View { name, dtype, shape: &entry.shape, bytes, scales })
    }

    /// How matrices are quantised, where they are stored in few bits.
    pub fn quantization(&self) -> Option<Quantization> {
        self.tensors.values().find_map(|entry| match entry.dtype {
            StoredType::Known(dtype) => dtype.quantization(),
            StoredType::Foreign(_) => None,
        })
    }

    /// Lets go of the memory that holds a tensor's part of a mapped file; it is read again if it is needed again.
    pub fn release(&self, view: &View<'_>) {
        for bytes in [view.bytes, view.scales] {
            let (start, len) = (bytes.as_ptr().addr(), bytes.len());
            for file in &self.files {
                let offset = start.wrapping_sub(file.as_ptr().addr());
                if offset <= file.len() && len <= file.len() - offset {
                    file.release(offset..offset + len);
                }
            }
        }
    }

    /// The tensor called `name`, which must have this shape.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming tensor, file, and expected and actual shape.
    pub fn require(&self, name: &str, shape: &[usize]) -> Result<View<'_>> {
        self.look_up(name, shape)
            .and_then(|view| view.ok_or_else(|| self.missing(name, shape)))
            .map_err(|problem| self.tensors_error(&[problem]))
    }

    /// The tensor called `name` if there is one, which then must have this shape.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming tensor, file, and expected and actual shape.
    pub fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<View<'_>>> {
        self.look_up(name, shape).map_err(|problem| self.tensors_error(&[problem]))
    }

    fn look_up(&self, name: &str, shape: &[usize]) -> Result<Option<View<'_>>, Problem> {
        let Some(entry) = self.tensors.get(name) else {
            return match self.lacking.with_its_shard(name) {
                Some(problem) => Err(Problem(format!("`{name}` {shape:?} is missing: {problem}"))),
                None => Ok(None),
            };
        };
        if let StoredType::Foreign(dtype) = &entry.dtype {
            let message = format!("`{}` is stored as {dtype}; supported: F32, F16, BF16", entry.stored);
            return Err(Problem(message));
        }
        if entry.shape != shape {
            let (stored, actual, file) = (&entry.stored, &entry.shape, self.files[entry.file].name());
            return Err(Problem(format!("`{stored}` in {file} is {actual:?}, expected {shape:?}")));
        }
        Ok(self.get(name))
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Problem {
        let place = self.lacking.place(name).map(|place| format!(": {place}"));
        Problem(format!("`{name}` {shape:?} is missing{}", place.unwrap_or_default()))
    }

    fn tensors_error(&self, problems: &[Problem]) -> Error {
        let texts: Vec<&str> = problems.iter().map(|problem| problem.0.as_str()).collect();
        Error::Tensors { file: self.place(), message: texts.join("; ") }
    }

    /// The file, or the first of several, for error messages.
    fn place(&self) -> String {
        match self.files.as_slice() {
            [] => "weights".to_owned(),
            [one] => one.name().to_owned(),
            [first, rest @ ..] => format!("{} and {} more", first.name(), rest.len()),
        }
    }
}

/// What is wrong with one tensor.
#[derive(Debug)]
struct Problem(String);

#[cfg(test)]
mod tests;
