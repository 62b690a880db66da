//! Equality of the narrow products across instruction sets.

use super::{
    super::{Kernel, Simd},
    *,
};
use crate::testing::each_isa;

/// Runs on every instruction set, and on each with and without its narrow products.
fn everywhere<K: Kernel + Copy>(kernel: K, mut check: impl FnMut(&str, K::Output)) {
    each_isa(|isa| {
        check(&isa.to_string(), isa.run(kernel));
        check(&format!("{isa}, narrow"), isa.run_low_precision(kernel));
    });
}

/// A counter-based generator (splitmix64).
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[derive(Clone, Copy)]
struct Round([[f32; LANES]; 2]);

impl Kernel for Round {
    type Output = [[u32; LANES]; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let [first, second] = [s.load(&self.0[0]), s.load(&self.0[1])];
        let mut out = [[0; LANES]; 2];
        s.store_words(s.round(first, second), &mut out[0]);
        s.store_words(s.round_zip(first, second), &mut out[1]);
        out
    }
}

#[test]
fn rounds_to_the_nearest_bf16() {
    let special = [0, 1, 0x7f_ffff, 0x80_0000, 0x80_8000, 0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff];
    let large = [0x7f7f_7fff, 0x7f7f_8000, 0x7f80_0000, 0x7f80_0001, 0x7fc1_2345, 0x7fff_ffff];
    let mut next = random(1);
    let mut bits: Vec<u32> = special.into_iter().chain(large).flat_map(|x| [x, x | 1 << 31]).collect();
    bits.resize_with(1 << 16, || next() as u32);
    for block in bits.as_chunks::<{ 2 * LANES }>().0 {
        let x = block.map(f32::from_bits);
        let want = x.map(|x| match half::bf16::from_f32(x) {
            _ if x.is_subnormal() => 0x8000 * u16::from(x.is_sign_negative()),
            rounded => rounded.to_bits(),
        });
        let halves = [0, LANES].map(|start| std::array::from_fn(|i| x[start + i]));
        everywhere(Round(halves), |isa, [got, zipped]| {
            let by_turns = std::array::from_fn(|i| u32::from(want[i]) | u32::from(want[LANES + i]) << 16);
            assert_eq!(zipped, by_turns, "{isa}, by turns: {block:x?}");
            let got: Vec<u16> = got.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect();
            assert_eq!(got, want, "{isa}: {block:x?}");
        });
    }
}

#[derive(Clone, Copy)]
struct Dot {
    acc: [f32; LANES],
    a: [u32; LANES],
    b: [u32; LANES],
}

impl Kernel for Dot {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        s.store(s.dot_bf16(s.load(&self.acc), s.load_words(&self.a), s.load_words(&self.b)), &mut out);
        out
    }
}

#[test]
fn pairs_are_added_odd_first_everywhere() {
    let mut next = random(2);
    for _ in 0..5000 {
        // Exponents near each other, so that the order shows.
        let mut bf16 = || {
            let x = next() as u32;
            x & 0x807f | (120 + (x >> 16) % 12) << 7
        };
        let mut words = || [(); LANES].map(|()| bf16() | bf16() << 16);
        let (a, b, acc) = (words(), words(), words().map(f32::from_bits));
        let want: [u32; LANES] = std::array::from_fn(|i| {
            let (odd, even) = (|x: u32| f32::from_bits(x & UPPER), |x: u32| f32::from_bits(x << 16));
            even(a[i]).mul_add(even(b[i]), odd(a[i]).mul_add(odd(b[i]), acc[i])).to_bits()
        });
        everywhere(Dot { acc, a, b }, |isa, got| assert_eq!(got.map(f32::to_bits), want, "{isa}"));
    }
}

