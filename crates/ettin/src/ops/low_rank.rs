//! Low-rank updates of a matrix, as adapters (LoRA) learn them.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// What is added to a matrix `[outputs, inputs]`: `scale · B · A`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, inputs]`.
    pub a: Tensor,
    /// `[outputs, rank]`.
    pub b: Tensor,
    /// PEFT's `lora_alpha / r`.
    pub scale: f64,
}

/// Adds to one row of a matrix.
pub(crate) type AddRow = Box<dyn Fn(usize, &mut [f32]) + Send + Sync>;

impl LowRank {
    /// Whether an optimiser means to change it.
    pub fn is_trainable(&self) -> bool {
        self.a.track_op() || self.b.track_op()
    }

    /// Whether it can be added to a matrix of this shape.
    pub(crate) fn fits(&self, [outputs, inputs]: [usize; 2]) -> bool {
        self.rank(outputs, inputs).is_ok()
    }

    /// What adds it, computed in f32, to a row of a matrix `[outputs, inputs]`.
    pub(crate) fn rows(&self, outputs: usize, inputs: usize) -> Result<AddRow> {
        let rank = self.rank(outputs, inputs)?;
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let (a, b, scale) = (values(&self.a)?, values(&self.b)?, self.scale as f32);
        Ok(Box::new(move |row, out| {
            let factors = b[row * rank..][..rank].iter().zip(a.chunks_exact(inputs));
            // Of query, key and value each has rows of its own: what it says of the others is zero.
            for (factor, a) in factors.filter(|(factor, _)| **factor != 0.0) {
                out.iter_mut().zip(a).for_each(|(out, a)| *out += scale * factor * a);
            }
        }))
    }

    /// The same on `device`, beside a matrix `[outputs, inputs]`; a variable stays itself.
    pub(super) fn on(self, device: &Device, outputs: usize, inputs: usize) -> Result<Self> {
        self.rank(outputs, inputs)?;
        let moved = |tensor: Tensor| super::params::Matrix::Tensor(tensor).tensor(device, DType::F32);
        Ok(Self { a: moved(self.a)?, b: moved(self.b)?, scale: self.scale })
    }

    /// `x [rows, inputs]` to `[rows, outputs]` in f32, with products in `dtype`.
    pub(super) fn forward(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        let product = |x: &Tensor, w: &Tensor| x.to_dtype(dtype)?.matmul(&w.to_dtype(dtype)?.t()?);
        Ok((product(&product(x, &self.a)?, &self.b)?.to_dtype(DType::F32)? * self.scale)?)
    }

    fn rank(&self, outputs: usize, inputs: usize) -> Result<usize> {
        match (self.a.dims(), self.b.dims()) {
            (&[rank, columns], &[rows, same]) if rank == same && (rows, columns) == (outputs, inputs) => Ok(rank),
            (a, b) => Err(Error::input(format!(
                "an adapter of A {a:?} and B {b:?} does not fit a matrix of [{outputs}, {inputs}]: A must be [rank, \
                 {inputs}] and B [{outputs}, rank]"
            ))),
        }
    }
}
