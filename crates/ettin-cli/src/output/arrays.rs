//! Vectors as one array: NumPy's `.npy` and safetensors.
//!
//! Row i belongs to input i: the row of an input that could not be embedded is NaN, or zeros where integers have none,
//! so that nothing moves up. With one vector per token, input i has the rows from `offsets[i]` to `offsets[i + 1]`; in an
//! `.npy` file the offsets are a second array behind the first, as `numpy.save` writes two arrays to one file.
//!
//! The array is gathered in memory, because both formats begin with its size.

use std::collections::HashMap;
use std::io::{self, Write};

use ettin::quantization::{Integers, Precision, Ranges};
use ettin::tasks::Embeddings;
use safetensors::tensor::{Dtype, TensorView};

use super::Format;

/// The vectors of one input.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ArrayRow<'a> {
    /// One vector per text.
    Pooled(&'a [f32]),
    /// One vector per token.
    Tokens(&'a [Vec<f32>]),
    /// One quantised vector per text.
    QuantizedPooled(&'a Integers),
    /// One quantised vector per token.
    QuantizedTokens(&'a [Integers]),
    /// The same in one piece.
    Vectors(&'a Embeddings),
}

/// Gathers vectors and writes them as one array.
#[derive(Debug)]
pub(crate) struct ArrayWriter {
    /// Little-endian numbers, row after row.
    bytes: Vec<u8>,
    /// What they are, where they are not f32.
    precision: Option<Precision>,
    /// What the steps of integers stand for, where it is known.
    ranges: Option<Ranges>,
    rows: usize,
    /// Length of a row, once one has come.
    width: Option<usize>,
    /// Missing rows before the first that came.
    missing: usize,
    /// With one vector per token: the first row of each input, and the end.
    offsets: Option<Vec<i64>>,
}

impl ArrayWriter {
    /// An array of one vector per text, or per token.
    pub(crate) fn new(per_token: bool) -> Self {
        let offsets = per_token.then(|| vec![0]);
        ArrayWriter { bytes: Vec::new(), precision: None, ranges: None, rows: 0, width: None, missing: 0, offsets }
    }

    /// The same of quantised vectors.
    pub(crate) fn quantized(per_token: bool, precision: Precision, ranges: Option<&Ranges>) -> Self {
        ArrayWriter { precision: Some(precision), ranges: ranges.cloned(), ..Self::new(per_token) }
    }

    /// Adds the vectors of the next input.
    pub(crate) fn push(&mut self, row: ArrayRow<'_>) {
        match row {
            ArrayRow::Pooled(vector) => self.vector(vector),
            ArrayRow::Tokens(vectors) => vectors.iter().for_each(|vector| self.vector(vector)),
            ArrayRow::QuantizedPooled(integers) => self.row(integers.len(), &integers.to_bytes()),
            ArrayRow::QuantizedTokens(rows) => rows.iter().for_each(|row| self.row(row.len(), &row.to_bytes())),
            ArrayRow::Vectors(vectors) => vectors.rows().for_each(|vector| self.vector(vector)),
        }
        self.close();
    }

    /// Leaves room for an input that has no vectors.
    pub(crate) fn skip(&mut self) {
        match (&self.offsets, self.width) {
            (Some(_), _) => self.close(),
            (None, Some(width)) => self.missing_row(width),
            (None, None) => self.missing += 1,
        }
    }

    /// Whether no row has come that says how long rows are.
    pub(crate) fn needs_width(&self) -> bool {
        self.width.is_none()
    }

    /// Says how long rows are.
    pub(crate) fn set_width(&mut self, width: usize) {
        if self.width.is_none() {
            self.width = Some(width);
            for _ in 0..std::mem::take(&mut self.missing) {
                self.missing_row(width);
            }
        }
    }

    /// Ends an input's rows where one may have several.
    fn close(&mut self) {
        let end = self.rows as i64;
        if let Some(offsets) = &mut self.offsets {
            offsets.push(end);
        }
    }

    fn missing_row(&mut self, width: usize) {
        match self.precision {
            None => self.vector(&vec![f32::NAN; width]),
            Some(_) => self.row(width, &vec![0; width]),
        }
    }

    fn vector(&mut self, vector: &[f32]) {
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.row(vector.len(), &bytes);
    }

    fn row(&mut self, width: usize, bytes: &[u8]) {
        self.set_width(width);
        self.bytes.extend(bytes);
        self.rows += 1;
    }

    /// Writes the array in one of the two formats.
    pub(crate) fn write(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        let shape = [self.rows + self.missing, self.width.unwrap_or(0)];
        let offsets: Option<Vec<u8>> =
            self.offsets.as_ref().map(|offsets| offsets.iter().flat_map(|at| at.to_le_bytes()).collect());
        if format == Format::Npy {
            out.write_all(&npy_header(self.npy_type(), &format!("{}, {}", shape[0], shape[1])))?;
            out.write_all(&self.bytes)?;
            if let Some(bytes) = offsets {
                out.write_all(&npy_header("<i8", &format!("{},", bytes.len() / 8)))?;
                out.write_all(&bytes)?;
            }
            return Ok(());
        }
        let embeddings = view(self.dtype(), shape.to_vec(), &self.bytes)?;
        let mut tensors = vec![("embeddings", embeddings)];
        if let Some(bytes) = &offsets {
            tensors.push(("offsets", view(Dtype::I64, vec![bytes.len() / 8], bytes)?));
        }
        let ranges: Option<Vec<u8>> = self
            .ranges
            .as_ref()
            .map(|ranges| ranges.low().iter().chain(ranges.high()).flat_map(|value| value.to_le_bytes()).collect());
        if let Some(bytes) = &ranges {
            tensors.push(("ranges", view(Dtype::F32, vec![2, bytes.len() / 8], bytes)?));
        }
        let metadata = self.precision.map(|precision| HashMap::from([("precision".into(), precision.to_string())]));
        let file = safetensors::serialize(tensors, metadata).map_err(io::Error::other)?;
        out.write_all(&file)
    }

    fn dtype(&self) -> Dtype {
        match self.precision.map(Precision::is_signed) {
            None => Dtype::F32,
            Some(true) => Dtype::I8,
            Some(false) => Dtype::U8,
        }
    }

    /// What NumPy calls the numbers.
    fn npy_type(&self) -> &'static str {
        match self.precision.map(Precision::is_signed) {
            None => "<f4",
            Some(true) => "|i1",
            Some(false) => "|u1",
        }
    }
}

fn view(dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> io::Result<TensorView<'_>> {
    TensorView::new(dtype, shape, bytes).map_err(io::Error::other)
}

/// Header of an array in an `.npy` file, version 1.0, in C order; its length is a multiple of 64. The shape is that of a
/// Python tuple, without its parentheses.
pub(super) fn npy_header(descr: &str, shape: &str) -> Vec<u8> {
    const BEFORE: usize = 10; // magic, version and length
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let padding = 64 - (BEFORE + header.len() + 1) % 64;
    header.push_str(&" ".repeat(padding % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.into_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(writer: &ArrayWriter, format: Format) -> Vec<u8> {
        let mut out = Vec::new();
        writer.write(format, &mut out).unwrap();
        out
    }

    #[test]
    fn npy_headers_are_aligned_and_say_the_shape() {
        for shape in [[0, 0], [1, 1], [3, 768], [1_000_000_000, 12_345], [usize::MAX, usize::MAX]] {
            let header = npy_header("<f4", &format!("{}, {}", shape[0], shape[1]));
            assert_eq!(header.len() % 64, 0);
            assert_eq!(&header[..8], b"\x93NUMPY\x01\x00");
            assert_eq!(header.last(), Some(&b'\n'));
            let length = u16::from_le_bytes([header[8], header[9]]) as usize;
            assert_eq!(length + 10, header.len());
            let text = String::from_utf8_lossy(&header[10..]);
            assert!(text.contains(&format!("'shape': ({}, {})", shape[0], shape[1])), "{text}");
        }
    }

    #[test]
    fn missing_rows_are_nan_and_move_nothing() {
        let mut writer = ArrayWriter::new(false);
        writer.skip();
        writer.push(ArrayRow::Pooled(&[1.0, 2.0]));
        writer.skip();
        let out = written(&writer, Format::Npy);
        let values: Vec<f32> =
            out[out.len() - 24..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(values[2..4], [1.0, 2.0]);
        assert!(values[..2].iter().chain(&values[4..]).all(|value| value.is_nan()));
        assert!(String::from_utf8_lossy(&out).contains("(3, 2)"));
    }

    #[test]
    fn quantised_rows_are_bytes_with_their_ranges_and_missing_ones_are_zeros() {
        let ranges = Ranges::new(vec![0.0, -1.0], vec![1.0, 1.0]).unwrap();
        let mut writer = ArrayWriter::quantized(false, Precision::Int8, Some(&ranges));
        writer.skip();
        writer.push(ArrayRow::QuantizedPooled(&Integers::Signed(vec![-1, 127])));
        writer.skip();
        let out = written(&writer, Format::Npy);
        assert!(String::from_utf8_lossy(&out).contains("'descr': '|i1', 'fortran_order': False, 'shape': (3, 2)"));
        assert_eq!(out[out.len() - 6..], [0, 0, 255, 127, 0, 0]);
        let out = written(&writer, Format::Safetensors);
        let file = safetensors::SafeTensors::deserialize(&out).unwrap();
        let embeddings = file.tensor("embeddings").unwrap();
        assert_eq!((embeddings.shape(), embeddings.dtype()), (&[3, 2][..], Dtype::I8));
        let file = ettin::files::FileData::from_bytes("out", out);
        assert_eq!(Ranges::from_file(&file).unwrap(), ranges);

        let mut writer = ArrayWriter::quantized(true, Precision::Ubinary, None);
        writer.push(ArrayRow::QuantizedTokens(&[Integers::Unsigned(vec![7]), Integers::Unsigned(vec![9])]));
        writer.skip();
        let out = written(&writer, Format::Safetensors);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&out).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["precision"], "ubinary");
        let file = safetensors::SafeTensors::deserialize(&out).unwrap();
        assert_eq!((file.tensor("embeddings").unwrap().data(), file.len()), (&[7, 9][..], 2));
        assert_eq!(file.tensor("embeddings").unwrap().dtype(), Dtype::U8);
        assert_eq!(file.tensor("offsets").unwrap().shape(), [3]);
    }

    #[test]
    fn token_vectors_carry_offsets() {
        let mut writer = ArrayWriter::new(true);
        writer.push(ArrayRow::Tokens(&[vec![1.0], vec![2.0]]));
        writer.skip();
        writer.push(ArrayRow::Tokens(&[vec![3.0]]));
        let out = written(&writer, Format::Safetensors);
        let file = safetensors::SafeTensors::deserialize(&out).unwrap();
        assert_eq!(file.tensor("embeddings").unwrap().shape(), [3, 1]);
        let npy = written(&writer, Format::Npy);
        let second = npy.len() - 4 * 8 - 128;
        assert!(npy[second..].starts_with(b"\x93NUMPY") && String::from_utf8_lossy(&npy[second..]).contains("(4,)"));
        assert!(String::from_utf8_lossy(&npy[..second]).contains("(3, 1)"));
        let offsets: Vec<i64> = file
            .tensor("offsets")
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(offsets, [0, 2, 2, 3]);
    }

    #[test]
    fn nothing_is_an_empty_array_of_the_width() {
        let mut writer = ArrayWriter::new(false);
        assert!(writer.needs_width());
        writer.set_width(768);
        assert!(!writer.needs_width());
        assert!(String::from_utf8_lossy(&written(&writer, Format::Npy)).contains("(0, 768)"));
        let out = written(&writer, Format::Safetensors);
        let file = safetensors::SafeTensors::deserialize(&out).unwrap();
        let embeddings = file.tensor("embeddings").unwrap();
        assert_eq!((embeddings.shape(), embeddings.dtype()), (&[0, 768][..], Dtype::F32));
        assert!(file.tensor("offsets").is_err());

        let mut writer = ArrayWriter::new(true);
        writer.set_width(8);
        let out = written(&writer, Format::Safetensors);
        let file = safetensors::SafeTensors::deserialize(&out).unwrap();
        assert_eq!(file.tensor("embeddings").unwrap().shape(), [0, 8]);
        assert_eq!(file.tensor("offsets").unwrap().data(), [0; 8]);
    }

    #[test]
    fn missing_rows_alone_have_the_width_that_is_said() {
        let mut writer = ArrayWriter::new(false);
        writer.skip();
        writer.skip();
        writer.set_width(3);
        let out = written(&writer, Format::Npy);
        assert!(String::from_utf8_lossy(&out).contains("(2, 3)"));
        let values = out[out.len() - 24..].chunks_exact(4);
        assert!(values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).all(f32::is_nan));
    }
}
