//! [`Scheme::W8`](crate::Scheme::W8): weights in bytes with a factor per output.

use super::{
    Encode, Form, K_BLOCK, Pack, Panel, Parts, Place, QuantisedRow, Stored, Vectors,
    f32::Full,
    integer_activations::FixedForm,
    integers::{BYTE, largest, nearest_integer},
    place_all,
};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
};

/// [`Scheme::W8`](super::Scheme::W8) where nothing multiplies four bytes at once (else it is [`Fixed`](super::fixed::Fixed)): sixteen outputs' bytes for each of four inputs.
#[derive(Clone, Copy)]
pub(crate) struct Wide;

impl Form for Wide {
    one_input!();
    const BLOCK: usize = K_BLOCK;
    const FACTORS: bool = true;
    const STEPS: usize = 4;

    plain_sums!();

    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: the same promise.
        unsafe { Full::inputs(s, group, step) }
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, step: usize) -> S::V {
        // SAFETY: four words of the sixteen, by the caller's promise.
        s.widen_signed(unsafe { &*at.add(step * (LANES / 4)).cast() })
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sum: S::V, factors: &[f32], _: f32) -> S::V {
        s.mul(sum, s.load(&factors.as_chunks().0[0]))
    }
}

encode_as_f32!(Wide);

impl Pack for Wide {
    #[inline(always)]
    fn pack<S: Simd>(_: S, panel: Panel<'_>, _: &mut [u32], parts: Parts<'_>) {
        place_all::<Self, Self>(panel, parts);
    }

    fn place(row: QuantisedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], factors: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Self::steps(k));
        for (step, &code) in row.codes.iter().enumerate() {
            put_byte(&mut words[at.at(step, output / LANES)..], byte_of(step, output), code);
        }
        for factor in row.factors.as_chunks().0 {
            factors[output] = f32::from_le_bytes(*factor);
        }
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, factor: f32, out: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Self::steps(out.len()));
        for (step, out) in out.iter_mut().enumerate() {
            let byte = get_byte(&panel[at.at(step, output / LANES)..], byte_of(step, output));
            *out = f32::from(byte as i8) * factor;
        }
    }
}

/// Which byte of a round of [`Wide`] is a step's and an output's.
fn byte_of(step: usize, output: usize) -> usize {
    step % <Wide as Form>::STEPS * LANES + output % LANES
}

fn put_byte(words: &mut [u32], index: usize, byte: u8) {
    let shift = 8 * (index % 4);
    let word = &mut words[index / 4];
    *word = *word & !(0xff << shift) | u32::from(byte) << shift;
}

fn get_byte(words: &[u32], index: usize) -> u8 {
    words[index / 4].to_le_bytes()[index % 4]
}

impl FixedForm for Wide {
    const BLOCK: usize = 4 * LANES;
    const FACTORS: bool = true;
    const STEPS: usize = 1;
    const TRAILER: usize = 0;
    const ZERO: i32 = 128;
    const ZEROS: u8 = 0;

    #[inline(always)]
    fn quads<S: Simd>(_: S, words: S::Words, _: usize) -> S::Words {
        words
    }
    #[inline(always)]
    fn scale<S: Simd>(_: S, row: S::V, _: &[u32]) -> S::V {
        row
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sum: S::V, factors: &[f32]) -> S::V {
        s.mul(sum, s.load(&factors.as_chunks().0[0]))
    }
    fn word(codes: [u8; 4]) -> u32 {
        u32::from_le_bytes(codes) ^ 0x8080_8080
    }
    fn weight(word: u32, input: usize) -> i32 {
        i32::from(word.to_le_bytes()[input]) - Self::ZERO
    }
    fn put_factors<F: Form>(_: Vectors<F>, _: &mut [u32], own: &mut [f32], output: usize, factors: &[u8]) {
        for factor in factors.as_chunks().0 {
            own[output] = f32::from_le_bytes(*factor);
        }
    }
    fn factor<F: Form>(_: Vectors<F>, _: &[u32], own: f32, _: usize, _: usize) -> f32 {
        own
    }
}

/// A row's factor, and each weight as a multiple of it from −127 to 127.
fn bytes(row: &[f32]) -> (f32, impl Fn(f32) -> i8) {
    let most = largest(row);
    let scale = if most > 0.0 { BYTE / most } else { 0.0 };
    (most / BYTE, move |w| nearest_integer(w * scale) as i8)
}

impl Stored for Wide {
    fn code_bytes(k: usize) -> usize {
        k
    }

    fn factor_bytes(_: usize) -> usize {
        size_of::<f32>()
    }

    fn is_finite(factors: &[u8]) -> bool {
        factors.as_chunks().0.iter().all(|factor| f32::from_le_bytes(*factor).is_finite())
    }

    fn quantise(row: &[f32], codes: &mut [u8], factors: &mut [u8]) {
        let (factor, byte) = bytes(row);
        for (code, &w) in codes.iter_mut().zip(row) {
            *code = byte(w) as u8;
        }
        factors.copy_from_slice(&factor.to_le_bytes());
    }

    fn dequantise(row: QuantisedRow<'_>, out: &mut [f32]) {
        let factor = row.factors.as_chunks().0.first().map_or(0.0, |factor| f32::from_le_bytes(*factor));
        for (out, &code) in out.iter_mut().zip(row.codes) {
            *out = f32::from(code as i8) * factor;
        }
    }
}
