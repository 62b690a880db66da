//! AVX2 and AVX-512F by widening; AVX-512 with BF16 and VNNI by its own instructions.
//!
//! SAFETY, for every block in this file: as in `simd/x86.rs`, the token proves the instruction set.
#![allow(clippy::undocumented_unsafe_blocks)] // the one argument above serves for all
#![allow(unused_unsafe)] // where the build's baseline already has the instruction set

use std::{arch::x86_64::*, mem::transmute};

use super::{
    super::{Avx2, Avx512, Task},
    *,
};

impl LowPrecisionDot for Avx2 {
    type Words = [__m256i; 2];

    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> Self::Words {
        unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())] }
    }
    #[inline(always)]
    fn store_words(self, [low, high]: Self::Words, out: &mut [u32; LANES]) {
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), high);
        }
    }
    #[inline(always)]
    fn load_pairs(self, x: &[f32; LANES]) -> Self::Words {
        let [low, high] = self.load(x);
        unsafe { [_mm256_castps_si256(low), _mm256_castps_si256(high)] }
    }
    #[inline(always)]
    fn store_pairs(self, [low, high]: Self::Words, out: &mut [f32; LANES]) {
        self.store(unsafe { [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)] }, out);
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::Words {
        unsafe { [_mm256_set1_epi32(x as i32); 2] }
    }
    #[inline(always)]
    fn even(self, [low, high]: Self::Words) -> Self::V {
        unsafe {
            let (low, high) = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }
    #[inline(always)]
    fn odd(self, [low, high]: Self::Words) -> Self::V {
        unsafe {
            let upper = _mm256_set1_epi32(UPPER as i32);
            let (low, high) = (_mm256_and_si256(low, upper), _mm256_and_si256(high, upper));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }
    #[inline(always)]
    fn round(self, first: Self::V, second: Self::V) -> Self::Words {
        unsafe { [round_256(first[0], first[1]), round_256(second[0], second[1])] }
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words {
        unsafe { [dot_i8_256(acc[0], a[0], b[0]), dot_i8_256(acc[1], a[1], b[1])] }
    }
    #[inline(always)]
    fn integers(self, [low, high]: Self::Words) -> Self::V {
        unsafe { [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)] }
    }
    #[inline(always)]
    fn and(self, a: Self::Words, b: Self::Words) -> Self::Words {
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn load_bytes(self, x: &[i8; LANES]) -> Self::Words {
        unsafe {
            let x = _mm_loadu_si128(x.as_ptr().cast());
            [_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x))]
        }
    }
    #[inline(always)]
    fn round_zip(self, even: Self::V, odd: Self::V) -> Self::Words {
        unsafe { [zip_half(even[0], odd[0]), zip_half(even[1], odd[1])] }
    }
}

/// The nearest bf16 of eight lanes, in their lower halves.
#[inline(always)]
unsafe fn round_half(x: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(x);
        let shifted = _mm256_srli_epi32::<16>(bits);
        let magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(MAGNITUDE as i32));
        let odd = _mm256_and_si256(shifted, _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        let rounded = _mm256_srli_epi32::<16>(up);
        let quiet = _mm256_or_si256(shifted, _mm256_set1_epi32(0x40));
        let nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(INFINITE as i32));
        let zero = _mm256_and_si256(shifted, _mm256_set1_epi32(0x8000));
        let small = _mm256_cmpgt_epi32(_mm256_set1_epi32(SMALLEST as i32), magnitude);
        _mm256_blendv_epi8(_mm256_blendv_epi8(rounded, quiet, nan), zero, small)
    }
}

/// Sixteen elements to bf16, in order: packing works on halves of the registers.
#[inline(always)]
unsafe fn round_256(low: __m256, high: __m256) -> __m256i {
    unsafe {
        let packed = _mm256_packus_epi32(round_half(low), round_half(high));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
    }
}

/// Eight pairs of bf16.
#[inline(always)]
unsafe fn zip_half(even: __m256, odd: __m256) -> __m256i {
    unsafe { _mm256_or_si256(round_half(even), _mm256_slli_epi32::<16>(round_half(odd))) }
}

