//! Borrowed tensors: bytes of a file with a name, a dtype and a shape. Alignment is never assumed.

use candle_core::{DType, Device, Tensor};
use ettin_kernels::{Quantization, QuantizedRow};
use half::{bf16, f16};

use crate::Result;
use crate::dtype::StoredDtype;

/// One stored tensor, row-major, borrowed from its file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: StoredDtype,
    pub(super) shape: &'a [usize],
    pub(super) bytes: &'a [u8],
    /// Of quantised rows, all rows' one after the other; else nothing.
    pub(super) scales: &'a [u8],
}

impl<'a> View<'a> {
    /// The canonical name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The stored number format.
    pub fn dtype(&self) -> StoredDtype {
        self.dtype
    }

    /// Dimensions; a matrix is `[rows, columns]`, a linear layer's weight `[out, in]`.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The little-endian elements or codes, [`StoredDtype::row_bytes`] of each row, at any alignment.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// First dimension; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of one row: the product of all dimensions but the first.
    pub fn columns(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Writes row `index` as f32 into `out`, which holds [`columns`](Self::columns) elements.
    ///
    /// # Panics
    /// When there is no such row or `out` has another length.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns(), "a row of `{}`", self.name);
        match self.dtype.quantization() {
            Some(quantization) => quantization.dequantize(self.quantized_row(quantization, index), out),
            None => {
                let size = self.dtype.row_bytes(out.len());
                widen(self.dtype, &self.bytes[index * size..][..size], out);
            }
        }
    }

    /// Row `index` as it is stored, in the dtype of that quantisation.
    ///
    /// # Panics
    /// When there is no such row.
    pub(crate) fn quantized_row(&self, quantization: Quantization, index: usize) -> QuantizedRow<'a> {
        let (codes, scales) = (quantization.code_bytes(self.columns()), quantization.scale_bytes(self.columns()));
        QuantizedRow { codes: &self.bytes[index * codes..][..codes], scales: &self.scales[index * scales..][..scales] }
    }

    /// Writes all elements as f32 into `out`, which holds [`len`](Self::len) of them.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn read(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "elements of `{}`", self.name);
        match self.dtype.quantization() {
            Some(_) => out.chunks_mut(self.columns().max(1)).enumerate().for_each(|(index, out)| self.row(index, out)),
            None => widen(self.dtype, self.bytes, out),
        }
    }

    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.read(&mut out);
        out
    }

    /// A candle tensor of the same shape on `device`.
    ///
    /// # Errors
    /// What candle refuses, such as a dtype that the device does not have.
    pub fn tensor(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        let stored = match self.dtype {
            StoredDtype::F32 => Tensor::from_raw_buffer(self.bytes, DType::F32, self.shape, device),
            StoredDtype::F16 => Tensor::from_raw_buffer(self.bytes, DType::F16, self.shape, device),
            StoredDtype::BF16 => Tensor::from_raw_buffer(self.bytes, DType::BF16, self.shape, device),
            StoredDtype::W8 | StoredDtype::W4 => Tensor::from_vec(self.to_f32(), self.shape, device),
        };
        Ok(stored?.to_dtype(dtype)?)
    }

    /// Whether both hold the same values: bit for bit, or after widening when their dtypes differ.
    pub(super) fn same_values(&self, other: &View<'_>) -> bool {
        if self.shape != other.shape {
            return false;
        }
        if self.dtype == other.dtype {
            // Tied tensors of a torch file share one storage: same address, nothing to compare.
            let same = |a: &[u8], b: &[u8]| std::ptr::eq(a, b) || a == b;
            return same(self.bytes, other.bytes) && same(self.scales, other.scales);
        }
        let (mut ours, mut theirs) = (vec![0.0; self.columns()], vec![0.0; self.columns()]);
        (0..self.rows()).all(|row| {
            self.row(row, &mut ours);
            other.row(row, &mut theirs);
            ours == theirs
        })
    }
}

