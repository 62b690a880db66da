//! Number formats as users name them.

use std::{fmt, str::FromStr};

use candle_core::DType;
use ettin_kernels::Scheme;

use crate::{Error, Result, named::Named};

/// The number format that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dtype {
    /// What the weights are stored in where that is [`Dtype::W8`] or [`Dtype::W4`] and the fused kernels compute; else
    /// [`Dtype::F32`] on every machine: bf16x3, faster on AMX, misses f32's contract (docs/ACCURACY.md).
    #[default]
    Auto,
    /// IEEE single precision.
    F32,
    /// bfloat16 weights and products, f32 sums, residual and norms.
    Bf16,
    /// Half precision weights and products, f32 residual and norms; on devices only.
    F16,
    /// Weights and activations as two bf16 parts, three products: errors of about 2⁻¹⁶. On the CPU only.
    Bf16x3,
    /// Weights and activations as three bf16 parts, six products: f32 accuracy. On the CPU only.
    Bf16x6,
    /// Weights and activations of dense layers in eight bits, token vectors in bf16. On the CPU only.
    Int8,
    /// Weights in eight bits with a scale per output, arithmetic in f32. On the CPU only.
    W8,
    /// Weights in four bits with a scale per 32 inputs, arithmetic in f32. On the CPU only.
    W4,
}

impl Dtype {
    /// Every format with its name.
    pub const ALL: [(Dtype, &'static str); 9] = [
        (Dtype::Auto, "auto"),
        (Dtype::F32, "f32"),
        (Dtype::Bf16, "bf16"),
        (Dtype::F16, "f16"),
        (Dtype::Bf16x3, "bf16x3"),
        (Dtype::Bf16x6, "bf16x6"),
        (Dtype::Int8, "int8"),
        (Dtype::W8, "w8"),
        (Dtype::W4, "w4"),
    ];

    /// The number format of the CPU's kernels; `None` where they have none.
    pub(crate) fn scheme(self) -> Option<Scheme> {
        Some(match self {
            Dtype::Auto | Dtype::F32 => Scheme::F32,
            Dtype::Bf16 => Scheme::Bf16,
            Dtype::Bf16x3 => Scheme::Bf16x3,
            Dtype::Bf16x6 => Scheme::Bf16x6,
            Dtype::Int8 => Scheme::Int8,
            Dtype::W8 => Scheme::W8,
            Dtype::W4 => Scheme::W4,
            Dtype::F16 => return None,
        })
    }

    pub(super) fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::F32 => Dtype::F32,
            Scheme::Bf16 => Dtype::Bf16,
            Scheme::Bf16x3 => Dtype::Bf16x3,
            Scheme::Bf16x6 => Dtype::Bf16x6,
            Scheme::Int8 => Dtype::Int8,
            Scheme::W8 => Dtype::W8,
            Scheme::W4 => Dtype::W4,
        }
    }

    /// The format of weights and products on devices and on the reference path.
    pub(super) fn float(self) -> Result<DType> {
        match self {
            Dtype::Auto | Dtype::F32 => Ok(DType::F32),
            Dtype::Bf16 => Ok(DType::BF16),
            Dtype::F16 => Ok(DType::F16),
            Dtype::Bf16x3 | Dtype::Bf16x6 | Dtype::Int8 | Dtype::W8 | Dtype::W4 => {
                Err(Error::Unsupported(format!("dtype {self} outside the CPU kernels; use f32 or bf16")))
            }
        }
    }

    pub(super) fn of_float(float: DType) -> Self {
        match float {
            DType::BF16 => Dtype::Bf16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        }
    }
}

impl Named for Dtype {
    const NAMES: &'static [(Self, &'static str)] = &Self::ALL;
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::of_name(name).ok_or_else(|| Error::input(format!("unknown dtype {name:?}; known are {}", Self::known())))
    }
}
