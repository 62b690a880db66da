//! [`Scheme::Bf16`](crate::Scheme::Bf16) where products of pairs of bf16 do not pay: weights are widened as they are read.

use super::{Encode, Form, K_BLOCK, Pack, Panel, Parts, Place, bf16::Split, f32::Full};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
};

/// [`Scheme::Bf16`](super::Scheme::Bf16) where nothing multiplies pairs of bf16 at the speed of f32: the weights of [`Split`], each widened as
/// it is read, and activations that are rounded, but f32. Sums are those of [`Split`], bit for bit.
#[derive(Clone, Copy)]
pub(crate) struct Halves;

impl Form for Halves {
    one_input!();
    const BLOCK: usize = K_BLOCK;
    const STEPS: usize = 2;
    /// As there, for sums that begin with zeros of a sign.
    const PAD: usize = Split::<1>::PAD;
    /// For [`round`](crate::simd::LowPrecisionDot::round).
    const NARROW: bool = true;

    plain_sums!();

    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: one word, by the caller's promise: of a round, too, the odd one is first.
        unsafe { Full::inputs(s, group, step ^ 1) }
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

impl Encode for Halves {
    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: Place<'_>) -> f32 {
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

impl Pack for Halves {
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: Panel<'_>, room: &mut [u32], parts: Parts<'_>) {
        // Rows of activations are twice as long as those of weights.
        let half = room.len() / 2;
        Split::<1>::pack(s, panel, &mut room[..half], parts);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, factor: f32, out: &mut [f32]) {
        Split::<1>::unpack(panel, vectors, output, factor, out);
    }
}
