//! [`Scheme::Bf16`](crate::Scheme::Bf16) where products of pairs of bf16 do not pay: weights are widened as they are
//! read.

use super::{
    K_BLOCK, Microkernel, PackActivations, PackWeights, PanelBuffers, PanelRows, RowWriter, bf16::Bf16Parts, f32::F32,
};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
};

/// [`Scheme::Bf16`](super::Scheme::Bf16) where nothing multiplies pairs of bf16 at the speed of f32: the weights of
/// [`Bf16Parts`], each widened as it is read, and activations that are rounded, but f32. Sums are those of
/// [`Bf16Parts`], bit for bit.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Widened;

impl Microkernel for Bf16Widened {
    one_input!();
    const BLOCK_INPUTS: usize = K_BLOCK;
    const LINE_STEPS: usize = 2;
    /// As there, for sums that begin with zeros of a sign.
    const K_MULTIPLE: usize = Bf16Parts::<1>::K_MULTIPLE;

    plain_sums!();

    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: one word, by the caller's promise: of a round, too, the odd one is first.
        unsafe { F32::inputs(s, group, step ^ 1) }
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, step: usize) -> S::V {
        // SAFETY: sixteen words, by the caller's promise.
        let pairs = s.load_words(unsafe { &*at.cast() });
        if step == 0 { s.odd(pairs) } else { s.even(pairs) }
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::V, _: &[f32], _: f32) -> S::V {
        sum
    }
}

impl PackActivations for Bf16Widened {
    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: RowWriter<'_>) -> f32 {
        for pair in 0..Self::steps(x.len()) / (2 * LANES) {
            let x = &x[pair * 2 * LANES..x.len().min((pair + 1) * 2 * LANES)];
            let (low, high) = x.split_at(x.len().min(LANES));
            let rounded = s.round(s.load_part(low), s.load_part(high));
            let [low, high] = s.zip(s.even(rounded), s.odd(rounded));
            s.store(low, &mut as_numbers(place.group::<Self>(2 * pair)).as_chunks_mut().0[0]);
            s.store(high, &mut as_numbers(place.group::<Self>(2 * pair + 1)).as_chunks_mut().0[0]);
        }
        1.0
    }
}

impl PackWeights for Bf16Widened {
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: PanelRows<'_>, room: &mut [u32], parts: PanelBuffers<'_>) {
        // Rows of activations are twice as long as those of weights.
        let half = room.len() / 2;
        Bf16Parts::<1>::pack(s, panel, &mut room[..half], parts);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, scale: f32, out: &mut [f32]) {
        Bf16Parts::<1>::unpack(panel, vectors, output, scale, out);
    }
}
