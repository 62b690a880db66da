//! [`Scheme::W8`](super::Scheme::W8) and [`Scheme::W4`](super::Scheme::W4) by instructions for products of bytes:
//! activations in fixed point.
//!
//! Widening a weight to f32 takes longer than reading it from memory. So the weights stay bytes, and the activations
//! become integers: sixty-four inputs of a row share a scale, and what is left of each is an integer of 16 bits, kept
//! as two
//! **limbs**, signed bytes, high and low. A product of limbs and weights is exact, whatever its order. Per block the
//! sums of the two limbs become one f32 number, which is rounded, multiplied by the scales and added as in every other
//! scheme.
//!
//! **What two limbs cost.** Rounding puts each input off by no more than 2⁻¹⁶ of the largest of its sixty-four, and so,
//! as these errors are independent, all of them together by about 2⁻¹³ of it, times weights. Rounding the weights puts
//! the largest alone off by up to a 254th of itself (8 bits, of the row's largest weight) or a 14th (4 bits, of the
//! block's). So whatever the inputs are, outliers included, theirs adds a thirtieth or less to an error that is there
//! anyway.
//!
//! The instruction multiplies unsigned bytes by signed ones: weights are kept with [`IntegerWeights::ZERO`] added, and
//! what that adds to a sum is taken off by where the sum starts. A row's words of a group are `[limbs, steps]`, the
//! high one first, then its [header](GroupHeader).

use std::marker::PhantomData;

use super::{
    Microkernel, PackActivations, PackWeights, PanelBuffers, PanelLayout, PanelRows, QuantizedRow, RowWriter,
    StoredRows, quantize_panel,
};
use crate::simd::{LANES, Simd};

/// Weights of [`W8A32`] or [`W4A32`], activations in fixed point.
#[derive(Clone, Copy)]
pub(crate) struct IntegerActivations<W>(PhantomData<W>);

/// Bytes of an activation, high and low.
const LIMBS: usize = 2;

/// Magnitude of the largest activation: both of its limbs are 127.
const MAX_INTEGER: f32 = (127 * 256 + 127) as f32;

/// Groups whose largest magnitude is below count as zero: the scale's inverse would not be finite.
const MIN_MAGNITUDE: f32 = 1e-30;

/// Inputs of a group.
const GROUP: usize = 4 * LANES;

/// What becomes of a row's group besides its limbs, by word.
struct GroupHeader;

impl GroupHeader {
    /// f32: what the integers are multiplied by.
    const SCALE: usize = LIMBS * LANES;
    /// Where the sum of both limbs starts, a word for each block of the group.
    const START: usize = Self::SCALE + 1;
}

/// What differs between the two.
pub(crate) trait IntegerWeights: StoredRows + Copy + Send + Sync + 'static {
    /// Inputs of a block: those that share a scale of the weights, and no more than a group.
    const BLOCK_INPUTS: usize;
    /// Steps of four inputs in a word of weights.
    const LINE_STEPS: usize;
    /// Whether outputs have scales outside the panel.
    const SCALES: bool;
    const TRAILER_WORDS: usize;
    /// What weights are kept with.
    const ZERO: i32;

    /// The weights of a step in a word of each output.
    fn quads<S: Simd>(s: S, words: S::Words, step: usize) -> S::Words;

    /// A row's scale for a block, given that of its weights.
    fn combined_scale<S: Simd>(s: S, row: S::V, trailer: &[u32]) -> S::V;

    fn finish<S: Simd>(s: S, sum: S::V, scales: &[f32]) -> S::V;

    /// Four bytes of codes as a word of weights.
    fn word(codes: [u8; 4]) -> u32;

    /// Code bytes of no weight.
    const ZERO_PAIR: u8;

    /// The weight of an input, by its place in a word.
    fn weight(word: u32, input: usize) -> i32;

    /// Puts an output's scales where the panel, or the weight, keeps them.
    fn put_scales<F: Microkernel>(at: PanelLayout<F>, words: &mut [u32], own: &mut [f32], output: usize, scales: &[u8]);

    /// An output's scale at a step: of the panel, or its own.
    fn scale<F: Microkernel>(at: PanelLayout<F>, words: &[u32], own: f32, output: usize, step: usize) -> f32;
}

impl<W: IntegerWeights> Microkernel for IntegerActivations<W> {
    const STEP_INPUTS: usize = 4;
    const BLOCK_INPUTS: usize = W::BLOCK_INPUTS;
    const SCALES: bool = W::SCALES;
    const LINE_STEPS: usize = W::LINE_STEPS;
    const STEP_WORDS: usize = LIMBS + 1;
    const LOW_PRECISION: bool = true;
    const RUNS_WITHOUT_DOT: bool = false;
    const LINE_WORDS: usize = LANES;
    const TRAILER_WORDS: usize = W::TRAILER_WORDS;
    /// Two sums for each: with one vector of outputs at a time, they stay in registers.
    const MAX_ROWS: usize = 14;

