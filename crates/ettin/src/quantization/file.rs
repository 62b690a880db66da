//! Ranges in a file: NumPy's `.npy`, safetensors, or JSON, told by the first bytes.

use std::path::Path;

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::{Ranges, npy};
use crate::files::FileData;
use crate::{Error, Result, json};

/// What the tensor is called; a file with one tensor may call it anything.
const TENSOR: &str = "ranges";

impl Ranges {
    /// Reads ranges of the shape `[2, dimensions]`, the lowest values first: an `.npy` file of floats, the tensor
    /// `ranges` (or the only one) of a safetensors file, or a JSON list of two lists.
    ///
    /// # Errors
    /// [`Error::Weights`] or [`Error::Config`] for a file of another form, shape or type, and for what [`Ranges::new`]
    /// refuses; [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        match FileData::open(path)? {
            Some(file) => Self::from_file(&file),
            None => Err(Error::io(path)(std::io::ErrorKind::NotFound.into())),
        }
    }

    /// The same from bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_file(file: &FileData) -> Result<Self> {
        let fail = |message: String| Error::Weights { file: file.name().to_owned(), message };
        let rows = match file.trim_ascii_start().first() {
            _ if file.starts_with(npy::MAGIC) => {
                let array = npy::read(file).map_err(fail)?;
                two_rows(&array.shape, array.values).map_err(fail)?
            }
            // A safetensors file begins with the length of its header, whose first byte may be a bracket.
            Some(b'[') if SafeTensors::read_metadata(file).is_err() => from_json(file)?,
            _ => from_safetensors(file).map_err(fail)?,
        };
        let [low, high] = rows;
        Self::new(low, high).map_err(|error| fail(error.to_string()))
    }
}

type LowAndHigh = [Vec<f32>; 2];

fn two_rows(shape: &[usize], mut values: Vec<f32>) -> Result<LowAndHigh, String> {
    match *shape {
        [2, dimensions] if dimensions > 0 && values.len() == 2 * dimensions => {
            let high = values.split_off(dimensions);
            Ok([values, high])
        }
        _ => Err(format!("an array of the shape {shape:?}; ranges have [2, dimensions]")),
    }
}

fn from_json(file: &FileData) -> Result<LowAndHigh> {
    let fail = |message: String| Error::Config { file: file.name().to_owned(), message };
    let list = json::parse_list(file, file.name())?;
    let [low, high] = &list[..] else {
        return Err(fail(format!("a list of {}; ranges are two lists, of lowest and highest values", list.len())));
    };
    let row = |value: &Value| {
        let Value::Array(values) = value else {
            return Err(fail(format!("expected a list of numbers, found {}", json::kind(value))));
        };
        let number = |value: &Value| match value.as_f64() {
            Some(number) => Ok(number as f32),
            None => Err(fail(format!("expected a number, found {}", json::kind(value)))),
        };
        values.iter().map(number).collect::<Result<Vec<f32>>>()
    };
    Ok([row(low)?, row(high)?])
}

fn from_safetensors(file: &FileData) -> Result<LowAndHigh, String> {
    let unknown = |error| format!("neither NumPy's .npy, nor JSON, nor safetensors ({error})");
    let tensors = SafeTensors::deserialize(file).map_err(unknown)?;
    let tensor = match (tensors.tensor(TENSOR), tensors.tensors()) {
        (Ok(tensor), _) => tensor,
        (Err(_), mut all) if all.len() == 1 => all.remove(0).1,
        (Err(_), all) => return Err(format!("no tensor `{TENSOR}` among the {} that are there", all.len())),
    };
    two_rows(tensor.shape(), floats(&tensor)?)
}

fn floats(tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    fn all<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&bytes| value(bytes)).collect()
    }
    let bytes = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::F16 => all(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => all(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Dtype::F32 => all(bytes, f32::from_le_bytes),
        Dtype::F64 => all(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
        other => return Err(format!("values of the type {other:?}; floats are needed")),
    })
}
