//! safetensors: the crate reads and checks the header (offsets without holes or overlaps, sizes that match shape and
//! dtype, an end that is the file's), this file names what is wrong.

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

use super::{Data, FileData, FoundTensor, StoredDtype, StoredType, quantized};
use crate::json::parse_object;
use crate::{Error, Result};

const LENGTH_BYTES: usize = 8;

/// The tensors of a safetensors file.
pub(super) fn read(file: &FileData) -> Result<Vec<FoundTensor>> {
    let bytes: &[u8] = file;
    let fail = |message: String| Error::Weights { file: file.name().to_owned(), message };
    if bytes.starts_with(b"version https://git-lfs") {
        let advice = "a Git LFS pointer, not the file it stands for; fetch the weights with `git lfs pull`";
        return Err(fail(advice.to_owned()));
    }
    let (length, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| fail(explain(bytes, error)))?;
    let start = LENGTH_BYTES + length;
    // The crate would keep the last of two entries of one name.
    parse_object(&bytes[LENGTH_BYTES..start], file.name())?;

    let mut found = Vec::new();
    for (name, info) in metadata.tensors() {
        let (from, to) = info.data_offsets;
        found.push(FoundTensor {
            name,
            dtype: match info.dtype {
                Dtype::F32 => StoredType::Known(StoredDtype::F32),
                Dtype::F16 => StoredType::Known(StoredDtype::F16),
                Dtype::BF16 => StoredType::Known(StoredDtype::BF16),
                other => StoredType::Foreign(format!("{other:?}")),
            },
            shape: info.shape.clone(),
            data: Data::Mapped(start + from..start + to),
        });
    }
    match quantized::announced(metadata.metadata().as_ref()).map_err(fail)? {
        Some(announced) => quantized::join(found, announced, file).map_err(fail),
        None => Ok(found),
    }
}

fn explain(bytes: &[u8], error: SafeTensorError) -> String {
    let claimed = bytes.first_chunk::<LENGTH_BYTES>().map(|b| u64::from_le_bytes(*b));
    match (error, claimed) {
        (SafeTensorError::HeaderTooSmall, _) | (_, None) => {
            format!("{} bytes are no safetensors file", bytes.len())
        }
        (SafeTensorError::InvalidHeaderLength, Some(claimed)) => {
            format!("the header claims {claimed} bytes, the file has {}: truncated, or not safetensors", bytes.len())
        }
        (SafeTensorError::HeaderTooLarge, Some(claimed)) => {
            format!("the header claims {claimed} bytes: corrupt, or not safetensors")
        }
        (SafeTensorError::MetadataIncompleteBuffer, _) => format!(
            "its {} bytes are not what the header's tensors need: truncated, or with something appended",
            bytes.len()
        ),
        (SafeTensorError::InvalidOffset(name), _) => {
            format!("the data of `{name}` overlaps another tensor's or leaves a gap")
        }
        (SafeTensorError::TensorInvalidInfo, _) => {
            "a tensor's shape and dtype do not fit the size of its data".to_owned()
        }
        (SafeTensorError::ValidationOverflow, _) => "a tensor's dimensions overflow".to_owned(),
        (other, _) => format!("the safetensors header is invalid: {other}"),
    }
}
