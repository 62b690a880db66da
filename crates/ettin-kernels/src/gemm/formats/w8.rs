//! [`Scheme::W8`](crate::Scheme::W8): weights in bytes with a scale per output.

use super::{
    K_BLOCK, Microkernel, PackActivations, PackWeights, PanelBuffers, PanelLayout, PanelRows, QuantizedRow, RowWriter,
    StoredRows,
    f32::F32,
    integer_activations::IntegerWeights,
    integers::{MAX_BYTE, largest, nearest_integer},
    quantize_panel,
};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
};

/// [`Scheme::W8`](super::Scheme::W8) where nothing multiplies four bytes at once (else it is
/// [`IntegerActivations`](super::integer_activations::IntegerActivations)): sixteen outputs' bytes for each of four
/// inputs.
#[derive(Clone, Copy)]
pub(crate) struct W8A32;

impl Microkernel for W8A32 {
    one_input!();
    const RUNS_WITH_DOT: bool = false;
    const BLOCK_INPUTS: usize = K_BLOCK;
    const SCALES: bool = true;
    const LINE_STEPS: usize = 4;

    plain_sums!();

    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: the same promise.
        unsafe { F32::inputs(s, group, step) }
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, step: usize) -> S::V {
        // SAFETY: four words of the sixteen, by the caller's promise.
        s.widen_signed(unsafe { &*at.add(step * (LANES / 4)).cast() })
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sum: S::V, scales: &[f32], _: f32) -> S::V {
        s.mul(sum, s.load(&scales.as_chunks().0[0]))
    }
}

encode_as_f32!(W8A32);

impl PackWeights for W8A32 {
    #[inline(always)]
    fn pack<S: Simd>(_: S, panel: PanelRows<'_>, _: &mut [u32], parts: PanelBuffers<'_>) {
        quantize_panel::<Self, Self>(panel, parts);
    }

    fn place(row: QuantizedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], scales: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(k));
        for (step, &code) in row.codes.iter().enumerate() {
            put_byte(&mut words[at.at(step, output / LANES)..], byte_of(step, output), code);
        }
        for scale in row.scales.as_chunks().0 {
            scales[output] = f32::from_le_bytes(*scale);
        }
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, scale: f32, out: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(out.len()));
        for (step, out) in out.iter_mut().enumerate() {
            let byte = get_byte(&panel[at.at(step, output / LANES)..], byte_of(step, output));
            *out = f32::from(byte as i8) * scale;
        }
    }
}

/// Which byte of a round of [`W8A32`] is a step's and an output's.
fn byte_of(step: usize, output: usize) -> usize {
    step % <W8A32 as Microkernel>::LINE_STEPS * LANES + output % LANES
}

fn put_byte(words: &mut [u32], index: usize, byte: u8) {
    let shift = 8 * (index % 4);
    let word = &mut words[index / 4];
    *word = *word & !(0xff << shift) | u32::from(byte) << shift;
}

fn get_byte(words: &[u32], index: usize) -> u8 {
    words[index / 4].to_le_bytes()[index % 4]
}

impl IntegerWeights for W8A32 {
    const BLOCK_INPUTS: usize = 4 * LANES;
    const SCALES: bool = true;
    const LINE_STEPS: usize = 1;
    const TRAILER_WORDS: usize = 0;
    const ZERO: i32 = 128;
    const ZERO_PAIR: u8 = 0;

    #[inline(always)]
    fn quads<S: Simd>(_: S, words: S::Words, _: usize) -> S::Words {
        words
    }
    #[inline(always)]
    fn combined_scale<S: Simd>(_: S, row: S::V, _: &[u32]) -> S::V {
        row
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sum: S::V, scales: &[f32]) -> S::V {
        s.mul(sum, s.load(&scales.as_chunks().0[0]))
    }
    fn word(codes: [u8; 4]) -> u32 {
        u32::from_le_bytes(codes) ^ 0x8080_8080
    }
    fn weight(word: u32, input: usize) -> i32 {
        i32::from(word.to_le_bytes()[input]) - Self::ZERO
    }
    fn put_scales<F: Microkernel>(_: PanelLayout<F>, _: &mut [u32], own: &mut [f32], output: usize, scales: &[u8]) {
        for scale in scales.as_chunks().0 {
            own[output] = f32::from_le_bytes(*scale);
        }
    }
    fn scale<F: Microkernel>(_: PanelLayout<F>, _: &[u32], own: f32, _: usize, _: usize) -> f32 {
        own
    }
}

/// A row's scale, and each weight as a multiple of it from −127 to 127.
fn bytes(row: &[f32]) -> (f32, impl Fn(f32) -> i8) {
    let most = largest(row);
    let inverse = if most > 0.0 { MAX_BYTE / most } else { 0.0 };
    (most / MAX_BYTE, move |w| nearest_integer(w * inverse) as i8)
}

impl StoredRows for W8A32 {
    fn code_bytes(k: usize) -> usize {
        k
    }

    fn scale_bytes(_: usize) -> usize {
        size_of::<f32>()
    }

    fn is_finite(scales: &[u8]) -> bool {
        scales.as_chunks().0.iter().all(|scale| f32::from_le_bytes(*scale).is_finite())
    }

    fn quantize(row: &[f32], codes: &mut [u8], scales: &mut [u8]) {
        let (scale, byte) = bytes(row);
        for (code, &w) in codes.iter_mut().zip(row) {
            *code = byte(w) as u8;
        }
        scales.copy_from_slice(&scale.to_le_bytes());
    }

    fn dequantize(row: QuantizedRow<'_>, out: &mut [f32]) {
        let scale = row.scales.as_chunks().0.first().map_or(0.0, |scale| f32::from_le_bytes(*scale));
        for (out, &code) in out.iter_mut().zip(row.codes) {
            *out = f32::from(code as i8) * scale;
        }
    }
}
