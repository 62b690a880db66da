//! How a cache keeps keys and values: f32, bf16, or bytes with a scale per position and head.

use std::{fmt, str::FromStr};

use crate::{
    buffer::{as_numbers, as_words, bits, numbers},
    simd::{LANES, Simd, round_bf16, vector_mut},
    transpose::{interleave, transposed},
};

/// The number format of stored keys and values. Every query attends to what the format keeps, in a prefill as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// As they come.
    #[default]
    F32,
    /// The nearest bf16; subnormal numbers become zero.
    Bf16,
    /// Integers in −127..=127 times a scale, one for the key and one for the value of each position and head: its
    /// largest magnitude / 127. A vector with an element that is not finite reads as NaN.
    Int8,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [KvFormat; 3] = [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8];
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            KvFormat::F32 => "f32",
            KvFormat::Bf16 => "bf16",
            KvFormat::Int8 => "int8",
        })
    }
}

/// The name is of no [`KvFormat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKvFormat(String);

impl fmt::Display for UnknownKvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = KvFormat::ALL.map(|format| format.to_string()).join(", ");
        write!(f, "unknown number format `{}` for keys and values (there are {names})", self.0)
    }
}

impl std::error::Error for UnknownKvFormat {}

impl FromStr for KvFormat {
    type Err = UnknownKvFormat;

    fn from_str(name: &str) -> Result<KvFormat, UnknownKvFormat> {
        let known = KvFormat::ALL.into_iter().find(|format| format.to_string() == name);
        known.ok_or_else(|| UnknownKvFormat(name.to_owned()))
    }
}

/// Keys of a block. Part of the numerical definition: changing it changes results.
pub const KEY_BLOCK: usize = 32;
const _: () = assert!(KEY_BLOCK == 2 * LANES);

/// Keys and values side by side: row r's are at `k[r·stride..]` and `v[r·stride..]`, `[heads, head_dim]` each. In a
/// `[tokens, q | k | v]` buffer both are that buffer from their column on.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// Keys, already rotated.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Elements from one row to the next, in both.
    pub stride: usize,
}

/// The contents of one block for one head, in units of 32 bits.
///
/// f32: keys transposed `[head_dim, KEY_BLOCK]`, values `[KEY_BLOCK, padded]`. bf16: the same with pairs of elements of
/// a key, and of values of neighbouring positions, in a word: `[head_dim / 2, KEY_BLOCK]` and `[KEY_BLOCK / 2,
/// padded]`. int8: bytes in the places of f32, then the scales of the keys and those of the values.
#[derive(Clone, Copy, Debug)]
pub(super) struct KvLayout {
    pub format: KvFormat,
    pub head_dim: usize,
}

impl KvLayout {
    /// Elements from one value to the next: whole pairs of vectors.
    #[inline(always)]
    pub fn padded(self) -> usize {
        self.head_dim.next_multiple_of(KEY_BLOCK)
    }

    #[inline(always)]
    pub fn keys(self) -> usize {
        match self.format {
            KvFormat::F32 => self.head_dim * KEY_BLOCK,
            KvFormat::Bf16 => self.head_dim.div_ceil(2) * KEY_BLOCK,
            KvFormat::Int8 => self.head_dim * KEY_BLOCK / 4,
        }
    }

    #[inline(always)]
    pub fn values(self) -> usize {
        match self.format {
            KvFormat::F32 => KEY_BLOCK * self.padded(),
            KvFormat::Bf16 => KEY_BLOCK / 2 * self.padded(),
            KvFormat::Int8 => KEY_BLOCK / 4 * self.padded(),
        }
    }

    /// All of a block for one head.
    #[inline(always)]
    pub fn len(self) -> usize {
        let scales = if self.format == KvFormat::Int8 { 2 * KEY_BLOCK } else { 0 };
        self.keys() + self.values() + scales
    }

    /// Prefetches the lines that [`write`](Self::write) touches: one for each element of a key, or for two.
    #[inline(always)]
    pub fn fetch<S: Simd>(self, s: S, block: &[f32], column: usize) {
        // Of bytes, lines are shared by two elements.
        let (step, column, row) = match self.format {
            KvFormat::F32 => (KEY_BLOCK, column, column),
            KvFormat::Bf16 => (KEY_BLOCK, column, column / 2),
            KvFormat::Int8 => (KEY_BLOCK / 2, column / 4, column / 4),
        };
        for word in (column..self.keys()).step_by(step) {
            s.prefetch(block.as_ptr().wrapping_add(word));
        }
        for word in (0..self.padded()).step_by(LANES) {
            s.prefetch(block.as_ptr().wrapping_add(self.keys() + row * self.padded() + word));
        }
    }

