//! The dot step of attention in its number formats: f32, or pairs of bf16 added up in f32.

use std::ops::Range;

use super::{
    format::{KEY_BLOCK, KvFormat, bytes},
    kv::KvHeads,
};
use crate::simd::{LANES, Simd, vector_mut};

/// A step of sums of products. Keys and values are words of 32 bits, in buffers that are typed f32 whatever they hold.
pub(super) trait DotStep: Copy {
    /// Sixteen factors of a step, each a word.
    type Factors<S: Simd>: Copy;

    /// Terms of a sum that one step adds: elements of a word of keys or values.
    const TERMS: usize;

    fn load<S: Simd>(s: S, x: &[f32; LANES]) -> Self::Factors<S>;

    /// The other factors of a step, out of the operands that [`pack`](Self::pack) wrote.
    fn nth<S: Simd>(s: S, packed: &[f32], step: usize) -> Self::Factors<S>;

    /// `acc` and the products of the terms of `a` and `b`, in an order that is the same everywhere.
    fn add<S: Simd>(s: S, acc: S::V, a: Self::Factors<S>, b: Self::Factors<S>) -> S::V;

    /// The same without the terms that `seen` hides. Hidden terms are anything in `a` and zero in `b`.
    fn add_seen<S: Simd>(s: S, acc: S::V, ab: [Self::Factors<S>; 2], seen: Self::Factors<S>) -> S::V;

    /// The mask `seen` of a step whose terms in `range` are seen.
    fn seen<S: Simd>(s: S, range: &Range<usize>, step: usize) -> Self::Factors<S>;

    /// `x · scale` as operands, zeros after the end.
    fn pack<S: Simd>(s: S, x: &[f32], scale: f32, out: &mut [f32]);

    /// Keys and values of a block as operands: where they are, or made of them in `scratch`.
    fn block<'a, S: Simd>(s: S, kv: KvHeads<'a>, block: usize, head: usize, scratch: &'a mut [f32]) -> DotBlock<'a>;
}

/// A dot step for many queries at a time: its operands are written a vector of queries at a time.
pub(super) trait FlashStep: DotStep {
    /// Neighbouring terms that stand in an order of their own.
    const GROUP: usize = Self::TERMS;

    fn splat<S: Simd>(s: S, x: f32) -> Self::Factors<S>;

    /// Terms 2i and 2i + 1, a vector each, into the operands `out`, whose rows are `stride` apart.
    fn put<S: Simd>(s: S, pair: [S::V; 2], i: usize, out: &mut [f32], stride: usize);

    /// Writes a mask `seen` in the same places, from ones and zeros.
    fn put_seen<S: Simd>(s: S, pair: [S::V; 2], i: usize, out: &mut [f32], stride: usize);
}

/// A block as operands: keys `[head_dim / TERMS, KEY_BLOCK]` and values `[KEY_BLOCK / TERMS, padded]`.
pub(super) struct DotBlock<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// Scales of keys and values that are integers.
    pub(super) scales: Option<BlockScales<'a>>,
}

pub(super) struct BlockScales<'a> {
    pub keys: &'a [f32; KEY_BLOCK],
    pub values: &'a [f32; KEY_BLOCK],
}

impl<'a> BlockScales<'a> {
    fn new(scales: &'a [f32]) -> Option<Self> {
        let [keys, values] = scales.as_chunks().0 else {
            return None;
        };
        Some(Self { keys, values })
    }
}

/// Terms that are taken one by one, in f32.
macro_rules! one_term {
    () => {
        type Factors<S: Simd> = S::V;

        const TERMS: usize = 1;

        #[inline(always)]
        fn load<S: Simd>(s: S, x: &[f32; LANES]) -> S::V {
            s.load(x)
        }
        #[inline(always)]
        fn nth<S: Simd>(s: S, packed: &[f32], step: usize) -> S::V {
            s.splat(packed[step])
        }
        #[inline(always)]
        fn add<S: Simd>(s: S, acc: S::V, a: S::V, b: S::V) -> S::V {
            s.mul_add(a, b, acc)
        }
        #[inline(always)]
        fn add_seen<S: Simd>(s: S, acc: S::V, [a, b]: [S::V; 2], seen: S::V) -> S::V {
            s.where_less(s.zero(), seen, s.mul_add(a, b, acc), acc)
        }
    };
}

/// f32, one term at a time.
#[derive(Clone, Copy)]
pub(super) struct DotF32;

impl DotStep for DotF32 {
    one_term!();

