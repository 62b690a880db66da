//! The roofline of this machine, measured: its highest rates of arithmetic and of reading memory.
//!
//! A benchmark that only knows its own time cannot say whether it is good. These loops do nothing but the operation
//! that bounds a product: multiply-adds that never leave the registers, or reads that are used for nothing else. Every
//! thread of the team takes part at the same time, so clocks and memory are shared as in real work. Rates are the best
//! of several short runs: other programs can only lower them.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

#[cfg(target_arch = "x86_64")]
use crate::simd::throughput::x86;
use crate::{
    buffer::Buffer,
    isa::Isa,
    simd::{Kernel, LANES, Simd, throughput::MulAddChains},
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

/// Operations per second (two for each multiply-add) of all threads of `team` together; `None` if `isa`, on this CPU,
/// has no such instruction. Takes about a fifth of a second.
pub fn peak(isa: Isa, team: &Team, operands: Operands) -> Option<f64> {
    let shapes: &[Burst] = match (operands, isa) {
        // How many chains hide the latency depends on the CPU, and how many fit on the registers.
        (Operands::F32, Isa::Avx512 | Isa::Amx) => &[chains_f32::<8>, chains_f32::<12>, chains_f32::<16>],
        (Operands::F32, _) => &[chains_f32::<2>, chains_f32::<4>, chains_f32::<6>],
        #[cfg(target_arch = "x86_64")]
        (Operands::Bf16, Isa::Amx) if isa.supported() => &[|_| x86::tiles_bf16()],
        #[cfg(target_arch = "x86_64")]
        (Operands::Int8, Isa::Amx) if isa.supported() => &[|_| x86::tiles_i8()],
        #[cfg(target_arch = "x86_64")]
        (Operands::Bf16, Isa::Avx512) if is_x86_feature_detected!("avx512bf16") => &[|_| x86::dot_bf16()],
        #[cfg(target_arch = "x86_64")]
        (Operands::Int8, Isa::Avx512) if is_x86_feature_detected!("avx512vnni") => &[|_| x86::dot_i8()],
        #[cfg(target_arch = "x86_64")]
        (Operands::Int8, Isa::Avx2) if is_x86_feature_detected!("avxvnni") => &[|_| x86::dot_i8_256()],
        _ => return None,
    };
    shapes.iter().map(|burst| best(team, |_| burst(isa))).reduce(f64::max)
}

/// Bytes per second at which all threads of `team` together read `bytes` of memory, each its own part, again and again.
/// A small buffer comes from the caches, as weights do that fit there.
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
    isa.run(MulAddChains::<CHAINS>)
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
