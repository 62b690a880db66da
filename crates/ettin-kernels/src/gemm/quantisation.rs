//! Rows of a weight in few bits, as files keep them: the same on every instruction set.
//!
//! A row is its **codes**, small integers, and its **factors**, which a code is multiplied by. Both are bytes here,
//! little-endian at any alignment, so that a row can be packed out of a mapped file.

use super::{
    formats::{QuantisedRow, Stored, w4::Nibbles, w8::Wide},
    scheme::Scheme,
};

/// The formats that a row can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quantisation {
    /// Of [`Scheme::W8`]: a signed byte for each input, one f32 for the row.
    W8,
    /// Of [`Scheme::W4`]: a byte for two inputs, the weight of the first plus 8 in its lower half and that of the second in
    /// its upper half; a bf16 for each [`GROUP`](super::GROUP) inputs, of which the last may have fewer.
    W4,
}

impl Quantisation {
    /// The scheme that computes with such rows.
    pub fn scheme(self) -> Scheme {
        match self {
            Quantisation::W8 => Scheme::W8,
            Quantisation::W4 => Scheme::W4,
        }
    }

    /// Bytes of the codes of a row of `k` inputs.
    pub fn code_bytes(self, k: usize) -> usize {
        match self {
            Quantisation::W8 => Wide::code_bytes(k),
            Quantisation::W4 => Nibbles::code_bytes(k),
        }
    }

    /// Bytes of the factors of a row of `k` inputs.
    pub fn factor_bytes(self, k: usize) -> usize {
        match self {
            Quantisation::W8 => Wide::factor_bytes(k),
            Quantisation::W4 => Nibbles::factor_bytes(k),
        }
    }

    /// Whether all factors are finite numbers; they are not where a weight was not.
    pub fn is_finite(self, factors: &[u8]) -> bool {
        match self {
            Quantisation::W8 => Wide::is_finite(factors),
            Quantisation::W4 => Nibbles::is_finite(factors),
        }
    }

    /// Quantises a row of weights, as [`PackedMatrix::pack`](super::PackedMatrix::pack) does.
    ///
    /// # Panics
    /// If `codes` or `factors` have another length than such a row's.
    pub fn quantise(self, row: &[f32], codes: &mut [u8], factors: &mut [u8]) {
        self.check(row.len(), codes, factors);
        match self {
            Quantisation::W8 => Wide::quantise(row, codes, factors),
            Quantisation::W4 => Nibbles::quantise(row, codes, factors),
        }
    }

    /// The weights of a row, as f32, into `out` of length k.
    ///
    /// # Panics
    /// If `row` has other lengths than one of k weights.
    pub fn dequantise(self, row: QuantisedRow<'_>, out: &mut [f32]) {
        self.check(out.len(), row.codes, row.factors);
        match self {
            Quantisation::W8 => Wide::dequantise(row, out),
            Quantisation::W4 => Nibbles::dequantise(row, out),
        }
    }

    pub(super) fn check(self, k: usize, codes: &[u8], factors: &[u8]) {
        let lengths = (self.code_bytes(k), self.factor_bytes(k));
        assert_eq!((codes.len(), factors.len()), lengths, "bytes of a row of {k} inputs in {}", self.scheme());
    }
}
