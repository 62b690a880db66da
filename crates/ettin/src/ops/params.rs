//! What a block is built from, before any form of it exists.

use std::fmt;

use candle_core::{DType, Device, Tensor};
use ettin_kernels::{Activation, Isa, PackedWeight, Quantization, QuantizedRow, Scheme, Span, Team};

use super::LowRank;
use crate::{Error, Result, tensors::LinearTensors};

/// Writes one row of a matrix, widened to f32.
pub type Fill<'a> = Box<dyn Fn(usize, &mut [f32]) + Send + Sync + 'a>;

/// Gives one row of a matrix as it is stored.
pub type QuantizedFill<'a> = Box<dyn Fn(usize) -> QuantizedRow<'a> + Send + Sync + 'a>;

/// A weight matrix `[outputs, inputs]` on its way into a block.
pub enum Matrix<'a> {
    /// Rows read one by one from stored bytes: nothing is copied before it is packed.
    Rows {
        /// Outputs (rows).
        outputs: usize,
        /// Inputs (columns).
        inputs: usize,
        /// Writes row `i`, widened to f32, into the slice.
        fill: Fill<'a>,
    },
    /// Rows stored in few bits: packed as they are for kernels of that format, else dequantised one by one.
    Quantized {
        /// How they were quantised.
        quantization: Quantization,
        /// Outputs (rows).
        outputs: usize,
        /// Inputs (columns).
        inputs: usize,
        /// Gives row `i`.
        row: QuantizedFill<'a>,
    },
    /// Rows that can be read for as long as a model lives: an embedding that is only looked up in stays where it is.
    Stored(StoredRows),
    /// A tensor that exists already. A variable, or what was computed from one, is for [training](Self::is_trainable).
    Tensor(Tensor),
    /// A matrix and what an adapter adds to it: apart on the reference path, added up elsewhere.
    Adapted {
        /// The matrix without the adapter.
        base: Box<Matrix<'a>>,
        /// The adapter's part.
        update: LowRank,
    },
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Matrix::Rows { outputs, inputs, .. } => write!(f, "Rows [{outputs}, {inputs}]"),
            Matrix::Quantized { quantization, outputs, inputs, .. } => {
                write!(f, "{quantization:?} [{outputs}, {inputs}]")
            }
            Matrix::Stored(rows) => rows.fmt(f),
            Matrix::Tensor(tensor) => write!(f, "Tensor {:?}", tensor.dims()),
            Matrix::Adapted { base, .. } => write!(f, "Adapted {base:?}"),
        }
    }
}

impl<'a> Matrix<'a> {
    /// Columns.
    pub fn inputs(&self) -> usize {
        match self {
            Matrix::Rows { inputs, .. } | Matrix::Quantized { inputs, .. } => *inputs,
            Matrix::Stored(rows) => rows.inputs,
            Matrix::Tensor(tensor) => tensor.dims().last().copied().unwrap_or(0),
            Matrix::Adapted { base, .. } => base.inputs(),
        }
    }

