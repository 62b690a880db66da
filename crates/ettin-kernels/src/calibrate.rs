//! What this machine could do at best: rates of arithmetic and of reading memory, measured.
//!
//! A benchmark that only knows its own time cannot say whether it is good. These loops do nothing but the operation
//! that bounds a product: multiply-adds that never leave the registers, or reads that are used for nothing else. Every
//! thread of the team takes part at the same time, so clocks and memory are shared as in real work. Rates are the best of
//! several short runs: what else runs on the machine can only lower them.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crate::{
    buffer::Buffer,
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, Team, share},
};

/// The operands of a multiply-add whose peak can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operands {
    /// f32 times f32 onto f32, as the kernels of the instruction set do it.
    F32,
    /// Pairs of bf16 onto f32: AMX `tdpbf16ps` or AVX512-BF16 `vdpbf16ps`.
    Bf16,
    /// Fours of 8-bit integers onto 32 bits: AMX `tdpbusd` or VNNI `vpdpbusd`.
    Int8,
}

impl Operands {
    /// All of them.
    pub const ALL: [Operands; 3] = [Operands::F32, Operands::Bf16, Operands::Int8];

    /// `"f32"`, `"bf16"` or `"int8"`.
    pub fn name(self) -> &'static str {
        match self {
            Operands::F32 => "f32",
            Operands::Bf16 => "bf16",
            Operands::Int8 => "int8",
        }
    }
}

/// Runs of a measurement, of which the best counts.
const RUNS: usize = 5;

/// Length of one run, about: long enough that starting it does not count.
const RUN: Duration = Duration::from_millis(8);

/// Multiply-adds of one chain between two looks at the clock.
const STEPS: usize = 4096;

/// Operations per second (two for each multiply-add) of all threads of `team` together; `None` if `isa`, on this CPU, has
/// no such instruction. Takes about a fifth of a second.
pub fn peak(isa: Isa, team: &Team, operands: Operands) -> Option<f64> {
    let shapes: &[Burst] = match (operands, isa) {
        // How many chains hide the latency depends on the CPU, and how many fit on the registers.
        (Operands::F32, Isa::Avx512 | Isa::Amx) => &[chains_f32::<8>, chains_f32::<12>, chains_f32::<16>],
        (Operands::F32, _) => &[chains_f32::<2>, chains_f32::<4>, chains_f32::<6>],
        #[cfg(target_arch = "x86_64")]
        (Operands::Bf16, Isa::Amx) if isa.supported() => &[x86::tiles_bf16],
        #[cfg(target_arch = "x86_64")]
        (Operands::Int8, Isa::Amx) if isa.supported() => &[x86::tiles_int8],
        #[cfg(target_arch = "x86_64")]
        (Operands::Bf16, Isa::Avx512) if is_x86_feature_detected!("avx512bf16") => &[x86::bf16],
        #[cfg(target_arch = "x86_64")]
        (Operands::Int8, Isa::Avx512) if is_x86_feature_detected!("avx512vnni") => &[x86::int8],
        #[cfg(target_arch = "x86_64")]
        (Operands::Int8, Isa::Avx2) if is_x86_feature_detected!("avxvnni") => &[x86::int8_short],
        _ => return None,
    };
    shapes.iter().map(|burst| best(team, |_| burst(isa))).reduce(f64::max)
}

/// Bytes per second at which all threads of `team` together read `bytes` of memory, each its own part, again and again. A
/// small buffer comes from the caches, as weights do that fit there.
///
/// # Panics
/// If the buffer cannot be allocated.
pub fn read_bandwidth(isa: Isa, team: &Team, bytes: usize) -> f64 {
    let threads = team.threads();
    let mut buffer = Buffer::zeroed((bytes / size_of::<f32>()).max(threads * LANES));
    let lines = buffer.len() / LANES;
    let part = |thread| {
        let lines = share(lines, threads, thread);
        lines.start * LANES..lines.end * LANES
    };
    // Written first, and by the thread that will probably read it: untouched pages are all one page of zeros.
    let shared = Shared::new(&mut buffer);
    team.run(threads, usize::MAX, |thread| {
        // SAFETY: the parts are disjoint.
        unsafe { shared.slice(part(thread)) }.fill(1.0);
    });
    let buffer = &*buffer;
    best(team, |thread| {
        let part = &buffer[part(thread)];
        black_box(isa.run(Read { part }));
        size_of_val(part) as f64
    })
}

