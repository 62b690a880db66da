//! What a scheme means to a product: how a step along k loads, multiplies and adds.
//!
//! A **step** takes [`Form::UNIT`] inputs of a row, as [`Form::WORDS`] words of 32 bits, and the weights of sixteen outputs
//! for them. A **round** of steps is what whole cache lines hold: [`Form::STORED`] words. A **block** of steps is one chain of additions; block sums are folded in order.

use super::{operand::Encode, quantise::Pack};
use crate::simd::{LANES, Simd};

/// A scheme as a type.
pub(crate) trait Form: Encode + Pack + Copy + Send + Sync + 'static {
    /// Inputs of a step.
    const UNIT: usize;
    /// Inputs of a block: part of the numerical definition.
    const BLOCK: usize;
    /// Steps of a round, whose weights are read together; sixteen are whole rounds.
    const STEPS: usize = 1;
    /// K is filled up with zeros to a multiple of this: to whole groups of steps, and to whole factors.
    const PAD: usize = LANES * Self::UNIT;
    /// Words of a row per step.
    const WORDS: usize;
    /// Whether it multiplies bf16 or bytes, for which there are instructions.
    const NARROW: bool = false;
    /// Whether it is for CPUs with [products of four bytes](crate::simd::LowPrecisionDot::HAS_DOT_I8) alone.
    const QUADS: bool = false;
    /// Most rows of a tile, where the instruction set would take more. If set, chains are so short, and have so many sums, that vectors of outputs
    /// take theirs one by one (or two by two, of few rows), not all at once.
    const ROWS: usize = usize::MAX;
    /// Words of sixteen outputs per round: a multiple of sixteen.
    const STORED: usize;
    /// Words of sixteen outputs after every block.
    const TRAILER: usize = 0;

    /// A row's inputs of one step, in every lane.
    type Inputs<S: Simd>: Copy;
    /// Sixteen outputs' weights of one step.
    type Weights<S: Simd>: Copy;
    /// Sixteen sums over a block, on their way.
    type Chain<S: Simd>: Copy;
    /// Sixteen sums.
    type Sum<S: Simd>: Copy;

    /// What a chain starts from, given the sixteen offsets of the outputs (empty where the scheme has none), the row's group of steps that the block
    /// begins in, and which block of that group it is.
    ///
    /// # Safety
    /// `group` must be readable for the words of a row's group of steps.
    unsafe fn start<S: Simd>(s: S, offsets: &[u32], group: *const u32, block: usize) -> Self::Chain<S>;

    /// # Safety
    /// `group` must be readable for the words of a row's group of steps, sixteen, and `step` be one of them.
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> Self::Inputs<S>;

    /// The weights of a step of the round at `at`.
    ///
    /// # Safety
    /// `at` must be readable for `STORED` words, and `step` be less than `STEPS`.
    unsafe fn weights<S: Simd>(s: S, at: *const u32, step: usize) -> Self::Weights<S>;

    fn multiply<S: Simd>(s: S, chain: Self::Chain<S>, x: Self::Inputs<S>, w: Self::Weights<S>) -> Self::Chain<S>;

    /// The first block's sum, given the group that the block begins in and its trailer.
    ///
    /// # Safety
    /// As [`start`](Self::start).
    unsafe fn open<S: Simd>(s: S, block: Self::Chain<S>, group: *const u32, trailer: &[u32]) -> Self::Sum<S>;

    /// The sum so far and the next block's.
    ///
    /// # Safety
    /// As [`start`](Self::start).
    unsafe fn fold<S: Simd>(
        s: S,
        sum: Self::Sum<S>,
        block: Self::Chain<S>,
        group: *const u32,
        trailer: &[u32],
    ) -> Self::Sum<S>;

    /// The result, given the sixteen factors of the outputs and the one of the row (1 where the scheme has none).
    fn finish<S: Simd>(s: S, sum: Self::Sum<S>, factors: &[f32], row: f32) -> S::V;
}

/// K of a chain where the scheme does not set it otherwise.
const K_BLOCK: usize = super::K_BLOCK;

/// [`Scheme::F32`](super::Scheme::F32).
#[derive(Clone, Copy)]
pub(crate) struct Full;

