//! Token vectors, and the output matrix that they may be.

use std::sync::Arc;

use ettin_kernels::{Isa, PackedWeight, Scheme, Sharing, rounded};

use super::super::{Matrix, StoredRows};
use super::{Cpu, FusedRows};
use crate::{Error, Result};

/// Token vectors, `[vocabulary, hidden]`, stored once: where they are only looked up, in their file.
#[derive(Debug)]
pub enum FusedEmbedding {
    /// As panels, to be multiplied by as well.
    Packed(PackedWeight),
    /// Rows in their file, and what is done to them to be what packing would have made of them.
    Stored(StoredRows, Option<Scheme>),
}

impl FusedEmbedding {
    pub(super) fn new(matrix: Matrix<'_>, cpu: &Cpu) -> Result<Self> {
        let scheme = cpu.table_scheme();
        Ok(match matrix {
            Matrix::Stored(rows) => {
                let rounding = rows.quantization.is_none_or(|stored| stored.scheme() != scheme).then_some(scheme);
                FusedEmbedding::Stored(rows, rounding)
            }
            matrix => FusedEmbedding::Packed(cpu.pack(matrix, scheme, Sharing::Outputs)?),
        })
    }

    /// Vocabulary and hidden size.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            FusedEmbedding::Packed(matrix) => (matrix.n(), matrix.k()),
            FusedEmbedding::Stored(rows, _) => (rows.outputs, rows.inputs),
        }
    }

    /// Room for the vectors of tokens that are all in the vocabulary.
    pub(super) fn room(&self, ids: &[u32], cpu: &Arc<Cpu>) -> Result<FusedRows> {
        let (vocabulary, size) = self.shape();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::input(format!("token id {id} is outside the vocabulary of {vocabulary}")));
        }
        let mut rows = FusedRows::empty(cpu, size);
        rows.memory.hidden.resize(ids.len() * size);
        Ok(rows)
    }

    /// The vectors of some tokens of the vocabulary, `[ids, hidden]`.
    pub(super) fn look_up(&self, ids: &[u32], isa: Isa, out: &mut [f32]) {
        match self {
            FusedEmbedding::Packed(matrix) => matrix.rows(ids, out),
            FusedEmbedding::Stored(rows, rounding) => {
                for (&id, out) in ids.iter().zip(out.chunks_exact_mut(rows.inputs)) {
                    (rows.fill)(id as usize, out);
                }
                if let Some(scheme) = *rounding {
                    rounded(isa, scheme, rows.inputs, out);
                }
            }
        }
    }

    /// The output matrix of a language model.
    pub(super) fn matrix(&self) -> Result<&PackedWeight> {
        match self {
            FusedEmbedding::Packed(matrix) => Ok(matrix),
            FusedEmbedding::Stored(..) => {
                Err(Error::input("these parameters are not a language model's: they have no output matrix"))
            }
        }
    }
}
