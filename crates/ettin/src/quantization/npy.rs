//! NumPy's `.npy`: one array of floats.

use half::f16;

/// First bytes of every such file.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// An array as it is stored.
#[derive(Debug)]
pub(super) struct NpyArray {
    pub(super) shape: Vec<usize>,
    /// In the order of rows, whichever it is stored in.
    pub(super) values: Vec<f32>,
}

/// Reads an array of two dimensions; values of 64 bits are rounded to f32, as numpy does.
pub(super) fn read(bytes: &[u8]) -> Result<NpyArray, String> {
    let (header, data) = parts(bytes).ok_or("a NumPy file that is cut off, or of an unknown version")?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    let kind = value(header, "descr").and_then(quoted).ok_or("the header names no single type of values")?;
    let fortran = match value(header, "fortran_order") {
        Some(text) if text.starts_with("True") => true,
        Some(text) if text.starts_with("False") => false,
        _ => return Err("the header does not say in which order values are".to_owned()),
    };
    let shape = value(header, "shape").and_then(shape).ok_or("the header has no shape")?;
    let (size, decode) = decoder(kind).ok_or_else(|| format!("values of the type {kind:?}; floats are needed"))?;
    let count = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if count.and_then(|count| count.checked_mul(size)) != Some(data.len()) {
        return Err(format!("the shape {shape:?} needs other than the {} bytes that are there", data.len()));
    }
    let stored: Vec<f32> = data.chunks_exact(size).map(decode).collect();
    let values = match shape[..] {
        // Without values there may be no end of rows.
        [rows, columns] if fortran && !stored.is_empty() => {
            (0..rows).flat_map(|row| (0..columns).map(move |column| column * rows + row)).map(|at| stored[at]).collect()
        }
        _ => stored,
    };
    Ok(NpyArray { shape, values })
}

/// Header and data: versions 1 to 3 differ in the size of a length.
fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (version, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u16::from_le_bytes(*length).into(), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            (usize::try_from(u32::from_le_bytes(*length)).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// What stands behind a key of the header, a literal of Python's: `{'descr': '<f4', 'fortran_order': False, …}`.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, behind) = header.split_once(&format!("'{key}':"))?;
    Some(behind.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split_once('\'').map(|(inside, _)| inside)
}

fn shape(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    inside.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect()
}

type Decode = fn(&[u8]) -> f32;

/// Bytes of a value, and what they mean.
fn decoder(kind: &str) -> Option<(usize, Decode)> {
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        array
    }
    let decoder: (usize, Decode) = match kind {
        "<f2" => (2, |bytes| f16::from_le_bytes(array(bytes)).to_f32()),
        ">f2" => (2, |bytes| f16::from_be_bytes(array(bytes)).to_f32()),
        "<f4" => (4, |bytes| f32::from_le_bytes(array(bytes))),
        ">f4" => (4, |bytes| f32::from_be_bytes(array(bytes))),
        "<f8" => (8, |bytes| f64::from_le_bytes(array(bytes)) as f32),
        ">f8" => (8, |bytes| f64::from_be_bytes(array(bytes)) as f32),
        _ => return None,
    };
    Some(decoder)
}