/// [`Scheme::Bf16`](super::Scheme::Bf16) and its multiples: numbers in `PARTS` parts, of which the products of parts i and
/// j with i + j < `PARTS` are summed, small ones first.
#[derive(Clone, Copy)]
pub(crate) struct Split<const PARTS: usize>;

/// [`Scheme::Bf16`](super::Scheme::Bf16) where nothing multiplies pairs of bf16 at the speed of f32: the weights of [`Split`], each widened as
/// it is read, and activations that are rounded, but f32. Sums are those of [`Split`], bit for bit.
#[derive(Clone, Copy)]
pub(crate) struct Halves;

/// [`Scheme::Int8`](super::Scheme::Int8). Activations are shifted by 128 to be unsigned; the offset of an output is what
/// that adds, negated.
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

/// [`Scheme::W8`](super::Scheme::W8) where nothing multiplies four bytes at once (else it is [`Fixed`](super::fixed::Fixed)): sixteen outputs' bytes for each of four inputs.
#[derive(Clone, Copy)]
pub(crate) struct Wide;

/// [`Scheme::W4`](super::Scheme::W4), likewise: word i of a round holds output i's weights of eight inputs, four bits each from the
/// lowest on, each plus 8; a block ends with its factors.
#[derive(Clone, Copy)]
pub(crate) struct Nibbles;

/// Sums that are plain f32 vectors, added block by block.
macro_rules! plain_sums {
    () => {
        type Chain<S: Simd> = S::V;
        type Sum<S: Simd> = S::V;

        #[inline(always)]
        unsafe fn start<S: Simd>(s: S, _: &[u32], _: *const u32, _: usize) -> S::V {
            s.zero()
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_: S, block: S::V, _: *const u32, _: &[u32]) -> S::V {
            block
        }
        #[inline(always)]
        unsafe fn fold<S: Simd>(s: S, sum: S::V, block: S::V, _: *const u32, _: &[u32]) -> S::V {
            s.add(sum, block)
        }
    };
}

/// Inputs and weights that are f32 vectors, one of each a step.
macro_rules! one_input {
    () => {
        const WORDS: usize = 1;
        const UNIT: usize = 1;
        const STORED: usize = LANES;

        type Inputs<S: Simd> = S::V;
        type Weights<S: Simd> = S::V;

        #[inline(always)]
        fn multiply<S: Simd>(s: S, sum: S::V, x: S::V, w: S::V) -> S::V {
            s.mul_add(x, w, sum)
        }
    };
}

impl Form for Full {
    one_input!();
    const BLOCK: usize = K_BLOCK;

    plain_sums!();

    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: one word, by the caller's promise.
        s.splat(unsafe { *group.add(step).cast::<f32>() })
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(s: S, at: *const u32, _: usize) -> S::V {
        // SAFETY: sixteen words, by the caller's promise.
        s.load(unsafe { &*at.cast() })
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sum: S::V, _: &[f32], _: f32) -> S::V {
        sum
    }
}

impl<const PARTS: usize> Form for Split<PARTS> {
    const UNIT: usize = 2;
    const BLOCK: usize = K_BLOCK;
    const WORDS: usize = PARTS;
    const NARROW: bool = true;
    const STORED: usize = PARTS * LANES;

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

impl Form for Bytes {
    const UNIT: usize = 4;
    /// Integers are exact in any order; 2³¹ / (127 · 255) inputs fit.
    const BLOCK: usize = 1 << 16;
    const WORDS: usize = 1;
    const NARROW: bool = true;
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

impl Form for Wide {
    one_input!();
    const BLOCK: usize = K_BLOCK;
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

impl Form for Nibbles {
    one_input!();
    const BLOCK: usize = super::quantise::GROUP;
    const PAD: usize = super::quantise::GROUP;
    const STEPS: usize = 8;
    const TRAILER: usize = LANES / 2;

    type Chain<S: Simd> = S::V;
    type Sum<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, _: &[u32], _: *const u32, _: usize) -> S::V {
        s.zero()
    }
    #[inline(always)]
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> S::V {
        // SAFETY: the same promise.
        unsafe { Full::inputs(s, group, step) }
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