    /// Writes one position, at its column of a head's part of a block.
    #[inline(always)]
    pub fn write(self, block: &mut [f32], column: usize, k: &[f32], v: &[f32]) {
        let padded = self.padded();
        let (keys, rest) = block.split_at_mut(self.keys());
        let (values, scales) = rest.split_at_mut(self.values());
        match self.format {
            KvFormat::F32 => {
                for (key, &k) in keys.chunks_exact_mut(KEY_BLOCK).zip(k) {
                    key[column] = k;
                }
                values[column * padded..][..v.len()].copy_from_slice(v);
            }
            KvFormat::Bf16 => {
                for (keys, k) in keys.chunks_mut(SLICE / 2 * KEY_BLOCK).zip(k.chunks(SLICE)) {
                    let mut bits = [0; SLICE];
                    bits.iter_mut().zip(k).for_each(|(bits, &k)| *bits = round_bf16(k));
                    for (key, bits) in keys.chunks_exact_mut(KEY_BLOCK).zip(bits.as_chunks::<2>().0) {
                        key[column] = f32::from_bits(bits[0] | bits[1] << 16);
                    }
                }
                let (shift, keep) = if column.is_multiple_of(2) { (0, 0xffff_0000) } else { (16, 0xffff) };
                for (pair, &v) in values[column / 2 * padded..].iter_mut().zip(v) {
                    *pair = f32::from_bits(pair.to_bits() & keep | round_bf16(v) << shift);
                }
            }
            KvFormat::Int8 => {
                let (key_scales, value_scales) = scales.split_at_mut(KEY_BLOCK);
                let (scale, inverse) = scale(k);
                key_scales[column] = scale;
                for (keys, k) in bytes_mut(keys).chunks_mut(SLICE * KEY_BLOCK).zip(k.chunks(SLICE)) {
                    let mut integers = [0; SLICE];
                    integers.iter_mut().zip(k).for_each(|(integer, &k)| *integer = self::integer(k, inverse));
                    for (key, integer) in keys.chunks_exact_mut(KEY_BLOCK).zip(integers) {
                        key[column] = integer;
                    }
                }
                let (scale, inverse) = self::scale(v);
                value_scales[column] = scale;
                for (value, &v) in bytes_mut(values)[column * padded..].iter_mut().zip(v) {
                    *value = integer(v, inverse);
                }
            }
        }
    }

    /// Writes a block's first `count` positions, of a block that holds no others: `rows` start at the first one's, at
    /// the columns of the head. The bits are those of [`KvLayout::write`].
    #[inline(always)]
    pub fn write_first<S: Simd>(self, s: S, block: &mut [f32], rows: KvRows<'_>, count: usize) {
        let KvRows { k, v, stride } = rows;
        let (dim, padded) = (self.head_dim, self.padded());
        if self.format == KvFormat::Int8 {
            for column in 0..count {
                self.write(block, column, &k[column * stride..][..dim], &v[column * stride..][..dim]);
            }
            return;
        }
        let (keys, values) = block.split_at_mut(self.keys());
        // Elements of a word.
        let unit = if self.format == KvFormat::Bf16 { 2 } else { 1 };
        let mut words = [0; SLICE * KEY_BLOCK];
        for first in (0..dim).step_by(SLICE) {
            let len = SLICE.min(dim - first);
            let width = len.div_ceil(unit);
            for (column, words) in words[..count * width].chunks_exact_mut(width).enumerate() {
                let k = &k[column * stride + first..][..len];
                if self.format == KvFormat::F32 {
                    words.copy_from_slice(bits(k));
                    continue;
                }
                for (words, k) in words.chunks_mut(LANES).zip(k.chunks(2 * LANES)) {
                    let (even, odd) = k.split_at(k.len().min(LANES));
                    put_words(s, s.round(s.load_part(even), s.load_part(odd)), words);
                }
            }
            // Past `count`, whatever is there.
            let keys = &mut keys[first / unit * KEY_BLOCK..][..width * KEY_BLOCK];
            let words = &mut words[..KEY_BLOCK * width];
            if width.is_multiple_of(LANES) {
                let words = as_numbers(words);
                for step in (0..width).step_by(LANES) {
                    for column in (0..KEY_BLOCK).step_by(LANES) {
                        let columns = transposed(s, &words[column * width + step..], width);
                        for (i, &keys_of_step) in columns.iter().enumerate() {
                            s.store(keys_of_step, vector_mut(keys, (step + i) * KEY_BLOCK + column));
                        }
                    }
                }
            } else {
                interleave(words, KEY_BLOCK, width, as_words(keys));
            }
        }
        if self.format == KvFormat::F32 {
            for (column, values) in values.chunks_exact_mut(padded).take(count).enumerate() {
                values[..dim].copy_from_slice(&v[column * stride..][..dim]);
            }
            return;
        }
        for (pair, values) in values.chunks_exact_mut(padded).take(count.div_ceil(2)).enumerate() {
            let even = &v[2 * pair * stride..][..dim];
            let odd = if 2 * pair + 1 < count { &v[(2 * pair + 1) * stride..][..dim] } else { &[] };
            for (i, values) in as_words(&mut values[..dim]).chunks_mut(LANES).enumerate() {
                let at = i * LANES..i * LANES + values.len();
                let odd = s.load_part(odd.get(at.clone()).unwrap_or(&[]));
                put_words(s, s.round_zip(s.load_part(&even[at]), odd), values);
            }
        }
    }