/// Bytes 0 and 2, then 1 and 3, as sixteen bits: `vpmaddubsw` would saturate.
#[inline(always)]
#[cfg_attr(not(test), allow(dead_code))] // for the packed product
unsafe fn dot_i8_256(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
    unsafe {
        let a_even = _mm256_and_si256(a, _mm256_set1_epi16(0xff));
        let b_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
        let even = _mm256_madd_epi16(a_even, b_even);
        let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
        _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
    }
}

#[inline(always)]
unsafe fn halves(v: __m512i) -> [__m256i; 2] {
    unsafe { [_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v)] }
}

#[inline(always)]
unsafe fn whole([low, high]: [__m256i; 2]) -> __m512i {
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
}

/// Operations on words that AVX-512F has, with or without the narrow products.
macro_rules! words_of_avx512 {
    () => {
        type Words = __m512i;

        #[inline(always)]
        fn load_words(self, x: &[u32; LANES]) -> __m512i {
            unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
        }
        #[inline(always)]
        fn store_words(self, v: __m512i, out: &mut [u32; LANES]) {
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
        }
        #[inline(always)]
        fn load_pairs(self, x: &[f32; LANES]) -> __m512i {
            unsafe { _mm512_castps_si512(self.load(x)) }
        }
        #[inline(always)]
        fn store_pairs(self, v: __m512i, out: &mut [f32; LANES]) {
            self.store(unsafe { _mm512_castsi512_ps(v) }, out);
        }
        #[inline(always)]
        fn splat_word(self, x: u32) -> __m512i {
            unsafe { _mm512_set1_epi32(x as i32) }
        }
        #[inline(always)]
        fn even(self, v: __m512i) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)) }
        }
        #[inline(always)]
        fn odd(self, v: __m512i) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(UPPER as i32))) }
        }
        #[inline(always)]
        fn integers(self, v: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(v) }
        }
        #[inline(always)]
        fn low_bytes(self, v: __m512) -> [u8; LANES] {
            let mut bytes = [0; LANES];
            unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(v))) };
            bytes
        }
        #[inline(always)]
        fn and(self, a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(a, b) }
        }
        #[inline(always)]
        fn load_bytes(self, x: &[i8; LANES]) -> __m512i {
            unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
        }
    };
}

impl LowPrecisionDot for Avx512 {
    words_of_avx512!();

    #[inline(always)]
    fn round(self, first: __m512, second: __m512) -> __m512i {
        unsafe {
            let (a, b) = (halves(_mm512_castps_si512(first)), halves(_mm512_castps_si512(second)));
            let first = round_256(_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1]));
            whole([first, round_256(_mm256_castsi256_ps(b[0]), _mm256_castsi256_ps(b[1]))])
        }
    }
    #[inline(always)]
    fn round_zip(self, even: __m512, odd: __m512) -> __m512i {
        unsafe {
            let (a, b) = (halves(_mm512_castps_si512(even)), halves(_mm512_castps_si512(odd)));
            let low = zip_half(_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(b[0]));
            whole([low, zip_half(_mm256_castsi256_ps(a[1]), _mm256_castsi256_ps(b[1]))])
        }
    }
    #[inline(always)]
    fn dot_i8(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe {
            let (acc, a, b) = (halves(acc), halves(a), halves(b));
            whole([dot_i8_256(acc[0], a[0], b[0]), dot_i8_256(acc[1], a[1], b[1])])
        }
    }
}

impl LowPrecisionDot for Avx512Bf16 {
    words_of_avx512!();

    const HAS_DOT_I8: bool = true;

