//! [`Scheme::F32`](crate::Scheme::F32): numbers as they are.

use super::{Encode, Form, K_BLOCK, Pack, Panel, Parts, Place, encode_all};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
};

/// [`Scheme::F32`](super::Scheme::F32).
#[derive(Clone, Copy)]
pub(crate) struct Full;

impl Form for Full {
    one_input!();
    const BLOCK: usize = K_BLOCK;

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

encode_as_f32!(Full);

impl Pack for Full {
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: Panel<'_>, room: &mut [u32], parts: Parts<'_>) {
        encode_all::<S, Self>(s, panel, room, parts.words);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(panel.chunks_exact(vectors * LANES)) {
            *out = f32::from_bits(row[output]);
        }
    }
}