    /// Writes a block's first positions, of a block that holds no others, from pairs of bf16: rows of whole vectors of
    /// them.
    #[inline(always)]
    pub fn write_pairs<S: Simd>(self, s: S, block: &mut [f32], k: &[u32], v: &[u32]) {
        let (width, padded) = (self.head_dim / 2, self.padded());
        let (keys, values) = block.split_at_mut(self.keys());
        let mut rows = [0.0; LANES * LANES];
        for (first, k) in (0..).step_by(LANES).zip(numbers(k).chunks(LANES * width)) {
            for step in (0..width).step_by(LANES) {
                let columns = if k.len() == LANES * width {
                    transposed(s, &k[step..], width)
                } else {
                    for (k, row) in k.chunks_exact(width).zip(rows.chunks_exact_mut(LANES)) {
                        row.copy_from_slice(&k[step..][..LANES]);
                    }
                    transposed(s, &rows, LANES)
                };
                for (i, &keys_of_step) in columns.iter().enumerate() {
                    s.store(keys_of_step, vector_mut(keys, (step + i) * KEY_BLOCK + first));
                }
            }
        }
        for (v, values) in v.chunks(2 * width).zip(values.chunks_exact_mut(padded)) {
            let (even, odd) = v.split_at(width);
            for (i, even) in even.as_chunks().0.iter().enumerate() {
                let odd = odd.as_chunks().0.get(i).unwrap_or(&[0; LANES]);
                let (even, odd) = (s.load_words(even), s.load_words(odd));
                let even = s.zip(s.even(even), s.odd(even));
                let odd = s.zip(s.even(odd), s.odd(odd));
                for half in 0..2 {
                    // Rounded before, they stay as they are.
                    let pairs = s.round_zip(even[half], odd[half]);
                    s.store_pairs(pairs, vector_mut(values, (2 * i + half) * LANES));
                }
            }
        }
    }

    /// Reads one position back.
    pub fn read(self, block: &[f32], column: usize, k: &mut [f32], v: &mut [f32]) {
        let padded = self.padded();
        let (keys, rest) = block.split_at(self.keys());
        let (values, scales) = rest.split_at(self.values());
        match self.format {
            KvFormat::F32 => {
                k.iter_mut().enumerate().for_each(|(d, k)| *k = keys[d * KEY_BLOCK + column]);
                v.copy_from_slice(&values[column * padded..][..v.len()]);
            }
            KvFormat::Bf16 => {
                let half = |word: f32, odd: bool| f32::from_bits(word.to_bits() >> (16 * u32::from(odd)) << 16);
                k.iter_mut().enumerate().for_each(|(d, k)| *k = half(keys[d / 2 * KEY_BLOCK + column], d % 2 == 1));
                let pairs = &values[column / 2 * padded..];
                v.iter_mut().zip(pairs).for_each(|(v, &pair)| *v = half(pair, column % 2 == 1));
            }
            KvFormat::Int8 => {
                let (keys, values) = (bytes(keys), bytes(values));
                let at = |x: i8, scale: usize| f32::from(x) * scales[scale];
                k.iter_mut().enumerate().for_each(|(d, k)| *k = at(keys[d * KEY_BLOCK + column], column));
                let values = &values[column * padded..];
                v.iter_mut().zip(values).for_each(|(v, &x)| *v = at(x, KEY_BLOCK + column));
            }
        }
    }
}

/// The first words of a vector.
#[inline(always)]
fn put_words<S: Simd>(s: S, v: S::Words, out: &mut [u32]) {
    match out.first_chunk_mut() {
        Some(out) => s.store_words(v, out),
        None => {
            let mut words = [0; LANES];
            s.store_words(v, &mut words);
            out.copy_from_slice(&words[..out.len()]);
        }
    }
}

/// Elements rounded before they are laid apart: loops that the compiler vectorises.
const SLICE: usize = 64;

/// The scale of a vector's integers, and its inverse.
#[inline(always)]
fn scale(x: &[f32]) -> (f32, f32) {
    // Magnitudes are ordered as their bits are, the infinite and NaN last.
    let largest = f32::from_bits(x.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff)));
    let scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
    (scale, 1.0 / scale)
}

#[inline(always)]
fn integer(x: f32, inverse: f32) -> i8 {
    // Adding 1.5 · 2²³ rounds to the nearest integer, found in the low bits. 0 · ∞ or NaN may leave anything there,
    // as the scale is then 0 or NaN. Bounded before, as the scale of subnormal elements has an infinite inverse.
    const ROUNDER: f32 = 12_582_912.0;
    let quotient = x * inverse;
    let bounded = if quotient > 127.0 { 127.0 } else { quotient };
    let bounded = if bounded < -127.0 { -127.0 } else { bounded };
    (bounded + ROUNDER).to_bits() as i8
}

/// Words as the bytes they hold.
#[inline(always)]
pub(super) fn bytes(words: &[f32]) -> &[i8] {
    // SAFETY: any byte is an i8, which needs no alignment, and the length is the same in bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

#[inline(always)]
fn bytes_mut(words: &mut [f32]) -> &mut [i8] {
    // SAFETY: as in `bytes`, through a unique reference; any bytes are an f32.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}
