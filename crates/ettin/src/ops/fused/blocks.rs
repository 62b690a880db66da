//! Norms, dense layers, and what is made of them: the feed-forward half of a layer and the prediction head.

use ettin_kernels::{Activation, Aligned, PackedWeight, Scheme, Sharing, block, layer_norm};

use super::super::{HeadParams, LinearParams, MlpParams, NormParams};
use super::Cpu;
use crate::Result;

/// Layer normalisation.
#[derive(Debug)]
pub struct FusedNorm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) eps: f32,
}

/// A dense layer with packed weights.
#[derive(Debug)]
pub struct FusedLinear {
    pub(super) weight: PackedWeight, // [outputs, inputs]
    pub(super) bias: Option<Vec<f32>>,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub struct FusedMlp {
    pub(super) norm: FusedNorm,
    pub(super) wi: FusedLinear,
    pub(super) wo: FusedLinear,
    pub(super) activation: Activation,
}

/// The prediction head.
#[derive(Debug)]
pub struct FusedPredictionHead {
    pub(super) dense: FusedLinear,
    pub(super) activation: Activation,
    pub(super) norm: FusedNorm,
}

impl FusedNorm {
    pub(super) fn new(params: NormParams) -> Result<Self> {
        Ok(Self {
            weight: params.weight.values()?,
            bias: params.bias.map(|bias| bias.values()).transpose()?,
            eps: params.eps,
        })
    }

    pub(super) fn apply(&self, cpu: &Cpu, x: &[f32], out: &mut Aligned) {
        out.resize(x.len());
        layer_norm(cpu.isa, &cpu.team, x, self.kernel(), out);
    }

    pub(super) fn kernel(&self) -> ettin_kernels::Norm<'_> {
        ettin_kernels::Norm { weight: &self.weight, bias: self.bias.as_deref(), eps: self.eps }
    }
}

impl FusedLinear {
    /// A layer of its own: small ones that end a model are kept exact.
    pub(super) fn exact(params: LinearParams<'_>, cpu: &Cpu) -> Result<Self> {
        Self::of(params, Scheme::F32, Sharing::Outputs, cpu)
    }

    pub(super) fn new(params: LinearParams<'_>, cpu: &Cpu) -> Result<Self> {
        Self::shared(params, Sharing::Outputs, cpu)
    }

    pub(super) fn shared(params: LinearParams<'_>, sharing: Sharing, cpu: &Cpu) -> Result<Self> {
        Self::of(params, cpu.scheme, sharing, cpu)
    }

    pub(super) fn of(params: LinearParams<'_>, scheme: Scheme, sharing: Sharing, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            weight: cpu.pack(params.weight, scheme, sharing)?,
            bias: params.bias.map(|bias| bias.values()).transpose()?,
        })
    }

    pub(super) fn kernel(&self) -> block::Linear<'_> {
        block::Linear { weight: &self.weight, bias: self.bias.as_deref() }
    }
}

impl FusedMlp {
    pub(super) fn new(params: MlpParams<'_>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            norm: FusedNorm::new(params.norm)?,
            wi: FusedLinear::shared(params.wi, Sharing::Gates, cpu)?,
            wo: FusedLinear::new(params.wo, cpu)?,
            activation: params.activation,
        })
    }
}

impl FusedPredictionHead {
    pub(super) fn new(params: HeadParams<'_>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            dense: FusedLinear::new(params.dense, cpu)?,
            activation: params.activation,
            norm: FusedNorm::new(params.norm)?,
        })
    }
}
