//! [`Scheme::F32`](crate::Scheme::F32): numbers as they are.

use super::{
    K_BLOCK, Microkernel, PackActivations, PackWeights, PanelBuffers, PanelRows, RowWriter, pack_as_activations,
};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
};

/// [`Scheme::F32`](super::Scheme::F32).
#[derive(Clone, Copy)]
pub(crate) struct F32;

impl Microkernel for F32 {
    one_input!();
    const BLOCK_INPUTS: usize = K_BLOCK;

    plain_sums!();

    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: one word, by the caller's promise.
        s.splat(unsafe { *group.add(step).cast::<f32>() })
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, _: usize) -> S::V {
        // SAFETY: sixteen words, by the caller's promise.
        s.load(unsafe { &*at.cast() })
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::V, _: &[f32], _: f32) -> S::V {
        sum
    }
}

encode_as_f32!(F32);

impl PackWeights for F32 {
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: PanelRows<'_>, room: &mut [u32], parts: PanelBuffers<'_>) {
        pack_as_activations::<S, Self>(s, panel, room, parts.words);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(panel.chunks_exact(vectors * LANES)) {
            *out = f32::from_bits(row[output]);
        }
    }
}