    #[inline(always)]
    fn nibbles(self, v: __m512i, upper: bool) -> __m512i {
        unsafe {
            let v = if upper { _mm512_srli_epi32::<4>(v) } else { v };
            _mm512_and_si512(v, _mm512_set1_epi32(0x0f0f_0f0f))
        }
    }
    #[inline(always)]
    fn add_shifted(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, _mm512_slli_epi32::<8>(b)) }
    }
    #[inline(always)]
    fn high_low_bytes(self, x: [__m512; 4]) -> [__m512i; 2] {
        unsafe {
            let integers = x.map(|x| _mm512_cvtps_epi32(x));
            // Each fourth of a vector is packed apart: the words of a result are those of all four vectors by turns.
            let pairs = [[integers[0], integers[1]], [integers[2], integers[3]]].map(|[a, b]| _mm512_packs_epi32(a, b));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = |[a, b]: [__m512i; 2]| _mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b));
            let high = pairs.map(|x| _mm512_srai_epi16::<8>(_mm512_add_epi16(x, _mm512_set1_epi16(128))));
            let low = pairs.map(|x| _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x)));
            [bytes(high), bytes(low)]
        }
    }

    #[inline(always)]
    fn round(self, first: __m512, second: __m512) -> __m512i {
        unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
    }
    #[inline(always)]
    fn round_zip(self, even: __m512, odd: __m512) -> __m512i {
        unsafe { _mm512_permutexvar_epi16(_mm512_loadu_si512(BY_TURNS.as_ptr().cast()), self.round(even, odd)) }
    }
    #[inline(always)]
    fn dot_bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe { _mm512_dpbf16_ps(acc, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b)) }
    }
    #[inline(always)]
    fn dot_i8(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, a, b) }
    }
}

/// Where the sixteen bits of each place come from, to take those of the lower and the upper half by turns.
const BY_TURNS: [u16; 2 * LANES] = {
    let mut places = [0; 2 * LANES];
    let mut i = 0;
    while i < 2 * LANES {
        places[i] = (i / 2 + i % 2 * LANES) as u16;
        i += 1;
    }
    places
};

/// Proof that the CPU has AVX-512F with the products of bf16 and of bytes (BF16 and VNNI), and BW and DQ, which come
/// before.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    pub(crate) fn new() -> Option<Self> {
        let narrow = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
        let common = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
        Avx512::new().filter(|_| narrow && common).map(Self)
    }

    /// The lanes without these products.
    pub(crate) fn wide(self) -> Avx512 {
        self.0
    }
}

/// Methods that are those of the token inside.
macro_rules! as_inside {
    ($($name:ident($($arg:ident: $type:ty),+) $(-> $out:ty)?;)+) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $type),+) $(-> $out)? {
            self.0.$name($($arg),+)
        })+
    };
}

impl Lanes for Avx512Bf16 {
    type V = __m512;

    #[inline(always)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16,avx512vnni,avx2,fma")]
        fn compiled<T: Task<Avx512Bf16>>(simd: Avx512Bf16, task: T) -> T::Output {
            task.run(simd)
        }
        unsafe { compiled(self, task) }
    }

    #[inline(always)]
    fn fraction(self, x: __m512) -> __m512 {
        unsafe { _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn scale_floor(self, v: __m512, x: __m512) -> __m512 {
        // A lane that is masked out cannot underflow, which would cost hundreds of cycles.
        unsafe { _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0)), v, x) }
    }

    as_inside! {
        splat(x: f32) -> __m512;
        load(x: &[f32; LANES]) -> __m512;
        store(v: __m512, out: &mut [f32; LANES]);
        load_part(x: &[f32]) -> __m512;
        store_part(v: __m512, out: &mut [f32]);
        add(a: __m512, b: __m512) -> __m512;
        sub(a: __m512, b: __m512) -> __m512;
        mul(a: __m512, b: __m512) -> __m512;
        div(a: __m512, b: __m512) -> __m512;
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512;
        max(a: __m512, b: __m512) -> __m512;
        min(a: __m512, b: __m512) -> __m512;
        where_less(a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512;
        scale(v: __m512, n: __m512) -> __m512;
        scale_normal(v: __m512, n: __m512) -> __m512;
        zip(a: __m512, b: __m512) -> [__m512; 2];
        sum(v: __m512) -> f32;
        largest(v: __m512) -> f32;
        widen_halves(words: &[u32; LANES / 2]) -> __m512;
        prefetch(p: *const f32);
        prefetch_to_l2(p: *const f32);
    }
}
