//! Writes safetensors: streamed row by row, under a temporary name, moved into place when complete.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::{StoredDtype, View};
use crate::{Error, Result};

/// The header is padded so that data starts at a multiple of this.
const ALIGNMENT: usize = 8;

/// Writes `tensors` to `path` under their names, in the given order; `dtype` converts them all, `None` keeps each as stored.
///
/// The file appears under its name only when it is complete and on disk.
///
/// # Errors
/// [`Error::Io`] naming the file when it cannot be written (a full disk, say); [`Error::Tensors`] naming the tensor and the
/// value when a finite value does not fit f16 (beyond ±65504).
pub fn save(
    path: &Path,
    tensors: &[(&str, View<'_>)],
    dtype: Option<StoredDtype>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let header = header(tensors, dtype, metadata);
    let partial = Partial::beside(path)?;
    let io = |reason| Error::Io { path: path.to_owned(), reason };
    let mut out = BufWriter::with_capacity(1 << 20, partial.create()?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(&header).map_err(io)?;
    for (name, view) in tensors {
        let to = dtype.unwrap_or(view.dtype());
        if to == view.dtype() {
            out.write_all(view.bytes()).map_err(io)?;
            continue;
        }
        let (mut row, mut bytes) = (vec![0.0; view.columns()], Vec::new());
        for index in 0..view.rows() {
            view.row(index, &mut row);
            bytes.clear();
            narrow(&row, to, &mut bytes).map_err(|value| Error::Tensors {
                file: path.display().to_string(),
                message: format!("`{name}` holds {value}, beyond float16's ±65504; convert to bfloat16 or float32"),
            })?;
            out.write_all(&bytes).map_err(io)?;
        }
    }
    let file = out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    partial.finish(path)
}

/// The JSON header, padded with spaces.
fn header(tensors: &[(&str, View<'_>)], dtype: Option<StoredDtype>, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut map = Map::new();
    if !metadata.is_empty() {
        map.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut offset = 0;
    for (name, view) in tensors {
        let dtype = dtype.unwrap_or(view.dtype());
        let end = offset + view.len() * dtype.size();
        let entry = json!({"dtype": dtype.tag(), "shape": view.shape(), "data_offsets": [offset, end]});
        map.insert((*name).to_owned(), entry);
        offset = end;
    }
    let mut header = Value::Object(map).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    header
}

/// Appends `values` as little-endian `dtype`; a finite value that f16 would turn into infinity is the error.
fn narrow(values: &[f32], dtype: StoredDtype, out: &mut Vec<u8>) -> Result<(), f32> {
    match dtype {
        StoredDtype::F32 => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
        StoredDtype::BF16 => values.iter().for_each(|v| out.extend(bf16::from_f32(*v).to_le_bytes())),
        StoredDtype::F16 => {
            for &value in values {
                let half = f16::from_f32(value);
                if half.is_infinite() && value.is_finite() {
                    return Err(value);
                }
                out.extend(half.to_le_bytes());
            }
        }
    }
    Ok(())
}

/// A file under a temporary name, removed unless finished.
pub(super) struct Partial {
    path: PathBuf,
}

impl Partial {
    /// A name beside `path`, so that the final rename stays on one file system.
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::input(format!("{} is no file name", path.display())))?;
        let partial = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        Ok(Self { path: path.with_file_name(partial) })
    }

    pub(super) fn create(&self) -> Result<File> {
        let options = OpenOptions::new().write(true).create(true).truncate(true).clone();
        options.open(&self.path).map_err(Error::io(&self.path))
    }

    pub(super) fn finish(self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(Error::io(path))
        // `Drop` finds nothing to remove.
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