#[test]
fn infinite_and_missing_numbers_pass_through_pairs() {
    let mut kernel = Dot { acc: [1.0; LANES], a: [0x3f80_3f80; LANES], b: [0x3f80_3f80; LANES] };
    kernel.a[0] = 0x7f80_3f80; // ∞ · 1
    kernel.b[1] = 0x7fc0_0000; // NaN
    (kernel.a[2], kernel.b[2]) = (0x7f80_0000, 0); // ∞ · 0
    kernel.acc[3] = f32::NEG_INFINITY;
    everywhere(kernel, |isa, got| {
        assert_eq!(got[0], f32::INFINITY, "{isa}");
        assert!(got[1].is_nan() && got[2].is_nan(), "{isa}");
        assert_eq!(got[3..5], [f32::NEG_INFINITY, 3.0], "{isa}");
    });
}

#[derive(Clone, Copy)]
struct Quads([[u32; LANES]; 3]);

impl Kernel for Quads {
    type Output = ([u32; LANES], [f32; LANES]);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let [acc, a, b] = self.0;
        let sums = s.dot_i8(s.load_words(&acc), s.load_words(&a), s.load_words(&b));
        let mut out = ([0; LANES], [0.0; LANES]);
        s.store_words(sums, &mut out.0);
        s.store(s.integers(sums), &mut out.1);
        out
    }
}

#[test]
fn quads_are_exact_everywhere() {
    let mut next = random(3);
    for round in 0..2000 {
        let mut words = || [(); LANES].map(|()| next() as u32);
        let (mut acc, mut a, mut b) = (words(), words(), words());
        if round == 0 {
            // The extremes, which saturate sixteen bits, and a sum that wraps.
            a[..4].fill(u32::MAX);
            b[..4].copy_from_slice(&[0x7f7f_7f7f, 0x8080_8080, 0x7f80_7f80, 0x807f_807f]);
            acc[..4].copy_from_slice(&[i32::MAX as u32, i32::MIN as u32, 0, 7]);
        }
        let want: [i32; LANES] = std::array::from_fn(|i| {
            let products = (0..4).map(|j| (a[i] >> (8 * j) & 0xff) as i32 * i32::from((b[i] >> (8 * j)) as i8));
            (acc[i] as i32).wrapping_add(products.sum())
        });
        everywhere(Quads([acc, a, b]), |isa, (sums, floats)| {
            assert_eq!(sums.map(|x| x as i32), want, "{isa}");
            assert_eq!(floats, want.map(|x| x as f32), "{isa}");
        });
    }
}

#[derive(Clone, Copy)]
struct Digits([[f32; LANES]; 4]);

impl Kernel for Digits {
    type Output = [[u32; LANES]; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        s.high_low_bytes(self.0.map(|x| s.load(&x))).map(|words| {
            let mut out = [0; LANES];
            s.store_words(words, &mut out);
            out
        })
    }
}

#[test]
fn digits_are_the_nearest_integers_in_order() {
    let mut next = random(5);
    for round in 0..2000 {
        let mut x = [[0.0; LANES]; 4];
        x.as_flattened_mut().fill_with(|| (next() as i32 % (2 * 32639 * 16)) as f32 / 32.0);
        if round == 0 {
            // The ends, what lies between two upper digits, and between two integers.
            x[1][..8].copy_from_slice(&[32639.0, -32639.0, 128.0, 127.0, -128.0, -129.0, 0.5, -1.5]);
        }
        everywhere(Digits(x), |isa, [high, low]| {
            for (i, &x) in x.as_flattened().iter().enumerate() {
                let byte = |words: [u32; LANES]| i32::from(words[i / 4].to_le_bytes()[i % 4] as i8);
                assert_eq!(256 * byte(high) + byte(low), x.round_ties_even() as i32, "{isa}: {x}");
            }
        });
    }
}

#[derive(Clone, Copy)]
struct Splat;

impl Kernel for Splat {
    type Output = ([f32; LANES], [f32; LANES]);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let pair = s.splat_word(0x4000_3f80);
        let mut out = ([0.0; LANES], [0.0; LANES]);
        s.store(s.even(pair), &mut out.0);
        s.store(s.odd(pair), &mut out.1);
        out
    }
}

#[test]
fn the_even_element_is_the_lower_half() {
    everywhere(Splat, |isa, got| assert_eq!(got, ([1.0; LANES], [2.0; LANES]), "{isa}"));
}
