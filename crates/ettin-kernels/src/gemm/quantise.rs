//! How a scheme stores weights: from rows of f32 to a panel, and one row back.

use std::marker::PhantomData;

use half::bf16;

use super::{
    form::{Bytes, Form, Full, Nibbles, Split, Wide},
    layout::Layout,
    operand::{BYTE, TO_INTEGER},
    stored::{Quantisation, QuantisedRow, ZEROS},
};
use crate::{
    simd::{LANES, round_bf16},
    transpose::interleave,
};

/// Inputs that share a factor in [`Scheme::W4`](super::Scheme::W4).
pub const GROUP: usize = 32;

/// Rows on their way into a panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    /// `[count, k]`
    pub(super) rows: &'a [f32],
    pub(super) count: usize,
    pub(super) k: usize,
    /// Vectors of sixteen outputs in the panel, of which `count` outputs are taken.
    pub(super) vectors: usize,
}

impl Panel<'_> {
    fn row(&self, output: usize) -> &[f32] {
        &self.rows[output * self.k..(output + 1) * self.k]
    }
}

/// Where a panel keeps what: per block its rounds, each all vectors side by side, then the trailers of the vectors.
#[derive(Clone, Copy)]
pub(crate) struct Vectors<F> {
    pub(super) vectors: usize,
    pub(super) steps: usize,
    form: PhantomData<F>,
}

impl<F: Form> Vectors<F> {
    #[inline(always)]
    pub(super) fn new(vectors: usize, steps: usize) -> Self {
        Self { vectors, steps, form: PhantomData }
    }

    /// Steps of a full block.
    pub(super) const BLOCK: usize = F::BLOCK / F::UNIT;

    #[inline(always)]
    pub(super) fn blocks(&self) -> usize {
        self.steps.div_ceil(Self::BLOCK)
    }

    #[inline(always)]
    pub(super) fn words(&self) -> usize {
        self.vectors * (self.steps / F::STEPS * F::STORED + self.blocks() * F::TRAILER)
    }

    /// First word of a block.
    #[inline(always)]
    pub(super) fn block(&self, block: usize) -> usize {
        block * self.vectors * (Self::BLOCK / F::STEPS * F::STORED + F::TRAILER)
    }

    /// First word of a vector's weights in the round of a step.
    #[inline(always)]
    pub(super) fn at(&self, step: usize, vector: usize) -> usize {
        self.block(step / Self::BLOCK) + (step % Self::BLOCK / F::STEPS * self.vectors + vector) * F::STORED
    }

    /// First word of a vector's trailer after a block.
    #[inline(always)]
    pub(super) fn trailer(&self, block: usize, vector: usize) -> usize {
        let steps = (self.steps - block * Self::BLOCK).min(Self::BLOCK);
        self.block(block) + steps / F::STEPS * self.vectors * F::STORED + vector * F::TRAILER
    }
}

