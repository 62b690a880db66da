//! Activations that modules of sentence-transformers name by their Python class.

use candle_core::Tensor;

use crate::{Result, named::Named};

/// A torch activation with its default settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorchActivation {
    Identity,
    Tanh,
    Relu,
    Gelu,
    Silu,
    Sigmoid,
}

impl Named for TorchActivation {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Identity, "Identity"),
        (Self::Tanh, "Tanh"),
        (Self::Relu, "ReLU"),
        (Self::Gelu, "GELU"),
        (Self::Silu, "SiLU"),
        (Self::Sigmoid, "Sigmoid"),
    ];
}

impl TorchActivation {
    /// The activation of a class path such as `torch.nn.modules.activation.Tanh`; `None` for one that is not
    /// implemented.
    pub(crate) fn from_class(path: &str) -> Option<Self> {
        Self::of_name(path.starts_with("torch.").then(|| path.rsplit('.').next())??)
    }

    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Identity => x.clone(),
            Self::Tanh => x.tanh()?,
            Self::Relu => x.relu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::Silu => x.silu()?,
            Self::Sigmoid => candle_nn::ops::sigmoid(x)?,
        })
    }
}
