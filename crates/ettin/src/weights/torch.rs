//! torch's zip archives (`pytorch_model.bin`): a pickle that describes tensors, and one stored entry per storage, whose
//! bytes are borrowed where they lie.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{PickledTensor, read_state_dict};
use super::{Data, FileData, FoundTensor, StoredType};
use crate::{Error, Result};

const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// Protocol 2, then the number that torch before 1.6 put first.
const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Whether a file is torch's, by its first bytes or, where those say nothing, its name.
pub(super) fn looks_like_torch(file: &FileData) -> bool {
    let named = [".bin", ".pt", ".pth"].iter().any(|end| file.name().ends_with(end));
    file.starts_with(ZIP_MAGIC) || file.starts_with(LEGACY_MAGIC) || named
}

/// The tensors of a torch file.
pub(super) fn read(file: &FileData) -> Result<Vec<FoundTensor>> {
    read_archive(file).map_err(|message| Error::Weights { file: file.name().to_owned(), message })
}

fn read_archive(bytes: &[u8]) -> Result<Vec<FoundTensor>, String> {
    if !bytes.starts_with(ZIP_MAGIC) {
        return Err(what_else(bytes));
    }
    let archive = Archive::open(bytes)?;
    if archive.get("byteorder").is_some_and(|order| &bytes[order] != b"little") {
        return Err("its byte order is not little-endian; save it on a little-endian machine".to_owned());
    }
    let pickle = archive.get("data.pkl").ok_or("there is no data.pkl in the archive")?;
    let tensors = read_state_dict(&bytes[pickle])?;

    // Tensors stored with gaps are copied; together they may not take more than the file itself.
    let mut budget = bytes.len();
    let mut found = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let data = match tensor.dtype {
            StoredType::Known(dtype) => archive
                .locate(bytes, &tensor, dtype.row_bytes(1), &mut budget)
                .map_err(|problem| format!("`{name}`: {problem}"))?,
            // Nothing reads it.
            StoredType::Foreign(_) => Data::Mapped(0..0),
        };
        found.push(FoundTensor { name, dtype: tensor.dtype, shape: tensor.shape, data });
    }
    Ok(found)
}

/// What a file that should be torch's is instead.
fn what_else(bytes: &[u8]) -> String {
    if bytes.starts_with(LEGACY_MAGIC) {
        return "the format of torch before 1.6; load and save it once with a current torch, or use safetensors"
            .to_owned();
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return "a Git LFS pointer, not the file it stands for; fetch the weights with `git lfs pull`".to_owned();
    }
    format!("{} bytes that are no torch archive: truncated, or another format", bytes.len())
}

/// Where each entry's bytes are, by its name below the archive's one top folder.
struct Archive {
    entries: HashMap<String, Range<usize>>,
}

impl Archive {
    fn open(bytes: &[u8]) -> Result<Self, String> {
        let mut zip = ZipArchive::new(Cursor::new(bytes))
            .map_err(|error| format!("the archive cannot be read ({error}): truncated or corrupt"))?;
        let mut entries = HashMap::new();
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(|error| format!("entry {index} is corrupt: {error}"))?;
            let name = entry.name().map_err(|error| format!("entry {index} has no readable name: {error}"))?;
            let Some((_, name)) = name.split_once('/') else {
                continue;
            };
            if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
                return Err(format!("the entry {name} is compressed or encrypted; torch stores entries as they are"));
            }
            let range = entry.data_start().and_then(|start| {
                let start = usize::try_from(start).ok()?;
                let end = start.checked_add(usize::try_from(entry.compressed_size()).ok()?)?;
                (end <= bytes.len()).then_some(start..end)
            });
            let range = range.ok_or_else(|| format!("the entry {name} reaches past the end of the file"))?;
            if entries.insert(name.to_owned(), range).is_some() {
                return Err(format!("the entry {name} is there twice"));
            }
        }
        Ok(Self { entries })
    }

    fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name).cloned()
    }

    /// The bytes of a tensor with elements of `size` bytes: a range of the file, or a copy when they are not in order.
    fn locate(&self, bytes: &[u8], tensor: &PickledTensor, size: usize, budget: &mut usize) -> Result<Data, String> {
        let key = &tensor.storage;
        let storage = self.get(&format!("data/{key}")).ok_or_else(|| format!("the archive has no data/{key}"))?;
        let held = storage.len() / size;
        if tensor.storage_len > held {
            return Err(format!("its storage claims {} elements, data/{key} holds {held}", tensor.storage_len));
        }
        let product = tensor.shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let count = product.ok_or("its dimensions overflow")?;
        if count == 0 {
            return Ok(Data::Mapped(storage.start..storage.start));
        }
        let last = tensor
            .shape
            .iter()
            .zip(&tensor.strides)
            .try_fold(tensor.offset, |at, (&dim, &stride)| at.checked_add(stride.checked_mul(dim - 1)?));
        if last.is_none_or(|last| last >= tensor.storage_len) {
            return Err(format!("it reaches past the {} elements of its storage", tensor.storage_len));
        }
        if is_contiguous(&tensor.shape, &tensor.strides) {
            let start = storage.start + tensor.offset * size;
            return Ok(Data::Mapped(start..start + count * size));
        }
        if count > tensor.storage_len {
            return Err(format!("it repeats the elements of its storage to make {count} of {}", tensor.storage_len));
        }
        *budget = budget.checked_sub(count * size).ok_or("the archive's strided tensors take more than the archive")?;
        Ok(Data::Gathered(gather(&bytes[storage], tensor, size, count)))
    }
}

/// Whether elements lie in row-major order without gaps; the stride of a single element means nothing.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&dim, &stride)| {
        let fits = dim == 1 || stride == expected;
        expected *= dim;
        fits
    })
}

/// Copies a strided tensor's `count` elements into row-major order; every element was checked to be inside.
fn gather(storage: &[u8], tensor: &PickledTensor, size: usize, count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0; tensor.shape.len()];
    let mut at = tensor.offset;
    for _ in 0..count {
        out.extend_from_slice(&storage[at * size..][..size]);
        // Count up like an odometer, the last dimension fastest.
        for dim in (0..index.len()).rev() {
            index[dim] += 1;
            at += tensor.strides[dim];
            if index[dim] < tensor.shape[dim] {
                break;
            }
            at -= tensor.strides[dim] * tensor.shape[dim];
            index[dim] = 0;
        }
    }
    out
}
