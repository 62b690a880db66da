//! Loops that do nothing but the operation that bounds a product: multiply-adds and dot products that never leave the
//! registers.
//!
//! Each call does a fixed number of steps and returns the operations that it did (two for each multiply-add). The
//! caller looks at the clock.

use std::hint::black_box;

use super::{Kernel, LANES, Simd};

/// Steps of one chain in a call.
const STEPS: usize = 4096;

/// `CHAINS` independent chains of multiply-adds on vectors of f32; returns the operations done.
pub(crate) struct MulAddChains<const CHAINS: usize>;

impl<const CHAINS: usize> Kernel for MulAddChains<CHAINS> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        // Towards a fixed point of 1: no value overflows or becomes subnormal, which would be slow.
        let (factor, rest) = (simd.splat(black_box(0.5)), simd.splat(black_box(0.5)));
        // Opaque as a whole: chains known to be equal would be computed once.
        let mut sums = black_box([simd.splat(1.5); CHAINS]);
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, factor, rest);
            }
        }
        for sum in sums {
            black_box(simd.sum(sum));
        }
        (2 * LANES * CHAINS * STEPS) as f64
    }
}

/// The dot-product instructions of x86, some of which no token stands for.
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::{
        arch::x86_64::*,
        hint::black_box,
        sync::OnceLock,
        time::{Duration, Instant},
    };

    use super::{
        super::{Amx, Avx512Bf16, Lanes, TileRegisters, tile_asm},
        MulAddChains, STEPS,
    };

    /// Chains that hide the latency of these instructions on every CPU that has them, and fit on its registers.
    const CHAINS: usize = 12;

    macro_rules! dot {
        ($name:ident, [$($feature:tt),+], $per_step:literal, $zero:expr, $factor:expr, $step:ident) => {
            /// Operations done by [`STEPS`] steps of every chain.
            ///
            /// # Panics
            /// If the CPU lacks the instruction.
            pub(crate) fn $name() -> f64 {
                $(#[target_feature(enable = $feature)])+
                fn compiled() {
                    let factor = black_box($factor);
                    // Opaque as a whole: chains known to be equal would be computed once.
                    let mut sums = black_box([$zero; CHAINS]);
                    for _ in 0..STEPS {
                        for sum in &mut sums {
                            *sum = $step(*sum, factor, factor);
                        }
                    }
                    black_box(sums);
                }
                assert!($(is_x86_feature_detected!($feature))&&+, "this CPU has no such instruction");
                // SAFETY: the CPU has the features.
                unsafe { compiled() };
                ($per_step * CHAINS * STEPS) as f64
            }
        };
    }

    dot!(dot_bf16, ["avx512f", "avx512bf16"], 64, _mm512_setzero_ps(), zeros(), _mm512_dpbf16_ps);
    dot!(dot_i8, ["avx512f", "avx512vnni"], 128, _mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_dpbusd_epi32);
    dot!(dot_i8_256, ["avx2", "avxvnni"], 64, _mm256_setzero_si256(), _mm256_set1_epi8(1), _mm256_dpbusd_avx_epi32);

    /// Steps of four products of tiles, each a chain: as many as the products of `gemm` have.
    macro_rules! tiles {
        ($name:ident, $dot:literal, $per_product:literal) => {
            /// Operations done by a quarter of [`STEPS`] steps; 0 where there is no AMX.
            pub(crate) fn $name() -> f64 {
                let steps = STEPS / 4;
                let Some(amx) = Amx::new() else { return 0.0 };
                let mut tiles = TileRegisters::new(amx);
                // Zeros: the instruction's speed does not depend on its operands.
                tiles.shape(32);
                // SAFETY: the tiles have shapes that fit together.
                unsafe {
                    tile_asm!(
                        "2:",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        concat!($dot, " tmm2, tmm5, tmm6"),
                        concat!($dot, " tmm3, tmm5, tmm7"),
                        "dec {steps}",
                        "jnz 2b",
                        steps = inout(reg) steps => _,
                    );
                }
                ($per_product * 4 * steps) as f64
            }
        };
    }

    tiles!(tiles_bf16, "tdpbf16ps", 16_384);
    tiles!(tiles_i8, "tdpbusd", 32_768);

    /// Thirty-two zeros: the instruction's speed does not depend on its operands.
    fn zeros() -> __m512bh {
        // SAFETY: all-zero bytes are a value of this vector type.
        unsafe { std::mem::zeroed() }
    }

    impl Avx512Bf16 {
        /// Whether `vdpbf16ps` does more in a time than multiply-adds of f32. On the two kinds of CPUs that were tried
        /// it does twice as much or half as much, so a short look is enough. It is taken once.
        pub(crate) fn dot_bf16_pays(self) -> bool {
            static PAYS: OnceLock<bool> = OnceLock::new();
            const RUNS: usize = 5;
            let rate = |burst: &dyn Fn() -> f64| {
                let once = || {
                    let start = Instant::now();
                    burst() / start.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
                };
                // Interruptions can only lower it.
                (0..RUNS).map(|_| once()).fold(0.0, f64::max)
            };
            *PAYS.get_or_init(|| rate(&dot_bf16) > rate(&|| self.wide().run(MulAddChains::<12>)))
        }
    }
}