    #[inline(always)]
    fn pack<S: Simd>(s: S, x: &[f32], scale: f32, out: &mut [f32]) {
        for (x, out) in x.chunks(LANES).zip(out.as_chunks_mut().0) {
            s.store(s.mul(s.load_part(x), s.splat(scale)), out);
        }
        out[x.len()..].fill(0.0);
    }
    #[inline(always)]
    fn seen<S: Simd>(s: S, range: &Range<usize>, step: usize) -> S::V {
        s.splat(if range.contains(&step) { 1.0 } else { 0.0 })
    }

    #[inline(always)]
    fn block<'a, S: Simd>(s: S, kv: KvHeads<'a>, block: usize, head: usize, scratch: &'a mut [f32]) -> DotBlock<'a> {
        let layout = kv.layout();
        if layout.format != KvFormat::F32 {
            return widened::<S, false>(s, kv, block, head, scratch);
        }
        let (keys, values) = kv.block(block, head).split_at(layout.keys());
        DotBlock { keys, values, scales: None }
    }
}

impl FlashStep for DotF32 {
    #[inline(always)]
    fn splat<S: Simd>(s: S, x: f32) -> S::V {
        s.splat(x)
    }
    #[inline(always)]
    fn put<S: Simd>(s: S, [even, odd]: [S::V; 2], i: usize, out: &mut [f32], stride: usize) {
        s.store(even, vector_mut(out, 2 * i * stride));
        s.store(odd, vector_mut(out, (2 * i + 1) * stride));
    }
    #[inline(always)]
    fn put_seen<S: Simd>(s: S, pair: [S::V; 2], i: usize, out: &mut [f32], stride: usize) {
        Self::put(s, pair, i, out, stride);
    }
}

/// The steps of [`DotF32`] or, with `ODD_FIRST`, of [`DotBf16Emulated`], which takes the odd term of each pair first.
/// Keys and values in pairs of bf16 are widened as they are read: the same sums as of a block that was widened before.
#[derive(Clone, Copy)]
pub(super) struct DotWidened<const ODD_FIRST: bool>;

impl<const ODD_FIRST: bool> DotStep for DotWidened<ODD_FIRST> {
    /// The first of two terms and the second.
    type Factors<S: Simd> = [S::V; 2];

    const TERMS: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32; LANES]) -> [S::V; 2] {
        let pairs = s.load_pairs(x);
        let (even, odd) = (s.even(pairs), s.odd(pairs));
        if ODD_FIRST { [odd, even] } else { [even, odd] }
    }
    #[inline(always)]
    fn nth<S: Simd>(s: S, packed: &[f32], step: usize) -> [S::V; 2] {
        [DotF32::nth(s, packed, 2 * step), DotF32::nth(s, packed, 2 * step + 1)]
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, acc: S::V, a: [S::V; 2], b: [S::V; 2]) -> S::V {
        DotF32::add(s, DotF32::add(s, acc, a[0], b[0]), a[1], b[1])
    }
    #[inline(always)]
    fn add_seen<S: Simd>(s: S, acc: S::V, [a, b]: [[S::V; 2]; 2], seen: [S::V; 2]) -> S::V {
        let acc = DotF32::add_seen(s, acc, [a[0], b[0]], seen[0]);
        DotF32::add_seen(s, acc, [a[1], b[1]], seen[1])
    }
    #[inline(always)]
    fn pack<S: Simd>(s: S, x: &[f32], scale: f32, out: &mut [f32]) {
        if ODD_FIRST { DotBf16Emulated::pack(s, x, scale, out) } else { DotF32::pack(s, x, scale, out) }
    }
    #[inline(always)]
    fn seen<S: Simd>(s: S, range: &Range<usize>, step: usize) -> [S::V; 2] {
        let odd = usize::from(ODD_FIRST);
        [DotF32::seen(s, range, 2 * step + odd), DotF32::seen(s, range, 2 * step + 1 - odd)]
    }

    #[inline(always)]
    fn block<'a, S: Simd>(s: S, kv: KvHeads<'a>, block: usize, head: usize, scratch: &'a mut [f32]) -> DotBlock<'a> {
        DotBf16::block(s, kv, block, head, scratch)
    }
}

/// Pairs of bf16, added up in f32.
#[derive(Clone, Copy)]
pub(super) struct DotBf16;

impl DotBf16 {
    /// A word of `seen`.
    #[inline(always)]
    pub(super) fn pair(range: &Range<usize>, step: usize) -> u32 {
        let half = |term: usize| if range.contains(&term) { 0xffff } else { 0 };
        half(2 * step) | half(2 * step + 1) << 16
    }
}

impl DotStep for DotBf16 {
    type Factors<S: Simd> = S::Words;

