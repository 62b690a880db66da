//! Sixteen f32 lanes on every instruction set, behind a capability token.
//!
//! # Lanes
//! A vector holds [`LANES`] = 16 numbers, its *lanes*. [`Lanes`] is the trait of the operations on them: most work on
//! each lane by itself (`add`, `mul_add`, `max`), some across lanes (`sum`, `zip`). Sixteen lanes are one register of
//! AVX-512, two of AVX2 and four of NEON. They are sixteen everywhere, so a reduction across lanes has one order
//! everywhere, and instruction sets that fuse multiply and add agree bit for bit. [`LowPrecisionDot`] adds dot products
//! of bf16 and of bytes.
//!
//! # Tokens
//! A token ([`Portable`], `Avx2`, `Avx512`, `Avx512Bf16`, `Neon`) is a value of size zero that proves an instruction
//! set: its constructor asks the CPU, and there is no other way to have one. So the operations are methods of the token
//! and safe to call. The safety argument of every intrinsic in this module is "the token exists".
//!
//! # Kernels and tasks
//! A [`Kernel`] is a computation written once, generic over the token. [`Lanes::run`] compiles it once for each
//! instruction set, inside a `#[target_feature]` function. Kernels and the functions they call are `#[inline(always)]`:
//! code that is not inlined into that function is compiled for the baseline CPU, with a call for every operation. For
//! the same reason no closure handles lanes, or calls a function that does: closures cannot be told to inline. (`nm` on
//! a release binary shows no `core_arch` symbol when all is well.)
//!
//! A computation that asks a token for more than lanes is a [`Task`]. The shapes of register tiles are such a thing:
//! they are traits of the modules that multiply, implemented for the tokens there. This module, `math` and `transpose`
//! know nothing of the kernels above them; a test in this module reads their imports.
//!
//! # Example
//! The polynomial x² + 3x of every element of a slice, of any length, and the sum of the results:
//!
//! ```ignore
#![doc = include_str!("example.rs")]
//! ```

#[cfg(target_arch = "x86_64")]
mod amx;
mod bf16;
#[cfg(test)]
mod example;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub(crate) mod throughput;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{Amx, TileRegisters, tile_asm};
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::Avx512Bf16;
pub(crate) use bf16::{LowPrecisionDot, round as round_bf16};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Lanes of a vector, on every instruction set.
pub(crate) const LANES: usize = 16;

/// Everything that a token offers: lanes, and products of narrow numbers on them.
pub(crate) trait Simd: LowPrecisionDot {}
impl<S: LowPrecisionDot> Simd for S {}

/// A computation written once for all instruction sets, from what every token offers.
pub(crate) trait Kernel {
    type Output;

    /// Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A computation on the token `S`, which [`Lanes::run`] compiles.
///
/// Every [`Kernel`] is a task for every token. A computation that asks a token for more than lanes implements this
/// trait itself, for the tokens that have it: `impl<S: Tiles> Task<S> for …`.
pub(crate) trait Task<S> {
    type Output;

    /// Implementations are `#[inline(always)]`.
    fn run(self, simd: S) -> Self::Output;
}

impl<S: Simd, K: Kernel> Task<S> for K {
    type Output = K::Output;

    #[inline(always)]
    fn run(self, simd: S) -> K::Output {
        Kernel::run(self, simd)
    }
}

/// Declares [`TaskOnAny`] for the tokens of this architecture.
macro_rules! task_on_any {
    ($($token:ty),+) => {
        /// A task for whichever token the CPU allows.
        pub(crate) trait TaskOnAny<Output>: $(Task<$token, Output = Output> +)+ {}
        impl<Output, T: $(Task<$token, Output = Output> +)+> TaskOnAny<Output> for T {}
    };
}

#[cfg(target_arch = "x86_64")]
task_on_any!(Portable, Avx2, Avx512, Avx512Bf16);
#[cfg(target_arch = "aarch64")]
task_on_any!(Portable, Neon);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
task_on_any!(Portable);

/// Operations on sixteen f32 lanes.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// Sixteen lanes.
    type V: Copy;

