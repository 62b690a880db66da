//! [`Scheme::Int8`](crate::Scheme::Int8): products of bytes, summed exactly.

#[cfg(target_arch = "x86_64")]
use super::super::amx::chain::exact_sums as exact;
use super::{
    Encode, Form, Pack, Panel, Parts, Place, Vectors, encoded,
    integers::{BYTE, TO_INTEGER},
    lay_out,
};
use crate::simd::{LANES, Simd};

/// [`Scheme::Int8`](super::Scheme::Int8). Activations are shifted by 128 to be unsigned; the offset of an output is what
/// that adds, negated.
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

impl Form for Bytes {
    const UNIT: usize = 4;
    /// Integers are exact in any order; 2³¹ / (127 · 255) inputs fit.
    const BLOCK: usize = 1 << 16;
    const MOST: usize = Self::BLOCK;
    const FACTORS: bool = true;
    const OFFSETS: bool = true;
    const WORDS: usize = 1;
    const NARROW: bool = true;
    const TILED: bool = true;
    const STORED: usize = LANES;

    type Inputs<S: Simd> = S::Words;
    type Weights<S: Simd> = S::Words;
    type Chain<S: Simd> = S::Words;
    type Sum<S: Simd> = S::Words;

    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, offsets: &[u32], _: *const u32, _: usize) -> S::Words {
        s.load_words(&offsets.as_chunks().0[0])
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
    fn finish<S: Simd>(s: S, sum: S::Words, factors: &[f32], row: f32) -> S::V {
        let factors = s.load(&factors.as_chunks().0[0]);
        s.mul(s.integers(sum), s.mul(factors, s.splat(row)))
    }
}

#[cfg(target_arch = "x86_64")]
chained!(Bytes, offsets, "tdpbusd", 1, exact, false: (both 0 0));

impl Encode for Bytes {
    const FACTOR: bool = true;

    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: Place<'_>) -> f32 {
        let (mut most, mut broken) = (s.zero(), s.zero());
        let (vectors, rest) = x.as_chunks::<LANES>();
        for i in 0..=vectors.len() {
            let x = if i < vectors.len() { s.load(&vectors[i]) } else { s.load_part(rest) };
            most = s.max(most, s.max(x, s.sub(s.zero(), x)));
            broken = s.mul_add(x, s.zero(), broken);
        }
        // NaN where anything is not finite: the whole row then is NaN, not wrong.
        let most = s.largest(most) + s.sum(broken);
        let scale = if most == 0.0 { 0.0 } else { BYTE / most };
        let (scale, to_integer) = (s.splat(scale), s.splat(TO_INTEGER));
        // Sixteen inputs are four words, four times a group.
        for i in 0..x.len().next_multiple_of(4 * LANES) / LANES {
            let x = match vectors.get(i) {
                Some(x) => s.load(x),
                None if i == vectors.len() => s.load_part(rest),
                None => s.zero(),
            };
            let bytes = s.low_bytes(s.add(s.mul(x, scale), to_integer));
            let words = &mut place.group::<Self>(i / 4).as_chunks_mut::<{ LANES / 4 }>().0[i % 4];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes) ^ 0x8080_8080;
            }
        }
        most / BYTE
    }
}

impl Pack for Bytes {
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: Panel<'_>, room: &mut [u32], Parts { words, factors, offsets }: Parts<'_>) {
        let at = Vectors::<Self>::new(panel.vectors, Self::steps(panel.k));
        for vector in 0..panel.vectors {
            let outputs = vector * LANES..(vector + 1) * LANES;
            let count = encoded::<S, Self>(s, &panel, vector, room, &mut factors[outputs.clone()]);
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
            let offsets = &mut offsets[outputs].as_chunks_mut().0[0];
            s.store_words(sums, offsets);
            for offset in offsets {
                *offset = offset.wrapping_mul(128).wrapping_neg();
            }
        }
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, factor: f32, out: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Self::steps(out.len()));
        for (step, out) in out.chunks_mut(4).enumerate() {
            let quad = panel[at.at(step, output / LANES) + output % LANES].to_le_bytes();
            for (out, byte) in out.iter_mut().zip(quad) {
                *out = f32::from(byte as i8) * factor;
            }
        }
    }
}
