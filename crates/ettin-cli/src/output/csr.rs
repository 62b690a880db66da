//! Sparse vectors as one matrix: the parts of scipy's `csr_matrix` in a safetensors file, or in the archive that
//! `scipy.sparse.load_npz` reads.
//!
//! ```python
//! parts = safetensors.numpy.load_file("vectors.safetensors")
//! matrix = scipy.sparse.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=parts["shape"])
//! ```
//!
//! Row i belongs to input i; that of an input which could not be embedded is empty. The matrix is gathered in memory,
//! because the file begins with its size.

use std::io::{self, Write};

use safetensors::tensor::{Dtype, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::arrays::npy_header;

/// Gathers rows and writes the matrix.
#[derive(Debug)]
pub(crate) struct CsrWriter {
    columns: usize,
    /// Little-endian f32.
    data: Vec<u8>,
    /// Little-endian i32: no vector has 2³¹ places.
    indices: Vec<u8>,
    /// Where each row begins, and the end.
    starts: Vec<i64>,
}

impl CsrWriter {
    /// A matrix of so many columns.
    pub(crate) fn new(columns: usize) -> Self {
        CsrWriter { columns, data: Vec::new(), indices: Vec::new(), starts: vec![0] }
    }

    /// Adds the vector of the next input, its places ascending.
    pub(crate) fn push(&mut self, indices: &[u32], values: &[f32]) {
        self.indices.extend(indices.iter().flat_map(|index| index.to_le_bytes()));
        self.data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.skip();
    }

    /// Leaves an empty row for an input that has no vector.
    pub(crate) fn skip(&mut self) {
        self.starts.push((self.data.len() / size_of::<f32>()) as i64);
    }

    /// Rows and columns.
    fn shape(&self) -> [i64; 2] {
        [self.starts.len() as i64 - 1, self.columns as i64]
    }

    /// Writes the matrix as `scipy.sparse.save_npz(compressed=False)` does: an archive of arrays, stored as they are.
    pub(crate) fn write_npz(&self, out: &mut impl Write) -> io::Result<()> {
        let count = |bytes: &[u8], size: usize| format!("{},", bytes.len() / size);
        let (starts, shape) = (longs(&self.starts), longs(&self.shape()));
        let arrays: [(&str, &str, String, &[u8]); 5] = [
            ("indices", "<i4", count(&self.indices, 4), &self.indices),
            ("indptr", "<i8", count(&starts, 8), &starts),
            // One text of three bytes, and no dimension.
            ("format", "|S3", String::new(), b"csr"),
            ("shape", "<i8", count(&shape, 8), &shape),
            ("data", "<f4", count(&self.data, 4), &self.data),
        ];
        let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, descr, shape, bytes) in arrays {
            // Sizes of 4 GiB and more need the longer form.
            let large = u32::try_from(bytes.len() + 4096).is_err();
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
            archive.start_file(format!("{name}.npy"), options).map_err(io::Error::other)?;
            archive.write_all(&npy_header(descr, &shape))?;
            archive.write_all(bytes)?;
        }
        out.write_all(archive.finish().map_err(io::Error::other)?.get_ref())
    }

    /// Writes the matrix in safetensors.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (starts, shape) = (longs(&self.starts), longs(&self.shape()));
        let count = self.data.len() / size_of::<f32>();
        let tensors = [
            ("data", Dtype::F32, count, &self.data),
            ("indices", Dtype::I32, count, &self.indices),
            ("indptr", Dtype::I64, self.starts.len(), &starts),
            ("shape", Dtype::I64, 2, &shape),
        ];
        let view = |(name, dtype, count, bytes)| {
            Ok((name, TensorView::new(dtype, vec![count], bytes).map_err(io::Error::other)?))
        };
        let tensors = tensors.map(|(name, dtype, count, bytes)| view((name, dtype, count, bytes.as_slice())));
        let tensors = tensors.into_iter().collect::<io::Result<Vec<(&str, TensorView<'_>)>>>()?;
        out.write_all(&safetensors::serialize(tensors, None).map_err(io::Error::other)?)
    }
}

