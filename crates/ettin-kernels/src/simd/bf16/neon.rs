//! NEON, by widening.
//!
//! SAFETY, for every block in this file: as in `simd/neon.rs`, the token proves the instruction set.
#![allow(clippy::undocumented_unsafe_blocks)] // the one argument above serves for all
#![allow(unused_unsafe)] // where the build's baseline already has the instruction set

use std::{arch::aarch64::*, array};

use super::{super::Neon, *};

impl LowPrecisionDot for Neon {
    type Words = [uint32x4_t; 4];

    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> Self::Words {
        array::from_fn(|i| unsafe { vld1q_u32(x.as_ptr().add(4 * i)) })
    }
    #[inline(always)]
    fn store_words(self, v: Self::Words, out: &mut [u32; LANES]) {
        for (i, v) in v.into_iter().enumerate() {
            unsafe { vst1q_u32(out.as_mut_ptr().add(4 * i), v) }
        }
    }
    #[inline(always)]
    fn load_pairs(self, x: &[f32; LANES]) -> Self::Words {
        let x = self.load(x);
        array::from_fn(|i| unsafe { vreinterpretq_u32_f32(x[i]) })
    }
    #[inline(always)]
    fn store_pairs(self, v: Self::Words, out: &mut [f32; LANES]) {
        self.store(array::from_fn(|i| unsafe { vreinterpretq_f32_u32(v[i]) }), out);
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::Words {
        unsafe { [vdupq_n_u32(x); 4] }
    }
    #[inline(always)]
    fn even(self, v: Self::Words) -> Self::V {
        array::from_fn(|i| unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(v[i])) })
    }
    #[inline(always)]
    fn odd(self, v: Self::Words) -> Self::V {
        array::from_fn(|i| unsafe { vreinterpretq_f32_u32(vandq_u32(v[i], vdupq_n_u32(UPPER))) })
    }
    #[inline(always)]
    fn round(self, first: Self::V, second: Self::V) -> Self::Words {
        let [a, b, c, d] = first;
        let [e, f, g, h] = second;
        unsafe { [round_two(a, b), round_two(c, d), round_two(e, f), round_two(g, h)] }
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words {
        array::from_fn(|i| unsafe {
            // Bytes 0 and 2, then 1 and 3, as sixteen bits.
            let (a, b) = (vreinterpretq_u16_u32(a[i]), vreinterpretq_s16_u32(b[i]));
            let a_even = vreinterpretq_s16_u16(vandq_u16(a, vdupq_n_u16(0xff)));
            let b_even = vshrq_n_s16::<8>(vshlq_n_s16::<8>(b));
            let even = sum_of_products(a_even, b_even);
            let odd = sum_of_products(vreinterpretq_s16_u16(vshrq_n_u16::<8>(a)), vshrq_n_s16::<8>(b));
            vaddq_u32(acc[i], vreinterpretq_u32_s32(vaddq_s32(even, odd)))
        })
    }
    #[inline(always)]
    fn integers(self, v: Self::Words) -> Self::V {
        array::from_fn(|i| unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(v[i])) })
    }
    #[inline(always)]
    fn and(self, a: Self::Words, b: Self::Words) -> Self::Words {
        array::from_fn(|i| unsafe { vandq_u32(a[i], b[i]) })
    }
    #[inline(always)]
    fn load_bytes(self, x: &[i8; LANES]) -> Self::Words {
        unsafe {
            let x = vld1q_s8(x.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(low))),
                vreinterpretq_u32_s32(vmovl_high_s16(low)),
                vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(high))),
                vreinterpretq_u32_s32(vmovl_high_s16(high)),
            ]
        }
    }
    #[inline(always)]
    fn round_zip(self, even: Self::V, odd: Self::V) -> Self::Words {
        array::from_fn(|i| unsafe { vorrq_u32(round_quad(even[i]), vshlq_n_u32::<16>(round_quad(odd[i]))) })
    }
}

/// The nearest bf16 of four lanes, in their lower halves.
#[inline(always)]
unsafe fn round_quad(x: float32x4_t) -> uint32x4_t {
    unsafe {
        let bits = vreinterpretq_u32_f32(x);
        let shifted = vshrq_n_u32::<16>(bits);
        let magnitude = vandq_u32(bits, vdupq_n_u32(MAGNITUDE));
        let odd = vandq_u32(shifted, vdupq_n_u32(1));
        let rounded = vshrq_n_u32::<16>(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd));
        let quiet = vorrq_u32(shifted, vdupq_n_u32(0x40));
        let rounded = vbslq_u32(vcgtq_u32(magnitude, vdupq_n_u32(INFINITE)), quiet, rounded);
        let zero = vandq_u32(shifted, vdupq_n_u32(0x8000));
        vbslq_u32(vcltq_u32(magnitude, vdupq_n_u32(SMALLEST)), zero, rounded)
    }
}

/// Eight elements to bf16, in order.
#[inline(always)]
unsafe fn round_two(low: float32x4_t, high: float32x4_t) -> uint32x4_t {
    unsafe { vreinterpretq_u32_u16(vcombine_u16(vmovn_u32(round_quad(low)), vmovn_u32(round_quad(high)))) }
}

/// Of neighbours: a[2i]·b[2i] + a[2i+1]·b[2i+1].
#[inline(always)]
unsafe fn sum_of_products(a: int16x8_t, b: int16x8_t) -> int32x4_t {
    unsafe { vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)) }
}
