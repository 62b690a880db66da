//! Products of narrow numbers on sixteen lanes: pairs of bf16 into f32, quads of bytes into i32.
//!
//! **One result everywhere.** A pair's two products enter the sum as two multiply-adds, the odd (upper) element first:
//! the order of `vdpbf16ps` on the CPUs we could ask (AMD Zen 5, Intel Xeons). The instruction takes subnormal numbers
//! for zero, on both ends. [`LowPrecisionDot::round`] never gives a subnormal, so instruction and emulation agree bit
//! for bit while sums are normal or zero; a subnormal partial sum (below 2⁻¹²⁶) differs by at most itself. A product of
//! two bf16 is exact in f32 (eight bits by eight), so multiplying and adding apart, as [`Portable`] does, gives the
//! same too, while products neither overflow nor underflow. Quads are exact.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Avx512Bf16;

use super::{LANES, Lanes, Portable};

/// Sixteen 32-bit lanes of narrow numbers, each two bf16 (the even element in the lower half) or four bytes.
pub(crate) trait LowPrecisionDot: Lanes {
    /// Sixteen lanes of 32 bits.
    type Words: Copy;

    /// Whether [`dot_i8`](Self::dot_i8) is one instruction.
    const HAS_DOT_I8: bool = false;

    fn load_words(self, x: &[u32; LANES]) -> Self::Words;
    fn store_words(self, v: Self::Words, out: &mut [u32; LANES]);
    /// Words kept in a buffer of f32, bit for bit.
    fn load_pairs(self, x: &[f32; LANES]) -> Self::Words;
    /// Into a buffer of f32, bit for bit.
    fn store_pairs(self, v: Self::Words, out: &mut [f32; LANES]);
    /// One word in all lanes.
    fn splat_word(self, x: u32) -> Self::Words;
    /// The even (lower) elements of pairs of bf16.
    fn even(self, pairs: Self::Words) -> Self::V;
    /// The odd (upper) elements of pairs of bf16.
    fn odd(self, pairs: Self::Words) -> Self::V;
    /// 32 elements in order, as sixteen pairs: the nearest bf16, of two the even one; NaN stays NaN, subnormal numbers
    /// become zero of their sign.
    fn round(self, first: Self::V, second: Self::V) -> Self::Words;
    /// Sixteen pairs of an element of each, rounded as by [`LowPrecisionDot::round`].
    fn round_zip(self, even: Self::V, odd: Self::V) -> Self::Words;
    /// Sixteen bytes, their signs extended.
    fn load_bytes(self, x: &[i8; LANES]) -> Self::Words;
    fn and(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// `acc + Σ a[i]·b[i]` over four bytes per lane, unsigned times signed, wrapping.
    fn dot_i8(self, acc: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words;
    /// The lower or the upper four bits of every byte, as bytes.
    #[inline(always)]
    fn nibbles(self, v: Self::Words, upper: bool) -> Self::Words {
        let mut lanes = [0; LANES];
        self.store_words(v, &mut lanes);
        self.load_words(&lanes.map(|word| word >> if upper { 4 } else { 0 } & 0x0f0f_0f0f))
    }
    /// `a + 2⁸·b`, wrapping.
    #[inline(always)]
    fn add_shifted(self, a: Self::Words, b: Self::Words) -> Self::Words {
        let (mut sums, mut other) = ([0; LANES], [0; LANES]);
        self.store_words(a, &mut sums);
        self.store_words(b, &mut other);
        for (a, b) in sums.iter_mut().zip(other) {
            *a = a.wrapping_add(b << 8);
        }
        self.load_words(&sums)
    }
    /// The nearest integers to 64 numbers, of 16 bits and no more than 127 · 257, as 256 · high + low: signed bytes,
    /// four to a lane.
    #[inline(always)]
    fn high_low_bytes(self, x: [Self::V; 4]) -> [Self::Words; 2] {
        let mut digits = [[0; LANES]; 2];
        let [high, low] = &mut digits;
        for (i, x) in x.into_iter().enumerate() {
            let mut lanes = [0.0; LANES];
            self.store(x, &mut lanes);
            for (lane, x) in lanes.into_iter().enumerate() {
                let integer = x.round_ties_even() as i32;
                let (word, shift) = (i * LANES / 4 + lane / 4, lane % 4 * 8);
                low[word] |= u32::from(integer as u8) << shift;
                high[word] |= u32::from((integer.wrapping_add(128) >> 8) as u8) << shift;
            }
        }
        digits.map(|words| self.load_words(&words))
    }
    /// The lanes as signed integers, rounded to f32.
    fn integers(self, v: Self::Words) -> Self::V;
    /// The lowest byte of each lane's bits.
    #[inline(always)]
    fn low_bytes(self, v: Self::V) -> [u8; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut bytes = [0; LANES];
        for i in 0..LANES {
            bytes[i] = lanes[i].to_bits() as u8;
        }
        bytes
    }

    /// `acc + a.odd·b.odd`, then `+ a.even·b.even`, each a multiply-add.
    #[inline(always)]
    fn dot_bf16(self, acc: Self::V, a: Self::Words, b: Self::Words) -> Self::V {
        let acc = self.mul_add(self.odd(a), self.odd(b), acc);
        self.mul_add(self.even(a), self.even(b), acc)
    }
}

/// Upper half of a word.
const UPPER: u32 = 0xffff_0000;
/// Bits of the smallest normal f32.
const SMALLEST: u32 = 0x0080_0000;
/// Bits of infinity; higher magnitudes are NaN.
const INFINITE: u32 = 0x7f80_0000;
const MAGNITUDE: u32 = 0x7fff_ffff;

impl LowPrecisionDot for Portable {
    type Words = [u32; LANES];

    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> Self::Words {
        *x
    }
    #[inline(always)]
    fn store_words(self, v: Self::Words, out: &mut [u32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn load_pairs(self, x: &[f32; LANES]) -> Self::Words {
        x.map(f32::to_bits)
    }
    #[inline(always)]
    fn store_pairs(self, v: Self::Words, out: &mut [f32; LANES]) {
        *out = v.map(f32::from_bits);
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::Words {
        [x; LANES]
    }
    #[inline(always)]
    fn even(self, pairs: Self::Words) -> Self::V {
        pairs.map(|pair| f32::from_bits(pair << 16))
    }
    #[inline(always)]
    fn odd(self, pairs: Self::Words) -> Self::V {
        pairs.map(|pair| f32::from_bits(pair & UPPER))
    }
    #[inline(always)]
    fn round(self, first: Self::V, second: Self::V) -> Self::Words {
        let mut words = [0; LANES];
        for (half, elements) in [first, second].iter().enumerate() {
            for (word, pair) in words[half * LANES / 2..].iter_mut().zip(elements.as_chunks::<2>().0) {
                *word = round(pair[0]) | round(pair[1]) << 16;
            }
        }
        words
    }
    #[inline(always)]
    fn dot_i8(self, mut acc: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words {
        for (acc, (a, b)) in acc.iter_mut().zip(a.into_iter().zip(b)) {
            let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
            let sum: i32 = products.map(|(a, b)| i32::from(a) * i32::from(b as i8)).sum();
            *acc = acc.wrapping_add(sum as u32);
        }
        acc
    }
    #[inline(always)]
    fn integers(self, v: Self::Words) -> Self::V {
        v.map(|x| x as i32 as f32)
    }
    #[inline(always)]
    fn round_zip(self, even: Self::V, odd: Self::V) -> Self::Words {
        let mut words = [0; LANES];
        for (word, (even, odd)) in words.iter_mut().zip(even.into_iter().zip(odd)) {
            *word = round(even) | round(odd) << 16;
        }
        words
    }
    #[inline(always)]
    fn load_bytes(self, x: &[i8; LANES]) -> Self::Words {
        x.map(|x| i32::from(x) as u32)
    }
    #[inline(always)]
    fn and(self, mut a: Self::Words, b: Self::Words) -> Self::Words {
        for (a, b) in a.iter_mut().zip(b) {
            *a &= b;
        }
        a
    }
}

/// The bits of the nearest bf16, by the rules of [`LowPrecisionDot::round`].
#[inline(always)]
pub(crate) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & MAGNITUDE;
    if magnitude > INFINITE {
        bits >> 16 | 0x40 // quiet
    } else if magnitude < SMALLEST {
        bits >> 16 & 0x8000
    } else {
        (bits + 0x7fff + (bits >> 16 & 1)) >> 16
    }
}