/// How a scheme stores weights.
pub(crate) trait Pack: Sized {
    /// Fills a panel of zeros.
    fn pack(panel: Panel<'_>, words: &mut [u32], factors: &mut [f32], offsets: &mut [u32]);

    /// The weights of one output, as f32.
    fn unpack(panel: &[u32], vectors: usize, output: usize, factor: f32, out: &mut [f32]);
}

impl Pack for Full {
    fn pack(panel: Panel<'_>, words: &mut [u32], _: &mut [f32], _: &mut [u32]) {
        let width = panel.vectors * LANES;
        for (t, words) in words.chunks_exact_mut(width).enumerate().take(panel.k) {
            for (i, word) in words[..panel.count].iter_mut().enumerate() {
                *word = panel.rows[i * panel.k + t].to_bits();
            }
        }
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(panel.chunks_exact(vectors * LANES)) {
            *out = f32::from_bits(row[output]);
        }
    }
}

impl<const PARTS: usize> Pack for Split<PARTS> {
    fn pack(panel: Panel<'_>, words: &mut [u32], _: &mut [f32], _: &mut [u32]) {
        /// Steps that are laid out at a time: few enough for L1.
        const STEPS: usize = 32;
        let steps = Layout::steps::<Self>(panel.k);
        // Words of a step: of each vector, its parts side by side.
        let width = panel.vectors * Self::STORED;
        let mut rows = vec![0; width * STEPS];
        for first in (0..steps).step_by(STEPS) {
            let count = STEPS.min(steps - first);
            rows.fill(0);
            for output in 0..panel.count {
                let row = panel.row(output);
                let row = &row[(2 * first).min(panel.k)..(2 * (first + count)).min(panel.k)];
                for (step, pair) in row.chunks(2).enumerate() {
                    let mut rest = [pair[0], pair.get(1).copied().unwrap_or(0.0)];
                    for part in 0..PARTS {
                        let pair = rest.map(round_bf16);
                        let place = output / LANES * Self::STORED + part * LANES + output % LANES;
                        rows[place * count + step] = pair[0] | pair[1] << 16;
                        for (rest, taken) in rest.iter_mut().zip(pair) {
                            *rest -= f32::from_bits(taken << 16);
                        }
                    }
                }
            }
            interleave(&rows[..width * count], width, count, &mut words[width * first..][..width * count]);
        }
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(out.len()));
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

/// The largest magnitude; NaN if a weight is not finite, so that what it takes part in is NaN too, not wrong.
fn largest(weights: &[f32]) -> f32 {
    let most = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    if weights.iter().all(|w| w.is_finite()) { most } else { f32::NAN }
}

/// A row's factor, and each weight as a multiple of it from −127 to 127.
pub(super) fn bytes(row: &[f32]) -> (f32, impl Fn(f32) -> i8) {
    let most = largest(row);
    let scale = if most > 0.0 { BYTE / most } else { 0.0 };
    (most / BYTE, move |w| nearest_integer(w * scale) as i8)
}

impl Pack for Bytes {
    fn pack(panel: Panel<'_>, words: &mut [u32], factors: &mut [f32], offsets: &mut [u32]) {
        let at = Vectors::<Self>::new(panel.vectors, Layout::steps::<Self>(panel.k));
        for output in 0..panel.count {
            let (factor, byte) = bytes(panel.row(output));
            let mut sum = 0i32;
            for (step, quad) in panel.row(output).chunks(4).enumerate() {
                let mut bytes = [0i8; 4];
                for (out, &w) in bytes.iter_mut().zip(quad) {
                    *out = byte(w);
                    sum += i32::from(*out);
                }
                words[at.at(step, output / LANES) + output % LANES] = u32::from_le_bytes(bytes.map(|b| b as u8));
            }
            factors[output] = factor;
            offsets[output] = (-128 * sum) as u32;
        }
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, factor: f32, out: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(out.len()));
        for (step, out) in out.chunks_mut(4).enumerate() {
            let quad = panel[at.at(step, output / LANES) + output % LANES].to_le_bytes();
            for (out, byte) in out.iter_mut().zip(quad) {
                *out = f32::from(byte as i8) * factor;
            }
        }
    }
}

/// How a scheme takes rows that are quantised already.
pub(crate) trait Place: Form {
    const QUANTISATION: Quantisation;

    /// Puts a row where an output's weights are, in a panel of zeros.
    fn place(row: QuantisedRow<'_>, vectors: usize, output: usize, words: &mut [u32], factors: &mut [f32]);

    /// Quantises the rows of a panel and puts them there.
    fn place_all(panel: Panel<'_>, words: &mut [u32], factors: &mut [f32]) {
        let (codes, scales) = (Self::QUANTISATION.code_bytes(panel.k), Self::QUANTISATION.factor_bytes(panel.k));
        let (mut codes, mut scales) = (vec![0; codes], vec![0; scales]);
        for output in 0..panel.count {
            Self::QUANTISATION.quantise(panel.row(output), &mut codes, &mut scales);
            let row = QuantisedRow { codes: &codes, factors: &scales };
            Self::place(row, panel.vectors, output, words, factors);
        }
    }
}

impl Place for Wide {
    const QUANTISATION: Quantisation = Quantisation::W8;

    fn place(row: QuantisedRow<'_>, vectors: usize, output: usize, words: &mut [u32], factors: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(row.codes.len()));
        for (step, &code) in row.codes.iter().enumerate() {
            put_byte(&mut words[at.at(step, output / LANES)..], byte_of(step, output), code);
        }
        for factor in row.factors.as_chunks().0 {
            factors[output] = f32::from_le_bytes(*factor);
        }
    }
}

impl Place for Nibbles {
    const QUANTISATION: Quantisation = Quantisation::W4;

