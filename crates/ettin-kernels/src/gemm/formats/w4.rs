//! [`Scheme::W4`](crate::Scheme::W4): weights in four bits with a scale for every 32 inputs of an output.

use half::bf16;

use super::{
    Microkernel, PackActivations, PackWeights, PanelBuffers, PanelLayout, PanelRows, QuantizedRow, RowWriter,
    StoredRows,
    f32::F32,
    integer_activations::IntegerWeights,
    integers::{largest, nearest_integer},
    quantize_panel,
};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
};

/// Inputs that share a scale in [`Scheme::W4`](crate::Scheme::W4).
pub const GROUP: usize = 32;

/// [`Scheme::W4`](crate::Scheme::W4), likewise: word i of a round holds output i's weights of eight inputs, four bits
/// each from the lowest on, each plus 8; a block ends with its scales.
#[derive(Clone, Copy)]
pub(crate) struct W4A32;

impl Microkernel for W4A32 {
    one_input!();
    const RUNS_WITH_DOT: bool = false;
    const BLOCK_INPUTS: usize = GROUP;
    const K_MULTIPLE: usize = GROUP;
    const LINE_STEPS: usize = 8;
    const TRAILER_WORDS: usize = LANES / 2;

    type AmxChain<S: Simd> = S::V;
    type Sum<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, _: &[u32], _: *const u32, _: usize) -> S::V {
        s.zero()
    }
    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: the same promise.
        unsafe { F32::inputs(s, group, step) }
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, step: usize) -> S::V {
        // SAFETY: sixteen words, by the caller's promise.
        s.widen_nibbles(unsafe { &*at.cast() }, step)
    }
    #[inline(always)]
    unsafe fn open<S: Simd>(s: S, block: S::V, _: *const u32, trailer: &[u32]) -> S::V {
        s.mul(block, s.widen_halves(&trailer.as_chunks().0[0]))
    }
    #[inline(always)]
    unsafe fn fold<S: Simd>(s: S, sum: S::V, block: S::V, _: *const u32, trailer: &[u32]) -> S::V {
        s.mul_add(block, s.widen_halves(&trailer.as_chunks().0[0]), sum)
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::V, _: &[f32], _: f32) -> S::V {
        sum
    }
}

encode_as_f32!(W4A32);

impl PackWeights for W4A32 {
    #[inline(always)]
    fn pack<S: Simd>(_: S, panel: PanelRows<'_>, _: &mut [u32], parts: PanelBuffers<'_>) {
        quantize_panel::<Self, Self>(panel, parts);
    }

    fn place(row: QuantizedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], _: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(k));
        let mut rounds = row.codes.chunks(4);
        for step in (0..at.steps).step_by(<Self as Microkernel>::LINE_STEPS) {
            // A word's bytes are those of the row.
            let mut word = [ZERO_PAIR; 4];
            let codes = rounds.next().unwrap_or_default();
            word[..codes.len()].copy_from_slice(codes);
            words[at.at(step, output / LANES) + output % LANES] = u32::from_le_bytes(word);
        }
        put_scales(at, words, output, row.scales);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(out.len()));
        for (round, out) in out.chunks_mut(<Self as Microkernel>::LINE_STEPS).enumerate() {
            let step = round * <Self as Microkernel>::LINE_STEPS;
            let word = panel[at.at(step, output / LANES) + output % LANES];
            let scale = scale(at, panel, output, step);
            for (i, out) in out.iter_mut().enumerate() {
                *out = ((word >> (4 * i) & 15) as f32 - 8.0) * scale;
            }
        }
    }
}

impl IntegerWeights for W4A32 {
    const BLOCK_INPUTS: usize = GROUP;
    const SCALES: bool = false;
    const LINE_STEPS: usize = 2;
    const TRAILER_WORDS: usize = LANES / 2;
    const ZERO: i32 = 8;
    const ZERO_PAIR: u8 = ZERO_PAIR;

    #[inline(always)]
    fn quads<S: Simd>(s: S, words: S::Words, step: usize) -> S::Words {
        s.nibbles(words, step == 1)
    }
    #[inline(always)]
    fn combined_scale<S: Simd>(s: S, row: S::V, trailer: &[u32]) -> S::V {
        s.mul(row, s.widen_halves(&trailer.as_chunks().0[0]))
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::V, _: &[f32]) -> S::V {
        sum
    }
    /// The first four weights in the lower halves of the bytes, the last four in the upper.
    fn word(codes: [u8; 4]) -> u32 {
        let word = u32::from_le_bytes(codes);
        let swap = |word: u32, distance: u32, mask: u32| {
            let apart = (word ^ word >> distance) & mask;
            word ^ apart ^ apart << distance
        };
        swap(swap(word, 8, 0x0000_ff00), 4, 0x00f0_00f0)
    }
    fn weight(word: u32, input: usize) -> i32 {
        let byte = word.to_le_bytes()[input % 4];
        i32::from(if input < 4 { byte & 15 } else { byte >> 4 }) - Self::ZERO
    }
    fn put_scales<F: Microkernel>(at: PanelLayout<F>, words: &mut [u32], _: &mut [f32], output: usize, scales: &[u8]) {
        put_scales(at, words, output, scales);
    }
    fn scale<F: Microkernel>(at: PanelLayout<F>, words: &[u32], _: f32, output: usize, step: usize) -> f32 {
        scale(at, words, output, step)
    }
}

