//! [`Scheme::Int8`](crate::Scheme::Int8): products of bytes, summed exactly.

#[cfg(target_arch = "x86_64")]
use super::super::amx::chain::exact_sums as exact;
use super::{
    Microkernel, PackActivations, PackWeights, PanelBuffers, PanelLayout, PanelRows, RowWriter, encoded,
    integers::{MAX_BYTE, ROUND_TO_INTEGER},
    lay_out,
};
use crate::simd::{LANES, Simd};

/// [`Scheme::Int8`](super::Scheme::Int8). Activations are shifted by 128 to be unsigned; the compensation of an output
/// is what that adds, negated.
#[derive(Clone, Copy)]
pub(crate) struct W8A8;

impl Microkernel for W8A8 {
    const STEP_INPUTS: usize = 4;
    /// Integers are exact in any order; 2³¹ / (127 · 255) inputs fit.
    const BLOCK_INPUTS: usize = 1 << 16;
    const MAX_INPUTS: usize = Self::BLOCK_INPUTS;
    const SCALES: bool = true;
    const COMPENSATION: bool = true;
    const STEP_WORDS: usize = 1;
    const LOW_PRECISION: bool = true;
    const AMX: bool = true;
    const LINE_WORDS: usize = LANES;

    type Inputs<S: Simd> = S::Words;
    type Weights<S: Simd> = S::Words;
    type AmxChain<S: Simd> = S::Words;
    type Sum<S: Simd> = S::Words;

    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, compensation: &[u32], _: *const u32, _: usize) -> S::Words {
        s.load_words(&compensation.as_chunks().0[0])
    }
    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::Words {
        // SAFETY: one word, by the caller's promise.
        s.splat_word(unsafe { *group.add(step) })
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, _: usize) -> S::Words {
        // SAFETY: sixteen words, by the caller's promise.
        s.load_words(unsafe { &*at.cast() })
    }
    #[inline(always)]
    fn multiply<S: Simd>(s: S, sum: S::Words, x: S::Words, w: S::Words) -> S::Words {
        s.dot_i8(sum, x, w)
    }
    #[inline(always)]
    unsafe fn open<S: Simd>(_: S, block: S::Words, _: *const u32, _: &[u32]) -> S::Words {
        block
    }
    #[inline(always)]
    unsafe fn fold<S: Simd>(_: S, _: S::Words, _: S::Words, _: *const u32, _: &[u32]) -> S::Words {
        unreachable!("a product of bytes has one block: packing refuses more inputs")
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sum: S::Words, scales: &[f32], row: f32) -> S::V {
        let scales = s.load(&scales.as_chunks().0[0]);
        s.mul(s.integers(sum), s.mul(scales, s.splat(row)))
    }
}

#[cfg(target_arch = "x86_64")]
chained!(W8A8, compensation, "tdpbusd", 1, exact, false: (both 0 0));

impl PackActivations for W8A8 {
    const SCALE: bool = true;

    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: RowWriter<'_>) -> f32 {
        let (mut most, mut broken) = (s.zero(), s.zero());
        let (vectors, rest) = x.as_chunks::<LANES>();
        for i in 0..=vectors.len() {
            let x = if i < vectors.len() { s.load(&vectors[i]) } else { s.load_part(rest) };
            most = s.max(most, s.max(x, s.sub(s.zero(), x)));
            broken = s.mul_add(x, s.zero(), broken);
        }
        // NaN where anything is not finite: the whole row then is NaN, not wrong.
        let most = s.largest(most) + s.sum(broken);
        let inverse = if most == 0.0 { 0.0 } else { MAX_BYTE / most };
        let (inverse, to_integer) = (s.splat(inverse), s.splat(ROUND_TO_INTEGER));
        // Sixteen inputs are four words, four times a group.
        for i in 0..x.len().next_multiple_of(4 * LANES) / LANES {
            let x = match vectors.get(i) {
                Some(x) => s.load(x),
                None if i == vectors.len() => s.load_part(rest),
                None => s.zero(),
            };
            let bytes = s.low_bytes(s.add(s.mul(x, inverse), to_integer));
            let words = &mut place.group::<Self>(i / 4).as_chunks_mut::<{ LANES / 4 }>().0[i % 4];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes) ^ 0x8080_8080;
            }
        }
        most / MAX_BYTE
    }
}

impl PackWeights for W8A8 {
    #[inline(always)]
    fn pack<S: Simd>(
        s: S,
        panel: PanelRows<'_>,
        room: &mut [u32],
        PanelBuffers { words, scales, compensation }: PanelBuffers<'_>,
    ) {
        let at = PanelLayout::<Self>::new(panel.vectors, Self::steps(panel.k));
        for vector in 0..panel.vectors {
            let outputs = vector * LANES..(vector + 1) * LANES;
            let count = encoded::<S, Self>(s, &panel, vector, room, &mut scales[outputs.clone()]);
            // Activations are unsigned bytes, weights signed ones.
            for group in room.chunks_exact_mut(LANES * LANES) {
                for word in &mut group[..count * LANES] {
                    *word ^= 0x8080_8080;
                }
            }
            lay_out(s, at, vector, room, words);
            let mut sums = s.splat_word(0);
            for step in 0..at.steps {
                let bytes = s.load_words(&words[at.at(step, vector)..].as_chunks().0[0]);
                sums = s.dot_i8(sums, s.splat_word(0x0101_0101), bytes);
            }
            let compensation = &mut compensation[outputs].as_chunks_mut().0[0];
            s.store_words(sums, compensation);
            for compensation in compensation {
                *compensation = compensation.wrapping_mul(128).wrapping_neg();
            }
        }
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, scale: f32, out: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(out.len()));
        for (step, out) in out.chunks_mut(4).enumerate() {
            let quad = panel[at.at(step, output / LANES) + output % LANES].to_le_bytes();
            for (out, byte) in out.iter_mut().zip(quad) {
                *out = f32::from(byte as i8) * scale;
            }
        }
    }
}
