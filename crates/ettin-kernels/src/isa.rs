//! Which instruction set runs: detection, the `ETTIN_ISA` override, and the one place where a kernel meets a CPU.

use std::{env, fmt, str::FromStr};

use crate::simd::{Lanes, Portable, TaskOnAny};

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "ETTIN_ISA";

/// The environment variable that says whether pairs of bf16 are multiplied by their instruction (`1`) or widened (`0`),
/// where [AVX-512](Isa::Avx512) has it: for tests, and to compare the two. Without it, the faster one is taken.
pub const BF16_DOT_VARIABLE: &str = "ETTIN_BF16_PAIRS";

/// An instruction set with its own kernels, ordered from the slowest to the most preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, separate multiply and add; runs everywhere.
    Portable,
    /// aarch64 Advanced SIMD.
    Neon,
    /// x86-64 AVX2 with FMA.
    Avx2,
    /// x86-64 AVX-512F.
    Avx512,
    /// x86-64 AMX for products of bf16 and of bytes; AVX-512 with BF16 and VNNI for everything else.
    Amx,
}

impl Isa {
    /// Every instruction set this crate knows, slowest first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The instruction sets this CPU runs, best first; the last is always [`Isa::Portable`].
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().rev().filter(|isa| isa.supported()).collect()
    }

    /// The most preferred instruction set of this CPU.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.supported()).unwrap_or(Isa::Portable)
    }

    /// The instruction set to run: [`Isa::best`], or the one that `ETTIN_ISA` names.
    ///
    /// # Errors
    /// If `ETTIN_ISA` names no instruction set, or one that this CPU lacks: never a silent fallback.
    pub fn select() -> Result<Isa, IsaError> {
        match env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => Isa::forced(&name),
            Ok(_) | Err(env::VarError::NotPresent) => Ok(Isa::best()),
            Err(env::VarError::NotUnicode(name)) => Err(IsaError::Unknown(name.to_string_lossy().into_owned())),
        }
    }

    /// The instruction set called `name`, if this CPU runs it.
    ///
    /// # Errors
    /// As [`Isa::select`].
    pub fn forced(name: &str) -> Result<Isa, IsaError> {
        let isa: Isa = name.parse()?;
        if isa.supported() { Ok(isa) } else { Err(IsaError::Unsupported(isa)) }
    }

    /// Whether this CPU runs it.
    pub fn supported(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => crate::simd::Neon::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => crate::simd::Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::simd::Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => crate::simd::Amx::new().is_some(),
            #[allow(unreachable_patterns)] // the arms above depend on the architecture
            _ => false,
        }
    }

    /// Whether its kernels multiply and add with one rounding. All that do agree bit for bit, but for products of bf16
    /// on [`Isa::Amx`], which adds in an order of its own, and for [`Scheme::W8`](crate::Scheme::W8) and
    /// [`Scheme::W4`](crate::Scheme::W4), which are computed in another way where a CPU has VNNI.
    pub fn has_fma(self) -> bool {
        self != Isa::Portable
    }

    /// Whether [`Isa::run_low_precision`] has an instruction for products of four bytes.
    pub(crate) fn has_dot_i8(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::simd::Avx512Bf16::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => true,
            _ => false,
        }
    }

    /// Whether [`Isa::run_low_precision`] has an instruction for products of pairs of bf16 that is worth using: on some
    /// CPUs it takes as long as four multiply-adds, of which two do the same on widened numbers.
    pub(crate) fn has_fast_dot_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::simd::Avx512Bf16::new().is_some_and(dot_bf16_chosen),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => true,
            _ => false,
        }
    }

    /// Runs `task` compiled for this instruction set: a [`Kernel`](crate::simd::Kernel), or a task that asks tokens for
    /// more.
    ///
    /// # Panics
    /// If the CPU lacks it: a value from [`Isa::select`], [`Isa::best`] or [`Isa::available`] never does.
    pub(crate) fn run<Output>(self, task: impl TaskOnAny<Output>) -> Output {
        match self {
            Isa::Portable => Portable.run(task),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => crate::simd::Neon::new().unwrap_or_else(|| unsupported(self)).run(task),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => crate::simd::Avx2::new().unwrap_or_else(|| unsupported(self)).run(task),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::simd::Avx512::new().unwrap_or_else(|| unsupported(self)).run(task),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => crate::simd::Amx::new().unwrap_or_else(|| unsupported(self)).wide().run(task),
            #[allow(unreachable_patterns)] // the arms above depend on the architecture
            _ => unsupported(self),
        }
    }

    /// As [`Isa::run`], with the instructions for products of bf16 and of bytes where the CPU has them: for tasks of
    /// those, which give the same results without (`simd/bf16.rs`).
    pub(crate) fn run_low_precision<Output>(self, task: impl TaskOnAny<Output>) -> Output {
        #[cfg(target_arch = "x86_64")]
        match self {
            Isa::Avx512 if let Some(token) = crate::simd::Avx512Bf16::new() => return token.run(task),
            Isa::Amx if let Some(token) = crate::simd::Amx::new() => return token.narrow().run(task),
            _ => {}
        }
        self.run(task)
    }
}

/// Whether bf16 is multiplied by its own instruction on [`Isa::Avx512`]: as [`BF16_DOT_VARIABLE`] says, or if that is
/// faster. No result depends on the answer but for sums below the normal numbers (`simd/bf16.rs`).
///
/// # Panics
/// If the variable is neither `0` nor `1`.
#[cfg(target_arch = "x86_64")]
fn dot_bf16_chosen(token: crate::simd::Avx512Bf16) -> bool {
    static CHOSEN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| match env::var(BF16_DOT_VARIABLE).as_deref() {
        Ok("1") => true,
        Ok("0") => false,
        Ok("") | Err(_) => token.dot_bf16_pays(),
        Ok(other) => panic!("{BF16_DOT_VARIABLE} is 0 or 1, not `{other}`"),
    })
}

#[cold]
fn unsupported(isa: Isa) -> ! {
    panic!("{}", IsaError::Unsupported(isa))
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        })
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        Isa::ALL.into_iter().find(|isa| isa.to_string() == name).ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

/// Why an instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No instruction set has this name.
    Unknown(String),
    /// This CPU lacks it.
    Unsupported(Isa),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |list: &[Isa]| list.iter().map(Isa::to_string).collect::<Vec<_>>().join(", ");
        match self {
            IsaError::Unknown(name) => {
                write!(f, "unknown instruction set `{name}` ({ISA_VARIABLE} takes {})", names(&Isa::ALL))
            }
            IsaError::Unsupported(isa) => {
                write!(f, "this CPU does not support `{isa}` (it runs {})", names(&Isa::available()))
            }
        }
    }
}

impl std::error::Error for IsaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert_eq!("AVX2".parse::<Isa>(), Err(IsaError::Unknown("AVX2".into())));
    }

    #[test]
    fn available_is_best_first_and_ends_portable() {
        let available = Isa::available();
        assert!(available.is_sorted_by(|a, b| a > b));
        assert_eq!(available.first(), Some(&Isa::best()));
        assert_eq!(available.last(), Some(&Isa::Portable));
    }

    #[test]
    fn a_forced_isa_is_taken_or_refused_by_name() {
        for isa in Isa::ALL {
            let forced = Isa::forced(&isa.to_string());
            if isa.supported() {
                assert_eq!(forced, Ok(isa));
            } else {
                assert!(forced.unwrap_err().to_string().contains(&isa.to_string()));
            }
        }
        assert!(Isa::forced("sse9").unwrap_err().to_string().contains("sse9"));
    }
}
