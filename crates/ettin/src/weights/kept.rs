//! A tensor that is read for as long as a model lives, out of its file.

use std::ops::Range;

use super::{Data, FileData, StoredDtype, StoredType, View, Weights};

/// A tensor with its file. Cheap to clone but for its name.
#[derive(Debug, Clone)]
pub struct Kept {
    name: String,
    dtype: StoredDtype,
    shape: Vec<usize>,
    file: FileData,
    bytes: Range<usize>,
    scales: Range<usize>,
}

impl Kept {
    /// The tensor.
    pub fn view(&self) -> View<'_> {
        // Ranges were checked when the file was read.
        let part = |range: &Range<usize>| self.file.get(range.clone()).unwrap_or_default();
        View {
            name: &self.name,
            dtype: self.dtype,
            shape: &self.shape,
            bytes: part(&self.bytes),
            scales: part(&self.scales),
        }
    }
}

impl Weights {
    /// A tensor of these weights that outlives them, where keeping its file costs no memory: one that is mapped or part
    /// of the program, and holds the tensor's elements in a row.
    pub fn keep(&self, view: &View<'_>) -> Option<Kept> {
        let (name, entry) = self.tensors.get_key_value(view.name)?;
        let StoredType::Known(dtype) = entry.dtype else {
            return None;
        };
        let (bytes, scales) = match &entry.data {
            Data::Mapped(range) => (range.clone(), 0..0),
            Data::Quantized { codes, scales } => (codes.clone(), scales.clone()),
            Data::Gathered(_) => return None,
        };
        let file = Some(&self.files[entry.file]).filter(|file| !file.takes_memory())?.clone();
        Some(Kept { name: name.clone(), dtype, shape: entry.shape.clone(), file, bytes, scales })
    }
}
