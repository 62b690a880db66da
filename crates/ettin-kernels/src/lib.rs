//! Deterministic f32 kernels for transformer inference on CPUs, on plain slices.
//!
//! # Structure
//! * [`Isa`] names an instruction set and finds the best one of this CPU (`ETTIN_ISA` forces another).
//! * [`Team`] owns threads; every parallel kernel takes one.
//! * [`gemm`](mod@gemm), [`attention`](mod@attention), [`embedding`], [`norm`], [`activation`], [`rope`](mod@rope), [`pool`](mod@pool) and
//!   [`softmax`](mod@softmax) are the kernels;
//!   [`convert`] and [`mapped`] bring weights in; [`roofline`] measures what the machine could do at best.
//! * A kernel is written once, generic over a token that proves what the CPU can do (`simd`), and compiled once for
//!   each instruction set. Only `simd` names intrinsics (AMX has none yet: its instructions stand in `asm!`, in `simd/amx.rs`,
//!   `simd/throughput.rs`, `gemm/amx/chain.rs` and `attention/tiles`); the other `unsafe` is pointer arithmetic of the two register tiles, disjoint writes
//!   of tasks, and file maps.
//!
//! # Invariance
//! Each output element is computed by one fixed sequence of operations. It depends on the element's own inputs, on
//! constants ([`gemm::K_BLOCK`], [`attention::KEY_BLOCK`], sixteen lanes) and on whether the instruction set fuses multiply and add;
//! never on the number of rows, neighbours, chunks, tiles or threads. So one row equals 4096 rows bit for bit, and so
//! do AVX2, AVX-512 and NEON; the portable path rounds twice where they round once and agrees within tolerance, and products of
//! bf16 on AMX are summed in another order and do too.
//! Where a tile shape or a cut between tasks is chosen, it only decides *where* an element is computed. Tests hold all
//! of it with `==`.
//!
//! # Adding an instruction set
//! 1. A variant of [`Isa`] at its place in the order of preference, with its detection and dispatch in `isa.rs`.
//! 2. A token in `simd/` whose constructor asks the CPU, implementing `Lanes` (sixteen lanes, however many registers) and
//!    `LowPrecisionDot` (narrow numbers).
//! 3. Its tile shapes: one line in `gemm/tile.rs` and one in `attention/products.rs`.
//!
//! ([`Isa::Amx`] is none of its own: it takes the vectors of AVX-512, and products of narrow numbers from `gemm/amx.rs`.)
//!
//! Every test then runs on it; `ETTIN_REQUIRE_ISA=avx512,avx2` makes a skipped one fail.

pub mod activation;
mod arena;
pub mod attention;
pub mod block;
mod buffer;
pub mod convert;
pub mod embedding;
pub mod gemm;
mod isa;
pub mod mapped;
mod math;
pub mod norm;
mod pages;
pub mod pool;
pub mod roofline;
pub mod rope;
mod simd;
pub mod softmax;
mod team;
pub mod testing;
mod transpose;

pub use activation::{Activation, activate, geglu};
pub use attention::{
    Attention, KEY_BLOCK, KvBlocks, KvFormat, KvHeads, KvRows, KvWrite, Out, Precision, Sequence, Span, attention,
};
pub use buffer::{Aligned, recycled};
pub use convert::{Half, widen};
pub use embedding::embed;
pub use gemm::{
    Operand, PackedMatrix, Quantisation, QuantisedRow, ReadingOrder, Scheme, Sharing, Store, gemm, rounded,
};
pub use isa::{BF16_DOT_VARIABLE, ISA_VARIABLE, Isa, IsaError};
pub use mapped::MappedFile;
pub use math::EXP_ERROR;
pub use norm::{Norm, layer_norm};
pub use pool::{Pooled, Reduce, pool};
pub use rope::{RopeRows, RopeTable, rope};
pub use softmax::{log_softmax, log_sum_exp, softmax, top_k};
pub use team::{Team, TeamError};
