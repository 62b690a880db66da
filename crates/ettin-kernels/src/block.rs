//! The two halves of a layer, fused: norm, product, rotation, attention, product, residual; norm, product, gate,
//! product, residual.
//!
//! **Ways to cut.** With many rows, a task takes some of them through the whole chain on one thread: its intermediate
//! results stay in that core's cache, and threads meet once a block. With few rows (decoding, short texts) every thread
//! would read every weight, so each product is cut by outputs instead, and the threads meet between products. How a
//! half is cut is a plan with a name: [`AttentionPlan`], and `MlpPlan` in `block/mlp.rs`. No plan changes a bit: every
//! element is computed by the same operations.

mod attention;
mod cut;
mod geglu_epilogue;
mod linear;
mod mlp;
mod rope_epilogue;

pub use attention::{AttentionPlan, PackedSequences, SelfAttention, self_attention};
pub use linear::{add, project};
pub use mlp::{Mlp, mlp};

use crate::{Norm, PackedActivations, PackedWeight, buffer::Aligned};

/// A dense layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[n, k]`
    pub weight: &'a PackedWeight,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
}

/// Buffers that blocks reuse from call to call.
#[derive(Debug, Default)]
pub struct Workspace {
    operand: PackedActivations,
    gated: PackedActivations,
    wide: Aligned,
    attention: attention::AttentionMemory,
}

impl Workspace {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

fn check(x: &[f32], rows: usize, k: usize, norm: Option<Norm<'_>>, linear: Linear<'_>) {
    assert_eq!(x.len(), rows * k, "x is not [rows, {k}]");
    assert!(norm.is_none_or(|norm| norm.weight.len() == k), "norm is not [{k}]");
    assert!(linear.bias.is_none_or(|bias| bias.len() == linear.weight.n()), "bias is not [{}]", linear.weight.n());
}
