//! Number formats: how a step along k loads, multiplies and adds, and how both operands are packed for it.
//!
//! A **step** takes [`Microkernel::STEP_INPUTS`] inputs of a row, as [`Microkernel::STEP_WORDS`] words of 32 bits, and
//! the weights of sixteen outputs for them. A **round** is the steps whose weights share whole cache lines:
//! [`Microkernel::LINE_WORDS`] words. A **block** of steps is one chain of additions. Block sums are folded in order.
//!
//! **One file a format.** Each holds all of a number format: its [`Microkernel`] (the inner loop), [`PackActivations`],
//! [`PackWeights`], its tolerance, and, where AMX multiplies it, its chain (`chained!`). Adding one touches its file, the
//! [`Scheme`](super::Scheme) enum, and one line of `with_microkernel!` (with a chain, one of `amx.rs`, too).
//! `tests/gemm.rs` runs all of [`Scheme::ALL`](super::Scheme::ALL) on every instruction set.
//!
//! **A toy**, f16 weights beside f32 activations. A step takes one input: `STEP_INPUTS` = 1, `STEP_WORDS` = 1. A cache
//! line of words holds sixteen outputs' weights of *two* steps, as a word has room for two f16: `LINE_WORDS` = 16,
//! `LINE_STEPS` = 2. Then
//!
//! ```text
//! inputs(group, step)   splat(group[step])                        one activation, in every lane
//! weights(at, step)     widen(step-th halves of at[0..16])        sixteen outputs' weights of the step
//! multiply(sum, x, w)   mul_add(x, w, sum)                        one link of the chain
//! pack                  word at.at(step, vector) + output % 16    of a line: w[output, step] | w[output, step + 1] << 16
//! unpack                the same, backwards
//! ```
//!
//! `plain_sums!` and `activations_as_f32!` write the rest: sums that are f32, in blocks of [`K_BLOCK`] inputs, and
//! activations that stay f32. A format whose weights have a scale per output sets `SCALES` and multiplies by it in
//! `finish` (`w8.rs`); a scale per group of inputs follows each block, as its trailer, and enters in `open` and `fold`
//! (`w4.rs`).

use std::marker::PhantomData;

use crate::{
    buffer::as_numbers,
    simd::{LANES, Simd},
    team::Shared,
    transpose::transposed,
};

/// Sums that are plain f32 vectors, added block by block.
macro_rules! plain_sums {
    () => {
        type AmxChain<S: Simd> = S::V;
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
        const STEP_WORDS: usize = 1;
        const STEP_INPUTS: usize = 1;
        const LINE_WORDS: usize = LANES;

        type Inputs<S: Simd> = S::V;
        type Weights<S: Simd> = S::V;

        #[inline(always)]
        fn multiply<S: Simd>(s: S, sum: S::V, x: S::V, w: S::V) -> S::V {
            s.mul_add(x, w, sum)
        }
    };
}

/// Activations that stay f32.
macro_rules! encode_as_f32 {
    ($form:ty) => {
        impl PackActivations for $form {
            #[inline(always)]
            fn row<S: Simd>(s: S, x: &[f32], mut place: RowWriter<'_>) -> f32 {
                for group in 0..<$form>::steps(x.len()) / LANES {
                    let x = x.get(group * LANES..x.len().min((group + 1) * LANES)).unwrap_or(&[]);
                    let words = as_numbers(place.group::<$form>(group));
                    s.store(s.load_part(x), &mut words.as_chunks_mut().0[0]);
                }
                1.0
            }
        }
    };
}

pub(crate) mod bf16;
pub(crate) mod bf16_widened;
pub(crate) mod f32;
pub(crate) mod int8;
pub(crate) mod integer_activations;
mod integers;
pub(crate) mod w4;
pub(crate) mod w8;

/// Length of a chain of multiply-adds where the scheme does not say otherwise. Part of the numerical definition:
/// changing it changes results.
pub const K_BLOCK: usize = 256;

/// Error of sums in chains of [`K_BLOCK`] multiply-adds in f32, on data in −1..1: measured 1e-6 at worst; one chain of
/// 4096 gives 3e-6.
pub(crate) const CHAIN_TOLERANCE: f64 = 1.5e-6;