    const TERMS: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32; LANES]) -> S::Words {
        s.load_pairs(x)
    }
    #[inline(always)]
    fn nth<S: Simd>(s: S, packed: &[f32], step: usize) -> S::Words {
        s.splat_word(packed[step].to_bits())
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, acc: S::V, a: S::Words, b: S::Words) -> S::V {
        s.dot_bf16(acc, a, b)
    }
    #[inline(always)]
    fn add_seen<S: Simd>(s: S, acc: S::V, [a, b]: [S::Words; 2], seen: S::Words) -> S::V {
        s.dot_bf16(acc, s.and(a, seen), b)
    }
    #[inline(always)]
    fn pack<S: Simd>(s: S, x: &[f32], scale: f32, out: &mut [f32]) {
        let scale = s.splat(scale);
        for (x, out) in x.chunks(2 * LANES).zip(out.as_chunks_mut().0) {
            let (first, second) = x.split_at(x.len().min(LANES));
            let (first, second) = (s.mul(s.load_part(first), scale), s.mul(s.load_part(second), scale));
            s.store_pairs(s.round(first, second), out);
        }
        out[x.len().div_ceil(2 * LANES) * LANES..].fill(0.0);
    }
    #[inline(always)]
    fn seen<S: Simd>(s: S, range: &Range<usize>, step: usize) -> S::Words {
        s.splat_word(Self::pair(range, step))
    }

    #[inline(always)]
    fn block<'a, S: Simd>(s: S, kv: KvHeads<'a>, block: usize, head: usize, scratch: &'a mut [f32]) -> DotBlock<'a> {
        let stored = kv.block(block, head);
        let layout = kv.layout();
        let (keys, rest) = stored.split_at(layout.keys());
        let (values, scales) = rest.split_at(layout.values());
        assert!(layout.format != KvFormat::F32, "keys in f32 are multiplied in f32");
        if layout.format == KvFormat::Bf16 {
            return DotBlock { keys, values, scales: None };
        }
        let (pairs_of_keys, pairs_of_values) = scratch.split_at_mut(layout.head_dim.div_ceil(2) * KEY_BLOCK);
        pair_bytes(s, keys, KEY_BLOCK, pairs_of_keys);
        pair_bytes(s, values, layout.padded(), pairs_of_values);
        DotBlock { keys: pairs_of_keys, values: pairs_of_values, scales: BlockScales::new(scales) }
    }
}

impl FlashStep for DotBf16 {
    #[inline(always)]
    fn splat<S: Simd>(s: S, x: f32) -> S::Words {
        s.splat_word(x.to_bits())
    }
    #[inline(always)]
    fn put<S: Simd>(s: S, [even, odd]: [S::V; 2], i: usize, out: &mut [f32], stride: usize) {
        s.store_pairs(s.round_zip(even, odd), vector_mut(out, i * stride));
    }
    #[inline(always)]
    fn put_seen<S: Simd>(s: S, [even, odd]: [S::V; 2], i: usize, out: &mut [f32], stride: usize) {
        // All bits are a NaN, which rounding leaves as it is.
        let (zero, ones) = (s.zero(), s.splat(f32::from_bits(u32::MAX)));
        let pair = [s.where_less(zero, even, ones, zero), s.where_less(zero, odd, ones, zero)];
        Self::put(s, pair, i, out, stride);
    }
}

/// The sums of [`DotBf16`] one term at a time, for CPUs without a fast instruction for two: of each pair of terms the
/// odd one stands first. Bits are equal while sums are normal or zero (`simd/bf16.rs`).
#[derive(Clone, Copy)]
pub(super) struct DotBf16Emulated;

impl DotStep for DotBf16Emulated {
    one_term!();

    #[inline(always)]
    fn pack<S: Simd>(s: S, x: &[f32], scale: f32, out: &mut [f32]) {
        out.fill(0.0);
        let scale = s.splat(scale);
        for (x, out) in x.chunks(2 * LANES).zip(out.chunks_mut(2 * LANES)) {
            let (first, second) = x.split_at(x.len().min(LANES));
            let pairs = s.round(s.mul(s.load_part(first), scale), s.mul(s.load_part(second), scale));
            for (terms, out) in s.zip(s.odd(pairs), s.even(pairs)).into_iter().zip(out.as_chunks_mut().0) {
                s.store(terms, out);
            }
        }
    }
    #[inline(always)]
    fn seen<S: Simd>(s: S, range: &Range<usize>, step: usize) -> S::V {
        DotF32::seen(s, range, step ^ 1)
    }

    #[inline(always)]
    fn block<'a, S: Simd>(s: S, kv: KvHeads<'a>, block: usize, head: usize, scratch: &'a mut [f32]) -> DotBlock<'a> {
        widened::<S, true>(s, kv, block, head, scratch)
    }
}