    /// `[outputs, inputs]`; what a tensor of another rank has.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Matrix::Rows { outputs, inputs, .. } | Matrix::Quantized { outputs, inputs, .. } => vec![*outputs, *inputs],
            Matrix::Stored(rows) => vec![rows.outputs, rows.inputs],
            Matrix::Tensor(tensor) => tensor.dims().to_vec(),
            Matrix::Adapted { base, .. } => base.shape(),
        }
    }

    /// Whether an optimiser means to change it: it is a variable or depends on one.
    pub fn is_trainable(&self) -> bool {
        match self {
            Matrix::Rows { .. } | Matrix::Quantized { .. } | Matrix::Stored(_) => false,
            Matrix::Tensor(tensor) => tensor.track_op(),
            Matrix::Adapted { base, update } => base.is_trainable() || update.is_trainable(),
        }
    }

    /// The matrix as rows of f32: outputs, inputs, and what writes a row.
    fn rows(self) -> Result<(usize, usize, Fill<'a>)> {
        Ok(match self {
            Matrix::Rows { outputs, inputs, fill } => (outputs, inputs, fill),
            Matrix::Stored(StoredRows { outputs, inputs, fill, .. }) => (outputs, inputs, fill),
            Matrix::Quantized { quantization, outputs, inputs, row } => {
                let fill = move |index: usize, out: &mut [f32]| quantization.dequantize(row(index), out);
                (outputs, inputs, Box::new(fill))
            }
            Matrix::Tensor(tensor) => {
                let (outputs, inputs) = tensor.dims2()?;
                let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let fill = move |row: usize, out: &mut [f32]| out.copy_from_slice(&values[row * inputs..][..inputs]);
                (outputs, inputs, Box::new(fill))
            }
            Matrix::Adapted { base, update } => {
                let (outputs, inputs, fill) = base.rows()?;
                let add = update.rows(outputs, inputs)?;
                let fill = move |row: usize, out: &mut [f32]| {
                    fill(row, out);
                    add(row, out);
                };
                (outputs, inputs, Box::new(fill))
            }
        })
    }

    /// The matrix with what adapters add to it, as one that is read row by row.
    ///
    /// # Errors
    /// When an update does not fit the matrix.
    pub(crate) fn merged(self) -> Result<Self> {
        match self {
            Matrix::Adapted { .. } => {
                let (outputs, inputs, fill) = self.rows()?;
                Ok(Matrix::Rows { outputs, inputs, fill })
            }
            other => Ok(other),
        }
    }

    /// The matrix as a tensor on `device`: a trainable one is itself, in its own dtype, so that an optimiser
    /// reaches it.
    ///
    /// # Errors
    /// When it is trainable and elsewhere, or has a trainable adapter.
    pub fn tensor(self, device: &Device, dtype: DType) -> Result<Tensor> {
        if matches!(self, Matrix::Adapted { .. }) && self.is_trainable() {
            return Err(Error::Unsupported("training the adapter of a matrix that is not a linear layer's".to_owned()));
        }
        match self {
            Matrix::Tensor(tensor) if tensor.track_op() => trained_on(tensor, device),
            Matrix::Tensor(tensor) => Ok(tensor.to_device(device)?.to_dtype(dtype)?),
            other => {
                let (outputs, inputs, fill) = other.rows()?;
                let mut values = vec![0f32; outputs * inputs];
                for (row, values) in values.chunks_exact_mut(inputs).enumerate() {
                    fill(row, values);
                }
                let tensor = Tensor::from_vec(values, (outputs, inputs), &Device::Cpu)?;
                Ok(tensor.to_dtype(dtype)?.to_device(device)?)
            }
        }
    }

    /// The matrix packed for the kernels.
    pub(super) fn pack(self, isa: Isa, scheme: Scheme, team: &Team) -> Result<PackedWeight> {
        match self {
            Matrix::Quantized { quantization, outputs, inputs, row } if quantization.scheme() == scheme => {
                Ok(PackedWeight::pack_quantized(isa, quantization, team, outputs, inputs, row.as_ref()))
            }
            other => {
                let (outputs, inputs, fill) = other.rows()?;
                Ok(PackedWeight::pack(isa, scheme, team, outputs, inputs, fill.as_ref()))
            }
        }
    }
}

/// A variable cannot be copied to another device without losing its optimiser.
fn trained_on(tensor: Tensor, device: &Device) -> Result<Tensor> {
    match tensor.device().same_device(device) {
        true => Ok(tensor),
        false => Err(Error::input("a variable must be on the device that the model computes on; make it there")),
    }
}

/// Rows that can be read for as long as a model lives.
pub struct StoredRows {
    /// How they are quantised, where they are.
    pub quantization: Option<Quantization>,
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Writes row `i`, widened to f32, into the slice.
    pub fill: Fill<'static>,
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredRows [{}, {}]", self.outputs, self.inputs)
    }
}

/// A vector (bias or norm weight) on its way into a block.
pub enum Vector {
    /// Values read from stored bytes.
    Values(Vec<f32>),
    /// A tensor that exists already.
    Tensor(Tensor),
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vector::Values(values) => write!(f, "Values [{}]", values.len()),
            Vector::Tensor(tensor) => write!(f, "Tensor {:?}", tensor.dims()),
        }
    }
}

impl Vector {
    /// `[len]`; what a tensor of another rank has.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Vector::Values(values) => vec![values.len()],
            Vector::Tensor(tensor) => tensor.dims().to_vec(),
        }
    }

    /// Whether an optimiser means to change it.
    pub fn is_trainable(&self) -> bool {
        matches!(self, Vector::Tensor(tensor) if tensor.track_op())
    }

    /// The vector as a tensor on `device`: in f32, or a trainable one itself.
    ///
    /// # Errors
    /// When it is trainable and elsewhere.
    pub fn tensor(self, device: &Device) -> Result<Tensor> {
        Ok(match self {
            Vector::Values(values) => {
                let len = values.len();
                Tensor::from_vec(values, len, device)?
            }
            Vector::Tensor(tensor) if tensor.track_op() => trained_on(tensor, device)?,
            Vector::Tensor(tensor) => tensor.to_device(device)?.to_dtype(DType::F32)?,
        })
    }

    /// Its values in f32.
    pub fn values(self) -> Result<Vec<f32>> {
        match self {
            Vector::Values(values) => Ok(values),
            Vector::Tensor(tensor) => Ok(tensor.to_dtype(DType::F32)?.to_vec1()?),
        }
    }
}