    fn place(row: QuantisedRow<'_>, vectors: usize, output: usize, words: &mut [u32], _: &mut [f32]) {
        let (groups, _) = row.factors.as_chunks();
        let at = Vectors::<Self>::new(vectors, groups.len() * GROUP);
        let mut rounds = row.codes.chunks(4);
        for step in (0..at.steps).step_by(Self::STEPS) {
            // A word's bytes are those of the row.
            let mut word = [ZEROS; 4];
            let codes = rounds.next().unwrap_or_default();
            word[..codes.len()].copy_from_slice(codes);
            words[at.at(step, output / LANES) + output % LANES] = u32::from_le_bytes(word);
        }
        for (group, factor) in groups.iter().enumerate() {
            put_half(&mut words[at.trailer(group, output / LANES)..], output % LANES, u16::from_le_bytes(*factor));
        }
    }
}

impl Pack for Wide {
    fn pack(panel: Panel<'_>, words: &mut [u32], factors: &mut [f32], _: &mut [u32]) {
        Self::place_all(panel, words, factors);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, factor: f32, out: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(out.len()));
        for (step, out) in out.iter_mut().enumerate() {
            let byte = get_byte(&panel[at.at(step, output / LANES)..], byte_of(step, output));
            *out = f32::from(byte as i8) * factor;
        }
    }
}

impl Pack for Nibbles {
    fn pack(panel: Panel<'_>, words: &mut [u32], factors: &mut [f32], _: &mut [u32]) {
        Self::place_all(panel, words, factors);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(out.len()));
        for (round, out) in out.chunks_mut(Self::STEPS).enumerate() {
            let step = round * Self::STEPS;
            let word = panel[at.at(step, output / LANES) + output % LANES];
            let trailer = at.trailer(step / Vectors::<Self>::BLOCK, output / LANES);
            let factor = get_half(&panel[trailer..], output % LANES);
            for (i, out) in out.iter_mut().enumerate() {
                *out = ((word >> (4 * i) & 15) as f32 - 8.0) * factor;
            }
        }
    }
}

/// The nearest integer, as f32, of what is far below 2²²: without a call, where the baseline CPU cannot round.
fn nearest_integer(x: f32) -> f32 {
    x + TO_INTEGER - TO_INTEGER
}

/// A group's factor, a bf16, and each weight as a multiple of it from −8 to 7, plus 8.
pub(super) fn nibbles(weights: &[f32; GROUP]) -> (f32, impl Fn(f32) -> u8) {
    let factor = best_factor(weights);
    let inverse = inverse(factor);
    (factor, move |w| (nibble(w, inverse) + 8.0) as u8)
}

/// The nearest multiple, from −8 to 7, of what `inverse` is one over.
fn nibble(w: f32, inverse: f32) -> f32 {
    nearest_integer((w * inverse).clamp(-8.0, 7.0))
}

/// One over a factor; nothing is a multiple of zero but zero.
fn inverse(factor: f32) -> f32 {
    if factor == 0.0 { 0.0 } else { 1.0 / factor }
}

/// Of a few factors, that with the least squared error. The largest weight by magnitude becomes −8 times the factor, or
/// somewhat more than that: the others are then finer.
fn best_factor(weights: &[f32; GROUP]) -> f32 {
    let most = weights.iter().fold(0.0f32, |most, &w| if w.abs() > most.abs() { w } else { most });
    if largest(weights).is_nan() {
        return f32::NAN;
    }
    let mut best = (f32::INFINITY, 0.0);
    for steps in [-8.0f32, -8.5, -9.0, -7.5, 7.0, 7.5] {
        let factor = bf16::from_f32(most / steps).to_f32();
        let inverse = inverse(factor);
        let mut errors = [0.0; LANES];
        for weights in weights.as_chunks::<LANES>().0 {
            for (error, &w) in errors.iter_mut().zip(weights) {
                let missed = w - nibble(w, inverse) * factor;
                *error += missed * missed;
            }
        }
        let error = errors.iter().sum();
        if error < best.0 {
            best = (error, factor);
        }
    }
    best.1
}

/// Which byte of a round of [`Wide`] is a step's and an output's.
fn byte_of(step: usize, output: usize) -> usize {
    step % Wide::STEPS * LANES + output % LANES
}

fn put_byte(words: &mut [u32], index: usize, byte: u8) {
    let shift = 8 * (index % 4);
    let word = &mut words[index / 4];
    *word = *word & !(0xff << shift) | u32::from(byte) << shift;
}

fn get_byte(words: &[u32], index: usize) -> u8 {
    words[index / 4].to_le_bytes()[index % 4]
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
