//! How a scheme stores weights: from rows of f32 to a panel, and one row back.

use std::marker::PhantomData;

use half::bf16;

use super::{
    form::{Bytes, Form, Full, Halves, Nibbles, Split, Wide},
    layout::Layout,
    operand::{self, BYTE, TO_INTEGER},
    stored::{Quantisation, QuantisedRow, ZEROS},
};
use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
    team::Shared,
    transpose::transposed,
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

    /// Puts an output's factors, a bf16 for each block, into the trailers.
    pub(super) fn put_factors(&self, words: &mut [u32], output: usize, factors: &[u8]) {
        for (block, factor) in factors.as_chunks().0.iter().enumerate() {
            put_half(&mut words[self.trailer(block, output / LANES)..], output % LANES, u16::from_le_bytes(*factor));
        }
    }

    /// An output's factor in the block of a step.
    pub(super) fn factor(&self, words: &[u32], output: usize, step: usize) -> f32 {
        get_half(&words[self.trailer(step / Self::BLOCK, output / LANES)..], output % LANES)
    }
}

/// What a panel keeps, zero as yet.
pub(crate) struct Parts<'a> {
    pub(super) words: &'a mut [u32],
    /// One per output, or nothing.
    pub(super) factors: &'a mut [f32],
    /// One per output, or nothing.
    pub(super) offsets: &'a mut [u32],
}

/// How a scheme stores weights.
pub(crate) trait Pack: Sized {
    /// Fills the parts of a panel, with room for the words of sixteen encoded rows.
    fn pack<S: Simd>(s: S, panel: Panel<'_>, room: &mut [u32], parts: Parts<'_>);

    /// Puts a row that is quantised already where an output's weights are, in a panel of zeros.
    fn place(row: QuantisedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], factors: &mut [f32]) {
        let _ = (row, k, vectors, output, words, factors);
        unreachable!("rows of this scheme are not stored")
    }

    /// The weights of one output, as f32.
    fn unpack(panel: &[u32], vectors: usize, output: usize, factor: f32, out: &mut [f32]);
}

/// Sixteen outputs of a panel as rows are [encoded](super::operand::Encode), each group of steps output by output, with
/// their factors: how many there are. The others are zero.
#[inline(always)]
fn encoded<S: Simd, F: Form>(s: S, panel: &Panel<'_>, vector: usize, room: &mut [u32], factors: &mut [f32]) -> usize {
    let unit = LANES * F::WORDS;
    let outputs = vector * LANES..((vector + 1) * LANES).min(panel.count.max(vector * LANES));
    let count = outputs.len();
    if count < LANES {
        room.fill(0);
    }
    let room = Shared::new(room);
    for (i, output) in outputs.enumerate() {
        // SAFETY: the room is borrowed, and rows follow each other.
        let place = unsafe { operand::Place::new(&room, i * unit, LANES * unit) };
        factors[i] = F::row(s, panel.row(output), place);
    }
    count
}

/// Lays them out step by step.
#[inline(always)]
fn lay_out<S: Simd, F: Form>(s: S, at: Vectors<F>, vector: usize, room: &mut [u32], words: &mut [u32]) {
    const { assert!(F::STEPS == 1 && F::STORED == F::WORDS * LANES) };
    let unit = LANES * F::WORDS;
    for (group, room) in as_numbers(room).chunks_exact(LANES * unit).enumerate() {
        for part in (0..unit).step_by(LANES) {
            let steps = transposed(s, &room[part..], unit);
            for (step, outputs) in steps.into_iter().enumerate() {
                let words = &mut words[at.at(group * LANES + step, vector) + part..][..LANES];
                s.store(outputs, &mut as_numbers(words).as_chunks_mut().0[0]);
            }
        }
    }
}

/// Encodes all outputs of a panel and lays them out.
#[inline(always)]
fn encode_all<S: Simd, F: Form>(s: S, panel: Panel<'_>, room: &mut [u32], words: &mut [u32]) {
    let at = Vectors::<F>::new(panel.vectors, Layout::steps::<F>(panel.k));
    for vector in 0..panel.vectors {
        encoded::<S, F>(s, &panel, vector, room, &mut [1.0; LANES]);
        lay_out(s, at, vector, room, words);
    }
}

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

impl<const PARTS: usize> Pack for Split<PARTS> {
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: Panel<'_>, room: &mut [u32], parts: Parts<'_>) {
        encode_all::<S, Self>(s, panel, room, parts.words);
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
    #[inline(always)]
    fn pack<S: Simd>(s: S, panel: Panel<'_>, room: &mut [u32], Parts { words, factors, offsets }: Parts<'_>) {
        let at = Vectors::<Self>::new(panel.vectors, Layout::steps::<Self>(panel.k));
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
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(out.len()));
        for (step, out) in out.chunks_mut(4).enumerate() {
            let quad = panel[at.at(step, output / LANES) + output % LANES].to_le_bytes();
            for (out, byte) in out.iter_mut().zip(quad) {
                *out = f32::from(byte as i8) * factor;
            }
        }
    }
}

/// Quantises the rows of a panel and [places](Pack::place) them.
#[inline(always)]
pub(super) fn place_all<P: Pack>(
    quantisation: Quantisation,
    panel: Panel<'_>,
    Parts { words, factors, .. }: Parts<'_>,
) {
    let (codes, scales) = (quantisation.code_bytes(panel.k), quantisation.factor_bytes(panel.k));
    let (mut codes, mut scales) = (vec![0; codes], vec![0; scales]);
    for output in 0..panel.count {
        quantisation.quantise(panel.row(output), &mut codes, &mut scales);
        let row = QuantisedRow { codes: &codes, factors: &scales };
        P::place(row, panel.k, panel.vectors, output, words, factors);
    }
}

impl Pack for Wide {
    #[inline(always)]
    fn pack<S: Simd>(_: S, panel: Panel<'_>, _: &mut [u32], parts: Parts<'_>) {
        place_all::<Self>(Quantisation::W8, panel, parts);
    }

    fn place(row: QuantisedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], factors: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(k));
        for (step, &code) in row.codes.iter().enumerate() {
            put_byte(&mut words[at.at(step, output / LANES)..], byte_of(step, output), code);
        }
        for factor in row.factors.as_chunks().0 {
            factors[output] = f32::from_le_bytes(*factor);
        }
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
    #[inline(always)]
    fn pack<S: Simd>(_: S, panel: Panel<'_>, _: &mut [u32], parts: Parts<'_>) {
        place_all::<Self>(Quantisation::W4, panel, parts);
    }

    fn place(row: QuantisedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], _: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(k));
        let mut rounds = row.codes.chunks(4);
        for step in (0..at.steps).step_by(Self::STEPS) {
            // A word's bytes are those of the row.
            let mut word = [ZEROS; 4];
            let codes = rounds.next().unwrap_or_default();
            word[..codes.len()].copy_from_slice(codes);
            words[at.at(step, output / LANES) + output % LANES] = u32::from_le_bytes(word);
        }
        at.put_factors(words, output, row.factors);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, _: f32, out: &mut [f32]) {
        let at = Vectors::<Self>::new(vectors, Layout::steps::<Self>(out.len()));
        for (round, out) in out.chunks_mut(Self::STEPS).enumerate() {
            let step = round * Self::STEPS;
            let word = panel[at.at(step, output / LANES) + output % LANES];
            let factor = at.factor(panel, output, step);
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