fn longs(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Header and data of an array of an archive.
    fn array(archive: &[u8], name: &str) -> (String, Vec<u8>) {
        let mut archive = zip::ZipArchive::new(io::Cursor::new(archive)).unwrap();
        let mut bytes = Vec::new();
        let mut file = archive.by_name(&format!("{name}.npy")).unwrap();
        assert_eq!(file.compression(), CompressionMethod::Stored);
        file.read_to_end(&mut bytes).unwrap();
        let data = bytes.split_off(10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]])));
        (String::from_utf8_lossy(&bytes[10..]).into_owned(), data)
    }

    #[test]
    fn an_archive_has_the_arrays_that_scipy_reads() {
        let mut writer = CsrWriter::new(9);
        writer.push(&[1, 8], &[0.5, 2.0]);
        writer.skip();
        writer.push(&[3], &[-1.0]);
        let mut out = Vec::new();
        writer.write_npz(&mut out).unwrap();
        for (name, header, data) in [
            (
                "indices",
                "'descr': '<i4', 'fortran_order': False, 'shape': (3,)",
                [1i32, 8, 3].map(i32::to_le_bytes).concat(),
            ),
            ("indptr", "'descr': '<i8', 'fortran_order': False, 'shape': (4,)", longs(&[0, 2, 2, 3])),
            ("format", "'descr': '|S3', 'fortran_order': False, 'shape': ()", b"csr".to_vec()),
            ("shape", "'descr': '<i8', 'fortran_order': False, 'shape': (2,)", longs(&[3, 9])),
            (
                "data",
                "'descr': '<f4', 'fortran_order': False, 'shape': (3,)",
                [0.5f32, 2.0, -1.0].map(f32::to_le_bytes).concat(),
            ),
        ] {
            let (said, found) = array(&out, name);
            assert!(said.contains(header), "{name}: {said}");
            assert_eq!(found, data, "{name}");
        }
        // The same matrix is the same file.
        let mut again = Vec::new();
        writer.write_npz(&mut again).unwrap();
        assert_eq!(out, again);
        let mut nothing = Vec::new();
        CsrWriter::new(4).write_npz(&mut nothing).unwrap();
        assert_eq!((array(&nothing, "indptr").1, array(&nothing, "data").1), (longs(&[0]), Vec::new()));
    }

    #[test]
    fn rows_are_those_of_scipy_and_a_missing_one_is_empty() {
        let mut writer = CsrWriter::new(9);
        writer.push(&[1, 8], &[0.5, 2.0]);
        writer.skip();
        writer.push(&[3], &[-1.0]);
        let mut out = Vec::new();
        writer.write(&mut out).unwrap();
        let file = safetensors::SafeTensors::deserialize(&out).unwrap();
        let longs = |name: &str| -> Vec<i64> {
            let data = file.tensor(name).unwrap().data();
            data.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
        };
        let words = |name: &str| -> Vec<[u8; 4]> {
            file.tensor(name).unwrap().data().chunks_exact(4).map(|bytes| bytes.try_into().unwrap()).collect()
        };
        assert_eq!((longs("indptr"), longs("shape")), (vec![0, 2, 2, 3], vec![3, 9]));
        assert_eq!(words("indices").into_iter().map(i32::from_le_bytes).collect::<Vec<_>>(), [1, 8, 3]);
        assert_eq!(words("data").into_iter().map(f32::from_le_bytes).collect::<Vec<_>>(), [0.5, 2.0, -1.0]);
    }

    #[test]
    fn nothing_is_a_matrix_without_rows() {
        let mut out = Vec::new();
        CsrWriter::new(4).write(&mut out).unwrap();
        let file = safetensors::SafeTensors::deserialize(&out).unwrap();
        assert_eq!(file.tensor("indptr").unwrap().shape(), [1]);
        assert_eq!(file.tensor("data").unwrap().shape(), [0]);
    }
}
