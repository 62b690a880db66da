//! Rows of a weight in few bits, as files keep them: the same on every instruction set.
//!
//! A row is its **codes**, small integers, and its **factors**, which a code is multiplied by. Both are bytes here,
//! little-endian at any alignment, so that a row can be packed out of a mapped file.

use half::bf16;

use super::{GROUP, Scheme};

/// The formats that a row can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quantisation {
    /// Of [`Scheme::W8`]: a signed byte for each input, one f32 for the row.
    W8,
    /// Of [`Scheme::W4`]: a byte for two inputs, the weight of the first plus 8 in its lower half and that of the second in
    /// its upper half; a bf16 for each [`GROUP`] inputs, of which the last may have fewer.
    W4,
}

/// A row of k weights, quantised.
#[derive(Clone, Copy, Debug)]
pub struct QuantisedRow<'a> {
    /// As many as [`Quantisation::code_bytes`] says.
    pub codes: &'a [u8],
    /// As many as [`Quantisation::factor_bytes`] says.
    pub factors: &'a [u8],
}

/// Two weights of zero.
pub(super) const ZEROS: u8 = 0x88;

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
            Quantisation::W8 => k,
            Quantisation::W4 => k.div_ceil(2),
        }
    }

    /// Bytes of the factors of a row of `k` inputs.
    pub fn factor_bytes(self, k: usize) -> usize {
        match self {
            Quantisation::W8 => size_of::<f32>(),
            Quantisation::W4 => k.div_ceil(GROUP) * size_of::<bf16>(),
        }
    }

    /// Whether all factors are finite numbers; they are not where a weight was not.
    pub fn is_finite(self, factors: &[u8]) -> bool {
        match self {
            Quantisation::W8 => factors.as_chunks().0.iter().all(|factor| f32::from_le_bytes(*factor).is_finite()),
            Quantisation::W4 => factors.as_chunks().0.iter().all(|factor| bf16::from_le_bytes(*factor).is_finite()),
        }
    }

    /// Quantises a row of weights, as [`PackedMatrix::pack`](super::PackedMatrix::pack) does.
    ///
    /// # Panics
    /// If `codes` or `factors` have another length than such a row's.
    pub fn quantise(self, row: &[f32], codes: &mut [u8], factors: &mut [u8]) {
        self.check(row.len(), codes, factors);
        match self {
            Quantisation::W8 => {
                let (factor, byte) = super::quantise::bytes(row);
                for (code, &w) in codes.iter_mut().zip(row) {
                    *code = byte(w) as u8;
                }
                factors.copy_from_slice(&factor.to_le_bytes());
            }
            Quantisation::W4 => {
                let groups = row.chunks(GROUP).zip(codes.chunks_mut(GROUP / 2));
                for ((row, codes), out) in groups.zip(factors.as_chunks_mut().0) {
                    let mut weights = [0.0; GROUP];
                    weights[..row.len()].copy_from_slice(row);
                    let (factor, nibble) = super::quantise::nibbles(&weights);
                    for (code, pair) in codes.iter_mut().zip(weights.as_chunks::<2>().0) {
                        *code = nibble(pair[0]) | nibble(pair[1]) << 4;
                    }
                    *out = bf16::from_f32(factor).to_le_bytes();
                }
            }
        }
    }

    /// The weights of a row, as f32, into `out` of length k.
    ///
    /// # Panics
    /// If `row` has other lengths than one of k weights.
    pub fn dequantise(self, row: QuantisedRow<'_>, out: &mut [f32]) {
        self.check(out.len(), row.codes, row.factors);
        match self {
            Quantisation::W8 => {
                let factor = row.factors.as_chunks().0.first().map_or(0.0, |factor| f32::from_le_bytes(*factor));
                for (out, &code) in out.iter_mut().zip(row.codes) {
                    *out = f32::from(code as i8) * factor;
                }
            }
            Quantisation::W4 => {
                let groups = out.chunks_mut(GROUP).zip(row.codes.chunks(GROUP / 2));
                for ((out, codes), factor) in groups.zip(row.factors.as_chunks().0) {
                    let factor = bf16::from_le_bytes(*factor).to_f32();
                    for (out, code) in out.chunks_mut(2).zip(codes) {
                        for (out, nibble) in out.iter_mut().zip([code & 15, code >> 4]) {
                            *out = (f32::from(nibble) - 8.0) * factor;
                        }
                    }
                }
            }
        }
    }

    pub(super) fn check(self, k: usize, codes: &[u8], factors: &[u8]) {
        let lengths = (self.code_bytes(k), self.factor_bytes(k));
        assert_eq!((codes.len(), factors.len()), lengths, "bytes of a row of {k} inputs in {}", self.scheme());
    }
}
