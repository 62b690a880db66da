//! Matrices as a number format keeps them: what the reference path needs to be the oracle of a coarse format.

use ettin_kernels::{Isa, Quantization, Scheme, rounded};
use half::f16;

use crate::ops::{Dtype, Matrix, StoredRows};
use crate::tensors::{Part, Role, Source};
use crate::{Backend, Result};

/// What happens to a matrix on its way into a backend.
#[derive(Debug, Clone, Copy)]
enum Rounding {
    /// Nothing.
    None,
    /// It is packed in this format.
    Packed(Isa, Scheme),
    /// It becomes half precision.
    Half,
}

/// Another source, with every matrix as a backend keeps it, still f32. A model of it on the reference path differs from
/// one on that backend by what is rounded while it computes, not by what was rounded when it was loaded.
#[derive(Debug)]
pub(super) struct Rounded<S> {
    source: S,
    layers: Rounding,
    /// Of token vectors and of the output matrix over the vocabulary.
    tables: Rounding,
}

impl<S> Rounded<S> {
    pub(super) fn new(source: S, backend: &Backend) -> Self {
        // What a format makes of a weight does not depend on the instruction set; a device has none.
        let packed = |scheme| Rounding::Packed(backend.isa().unwrap_or(Isa::Portable), scheme);
        let layers = match backend.dtype() {
            Dtype::Auto | Dtype::F32 => Rounding::None,
            Dtype::F16 => Rounding::Half,
            Dtype::Bf16 => packed(Scheme::Bf16),
            Dtype::Bf16x3 => packed(Scheme::Bf16x3),
            Dtype::Bf16x6 => packed(Scheme::Bf16x6),
            Dtype::Int8 => packed(Scheme::Int8),
            Dtype::W8 => packed(Scheme::W8),
            Dtype::W4 => packed(Scheme::W4),
        };
        // As the fused path has it: they are not rounded to bytes.
        let tables = match layers {
            Rounding::Packed(isa, Scheme::Int8) => Rounding::Packed(isa, Scheme::Bf16),
            other => other,
        };
        Self { source, layers, tables }
    }

    fn rounding(&self, role: Role) -> Rounding {
        match role.part {
            Part::Embedding | Part::Output => self.tables,
            // Small, and kept exact.
            Part::Classifier => Rounding::None,
            _ => self.layers,
        }
    }
}

impl<'a, S: Source<Matrix = Matrix<'a>>> Source for Rounded<S> {
    type Matrix = Matrix<'a>;
    type Vector = S::Vector;
    type Error = S::Error;

    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<Matrix<'a>, S::Error> {
        Ok(self.rounding(role).matrix(self.source.matrix(role, shape)?))
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<S::Vector, S::Error> {
        self.source.vector(role, len)
    }

    fn tied_output(&mut self, role: Role, shape: [usize; 2]) -> Result<Option<Matrix<'a>>, S::Error> {
        let output = self.source.tied_output(role, shape)?;
        Ok(output.map(|matrix| self.rounding(role).matrix(matrix)))
    }
}

impl Rounding {
    fn row(self, row: &mut [f32]) {
        match self {
            Rounding::None => {}
            Rounding::Packed(isa, scheme) => rounded(isa, scheme, row.len(), row),
            Rounding::Half => row.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
        }
    }

    /// Rows that are stored in the very format stay as they are.
    fn keeps(self, stored: Option<Quantization>) -> bool {
        matches!((self, stored), (Rounding::Packed(_, scheme), Some(stored)) if stored.scheme() == scheme)
    }

    fn matrix(self, matrix: Matrix<'_>) -> Matrix<'_> {
        match matrix {
            Matrix::Quantized { quantization, outputs, inputs, row } if !self.keeps(Some(quantization)) => {
                let fill = move |index: usize, out: &mut [f32]| {
                    quantization.dequantize(row(index), out);
                    self.row(out);
                };
                Matrix::Rows { outputs, inputs, fill: Box::new(fill) }
            }
            Matrix::Rows { outputs, inputs, fill } => {
                let fill = move |index: usize, out: &mut [f32]| {
                    fill(index, out);
                    self.row(out);
                };
                Matrix::Rows { outputs, inputs, fill: Box::new(fill) }
            }
            Matrix::Stored(StoredRows { quantization, outputs, inputs, fill }) if !self.keeps(quantization) => {
                let fill = move |index: usize, out: &mut [f32]| {
                    fill(index, out);
                    self.row(out);
                };
                Matrix::Stored(StoredRows { quantization: None, outputs, inputs, fill: Box::new(fill) })
            }
            other => other,
        }
    }
}