/// Puts an output's scales, a bf16 for each block, into the trailers.
fn put_scales<F: Microkernel>(at: PanelLayout<F>, words: &mut [u32], output: usize, scales: &[u8]) {
    for (block, scale) in scales.as_chunks().0.iter().enumerate() {
        put_half(&mut words[at.trailer(block, output / LANES)..], output % LANES, u16::from_le_bytes(*scale));
    }
}

/// An output's scale in the block of a step.
fn scale<F: Microkernel>(at: PanelLayout<F>, words: &[u32], output: usize, step: usize) -> f32 {
    get_half(&words[at.trailer(step / PanelLayout::<F>::BLOCK_STEPS, output / LANES)..], output % LANES)
}

/// Numbers of sixteen bits: the even ones in the lower halves.
fn put_half(words: &mut [u32], index: usize, half: u16) {
    let shift = 16 * (index % 2);
    let word = &mut words[index / 2];
    *word = *word & !(0xffff << shift) | u32::from(half) << shift;
}

fn get_half(words: &[u32], index: usize) -> f32 {
    f32::from_bits(words[index / 2] >> (16 * (index % 2)) << 16)
}

/// Two weights of zero.
const ZERO_PAIR: u8 = 0x88;

impl StoredRows for W4A32 {
    fn code_bytes(k: usize) -> usize {
        k.div_ceil(2)
    }

    fn scale_bytes(k: usize) -> usize {
        k.div_ceil(GROUP) * size_of::<bf16>()
    }

    fn is_finite(scales: &[u8]) -> bool {
        scales.as_chunks().0.iter().all(|scale| bf16::from_le_bytes(*scale).is_finite())
    }

    fn quantize(row: &[f32], codes: &mut [u8], scales: &mut [u8]) {
        let groups = row.chunks(GROUP).zip(codes.chunks_mut(GROUP / 2));
        for ((row, codes), out) in groups.zip(scales.as_chunks_mut().0) {
            let mut weights = [0.0; GROUP];
            weights[..row.len()].copy_from_slice(row);
            let (scale, nibble) = nibbles(&weights);
            for (code, pair) in codes.iter_mut().zip(weights.as_chunks::<2>().0) {
                *code = nibble(pair[0]) | nibble(pair[1]) << 4;
            }
            *out = bf16::from_f32(scale).to_le_bytes();
        }
    }

    fn dequantize(row: QuantizedRow<'_>, out: &mut [f32]) {
        let groups = out.chunks_mut(GROUP).zip(row.codes.chunks(GROUP / 2));
        for ((out, codes), scale) in groups.zip(row.scales.as_chunks().0) {
            let scale = bf16::from_le_bytes(*scale).to_f32();
            for (out, code) in out.chunks_mut(2).zip(codes) {
                for (out, nibble) in out.iter_mut().zip([code & 15, code >> 4]) {
                    *out = (f32::from(nibble) - 8.0) * scale;
                }
            }
        }
    }
}

/// A group's scale, a bf16, and each weight as a multiple of it from −8 to 7, plus 8.
fn nibbles(weights: &[f32; GROUP]) -> (f32, impl Fn(f32) -> u8) {
    let scale = best_scale(weights);
    let inverse = inverse(scale);
    (scale, move |w| (nibble(w, inverse) + 8.0) as u8)
}

/// The nearest multiple, from −8 to 7, of what `inverse` is one over.
fn nibble(w: f32, inverse: f32) -> f32 {
    nearest_integer((w * inverse).clamp(-8.0, 7.0))
}

/// One over a scale; nothing is a multiple of zero but zero.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Of a few scales, that with the least squared error. The largest weight by magnitude becomes −8 times the scale, or
/// somewhat more than that: the others are then finer.
fn best_scale(weights: &[f32; GROUP]) -> f32 {
    let most = weights.iter().fold(0.0f32, |most, &w| if w.abs() > most.abs() { w } else { most });
    if largest(weights).is_nan() {
        return f32::NAN;
    }
    let mut best = (f32::INFINITY, 0.0);
    for steps in [-8.0f32, -8.5, -9.0, -7.5, 7.0, 7.5] {
        let scale = bf16::from_f32(most / steps).to_f32();
        let inverse = inverse(scale);
        let mut errors = [0.0; LANES];
        for weights in weights.as_chunks::<LANES>().0 {
            for (error, &w) in errors.iter_mut().zip(weights) {
                let missed = w - nibble(w, inverse) * scale;
                *error += missed * missed;
            }
        }
        let error = errors.iter().sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}