/// A scheme as a type.
pub(crate) trait Microkernel: PackActivations + PackWeights + Copy + Send + Sync + 'static {
    /// Inputs of a step.
    const STEP_INPUTS: usize;
    /// Inputs of a block: part of the numerical definition.
    const BLOCK_INPUTS: usize;
    /// Steps of a round, whose weights are read together; sixteen are whole rounds.
    const LINE_STEPS: usize = 1;
    /// K is filled up with zeros to a multiple of this: to whole groups of steps, and to whole scales.
    const K_MULTIPLE: usize = LANES * Self::STEP_INPUTS;
    /// Words of a row per step.
    const STEP_WORDS: usize;
    /// Whether it multiplies bf16 or bytes, for which there are instructions.
    const LOW_PRECISION: bool = false;
    /// Whether it is ever chosen where a CPU has these ([`HAS_DOT_I8`](crate::simd::LowPrecisionDot::HAS_DOT_I8): both
    /// or none).
    const RUNS_WITH_DOT: bool = true;
    /// Whether it is ever chosen where a CPU lacks them.
    const RUNS_WITHOUT_DOT: bool = true;
    /// Most rows of a tile, where the instruction set would take more. If set, chains are so short, and have so many
    /// sums, that vectors of outputs take theirs one by one (or two by two, of few rows), not all at once.
    const MAX_ROWS: usize = usize::MAX;
    /// Words of sixteen outputs per round: a multiple of sixteen.
    const LINE_WORDS: usize;
    /// Words of sixteen outputs after every block.
    const TRAILER_WORDS: usize = 0;

    /// Whether outputs and rows have scales, which finish a sum.
    const SCALES: bool = false;
    /// Whether outputs have a zero-point compensation, which a sum starts from.
    const COMPENSATION: bool = false;
    /// Most inputs that sums hold.
    const MAX_INPUTS: usize = usize::MAX;
    /// Whether AMX has products of it.
    const AMX: bool = false;

    /// The largest error that its tests allow, beside the largest output: against sums in f64 of products of the
    /// numbers that it stores.
    const TOLERANCE: f64 = CHAIN_TOLERANCE;

    /// Steps of a row, filled up with zeros.
    #[inline(always)]
    fn steps(k: usize) -> usize {
        k.next_multiple_of(Self::K_MULTIPLE) / Self::STEP_INPUTS
    }

    /// A row's inputs of one step, in every lane.
    type Inputs<S: Simd>: Copy;
    /// Sixteen outputs' weights of one step.
    type Weights<S: Simd>: Copy;
    /// Sixteen sums over a block, on their way.
    type AmxChain<S: Simd>: Copy;
    /// Sixteen sums.
    type Sum<S: Simd>: Copy;

    /// What a chain starts from, given the compensation of the sixteen outputs (empty where the scheme has none), the
    /// row's group of steps that the block begins in, and which block of that group it is.
    ///
    /// # Safety
    /// `group` must be readable for the words of a row's group of steps.
    unsafe fn start<S: Simd>(s: S, compensation: &[u32], group: *const u32, block: usize) -> Self::AmxChain<S>;

    /// # Safety
    /// `group` must be readable for the words of a row's group of steps, sixteen, and `step` be one of them.
    unsafe fn inputs<S: Simd>(s: S, group: *const u32, step: usize) -> Self::Inputs<S>;

    /// The weights of a step of the round at `at`.
    ///
    /// # Safety
    /// `at` must be readable for `LINE_WORDS` words, and `step` be less than `LINE_STEPS`.
    unsafe fn weights<S: Simd>(s: S, at: *const u32, step: usize) -> Self::Weights<S>;

    fn multiply<S: Simd>(s: S, chain: Self::AmxChain<S>, x: Self::Inputs<S>, w: Self::Weights<S>) -> Self::AmxChain<S>;

    /// The first block's sum, given the group that the block begins in and its trailer.
    ///
    /// # Safety
    /// As [`start`](Self::start).
    unsafe fn open<S: Simd>(s: S, block: Self::AmxChain<S>, group: *const u32, trailer: &[u32]) -> Self::Sum<S>;

    /// The sum so far and the next block's.
    ///
    /// # Safety
    /// As [`start`](Self::start).
    unsafe fn fold<S: Simd>(
        s: S,
        sum: Self::Sum<S>,
        block: Self::AmxChain<S>,
        group: *const u32,
        trailer: &[u32],
    ) -> Self::Sum<S>;

    /// The result, given the sixteen scales of the outputs and the one of the row (1 where the scheme has none).
    fn finish<S: Simd>(s: S, sum: Self::Sum<S>, scales: &[f32], row: f32) -> S::V;
}