    type Inputs<S: Simd> = [S::Words; LIMBS];
    type Weights<S: Simd> = S::Words;
    type AmxChain<S: Simd> = [S::Words; LIMBS];
    type Sum<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, _: &[u32], group: *const u32, block: usize) -> [S::Words; LIMBS] {
        // SAFETY: a group of a row, by the caller's promise.
        [s.splat_word(0), s.splat_word(unsafe { *group.add(GroupHeader::START + block) })]
    }
    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> [S::Words; LIMBS] {
        let mut limbs = [s.splat_word(0); LIMBS];
        for (i, limb) in limbs.iter_mut().enumerate() {
            // SAFETY: `LIMBS` words of the group, by the caller's promise.
            *limb = s.splat_word(unsafe { *group.add(i * LANES + step) });
        }
        limbs
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, step: usize) -> S::Words {
        // SAFETY: sixteen words, by the caller's promise.
        W::quads(s, s.load_words(unsafe { &*at.cast() }), step)
    }
    #[inline(always)]
    fn multiply<S: Simd>(s: S, chain: [S::Words; LIMBS], x: [S::Words; LIMBS], w: S::Words) -> [S::Words; LIMBS] {
        [s.dot_i8(chain[0], w, x[0]), s.dot_i8(chain[1], w, x[1])]
    }
    #[inline(always)]
    unsafe fn open<S: Simd>(s: S, chain: [S::Words; LIMBS], group: *const u32, trailer: &[u32]) -> S::V {
        // SAFETY: by the caller's promise.
        unsafe { Self::fold(s, s.zero(), chain, group, trailer) }
    }
    /// The sum fits: 2¹⁵ · 127 · 64 is below 2³¹, whatever is cut off on the way.
    #[inline(always)]
    unsafe fn fold<S: Simd>(
        s: S,
        sum: S::V,
        [high, low]: [S::Words; LIMBS],
        group: *const u32,
        trailer: &[u32],
    ) -> S::V {
        let integer = s.integers(s.add_shifted(low, high));
        // SAFETY: a group of a row, by the caller's promise.
        let scale = s.splat(unsafe { *group.add(GroupHeader::SCALE).cast::<f32>() });
        s.mul_add(integer, W::combined_scale(s, scale, trailer), sum)
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sum: S::V, scales: &[f32], _: f32) -> S::V {
        W::finish(s, sum, scales)
    }
}

impl<W: IntegerWeights> PackActivations for IntegerActivations<W> {
    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: RowWriter<'_>) -> f32 {
        for group in 0..Self::steps(x.len()) / LANES {
            let x = x.get(group * GROUP..x.len().min((group + 1) * GROUP)).unwrap_or(&[]);
            let mut vectors = [s.zero(); 4];
            for (vector, x) in vectors.iter_mut().zip(x.chunks(LANES)) {
                *vector = s.load_part(x);
            }
            fixed::<S, W>(s, vectors, place.group::<Self>(group));
        }
        1.0
    }
}

/// A group of inputs as limbs, with their edge.
#[inline(always)]
fn fixed<S: Simd, W: IntegerWeights>(s: S, x: [S::V; 4], words: &mut [u32]) {
    let (mut most, mut broken) = (s.zero(), s.zero());
    for x in x {
        most = s.max(most, s.max(x, s.sub(s.zero(), x)));
        broken = s.mul_add(x, s.zero(), broken);
    }
    // NaN where anything is not finite: the whole row then is NaN, not wrong.
    let most = s.largest(most) + s.sum(broken);
    let inverse = if most < MIN_MAGNITUDE { 0.0 } else { MAX_INTEGER / most };
    let limbs = s.high_low_bytes(x.map(|x| s.mul(x, s.splat(inverse))));
    for (&limbs, words) in limbs.iter().zip(words.as_chunks_mut().0) {
        s.store_words(limbs, words);
    }
    let sums = limbs.map(|limbs| s.dot_i8(s.splat_word(0), s.splat_word(0x0101_0101), limbs));
    let mut steps = [0; LANES];
    s.store_words(s.add_shifted(sums[1], sums[0]), &mut steps);
    words[GroupHeader::SCALE] = (most / MAX_INTEGER).to_bits();
    for (block, steps) in steps.chunks_exact(W::BLOCK_INPUTS / 4).enumerate() {
        let sum = steps.iter().fold(0u32, |sum, step| sum.wrapping_add(*step));
        words[GroupHeader::START + block] = sum.wrapping_mul(W::ZERO as u32).wrapping_neg();
    }
}

