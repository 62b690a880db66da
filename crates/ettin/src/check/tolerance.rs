//! How far a number format may be from the reference: the one place that says so.

use ettin_kernels::KvFormat;

use crate::Dtype;

/// The largest difference of a step that is allowed in a number format, with keys and values in `kv` or as the format
/// keeps them; beside the largest value of the reference, or the largest that a layer adds.
///
/// Weights are rounded on both sides, and a step has the reference's input: so this is what one step loses by rounding
/// activations, keys and values. It is at least three times what the committed models show (docs/CHECK.md has the
/// figures). In f32 it is the engine's contract with transformers.
pub fn tolerance(dtype: Dtype, kv: Option<KvFormat>) -> f64 {
    let format: f64 = match dtype {
        Dtype::Auto | Dtype::F32 | Dtype::Bf16x6 => 1e-4,
        Dtype::Bf16x3 => 1e-3,
        Dtype::F16 => 1e-2,
        Dtype::W8 | Dtype::W4 => 4e-2,
        Dtype::Bf16 => 6e-2,
        Dtype::Int8 => 2.5e-1,
    };
    format.max(match kv {
        None | Some(KvFormat::F32) => 0.0,
        Some(KvFormat::Bf16) => 4e-2,
        Some(KvFormat::Int8) => 1e-1,
    })
}