/// Where a row lies in its tile: the words of its group g start at `first + g · stride`.
pub(crate) struct RowWriter<'a> {
    words: &'a Shared<'a, u32>,
    first: usize,
    stride: usize,
}

impl<'a> RowWriter<'a> {
    /// # Safety
    /// Nobody else may use the row's words meanwhile.
    #[inline(always)]
    pub(super) unsafe fn new(words: &'a Shared<'a, u32>, first: usize, stride: usize) -> Self {
        Self { words, first, stride }
    }

    /// The words of a group of steps, `[parts, steps]` or as the scheme says.
    #[inline(always)]
    pub(super) fn group<F: Microkernel>(&mut self, group: usize) -> &mut [u32] {
        let start = self.first + group * self.stride;
        // SAFETY: the promise of `new`.
        unsafe { self.words.slice(start..start + F::STEP_WORDS * LANES) }
    }
}

/// How a scheme writes one row of activations.
pub(crate) trait PackActivations {
    /// Whether what is written depends on the whole row, by its scale. If not, parts of a row can be written one by
    /// one, each a whole number of groups.
    const SCALE: bool = false;

    /// Writes a row, filled up with zeros to whole groups, and gives its scale.
    fn row<S: Simd>(s: S, x: &[f32], place: RowWriter<'_>) -> f32;
}

/// Rows on their way into a panel.
#[derive(Clone, Copy)]
pub(crate) struct PanelRows<'a> {
    /// `[count, k]`
    pub(super) rows: &'a [f32],
    pub(super) count: usize,
    pub(super) k: usize,
    /// Vectors of sixteen outputs in the panel, of which `count` outputs are taken.
    pub(super) vectors: usize,
}

impl PanelRows<'_> {
    pub(super) fn row(&self, output: usize) -> &[f32] {
        &self.rows[output * self.k..(output + 1) * self.k]
    }
}

/// Where a panel keeps what: per block its rounds, each all vectors side by side, then the trailers of the vectors.
#[derive(Clone, Copy)]
pub(crate) struct PanelLayout<F> {
    pub(super) vectors: usize,
    pub(super) steps: usize,
    form: PhantomData<F>,
}

impl<F: Microkernel> PanelLayout<F> {
    #[inline(always)]
    pub(super) fn new(vectors: usize, steps: usize) -> Self {
        Self { vectors, steps, form: PhantomData }
    }

    /// Steps of a full block.
    pub(super) const BLOCK_STEPS: usize = F::BLOCK_INPUTS / F::STEP_INPUTS;

    #[inline(always)]
    pub(super) fn blocks(&self) -> usize {
        self.steps.div_ceil(Self::BLOCK_STEPS)
    }

    #[inline(always)]
    pub(super) fn words(&self) -> usize {
        self.vectors * (self.steps / F::LINE_STEPS * F::LINE_WORDS + self.blocks() * F::TRAILER_WORDS)
    }

    /// First word of a block.
    #[inline(always)]
    pub(super) fn block(&self, block: usize) -> usize {
        block * self.vectors * (Self::BLOCK_STEPS / F::LINE_STEPS * F::LINE_WORDS + F::TRAILER_WORDS)
    }

    /// First word of a vector's weights in the round of a step.
    #[inline(always)]
    pub(super) fn at(&self, step: usize, vector: usize) -> usize {
        self.block(step / Self::BLOCK_STEPS)
            + (step % Self::BLOCK_STEPS / F::LINE_STEPS * self.vectors + vector) * F::LINE_WORDS
    }

    /// First word of a vector's trailer after a block.
    #[inline(always)]
    pub(super) fn trailer(&self, block: usize, vector: usize) -> usize {
        let steps = (self.steps - block * Self::BLOCK_STEPS).min(Self::BLOCK_STEPS);
        self.block(block) + steps / F::LINE_STEPS * self.vectors * F::LINE_WORDS + vector * F::TRAILER_WORDS
    }
}

