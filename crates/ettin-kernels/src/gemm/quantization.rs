//! Rows of a weight in few bits, as files keep them: the same on every instruction set.
//!
//! A row is its **codes**, small integers, and its **scales**, which a code is multiplied by. Both are bytes here,
//! little-endian at any alignment, so that a row can be packed out of a mapped file.

use super::{
    formats::{QuantizedRow, StoredRows, w4::W4A32, w8::W8A32},
    scheme::Scheme,
};

/// The formats that a row can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quantization {
    /// Of [`Scheme::W8`]: a signed byte for each input, one f32 for the row.
    W8,
    /// Of [`Scheme::W4`]: a byte for two inputs, the weight of the first plus 8 in its lower half and that of the
    /// second in its upper half; a bf16 for each [`GROUP`](super::GROUP) inputs, of which the last may have fewer.
    W4,
}

impl Quantization {
    /// The scheme that computes with such rows.
    pub fn scheme(self) -> Scheme {
        match self {
            Quantization::W8 => Scheme::W8,
            Quantization::W4 => Scheme::W4,
        }
    }

    /// Bytes of the codes of a row of `k` inputs.
    pub fn code_bytes(self, k: usize) -> usize {
        match self {
            Quantization::W8 => W8A32::code_bytes(k),
            Quantization::W4 => W4A32::code_bytes(k),
        }
    }

    /// Bytes of the scales of a row of `k` inputs.
    pub fn scale_bytes(self, k: usize) -> usize {
        match self {
            Quantization::W8 => W8A32::scale_bytes(k),
            Quantization::W4 => W4A32::scale_bytes(k),
        }
    }

    /// Whether all scales are finite numbers; they are not where a weight was not.
    pub fn is_finite(self, scales: &[u8]) -> bool {
        match self {
            Quantization::W8 => W8A32::is_finite(scales),
            Quantization::W4 => W4A32::is_finite(scales),
        }
    }

    /// Quantizes a row of weights, as [`PackedWeight::pack`](super::PackedWeight::pack) does.
    ///
    /// # Panics
    /// If `codes` or `scales` have another length than such a row's.
    pub fn quantize(self, row: &[f32], codes: &mut [u8], scales: &mut [u8]) {
        self.check(row.len(), codes, scales);
        match self {
            Quantization::W8 => W8A32::quantize(row, codes, scales),
            Quantization::W4 => W4A32::quantize(row, codes, scales),
        }
    }

    /// The weights of a row, as f32, into `out` of length k.
    ///
    /// # Panics
    /// If `row` has other lengths than one of k weights.
    pub fn dequantize(self, row: QuantizedRow<'_>, out: &mut [f32]) {
        self.check(out.len(), row.codes, row.scales);
        match self {
            Quantization::W8 => W8A32::dequantize(row, out),
            Quantization::W4 => W4A32::dequantize(row, out),
        }
    }

    pub(super) fn check(self, k: usize, codes: &[u8], scales: &[u8]) {
        let lengths = (self.code_bytes(k), self.scale_bytes(k));
        assert_eq!((codes.len(), scales.len()), lengths, "bytes of a row of {k} inputs in {}", self.scheme());
    }
}
