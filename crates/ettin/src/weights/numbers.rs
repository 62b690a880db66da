//! Lists of numbers that are no weights of a layer: they may be stored in types that no weight may have.

use super::{Data, StoredType, Weights};
use crate::{Error, Result};

impl Weights {
    /// The numbers of a tensor with one dimension, of any type with or without a fraction but f8; `None` where there is
    /// no such tensor. Whole numbers are exact up to 2⁵³.
    ///
    /// # Errors
    /// [`Error::Tensors`] for a tensor of another shape or type.
    pub(crate) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Some(entry) = self.tensors.get(name) else {
            return Ok(None);
        };
        let file = &self.files[entry.file];
        let fail = |message: String| Error::Tensors { file: file.name().to_owned(), message };
        let [count] = entry.shape[..] else {
            return Err(fail(format!("`{name}` is {:?}, expected one dimension", entry.shape)));
        };
        let kind = match &entry.dtype {
            StoredType::Known(_) => {
                return Ok(self.get(name).map(|view| view.to_f32().into_iter().map(f64::from).collect()));
            }
            StoredType::Foreign(kind) => kind.as_str(),
        };
        let bytes = match &entry.data {
            Data::Mapped(range) => file.get(range.clone()).unwrap_or_default(),
            _ => &[],
        };
        fn read<const N: usize>(bytes: &[u8], number: fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks().0.iter().map(|bytes| number(*bytes)).collect()
        }
        let numbers = match kind {
            "F64" => read(bytes, f64::from_le_bytes),
            "I64" => read(bytes, |bytes| i64::from_le_bytes(bytes) as f64),
            "U64" => read(bytes, |bytes| u64::from_le_bytes(bytes) as f64),
            "I32" => read(bytes, |bytes| i32::from_le_bytes(bytes).into()),
            "U32" => read(bytes, |bytes| u32::from_le_bytes(bytes).into()),
            "I16" => read(bytes, |bytes| i16::from_le_bytes(bytes).into()),
            "U16" => read(bytes, |bytes| u16::from_le_bytes(bytes).into()),
            _ => Vec::new(),
        };
        match numbers.len() == count {
            true => Ok(Some(numbers)),
            false => Err(fail(format!("`{name}` is stored as {kind}, which is not read here; save it as safetensors"))),
        }
    }
}
