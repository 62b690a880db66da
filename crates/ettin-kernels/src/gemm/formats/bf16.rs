//! [`Scheme::Bf16`](crate::Scheme::Bf16) and its multiples: numbers as sums of bf16.

#[cfg(target_arch = "x86_64")]
use super::super::amx::chain::plain_sums as plain;
use super::{
    CHAIN_TOLERANCE, K_BLOCK, Microkernel, PackActivations, PackWeights, PanelBuffers, PanelLayout, PanelRows,
    RowWriter, pack_as_activations,
};
use crate::simd::{LANES, Simd};

/// [`Scheme::Bf16`](super::Scheme::Bf16) and its multiples: numbers in `PARTS` parts, of which the products of parts i
/// and j with i + j < `PARTS` are summed, small ones first.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Parts<const PARTS: usize>;

impl<const PARTS: usize> Microkernel for Bf16Parts<PARTS> {
    const STEP_INPUTS: usize = 2;
    const BLOCK_INPUTS: usize = K_BLOCK;
    const STEP_WORDS: usize = PARTS;
    const LOW_PRECISION: bool = true;
    /// Else it is [`Bf16Widened`](super::bf16_widened::Bf16Widened) that multiplies numbers of one part.
    const RUNS_WITHOUT_DOT: bool = PARTS > 1;
    const AMX: bool = true;
    const LINE_WORDS: usize = PARTS * LANES;
    const TOLERANCE: f64 = match PARTS {
        // What two parts leave out: the third part of each factor (2⁻¹⁷ each) and the product of the second parts.
        2 => 4e-5,
        // Six products enter a chain for one.
        3 => 3.0 * CHAIN_TOLERANCE,
        _ => CHAIN_TOLERANCE,
    };

    type Inputs<S: Simd> = [S::Words; PARTS];
    type Weights<S: Simd> = [S::Words; PARTS];
    plain_sums!();

    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> [S::Words; PARTS] {
        let mut parts = [s.splat_word(0); PARTS];
        for (i, part) in parts.iter_mut().enumerate() {
            // SAFETY: `PARTS` words, by the caller's promise.
            *part = s.splat_word(unsafe { *group.add(i * LANES + step) });
        }
        parts
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, _: usize) -> [S::Words; PARTS] {
        let mut parts = [s.splat_word(0); PARTS];
        for (i, part) in parts.iter_mut().enumerate() {
            // SAFETY: `PARTS` vectors, by the caller's promise.
            *part = s.load_words(unsafe { &*at.add(i * LANES).cast() });
        }
        parts
    }
    #[inline(always)]
    fn multiply<S: Simd>(s: S, mut sum: S::V, x: [S::Words; PARTS], w: [S::Words; PARTS]) -> S::V {
        for order in (0..PARTS).rev() {
            for i in 0..=order {
                sum = s.dot_bf16(sum, x[i], w[order - i]);
            }
        }
        sum
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::V, _: &[f32], _: f32) -> S::V {
        sum
    }
}

#[cfg(target_arch = "x86_64")]
chained!(Bf16Parts<1>, zeros, "tdpbf16ps", 1, plain, true: (both 0 0));
#[cfg(target_arch = "x86_64")]
chained!(Bf16Parts<2>, zeros, "tdpbf16ps", 2, plain, true: (both 0 1) (weights 0 0) (rows 1 0));
#[cfg(target_arch = "x86_64")]
chained!(Bf16Parts<3>, zeros, "tdpbf16ps", 3, plain, true: (both 0 2) (weights 0 1) (rows 1 1) (weights 1 0) (rows 2 0) (rows 0 0));

impl<const PARTS: usize> PackActivations for Bf16Parts<PARTS> {
    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: RowWriter<'_>) -> f32 {
        let (groups, rest) = x.as_chunks::<{ 2 * LANES }>();
        for (group, numbers) in groups.iter().enumerate() {
            let [low, high] = numbers.as_chunks().0 else { unreachable!("{} numbers are two vectors", 2 * LANES) };
            split::<S, PARTS>(s, [s.load(low), s.load(high)], place.group::<Self>(group));
        }
        if !rest.is_empty() {
            let (low, high) = rest.split_at(rest.len().min(LANES));
            split::<S, PARTS>(s, [s.load_part(low), s.load_part(high)], place.group::<Self>(groups.len()));
        }
        1.0
    }
}

/// Thirty-two numbers as parts.
#[inline(always)]
fn split<S: Simd, const PARTS: usize>(s: S, mut rest: [S::V; 2], words: &mut [u32]) {
    let parts = &mut words.as_chunks_mut().0[..PARTS];
    for (part, words) in parts.iter_mut().enumerate() {
        let pairs = s.round(rest[0], rest[1]);
        s.store_words(pairs, words);
        if part + 1 < PARTS {
            let taken = s.zip(s.even(pairs), s.odd(pairs));
            rest = [s.sub(rest[0], taken[0]), s.sub(rest[1], taken[1])];
        }
    }
}

impl<const PARTS: usize> PackWeights for Bf16Parts<PARTS> {
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: PanelRows<'_>, room: &mut [u32], parts: PanelBuffers<'_>) {
        pack_as_activations::<S, Self>(s, panel, room, parts.words);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(out.len()));
        for (step, out) in out.chunks_mut(2).enumerate() {
            for (half, out) in out.iter_mut().enumerate() {
                // Small parts first: the sum of the parts is then the number itself.
                *out = (0..PARTS).rev().fold(0.0, |sum, part| {
                    let word = panel[at.at(step, output / LANES) + part * LANES + output % LANES];
                    sum + f32::from_bits(word >> (16 * half) << 16)
                });
            }
        }
    }
}