impl<W: IntegerWeights> PackWeights for IntegerActivations<W> {
    #[inline(always)]
    fn pack<S: Simd>(_: S, panel: PanelRows<'_>, _: &mut [u32], parts: PanelBuffers<'_>) {
        quantize_panel::<Self, W>(panel, parts);
    }

    fn place(row: QuantizedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], scales: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(k));
        let mut rounds = row.codes.chunks(4);
        for step in (0..at.steps).step_by(W::LINE_STEPS) {
            let mut codes = [W::ZERO_PAIR; 4];
            let row = rounds.next().unwrap_or_default();
            codes[..row.len()].copy_from_slice(row);
            words[at.at(step, output / LANES) + output % LANES] = W::word(codes);
        }
        W::put_scales(at, words, scales, output, row.scales);
    }

    fn unpack(panel: &[u32], vectors: usize, output: usize, scale: f32, out: &mut [f32]) {
        let at = PanelLayout::<Self>::new(vectors, Self::steps(out.len()));
        for (round, out) in out.chunks_mut(4 * W::LINE_STEPS).enumerate() {
            let step = round * W::LINE_STEPS;
            let word = panel[at.at(step, output / LANES) + output % LANES];
            let scale = W::scale(at, panel, scale, output, step);
            for (i, out) in out.iter_mut().enumerate() {
                *out = W::weight(word, i) as f32 * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{w4::W4A32, w8::W8A32},
        *,
    };
    use crate::simd::Portable;

    /// The scale of a group, its integers, and where the sums of its blocks start.
    fn of<W: IntegerWeights>(x: &[f32; GROUP]) -> (f32, Vec<i32>, Vec<i32>) {
        let mut words = [0; (LIMBS + 1) * LANES];
        let mut vectors = [[0.0; LANES]; 4];
        vectors.iter_mut().zip(x.as_chunks().0).for_each(|(vector, x)| *vector = *x);
        fixed::<_, W>(Portable, vectors, &mut words);
        let limb =
            |limb: usize, input: usize| i32::from(words[limb * LANES + input / 4].to_le_bytes()[input % 4] as i8);
        let integers = (0..GROUP).map(|i| (limb(0, i) << 8) + limb(1, i)).collect();
        let starts = (0..GROUP / W::BLOCK_INPUTS).map(|block| words[GroupHeader::START + block] as i32).collect();
        (f32::from_bits(words[GroupHeader::SCALE]), integers, starts)
    }

    fn numbers(scale: f32) -> [f32; GROUP] {
        std::array::from_fn(|i| scale * ((i * 37 % 64) as f32 - 31.3) / (1.0 + (i % 5) as f32))
    }

    #[test]
    fn integers_are_nearest_and_the_largest_fits() {
        for scale in [1.0, -3e-20, 7e30, 1e-28] {
            let x = numbers(scale);
            let (scale, integers, _) = of::<W8A32>(&x);
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (x, integer) in x.iter().zip(integers) {
                let error = (f64::from(scale) * f64::from(integer) - f64::from(*x)).abs();
                assert!(error <= 0.501 * f64::from(most / MAX_INTEGER), "{x}: {integer} of {scale}");
            }
        }
    }

    #[test]
    fn sums_start_at_what_unsigned_weights_add() {
        fn check<W: IntegerWeights>() {
            let (_, integers, starts) = of::<W>(&numbers(2.0));
            for (block, start) in starts.into_iter().enumerate() {
                let sum: i32 = integers[block * W::BLOCK_INPUTS..(block + 1) * W::BLOCK_INPUTS].iter().sum();
                assert_eq!(start, -W::ZERO * sum, "block {block}");
            }
        }
        check::<W8A32>();
        check::<W4A32>();
    }

    #[test]
    fn nothing_is_zero_and_what_is_not_finite_is_nan() {
        for tiny in [0.0, 1e-38, -1e-31] {
            let (_, integers, _) = of::<W4A32>(&[tiny; GROUP]);
            assert!(integers.iter().all(|&x| x == 0), "{tiny}");
        }
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = numbers(1.0);
            x[40] = broken;
            assert!(of::<W8A32>(&x).0.is_nan(), "{broken}");
        }
    }

    #[test]
    fn words_hold_weights_in_the_order_of_inputs() {
        let codes = [0x10, 0x32, 0x54, 0x76];
        let word = <W4A32 as IntegerWeights>::word(codes);
        assert_eq!(word.to_le_bytes(), [0x40, 0x51, 0x62, 0x73]);
        assert!((0..8).all(|i| W4A32::weight(word, i) == i as i32 - 8));
        let bytes = [-127i8, -1, 0, 127];
        let word = <W8A32 as IntegerWeights>::word(bytes.map(|byte| byte as u8));
        assert!((0..4).all(|i| W8A32::weight(word, i) == i32::from(bytes[i])));
    }
}
