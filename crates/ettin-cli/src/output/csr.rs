//! Sparse vectors as one matrix: the parts of scipy's `csr_matrix` in a safetensors file.
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

    /// Writes the matrix.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let bytes = |numbers: &[i64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let (starts, shape) = (bytes(&self.starts), bytes(&[self.starts.len() as i64 - 1, self.columns as i64]));
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

#[cfg(test)]
mod tests {
    use super::*;

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
