//! Deterministic kernels for transformer inference on CPUs, on plain slices.
//!
//! # Structure
//! From the ground up; a module uses those before it:
//!
//! * `simd`: sixteen f32 lanes and dot products of narrow numbers on every instruction set, behind a token that proves
//!   what the CPU can do; `math` and `transpose` build on lanes alone.
//! * [`Isa`] names an instruction set, finds the best one of this CPU (`ETTIN_ISA` forces another), and runs a kernel
//!   on it.
//! * [`Team`] owns threads; every parallel kernel takes one. `buffer`, `arena` and `pages` own memory, [`mapped`]
//!   files.
//! * [`norm`], [`activation`], [`rope`](mod@rope), [`pool`](mod@pool), [`vocabulary`] and [`embedding`] work
//!   row by row.
//! * [`gemm`](mod@gemm) multiplies with packed weights; [`attention`](mod@attention) attends to stored keys and values.
//! * [`maxsim`] scores documents of many vectors.
//! * [`block`] fuses them into the two halves of a layer.
//! * [`roofline`] measures the highest rates of the machine.
//!
//! A kernel is written once, generic over the token, and compiled once for each instruction set. Intrinsics stand in
//! `simd` alone. AMX has none yet: its instructions stand in `asm!`, in `simd/amx.rs`, `simd/throughput.rs`, `gemm/amx`
//! and `attention/amx`. The other `unsafe` is pointer arithmetic of the two register tiles, disjoint writes of tasks,
//! and file maps.
//!
//! # Invariance
//! Each output element is computed by one fixed sequence of operations. It depends on the element's own inputs, on
//! constants ([`gemm::K_BLOCK`], [`attention::KEY_BLOCK`], sixteen lanes) and on whether the instruction set fuses
//! multiply and add. It never depends on the number of rows, neighbours, chunks, tiles or threads. So one row equals
//! 4096 rows bit for bit, and so do AVX2, AVX-512 and NEON. Two agree with these within tolerance only: the portable
//! path rounds twice where they round once, and AMX sums products of bf16 in another order. Where a tile shape or a cut
//! between tasks is chosen, it only decides
//! *where* an element is computed. Tests hold all of it with `==`.
//!
//! # Panics
//! A kernel panics if the CPU lacks the [`Isa`] that it is to run on. [`Isa::select`], [`Isa::best`] and
//! [`Isa::available`] never give one; [`Isa::supported`] asks.
//!
//! # Adding an instruction set
//! 1. A variant of [`Isa`] at its place in the order of preference, with its detection and dispatch in `isa.rs`.
//! 2. A token in `simd/` whose constructor asks the CPU, implementing `Lanes` (sixteen lanes, however many registers)
//!    and `LowPrecisionDot` (narrow numbers), listed in `TaskOnAny`.
//! 3. Its tile shapes: one line in `gemm/tile.rs` and one in `attention/register_tile.rs`.
//!
//! ([`Isa::Amx`] has no token of its own: it takes the vectors of AVX-512, and products of narrow numbers from
//! `gemm/amx.rs`.)
//!
//! Every test then runs on it; `ETTIN_REQUIRE_ISA=avx512,avx2` makes a skipped one fail.

pub mod activation;
mod arena;
pub mod attention;
pub mod block;
mod buffer;
pub mod embedding;
pub mod gemm;
mod isa;
pub mod mapped;
mod math;
pub mod maxsim;
pub mod norm;
mod pages;
pub mod pool;
pub mod roofline;
pub mod rope;
mod simd;
mod team;
pub mod testing;
mod transpose;
pub mod vocabulary;

pub use activation::{Activation, activate};
pub use attention::{
    Attention, KEY_BLOCK, KvBlocks, KvFormat, KvHeads, KvRows, KvWrite, Precision, Sequence, Span, attention,
};
pub use buffer::{Aligned, recycled};
pub use embedding::embed;
pub use gemm::{
    PackedActivations, PackedWeight, Quantization, QuantizedRow, ReadingOrder, Scheme, Sharing, Store, gemm, rounded,
};
pub use isa::{BF16_DOT_VARIABLE, ISA_VARIABLE, Isa, IsaError};
pub use mapped::MappedFile;
pub use math::EXP_ERROR;
pub use maxsim::{DocumentVectors, EMPTY_DOCUMENT_SCORE, MaxSimQueries, max_sim};
pub use norm::{Norm, layer_norm};
pub use pool::{Pooled, Reduce, pool};
pub use rope::{RopeRows, RopeTable, rope};
pub use team::{MAX_THREADS, Team, TeamError};