/// The environment variable that says whether pairs of bf16 are multiplied by their instruction (`1`) or widened (`0`), where [AVX-512](Isa::Avx512)
/// has it: for tests, and to compare the two. Without it, the faster one is taken.
pub const PAIRS_VARIABLE: &str = "ETTIN_BF16_PAIRS";

/// Whether `vdpbf16ps`, which this CPU must have, does more in a time than multiply-adds of f32: as found on two kinds of CPUs, it does twice as much or
/// half as much, so that a short look is enough, taken once. No result depends on the answer but for sums below the normal numbers (`simd/bf16.rs`).
///
/// # Panics
/// If [`PAIRS_VARIABLE`] says something else.
#[cfg(target_arch = "x86_64")]
pub(crate) fn pairs_pay() -> bool {
    static PAY: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let rate = |burst: Burst| {
        let once = || {
            let start = Instant::now();
            burst(Isa::Avx512) / start.elapsed().as_secs_f64()
        };
        // What interrupts it can only lower it.
        (0..RUNS).map(|_| once()).fold(0.0, f64::max)
    };
    *PAY.get_or_init(|| match std::env::var(PAIRS_VARIABLE).as_deref() {
        Ok("1") => true,
        Ok("0") => false,
        Ok("") | Err(_) => rate(x86::bf16) > rate(chains_f32::<12>),
        Ok(other) => panic!("{PAIRS_VARIABLE} is 0 or 1, not `{other}`"),
    })
}

/// Operations done by one call on one thread.
type Burst = fn(Isa) -> f64;

/// Work per second of all threads, each calling `burst` (which says how much it did) until its time is over.
fn best(team: &Team, burst: impl Fn(usize) -> f64 + Sync) -> f64 {
    let threads = team.threads();
    let run = || {
        let mut work = vec![0.0; threads];
        let shared = Shared::new(&mut work);
        let start = Instant::now();
        team.run(threads, usize::MAX, |thread| {
            let start = Instant::now();
            // SAFETY: every task has its own element.
            let work = unsafe { shared.slice(thread..thread + 1) };
            while start.elapsed() < RUN {
                work[0] += burst(thread);
            }
        });
        // By the time of the whole run: a thread that came late, or did two tasks, must not look like two fast ones.
        let elapsed = start.elapsed().as_secs_f64();
        work.iter().sum::<f64>() / elapsed
    };
    // The first run wakes the threads and raises the clocks.
    (0..=RUNS).map(|_| run()).skip(1).fold(0.0, f64::max)
}

fn chains_f32<const CHAINS: usize>(isa: Isa) -> f64 {
    isa.run(Chains::<CHAINS>);
    (2 * LANES * CHAINS * STEPS) as f64
}

/// `CHAINS` independent chains of [`STEPS`] multiply-adds on vectors.
struct Chains<const CHAINS: usize>;

impl<const CHAINS: usize> Kernel for Chains<CHAINS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
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
    }
}

/// Reads a part of memory, a whole number of vectors.
struct Read<'a> {
    part: &'a [f32],
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        const AHEAD: usize = 4;
        let mut sums = [simd.zero(); AHEAD];
        let (lines, _) = self.part.as_chunks::<LANES>();
        let (groups, rest) = lines.as_chunks::<AHEAD>();
        for group in groups {
            for (sum, line) in sums.iter_mut().zip(group) {
                *sum = simd.add(*sum, simd.load(line));
            }
        }
        for line in rest {
            sums[0] = simd.add(sums[0], simd.load(line));
        }
        let mut total = 0.0;
        for sum in sums {
            total += simd.sum(sum);
        }
        total
    }
}

