//! Writes safetensors: streamed row by row, under a temporary name, moved into place when complete.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use ettin_kernels::Quantization;
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{StoredDtype, View, names, quantized};
use crate::ops::AddRow;
use crate::{Error, Result};

/// The header is padded so that data starts at a multiple of this.
const ALIGNMENT: usize = 8;

/// Rows that are quantised together, by all threads.
const ROWS: usize = 1024;

/// A tensor to write.
pub(super) struct Written<'a> {
    pub(super) name: &'a str,
    pub(super) view: View<'a>,
    /// What is added to its rows, each in turn.
    pub(super) additions: Vec<AddRow>,
}

impl<'a> Written<'a> {
    /// One as it is stored.
    pub(super) fn plain(name: &'a str, view: View<'a>) -> Self {
        Self { name, view, additions: Vec::new() }
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.view.row(index, out);
        self.additions.iter().for_each(|add| add(index, out));
    }
}

/// Writes `tensors` to `path` under their names, in the given order; `dtype` converts them all, `None` keeps each as
/// stored. With `w8` and `w4` that means the large matrices; all else is then f32.
///
/// The file appears under its name only when it is complete and on disk.
///
/// # Errors
/// [`Error::Io`] naming the file when it cannot be written (a full disk, say); [`Error::Tensors`] naming the tensor and
/// the value when a finite value does not fit f16 (beyond ±65504), or when a matrix cannot be quantised.
pub fn save(
    path: &Path,
    tensors: &[(&str, View<'_>)],
    dtype: Option<StoredDtype>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let tensors: Vec<_> = tensors.iter().map(|&(name, view)| Written::plain(name, view)).collect();
    save_sums(path, &tensors, dtype, metadata)
}

/// The same for tensors that something is added to, in f32 and row by row.
pub(super) fn save_sums(
    path: &Path,
    tensors: &[Written<'_>],
    dtype: Option<StoredDtype>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let fail = |message| Error::Tensors { file: path.display().to_string(), message };
    let header = header(tensors, dtype, metadata).map_err(fail)?;
    let partial = PartialFile::beside(path)?;
    let io = |reason| Error::io(path)(reason);
    let mut out = BufWriter::with_capacity(1 << 20, partial.create()?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(&header).map_err(io)?;
    for tensor in tensors {
        let Written { name, view, additions } = tensor;
        let to = target(view, dtype);
        if to == view.dtype() && additions.is_empty() {
            out.write_all(view.bytes()).and_then(|()| out.write_all(view.scales)).map_err(io)?;
            continue;
        }
        if let Some(quantization) = to.quantization() {
            let scales = write_codes(tensor, quantization, &mut out).map_err(io)?;
            if !quantization.is_finite(&scales) {
                return Err(fail(format!(
                    "`{name}` holds values that are not finite, which {} cannot keep",
                    to.name()
                )));
            }
            out.write_all(&scales).map_err(io)?;
            continue;
        }
        let (mut row, mut bytes) = (vec![0.0; view.columns()], Vec::new());
        for index in 0..view.rows() {
            tensor.row(index, &mut row);
            bytes.clear();
            narrow(&row, to, &mut bytes).map_err(|value| {
                fail(format!("`{name}` holds {value}, beyond float16's ±65504; convert to bfloat16 or float32"))
            })?;
            out.write_all(&bytes).map_err(io)?;
        }
    }
    let file = out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    partial.finish(path)
}

/// What a tensor is stored as when `dtype` is asked for.
fn target(view: &View<'_>, dtype: Option<StoredDtype>) -> StoredDtype {
    match dtype {
        None => view.dtype(),
        Some(dtype) if dtype.quantization().is_none() || names::is_quantizable(view.name(), view.shape()) => dtype,
        Some(_) => StoredDtype::F32,
    }
}

/// Quantises the rows of a matrix, writes their codes and returns their scales.
fn write_codes(tensor: &Written<'_>, quantization: Quantization, out: &mut impl Write) -> std::io::Result<Vec<u8>> {
    let view = &tensor.view;
    let k = view.columns();
    let (code_bytes, scale_bytes) = (quantization.code_bytes(k), quantization.scale_bytes(k));
    let (mut codes, mut scales) = (vec![0; ROWS * code_bytes], vec![0; view.rows() * scale_bytes]);
    for (block, scales) in scales.chunks_mut(ROWS * scale_bytes).enumerate() {
        let codes = &mut codes[..scales.len() / scale_bytes * code_bytes];
        let rows = codes.par_chunks_mut(code_bytes).zip(scales.par_chunks_mut(scale_bytes)).enumerate();
        rows.for_each_init(
            || vec![0.0; k],
            |row, (index, (codes, scales))| {
                tensor.row(block * ROWS + index, row);
                quantization.quantize(row, codes, scales);
            },
        );
        out.write_all(codes)?;
    }
    Ok(scales)
}

/// The JSON header, padded with spaces.
///
/// # Errors
/// What is wrong with a tensor that is to be quantised.
fn header(
    tensors: &[Written<'_>],
    dtype: Option<StoredDtype>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, String> {
    let (mut map, mut metadata) = (Map::new(), metadata.clone());
    let mut offset = 0;
    let mut insert = |name: String, tag: &str, shape: &[usize], bytes: usize| {
        let end = offset + bytes;
        map.insert(name, json!({"dtype": tag, "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    };
    for Written { name, view, .. } in tensors {
        let (dtype, rows, columns) = (target(view, dtype), view.rows(), view.columns());
        let codes = rows * dtype.row_bytes(columns);
        let Some(quantization) = dtype.quantization() else {
            insert((*name).to_owned(), dtype.tag(), view.shape(), codes);
            continue;
        };
        if quantization == Quantization::W4 && !columns.is_multiple_of(2) {
            return Err(format!("`{name}` has {columns} inputs, an odd number, which w4 cannot keep; convert to w8"));
        }
        quantized::announce(quantization, &mut metadata);
        let sizes = [codes, rows * quantization.scale_bytes(columns)];
        let parts = quantized::parts(name).into_iter().zip(quantized::shapes(quantization, rows, columns));
        for (((name, shape), tag), size) in parts.zip(quantized::tags(quantization)).zip(sizes) {
            insert(name, tag, &shape, size);
        }
    }
    if !metadata.is_empty() {
        map.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut header = Value::Object(map).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    Ok(header)
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
        StoredDtype::W8 | StoredDtype::W4 => unreachable!("rows are quantised by `write_codes`"),
    }
    Ok(())
}

/// A file under a temporary name, removed unless finished.
pub(super) struct PartialFile {
    path: PathBuf,
}

impl PartialFile {
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

impl Drop for PartialFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
