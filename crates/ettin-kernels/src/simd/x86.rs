//! AVX2+FMA and AVX-512F lanes.
//!
//! SAFETY, for every block in this file: the intrinsics need the instruction set of `self` and nothing else, and
//! `self` was built by `new`, which has asked the CPU. Memory is touched through references of sixteen lanes (or
//! under a mask that ends at the slice), without alignment requirements.
#![allow(clippy::undocumented_unsafe_blocks)] // the one argument above serves for all
#![allow(unused_unsafe)] // where the build's baseline already has the instruction set

use std::arch::x86_64::*;

use super::{LANES, Lanes, Task};

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Proof that the CPU has AVX-512F (and AVX2 and FMA, which every such CPU has).
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && Avx2::new().is_some()).then_some(Self(()))
    }
}

impl Avx2 {
    /// `v · 2^n` in two factors, each a normal number: the first product is exact, the second rounds.
    #[inline(always)]
    fn scale_half(self, v: __m256, n: __m256) -> __m256 {
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let first = _mm256_srai_epi32::<1>(n);
            let second = _mm256_sub_epi32(n, first);
            _mm256_mul_ps(_mm256_mul_ps(v, self.power_of_two(first)), self.power_of_two(second))
        }
    }

    #[inline(always)]
    fn scale_normal_half(self, v: __m256, n: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(v, self.power_of_two(_mm256_cvtps_epi32(n))) }
    }

    /// Eight lanes of each by turns.
    #[inline(always)]
    fn zip_half(self, a: __m256, b: __m256) -> Pair {
        unsafe {
            // Both work on halves of the registers: a0 b0 a1 b1 a4 b4 a5 b5, and a2 b2 a3 b3 a6 b6 a7 b7.
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        }
    }

    /// 2^n for n in −126..=127.
    #[inline(always)]
    fn power_of_two(self, n: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
    }
}

/// Lanes 0..8, then 8..16.
type Pair = [__m256; 2];

impl Lanes for Avx2 {
    type V = Pair;

    #[inline(always)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx2,fma")]
        fn compiled<T: Task<Avx2>>(simd: Avx2, task: T) -> T::Output {
            task.run(simd)
        }
        unsafe { compiled(self, task) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Pair {
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store(self, [low, high]: Pair, out: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), low);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn where_less(self, a: Pair, b: Pair, then: Pair, otherwise: Pair) -> Pair {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]);
            [_mm256_blendv_ps(otherwise[0], then[0], low), _mm256_blendv_ps(otherwise[1], then[1], high)]
        }
    }
    #[inline(always)]
    fn scale(self, v: Pair, n: Pair) -> Pair {
        [self.scale_half(v[0], n[0]), self.scale_half(v[1], n[1])]
    }
    #[inline(always)]
    fn scale_normal(self, v: Pair, n: Pair) -> Pair {
        [self.scale_normal_half(v[0], n[0]), self.scale_normal_half(v[1], n[1])]
    }
    #[inline(always)]
    fn zip(self, a: Pair, b: Pair) -> [Pair; 2] {
        [self.zip_half(a[0], b[0]), self.zip_half(a[1], b[1])]
    }
    #[inline(always)]
    fn sum(self, [low, high]: Pair) -> f32 {
        unsafe {
            let v = _mm256_add_ps(low, high);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn largest(self, [low, high]: Pair) -> f32 {
        unsafe {
            let v = _mm256_max_ps(low, high);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_to_l2(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

impl Avx512 {
    #[inline(always)]
    fn halves(self, v: __m512) -> Pair {
        unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
            [_mm512_castps512_ps256(v), high]
        }
    }

    /// The mask of the first `len` lanes.
    #[inline(always)]
    fn first(len: usize) -> __mmask16 {
        assert!(len <= LANES);
        ((1u32 << len) - 1) as __mmask16
    }
}

impl Lanes for Avx512 {
    type V = __m512;

    #[inline(always)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn compiled<T: Task<Avx512>>(simd: Avx512, task: T) -> T::Output {
            task.run(simd)
        }
        unsafe { compiled(self, task) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(Self::first(x.len()), x.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, v: __m512, out: &mut [f32]) {
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), Self::first(out.len()), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn where_less(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, then) }
    }
    #[inline(always)]
    fn scale(self, v: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(v, n) }
    }
    #[inline(always)]
    fn scale_normal(self, v: __m512, n: __m512) -> __m512 {
        self.scale(v, n)
    }
    #[inline(always)]
    fn zip(self, a: __m512, b: __m512) -> [__m512; 2] {
        unsafe {
            let lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let upper = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            [_mm512_permutex2var_ps(a, lower, b), _mm512_permutex2var_ps(a, upper, b)]
        }
    }
    #[inline(always)]
    fn widen_signed(self, bytes: &[i8; LANES]) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn widen_nibbles(self, words: &[u32; LANES], index: usize) -> __m512 {
        unsafe {
            // A permutation looks at the lowest four bits of each index.
            let table =
                _mm512_setr_ps(-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            _mm512_permutexvar_ps(_mm512_srlv_epi32(words, _mm512_set1_epi32(4 * index as i32)), table)
        }
    }
    #[inline(always)]
    fn widen_halves(self, words: &[u32; LANES / 2]) -> __m512 {
        unsafe {
            let halves = _mm256_loadu_si256(words.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        Avx2(()).sum(self.halves(v))
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        Avx2(()).largest(self.halves(v))
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_to_l2(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
