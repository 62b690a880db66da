//! The residual stream between blocks.

use candle_core::{Device, Tensor};
use ettin_kernels::{Pooled, Reduce};

use super::{device, fused::Rows};
use crate::{Result, finite};

/// Hidden states of a packed batch, `[rows, size]`: a workspace on the CPU, tensors on devices.
#[derive(Debug)]
pub struct Hidden(pub(super) Repr);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for every step of decoding")]
pub(super) enum Repr {
    Fused(Rows),
    /// Kept in f32 whatever the dtype of the products: the residual of the larger models reaches 2e4.
    Reference(Tensor),
    Device(device::Rows),
}

impl Hidden {
    /// Number of rows (tokens of the batch, or those selected).
    pub fn rows(&self) -> usize {
        match &self.0 {
            Repr::Fused(rows) => rows.rows(),
            Repr::Reference(tensor) => tensor.dims()[0],
            Repr::Device(rows) => rows.dims()[0],
        }
    }

    /// Values per row.
    pub fn size(&self) -> usize {
        match &self.0 {
            Repr::Fused(rows) => rows.size(),
            Repr::Reference(tensor) => tensor.dims()[1],
            Repr::Device(rows) => rows.dims()[1],
        }
    }

    /// A copy as a tensor, `[rows, size]` in f32, on the device that computed it.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match &self.0 {
            Repr::Fused(rows) => {
                let shape = (rows.rows(), rows.size());
                Ok(Tensor::from_slice(rows.values(), shape, &Device::Cpu)?)
            }
            Repr::Reference(tensor) => Ok(tensor.clone()),
            Repr::Device(rows) => rows.tensor(),
        }
    }

    /// Whether every value is a number.
    pub(crate) fn is_finite(&self) -> Result<bool> {
        Ok(match &self.0 {
            Repr::Fused(rows) => finite::is_finite(rows.values()),
            Repr::Reference(_) | Repr::Device(_) => {
                finite::is_finite(&self.to_tensor()?.flatten_all()?.to_vec1::<f32>()?)
            }
        })
    }

    /// Runs of rows brought together, `[runs, size]`, where there are kernels for it; elsewhere `None`.
    pub(crate) fn reduce(&self, runs: impl Iterator<Item = Pooled>) -> Result<Option<Tensor>> {
        let runs: Vec<Pooled> = runs.collect();
        Ok(match &self.0 {
            Repr::Fused(rows) => Some(Tensor::from_vec(rows.pool(&runs), (runs.len(), rows.size()), &Device::Cpu)?),
            Repr::Device(rows) => {
                let pooled = rows.pool(&runs)?;
                if runs.iter().all(|run| run.reduce != Reduce::Max) {
                    return Ok(Some(pooled));
                }
                // The largest of NaN and a number is the number there; a sum is not.
                let sums: Vec<Pooled> =
                    runs.iter().map(|run| Pooled { reduce: Reduce::Sum, divisor: 1.0, ..run.clone() }).collect();
                Some(pooled.broadcast_mul(&((rows.pool(&sums)? * 0.0)? + 1.0)?)?)
            }
            Repr::Reference(_) => None,
        })
    }

    /// The given rows alone, in the given order: heads compute only what is asked.
    pub fn select(&self, rows: &[usize]) -> Result<Hidden> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.rows()) {
            return Err(crate::Error::input(format!("row {row} was asked of {} rows", self.rows())));
        }
        Ok(Hidden(match &self.0 {
            Repr::Fused(hidden) => Repr::Fused(hidden.select(rows)),
            Repr::Reference(_) | Repr::Device(_) => {
                let tensor = self.to_tensor()?;
                let index: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
                let index = Tensor::from_vec(index, rows.len(), tensor.device())?;
                Repr::Reference(tensor.index_select(&index, 0)?)
            }
        }))
    }
}