/// What a panel keeps, zero as yet.
pub(crate) struct PanelBuffers<'a> {
    pub(super) words: &'a mut [u32],
    /// One per output, or nothing.
    pub(super) scales: &'a mut [f32],
    /// One per output, or nothing.
    pub(super) compensation: &'a mut [u32],
}

/// How a scheme stores weights.
pub(crate) trait PackWeights: Sized {
    /// Fills the parts of a panel, with room for the words of sixteen encoded rows.
    fn pack<S: Simd>(s: S, panel: PanelRows<'_>, room: &mut [u32], parts: PanelBuffers<'_>);

    /// Puts a row that is quantized already where an output's weights are, in a panel of zeros.
    fn place(row: QuantizedRow<'_>, k: usize, vectors: usize, output: usize, words: &mut [u32], scales: &mut [f32]) {
        let _ = (row, k, vectors, output, words, scales);
        unreachable!("rows of this scheme are not stored")
    }

    /// The weights of one output, as f32.
    fn unpack(panel: &[u32], vectors: usize, output: usize, scale: f32, out: &mut [f32]);
}

/// A row of k weights, quantized.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRow<'a> {
    /// As many as [`Quantization::code_bytes`](crate::Quantization::code_bytes) says.
    pub codes: &'a [u8],
    /// As many as [`Quantization::scale_bytes`](crate::Quantization::scale_bytes) says.
    pub scales: &'a [u8],
}

/// How rows in few bits are stored ([`Quantization`](super::Quantization) says what the functions do).
pub(crate) trait StoredRows {
    fn code_bytes(k: usize) -> usize;
    fn scale_bytes(k: usize) -> usize;
    fn is_finite(scales: &[u8]) -> bool;
    fn quantize(row: &[f32], codes: &mut [u8], scales: &mut [u8]);
    fn dequantize(row: QuantizedRow<'_>, out: &mut [f32]);
}

/// Sixteen outputs of a panel as rows are [encoded](PackActivations), each group of steps output by output, with
/// their scales: how many there are. The others are zero.
#[inline(always)]
pub(super) fn encoded<S: Simd, F: Microkernel>(
    s: S,
    panel: &PanelRows<'_>,
    vector: usize,
    room: &mut [u32],
    scales: &mut [f32],
) -> usize {
    let unit = LANES * F::STEP_WORDS;
    let outputs = vector * LANES..((vector + 1) * LANES).min(panel.count.max(vector * LANES));
    let count = outputs.len();
    if count < LANES {
        room.fill(0);
    }
    let room = Shared::new(room);
    for (i, output) in outputs.enumerate() {
        // SAFETY: the room is borrowed, and rows follow each other.
        let place = unsafe { RowWriter::new(&room, i * unit, LANES * unit) };
        scales[i] = F::row(s, panel.row(output), place);
    }
    count
}

/// Lays them out step by step.
#[inline(always)]
pub(super) fn lay_out<S: Simd, F: Microkernel>(
    s: S,
    at: PanelLayout<F>,
    vector: usize,
    room: &mut [u32],
    words: &mut [u32],
) {
    const { assert!(F::LINE_STEPS == 1 && F::LINE_WORDS == F::STEP_WORDS * LANES) };
    let unit = LANES * F::STEP_WORDS;
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
pub(super) fn pack_as_activations<S: Simd, F: Microkernel>(
    s: S,
    panel: PanelRows<'_>,
    room: &mut [u32],
    words: &mut [u32],
) {
    let at = PanelLayout::<F>::new(panel.vectors, F::steps(panel.k));
    for vector in 0..panel.vectors {
        encoded::<S, F>(s, &panel, vector, room, &mut [1.0; LANES]);
        lay_out(s, at, vector, room, words);
    }
}

/// Quantizes the rows of a panel and [places](PackWeights::place) them.
#[inline(always)]
pub(super) fn quantize_panel<P: PackWeights, Q: StoredRows>(
    panel: PanelRows<'_>,
    PanelBuffers { words, scales: own, .. }: PanelBuffers<'_>,
) {
    let (mut codes, mut scales) = (vec![0; Q::code_bytes(panel.k)], vec![0; Q::scale_bytes(panel.k)]);
    for output in 0..panel.count {
        Q::quantize(panel.row(output), &mut codes, &mut scales);
        let row = QuantizedRow { codes: &codes, scales: &scales };
        P::place(row, panel.k, panel.vectors, output, words, own);
    }
}
