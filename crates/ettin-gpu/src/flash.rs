//! Attention of packed batches by FlashAttention 2, through candle-flash-attn: f16 and bf16 on CUDA.

use candle_core::{DType, Result, Tensor};

use crate::kernels::{AttentionShape, Segment, scale};

/// Borders and greatest length of the sequences of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Lengths {
    borders: Tensor, // [sequences + 1], u32
    longest: usize,
}

impl Lengths {
    pub(crate) fn new(segments: &[Segment], device: &candle_core::Device) -> Result<Self> {
        let ends = segments.iter().map(|segment| (segment.row + segment.rows) as u32);
        let borders: Vec<u32> = segments.first().map(|first| first.row as u32).into_iter().chain(ends).collect();
        Ok(Self {
            borders: Tensor::new(borders, device)?,
            longest: segments.iter().map(|segment| segment.rows).max().unwrap_or(0),
        })
    }
}

/// Whether it takes such tensors.
pub(crate) fn takes(qkv: &Tensor, head_dim: usize) -> bool {
    qkv.device().is_cuda() && qkv.dtype() != DType::F32 && head_dim.is_multiple_of(8)
}

/// `[rows, q | k | v]` to `[rows, heads · head_dim]`.
pub(crate) fn attention(qkv: &Tensor, lengths: &Lengths, shape: AttentionShape) -> Result<Tensor> {
    let rows = qkv.dim(0)?;
    let parts = qkv.reshape((rows, 3, shape.heads, shape.head_dim))?;
    let part = |index: usize| parts.narrow(1, index, 1)?.squeeze(1); // [rows, heads, head_dim]
    let Lengths { borders, longest } = lengths;
    let out = candle_flash_attn::flash_attn_varlen_windowed(
        &part(0)?,
        &part(1)?,
        &part(2)?,
        borders,
        borders,
        *longest,
        *longest,
        scale(shape.head_dim),
        shape.span.left,
        shape.span.right,
    )?;
    out.reshape((rows, shape.heads * shape.head_dim))
}
