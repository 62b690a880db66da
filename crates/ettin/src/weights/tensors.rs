//! Writes candle's tensors as safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::{StoredDtype, View, save};
use crate::{Error, Result};

/// Writes `tensors` to `path` under their names, each in its dtype.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written, [`Error::Unsupported`] for dtypes other than f32, bf16 and f16.
pub(crate) fn save_tensors(path: &Path, tensors: &BTreeMap<&str, &Tensor>) -> Result<()> {
    let stored = tensors.iter().map(|(&name, &tensor)| Ok((name, tensor.dims(), elements(name, tensor)?)));
    let stored: Vec<_> = stored.collect::<Result<_>>()?;
    let views = stored
        .iter()
        .map(|(name, shape, (dtype, bytes))| (*name, View { name, dtype: *dtype, shape, bytes, scales: &[] }));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save(path, &views.collect::<Vec<_>>(), None, &metadata)
}

/// A tensor's elements, little-endian.
fn elements(name: &str, tensor: &Tensor) -> Result<(StoredDtype, Vec<u8>)> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => (StoredDtype::F32, flat.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect()),
        DType::F16 => {
            let bytes = flat.to_vec1::<half::f16>()?.into_iter().flat_map(half::f16::to_le_bytes);
            (StoredDtype::F16, bytes.collect())
        }
        DType::BF16 => {
            let bytes = flat.to_vec1::<half::bf16>()?.into_iter().flat_map(half::bf16::to_le_bytes);
            (StoredDtype::BF16, bytes.collect())
        }
        other => {
            let message = format!("the dtype {} of `{name}` in a weights file; use f32, bf16 or f16", other.as_str());
            return Err(Error::Unsupported(message));
        }
    })
}