/// The dot-product instructions of x86, which no kernel token stands for.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    use super::{Isa, STEPS};
    use crate::simd::{Amx, TileRegisters, tile_asm};

    /// Chains that hide the latency of these instructions on every CPU that has them, and fit on its registers.
    const CHAINS: usize = 12;

    macro_rules! burst {
        ($name:ident, $features:literal, $per_step:literal, $zero:expr, $factor:expr, $step:ident) => {
            /// Operations done by [`STEPS`] steps of every chain; only called where the CPU has the instruction.
            pub(super) fn $name(_: Isa) -> f64 {
                #[target_feature(enable = $features)]
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
                // SAFETY: `peak` calls this only after asking the CPU for the features.
                unsafe { compiled() };
                ($per_step * CHAINS * STEPS) as f64
            }
        };
    }

    burst!(bf16, "avx512f,avx512bf16", 64, _mm512_setzero_ps(), zeros(), _mm512_dpbf16_ps);
    burst!(int8, "avx512f,avx512vnni", 128, _mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_dpbusd_epi32);
    burst!(int8_short, "avx2,avxvnni", 64, _mm256_setzero_si256(), _mm256_set1_epi8(1), _mm256_dpbusd_avx_epi32);

    /// Steps of four products of tiles, each a chain: as many as the products of `gemm` have.
    macro_rules! tile_burst {
        ($name:ident, $dot:literal, $per_product:literal) => {
            /// Operations done by a quarter of [`STEPS`] steps; only called where there is AMX.
            pub(super) fn $name(_: Isa) -> f64 {
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

    tile_burst!(tiles_bf16, "tdpbf16ps", 16_384);
    tile_burst!(tiles_int8, "tdpbusd", 32_768);

    /// Thirty-two zeros: the instruction's speed does not depend on its operands.
    fn zeros() -> __m512bh {
        // SAFETY: all-zero bytes are a value of this vector type.
        unsafe { std::mem::zeroed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Rates themselves are not tested: they depend on what else the machine does.

    #[test]
    fn peaks_exist_where_the_cpu_has_the_instruction() {
        let team = Team::single();
        for isa in Isa::available() {
            assert!(peak(isa, &team, Operands::F32).is_some_and(|rate| rate > 1e6), "{isa}");
            let narrow = [Operands::Bf16, Operands::Int8].map(|operands| peak(isa, &team, operands));
            assert!(isa != Isa::Amx || narrow.iter().all(|rate| rate.is_some_and(|rate| rate > 1e6)), "{narrow:?}");
        }
        assert_eq!(peak(Isa::Portable, &team, Operands::Bf16), None);
        assert_eq!(peak(Isa::Portable, &team, Operands::Int8), None);
    }

    #[test]
    fn all_of_the_buffer_is_read_once() {
        for isa in Isa::available() {
            for lines in [0, 1, 3, 4, 5, 11] {
                let part: Vec<f32> = (0..lines * LANES).map(|i| i as f32).collect();
                let n = part.len() as f32;
                assert_eq!(isa.run(Read { part: &part }), n * (n - 1.0).max(0.0) / 2.0, "{isa} {lines}");
            }
        }
    }

    #[test]
    fn a_rate_is_that_of_all_threads() {
        let team = Team::with_threads(2).unwrap();
        // Each burst says that it did as many units as it took nanoseconds.
        let rate = best(&team, |_| {
            let start = Instant::now();
            std::thread::sleep(Duration::from_millis(2));
            start.elapsed().as_nanos() as f64
        });
        assert!((1.6e9..=2.0e9).contains(&rate), "{rate}");
    }

    #[test]
    fn small_buffers_can_be_read_too() {
        for bytes in [0, 100, 1 << 16] {
            assert!(read_bandwidth(Isa::best(), &Team::with_threads(2).unwrap(), bytes) > 1e6);
        }
    }
}