/// Views stacked along their first dimension: one view, or query, key and value stored apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack<'a> {
    parts: Vec<View<'a>>,
}

impl<'a> From<View<'a>> for Stack<'a> {
    fn from(view: View<'a>) -> Self {
        Self { parts: vec![view] }
    }
}

impl<'a> Stack<'a> {
    /// Stacks parts, at least one, that agree in everything but their first dimension; where one of them was missing
    /// and is stood in for, the load fails and no one reads the stack.
    pub(super) fn new(parts: Vec<View<'a>>) -> Self {
        Self { parts }
    }

    /// The parts, top to bottom; at least one.
    pub fn parts(&self) -> &[View<'a>] {
        &self.parts
    }

    /// Rows of all parts.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(View::rows).sum()
    }

    /// Elements of one row.
    pub fn columns(&self) -> usize {
        self.parts[0].columns()
    }

    /// Dimensions of the whole.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.parts[0].shape.to_vec();
        if let Some(first) = shape.first_mut() {
            *first = self.rows();
        }
        shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.parts.iter().map(View::len).sum()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first part's number format.
    pub fn dtype(&self) -> StoredDtype {
        self.parts[0].dtype
    }

    /// How the rows of all parts are quantised, where they are.
    pub(crate) fn quantization(&self) -> Option<Quantization> {
        self.dtype().quantization().filter(|_| self.parts.iter().all(|part| part.dtype == self.dtype()))
    }

    /// Writes row `index` as f32 into `out`, which holds [`columns`](Self::columns) elements.
    ///
    /// # Panics
    /// When there is no such row or `out` has another length.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        let (part, index) = self.locate(index);
        part.row(index, out);
    }

    /// Row `index` as it is stored, of [such](Self::quantization) a stack.
    ///
    /// # Panics
    /// When there is no such row.
    pub(crate) fn quantized_row(&self, quantization: Quantization, index: usize) -> QuantizedRow<'a> {
        let (part, index) = self.locate(index);
        part.quantized_row(quantization, index)
    }

    /// The part that has a row, and the row's place in it.
    fn locate(&self, mut index: usize) -> (&View<'a>, usize) {
        for part in &self.parts {
            if index < part.rows() {
                return (part, index);
            }
            index -= part.rows();
        }
        panic!("`{}` has {} rows", self.parts[0].name, self.rows());
    }

    /// All elements as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        let mut rest = out.as_mut_slice();
        for part in &self.parts {
            let (head, tail) = rest.split_at_mut(part.len());
            part.read(head);
            rest = tail;
        }
        out
    }

    /// A candle tensor of the whole on `device`.
    ///
    /// # Errors
    /// What candle refuses, such as a dtype that the device does not have.
    pub fn tensor(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        match self.parts.as_slice() {
            [one] => one.tensor(device, dtype),
            parts => {
                let tensors: Vec<_> = parts.iter().map(|part| part.tensor(device, dtype)).collect::<Result<_>>()?;
                Ok(Tensor::cat(&tensors, 0)?)
            }
        }
    }
}

/// Little-endian floats as f32; `bytes` and `out` hold equally many.
fn widen(dtype: StoredDtype, bytes: &[u8], out: &mut [f32]) {
    let (quads, _) = bytes.as_chunks::<4>();
    let (pairs, _) = bytes.as_chunks::<2>();
    match dtype {
        StoredDtype::F32 => out.iter_mut().zip(quads).for_each(|(o, b)| *o = f32::from_le_bytes(*b)),
        StoredDtype::F16 => out.iter_mut().zip(pairs).for_each(|(o, b)| *o = f16::from_le_bytes(*b).to_f32()),
        StoredDtype::BF16 => out.iter_mut().zip(pairs).for_each(|(o, b)| *o = bf16::from_le_bytes(*b).to_f32()),
        StoredDtype::W8 | StoredDtype::W4 => unreachable!("codes mean nothing without their scales"),
    }
}
