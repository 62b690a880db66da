//! Activations that modules of sentence-transformers name by their Python class.

use candle_core::Tensor;

use crate::Result;

/// A torch activation with its default settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TorchActivation {
    Identity,
    Tanh,
    Relu,
    Gelu,
    Silu,
    Sigmoid,
}

impl TorchActivation {
    /// The activation of a class path such as `torch.nn.modules.activation.Tanh`; `None` for one that is not implemented.
    pub(crate) fn from_class(path: &str) -> Option<Self> {
        let class = path.starts_with("torch.").then(|| path.rsplit('.').next())??;
        match class {
            "Identity" => Some(Self::Identity),
            "Tanh" => Some(Self::Tanh),
            "ReLU" => Some(Self::Relu),
            "GELU" => Some(Self::Gelu),
            "SiLU" => Some(Self::Silu),
            "Sigmoid" => Some(Self::Sigmoid),
            _ => None,
        }
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