/// Parts of a dense layer.
pub type LinearParams<'a> = LinearTensors<Matrix<'a>, Vector>;

impl LinearParams<'_> {
    /// Holds a layer of the caller's own to be one: `[outputs, inputs]` with a bias of as many outputs.
    ///
    /// # Errors
    /// [`Error::Input`] for other shapes, and for layers without outputs or inputs.
    pub(super) fn check(&self) -> Result<()> {
        let shape = self.weight.shape();
        let &[outputs, inputs] = &shape[..] else {
            return Err(Error::input(format!(
                "the weight of a dense layer has the shape {shape:?}, not [outputs, inputs]"
            )));
        };
        if outputs == 0 || inputs == 0 {
            return Err(Error::input(format!("a dense layer of shape {shape:?} computes nothing")));
        }
        match self.bias.as_ref().map(Vector::shape) {
            Some(bias) if bias != [outputs] => {
                Err(Error::input(format!("a dense layer of {outputs} outputs has a bias of shape {bias:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether an optimiser means to change any of it.
    pub fn is_trainable(&self) -> bool {
        self.weight.is_trainable() || self.bias.as_ref().is_some_and(Vector::is_trainable)
    }
}

/// Parts of a layer norm.
pub struct NormParams {
    /// `[hidden]`.
    pub weight: Vector,
    /// `[hidden]`.
    pub bias: Option<Vector>,
    /// Added to the variance.
    pub eps: f32,
}

impl NormParams {
    /// Holds a norm of the caller's own to be one, and says its size.
    ///
    /// # Errors
    /// [`Error::Input`] for a weight that is no vector or empty, and for a bias of another length.
    pub(super) fn check(&self) -> Result<usize> {
        let shape = self.weight.shape();
        let size = match shape[..] {
            [size] if size > 0 => size,
            _ => return Err(Error::input(format!("the weight of a norm has the shape {shape:?}, not [size]"))),
        };
        match self.bias.as_ref().map(Vector::shape) {
            Some(bias) if bias != [size] => {
                Err(Error::input(format!("a norm of size {size} has a bias of shape {bias:?}")))
            }
            _ => Ok(size),
        }
    }

    /// Whether an optimiser means to change any of it.
    pub fn is_trainable(&self) -> bool {
        self.weight.is_trainable() || self.bias.as_ref().is_some_and(Vector::is_trainable)
    }
}

/// Parts of the attention half of a layer.
pub struct AttentionParams<'a> {
    /// `None` is the identity of layer 0.
    pub norm: Option<NormParams>,
    /// `[q | k | v]`, `[3 · hidden, hidden]`.
    pub qkv: LinearParams<'a>,
    /// `[hidden, hidden]`.
    pub out: LinearParams<'a>,
    /// Attention heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub span: Span,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Positions that the rotary tables must cover.
    pub max_positions: usize,
}

/// Parts of the feed-forward half of a layer.
pub struct MlpParams<'a> {
    /// Before `Wi`.
    pub norm: NormParams,
    /// `[2 · intermediate, hidden]`: activated half first, gate second.
    pub wi: LinearParams<'a>,
    /// `[hidden, intermediate]`.
    pub wo: LinearParams<'a>,
    /// On the first half of `Wi`'s output.
    pub activation: Activation,
}

/// Parts of a prediction head.
pub struct HeadParams<'a> {
    /// `[hidden, hidden]`.
    pub dense: LinearParams<'a>,
    /// After `dense`.
    pub activation: Activation,
    /// After the activation.
    pub norm: NormParams,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_rows_are_packed_as_they_are() {
        // No weight reaches the largest code: quantising them anew would choose other factors.
        let (codes, factors) = ([[0xb9, 0xa9]; 16].concat(), [0.37f32.to_le_bytes(); 2].concat());
        for quantization in [Quantization::W8, Quantization::W4] {
            let inputs = if quantization == Quantization::W8 { 32 } else { 64 };
            let row = QuantizedRow { codes: &codes, scales: &factors[..quantization.scale_bytes(inputs)] };
            let (mut expected, mut packed) = (vec![0.0; inputs], vec![0.0; inputs]);
            quantization.dequantize(row, &mut expected);
            let matrix = || Matrix::Quantized { quantization, outputs: 3, inputs, row: Box::new(move |_| row) };
            let team = Team::single();
            let same = matrix().pack(Isa::Portable, quantization.scheme(), &team).unwrap();
            assert_eq!(same.scheme(), quantization.scheme());
            same.row(2, &mut packed);
            assert_eq!(packed, expected, "{quantization:?}");
            matrix().pack(Isa::Portable, Scheme::F32, &team).unwrap().row(2, &mut packed);
            assert_eq!(packed, expected, "{quantization:?} in f32");
        }
    }
}