impl FlashStep for DotBf16Emulated {
    const GROUP: usize = 2;

    #[inline(always)]
    fn splat<S: Simd>(s: S, x: f32) -> S::V {
        s.splat(x)
    }
    #[inline(always)]
    fn put<S: Simd>(s: S, [even, odd]: [S::V; 2], i: usize, out: &mut [f32], stride: usize) {
        let pairs = s.round_zip(even, odd);
        DotF32::put(s, [s.odd(pairs), s.even(pairs)], i, out, stride);
    }
    #[inline(always)]
    fn put_seen<S: Simd>(s: S, [even, odd]: [S::V; 2], i: usize, out: &mut [f32], stride: usize) {
        DotF32::put(s, [odd, even], i, out, stride);
    }
}

/// A block of narrow numbers as f32, made in `scratch`; of each two terms, the odd one may stand first.
#[inline(always)]
fn widened<'a, S: Simd, const ODD_FIRST: bool>(
    s: S,
    kv: KvHeads<'a>,
    block: usize,
    head: usize,
    scratch: &'a mut [f32],
) -> DotBlock<'a> {
    let layout = kv.layout();
    let (keys, rest) = kv.block(block, head).split_at(layout.keys());
    let (values, scales) = rest.split_at(layout.values());
    let (wide_keys, wide_values) = scratch.split_at_mut(layout.head_dim.next_multiple_of(2) * KEY_BLOCK);
    match layout.format {
        KvFormat::F32 => unreachable!("nothing to widen"),
        KvFormat::Bf16 => {
            widen_pairs::<S, ODD_FIRST>(s, keys, KEY_BLOCK, wide_keys);
            widen_pairs::<S, ODD_FIRST>(s, values, layout.padded(), wide_values);
        }
        KvFormat::Int8 => {
            widen_bytes::<S, ODD_FIRST>(s, keys, KEY_BLOCK, wide_keys);
            widen_bytes::<S, ODD_FIRST>(s, values, layout.padded(), wide_values);
        }
    }
    DotBlock { keys: wide_keys, values: wide_values, scales: BlockScales::new(scales) }
}

/// Rows of pairs, `[rows, width]`, into `[2 · rows, width]`: the even elements, then the odd, or the other way round.
#[inline(always)]
fn widen_pairs<S: Simd, const ODD_FIRST: bool>(s: S, pairs: &[f32], width: usize, out: &mut [f32]) {
    for (pairs, out) in pairs.chunks_exact(width).zip(out.chunks_exact_mut(2 * width)) {
        let (first, second) = out.split_at_mut(width);
        let (even, odd) = if ODD_FIRST { (second, first) } else { (first, second) };
        let out = even.as_chunks_mut().0.iter_mut().zip(odd.as_chunks_mut().0);
        for (pairs, (even, odd)) in pairs.as_chunks().0.iter().zip(out) {
            let pairs = s.load_pairs(pairs);
            s.store(s.even(pairs), even);
            s.store(s.odd(pairs), odd);
        }
    }
}

/// Rows of bytes, `[rows, width]`, to as many of f32, and a row of zeros after an odd number of them. Of two rows the
/// odd one may be first.
#[inline(always)]
fn widen_bytes<S: Simd, const ODD_FIRST: bool>(s: S, words: &[f32], width: usize, out: &mut [f32]) {
    for (rows, out) in bytes(words).chunks(2 * width).zip(out.chunks_exact_mut(2 * width)) {
        let (first, second) = out.split_at_mut(width);
        let (even, odd) = if ODD_FIRST { (second, first) } else { (first, second) };
        if rows.len() == width {
            odd.fill(0.0);
        }
        for (bytes, out) in rows.chunks_exact(width).zip([even, odd]) {
            for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                s.store(s.integers(s.load_bytes(bytes)), out);
            }
        }
    }
}

/// Rows of bytes, `[rows, width]`, into rows of pairs, `[rows / 2, width]`, with a row of zeros after an odd number.
#[inline(always)]
fn pair_bytes<S: Simd>(s: S, words: &[f32], width: usize, out: &mut [f32]) {
    for (rows, out) in bytes(words).chunks(2 * width).zip(out.chunks_exact_mut(width)) {
        let (even, odd) = rows.split_at(width);
        for (i, (even, out)) in even.as_chunks().0.iter().zip(out.as_chunks_mut().0).enumerate() {
            let odd = odd.as_chunks().0.get(i).unwrap_or(&[0; LANES]);
            s.store_pairs(s.round_zip(s.integers(s.load_bytes(even)), s.integers(s.load_bytes(odd))), out);
        }
    }
}
