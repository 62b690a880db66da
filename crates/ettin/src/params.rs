//! A model's parameters by role, on their way into blocks.
//!
//! A [`ModelTensors`] tree of matrices and vectors is filled by [`walk`] out of a
//! [`Source`](crate::tensors::Source). Four are here: a checkpoint ([`Stored`]), candle's variables
//! ([`Variables`]), random numbers ([`Random`]), and an adapter on top of another source ([`Adapted`]). Any other
//! serves as well.

mod adapter;
mod random;
mod stored;
mod variables;

pub(crate) use adapter::TIED;
pub use adapter::{Adapted, Adapter};
pub use random::Random;
pub use stored::Stored;
pub(crate) use stored::dense;
pub use variables::{Variables, save_variables};

use candle_nn::VarBuilder;
use ettin_kernels::Quantization;

use crate::{
    Config, Result,
    ops::{Matrix, Vector},
    tensors::{Head, ModelTensors, walk},
    weights::{LoadReport, Weights},
};

/// Everything that a model is built from.
///
/// From a checkpoint, matrices are read row by row straight out of its bytes when their block is built. From a
/// [`VarBuilder`] they are its variables, for the differentiable reference path. Without either they can be
/// [random](Parameters::random).
pub struct Parameters<'a> {
    /// The tensors themselves.
    pub tensors: ModelTensors<Matrix<'a>, Vector>,
    /// How matrices are quantised, where they are stored in few bits.
    pub quantization: Option<Quantization>,
    pub(crate) report: LoadReport,
}

impl<'a> Parameters<'a> {
    /// The tensors of a checkpoint, checked against `config`; those of `head` besides the trunk's.
    ///
    /// # Errors
    /// [`Error::Tensors`](crate::Error::Tensors) naming every tensor that is missing, mis-shaped or of an unsupported
    /// dtype, and layers that an adapter on the weights changes and that do not fit, or are not there.
    pub fn from_weights(weights: &'a Weights, config: &Config, head: Head) -> Result<Self> {
        let mut stored = Stored::new(weights, config, head)?;
        let tensors = walk(config, head, &mut stored)?;
        stored.finish()?;
        Ok(Self { tensors, quantization: weights.quantization(), report: stored.report().clone() })
    }

    /// The same with an adapter on top: merged by the CPU's kernels and devices, kept apart by the reference path.
    ///
    /// # Errors
    /// Those of [`from_weights`](Self::from_weights);
    /// [`Error::Tensors`](crate::Error::Tensors) for an adapter of another model.
    pub fn from_adapted_weights(weights: &'a Weights, adapter: &Adapter, config: &Config, head: Head) -> Result<Self> {
        let mut adapted = Adapted::new(Stored::new(weights, config, head)?, adapter);
        let tensors = walk(config, head, &mut adapted)?;
        let stored = adapted.finish()?;
        stored.finish()?;
        Ok(Self { tensors, quantization: weights.quantization(), report: stored.report().clone() })
    }

    /// Variables under the names that transformers gives an encoder or a decoder, with query, key and value always
    /// in one `attn.Wqkv`; they must live on the device of a [reference](crate::Backend::reference) backend.
    ///
    /// # Errors
    /// When a variable is missing or has another shape than `config` says.
    pub fn from_variables(variables: VarBuilder<'a>, config: &Config, head: Head) -> Result<Self> {
        Ok(Self::from_tensors(walk(config, head, &mut Variables::new(variables))?))
    }

    /// A tree of the caller's: what any [`Source`](crate::tensors::Source) of [`Matrix`] and [`Vector`] fills.
    pub fn from_tensors(tensors: ModelTensors<Matrix<'a>, Vector>) -> Self {
        Self { tensors, quantization: None, report: LoadReport::default() }
    }

    /// What the loading noticed and did not refuse.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }
}