    /// Runs `task` compiled for this instruction set.
    fn run<T: Task<Self>>(self, task: T) -> T::Output;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, one rounding where the instruction set fuses, two in [`Portable`].
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: a NaN in either gives `b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: a NaN in either gives `b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { then } else { otherwise }`.
    fn where_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// `v · 2^n` for integral `n` in −252..=254, rounded once (results may be subnormal or infinite).
    fn scale(self, v: Self::V, n: Self::V) -> Self::V;
    /// `v · 2^n` for integral `n` in −126..=127. Any other `n`, NaN too, gives any number, or NaN for a `v` that is
    /// NaN.
    fn scale_normal(self, v: Self::V, n: Self::V) -> Self::V;
    /// The lanes of two vectors by turns, `a` first: those of their lower halves, then of their upper.
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// Sum of the lanes: lane i with i+8, then i+4, i+2, i+1.
    fn sum(self, v: Self::V) -> f32;
    /// Largest lane, in the order of [`Lanes::sum`].
    fn largest(self, v: Self::V) -> f32;
    /// Hints that the cache line at `p` is read soon; any address is allowed.
    fn prefetch(self, p: *const f32);
    /// The same, into L2 alone where the CPU knows the difference.
    #[inline(always)]
    fn prefetch_to_l2(self, p: *const f32) {
        self.prefetch(p);
    }

    /// Up to sixteen lanes; the rest are zero.
    ///
    /// # Panics
    /// If `x` is longer than a vector.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        if let Ok(x) = x.try_into() {
            return self.load(x);
        }
        let mut lanes = [0.0; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Stores the first `out.len()` lanes.
    ///
    /// # Panics
    /// If `out` is longer than a vector.
    #[inline(always)]
    fn store_part(self, v: Self::V, out: &mut [f32]) {
        if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
            return self.store(v, out);
        }
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }

    /// Sixteen signed bytes.
    #[inline(always)]
    fn widen_signed(self, bytes: &[i8; LANES]) -> Self::V {
        let mut lanes = [0.0; LANES];
        for (lane, &byte) in lanes.iter_mut().zip(bytes) {
            *lane = f32::from(byte);
        }
        self.load(&lanes)
    }

    /// Four bits of each of sixteen words, less 8: the `index`-th four from the lowest on.
    #[inline(always)]
    fn widen_nibbles(self, words: &[u32; LANES], index: usize) -> Self::V {
        let mut lanes = [0.0; LANES];
        for (lane, &word) in lanes.iter_mut().zip(words) {
            *lane = ((word >> (4 * index) & 15) as i32 - 8) as f32;
        }
        self.load(&lanes)
    }

    /// Sixteen bf16, the even ones in the lower halves of the words.
    #[inline(always)]
    fn widen_halves(self, words: &[u32; LANES / 2]) -> Self::V {
        let mut lanes = [0.0; LANES];
        for (lanes, word) in lanes.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            *lanes = [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
        }
        self.load(&lanes)
    }

    /// `x − ⌊x⌋` for |x| < 2²²; for any other `x` a number from 0 to 1, or NaN.
    #[inline(always)]
    fn fraction(self, x: Self::V) -> Self::V {
        self.sub(x, floor(self, x))
    }

    /// `v · 2^⌊x⌋` for `x` in −126..=127, 0 below whatever `v` is, and NaN where both are NaN.
    #[inline(always)]
    fn scale_floor(self, v: Self::V, x: Self::V) -> Self::V {
        self.where_less(x, self.splat(-126.0), self.zero(), self.scale_normal(v, floor(self, x)))
    }

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
}

/// ⌊x⌋ for |x| < 2²².
#[inline(always)]
fn floor<S: Lanes>(s: S, x: S::V) -> S::V {
    // Adding 1.5 · 2²³ rounds to the nearest integer.
    let rounder = s.splat(12_582_912.0);
    let nearest = s.sub(s.add(x, rounder), rounder);
    s.where_less(x, nearest, s.sub(nearest, s.splat(1.0)), nearest)
}

/// The vector of `x` that begins at `start`.
///
/// # Panics
/// If `x` ends before it.
#[inline(always)]
pub(crate) fn vector(x: &[f32], start: usize) -> &[f32; LANES] {
    x[start..].first_chunk().expect("whole vectors")
}

/// As [`vector`], to be written.
#[inline(always)]
pub(crate) fn vector_mut(x: &mut [f32], start: usize) -> &mut [f32; LANES] {
    x[start..].first_chunk_mut().expect("whole vectors")
}

#[cfg(test)]
mod tests {
    /// Files below all kernels, and the modules that each may use of this crate, in which tests do not count.
    const GROUND_FLOOR: [(&str, &[&str]); 3] =
        [("simd", &["simd"]), ("math.rs", &["simd"]), ("transpose.rs", &["simd"])];

    /// Without this, the lanes could not be read, tested or published without the kernels.
    #[test]
    fn the_lanes_know_nothing_of_the_kernels_above_them() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut read = 0;
        for (place, allowed) in GROUND_FLOOR {
            for file in files(&source.join(place)) {
                let text = std::fs::read_to_string(&file).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                for (line, imported) in text.lines().filter_map(|line| Some((line, line.split_once("crate::")?.1))) {
                    let known = allowed.iter().any(|module| imported.starts_with(module)) || line.contains("//");
                    assert!(known, "{}: `{}`", file.display(), line.trim());
                }
                // A list would hide names from the search above.
                assert!(!text.contains("crate::{"), "{}: one import a line", file.display());
                read += 1;
            }
        }
        assert!(read > 10, "{read} files");
    }

    /// A file, or those of a folder and its folders, but for tests.
    fn files(path: &std::path::Path) -> Vec<std::path::PathBuf> {
        if path.is_file() {
            return vec![path.to_owned()];
        }
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| !path.ends_with("tests.rs")).flat_map(|path| files(&path)).collect()
    }
}
