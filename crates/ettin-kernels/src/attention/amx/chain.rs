//! The products of tiles that attention needs: up to 32 rows by 32 columns, in four tiles of sums.

use crate::simd::{LANES, TileRegisters, tile_asm};

/// Columns of a product.
pub(super) const COLUMNS: usize = 2 * LANES;

/// `out[r][c] = start + Σ a[r]·b[c]`: one chain per element, that adds the products of 32 elements a step. Strides are
/// in words of 32 bits.
pub(super) struct TileChain<'a> {
    /// Rows of pairs of bf16, sixteen words a step.
    pub a: *const f32,
    pub a_stride: usize,
    /// Where each step's sixteen rows of pairs are, one pair of each of 32 columns.
    pub b: &'a [*const f32],
    pub b_stride: usize,
    /// Rows of 32 sums.
    pub out: *mut f32,
    pub out_stride: usize,
    /// Whether sums start from what `out` holds, or else from zero.
    pub goes_on: bool,
}

impl TileChain<'_> {
    /// Runs it for as many rows as the tiles are shaped for: one tile of rows, or two.
    ///
    /// # Safety `tiles` must be shaped: for 32 rows if `two`, else for at most sixteen. `a` must be readable for these
    /// rows and all steps, each of `b` for sixteen rows of 32 words; `out` must be writable for the rows, unaliased,
    /// and filled if the chain goes on.
    #[inline(always)]
    pub unsafe fn run(self, _: &TileRegisters, two: bool) {
        if self.b.is_empty() {
            return;
        }
        // SAFETY: the caller's promise; there is a step.
        unsafe {
            match (two, self.goes_on) {
                (true, true) => two_on(self),
                (true, false) => two_fresh(self),
                (false, true) => one_on(self),
                (false, false) => one_fresh(self),
            }
        }
    }
}

macro_rules! chain {
    ($name:ident, [$($start:literal),+], [$($step:literal),+], [$($store:literal),+]) => {
        /// # Safety
        /// As [`TileChain::run`], with at least one step.
        #[inline(always)]
        unsafe fn $name(chain: TileChain<'_>) {
            // SAFETY: the caller's promise.
            unsafe {
                tile_asm!(
                    $($start,)+
                    "2:",
                    "mov {b}, [{list}]",
                    "add {list}, 8",
                    $($step,)+
                    "add {a}, 64",
                    "add {second_a}, 64",
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)+
                    a = inout(reg) chain.a => _,
                    second_a = inout(reg) chain.a.wrapping_add(LANES * chain.a_stride) => _,
                    a_stride = in(reg) 4 * chain.a_stride,
                    list = inout(reg) chain.b.as_ptr() => _,
                    steps = inout(reg) chain.b.len() => _,
                    b = out(reg) _,
                    b_stride = in(reg) 4 * chain.b_stride,
                    out = in(reg) chain.out,
                    out_stride = in(reg) 4 * chain.out_stride,
                )
            }
        }
    };
}

macro_rules! chain_of_two {
    ($name:ident, [$($start:literal),+]) => {
        chain!(
            $name,
            [$($start),+],
            [
                "tileloadd tmm4, [{a} + {a_stride}*1]",
                "tileloaddt1 tmm6, [{b} + {b_stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {b_stride}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{second_a} + {a_stride}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7"
            ],
            [
                "tilestored [{out} + {out_stride}*1], tmm0",
                "tilestored [{out} + {out_stride}*1 + 64], tmm1",
                "mov {b}, {out_stride}",
                "shl {b}, 4",
                "add {b}, {out}",
                "tilestored [{b} + {out_stride}*1], tmm2",
                "tilestored [{b} + {out_stride}*1 + 64], tmm3"
            ]
        );
    };
}

macro_rules! chain_of_one {
    ($name:ident, [$($start:literal),+]) => {
        chain!(
            $name,
            [$($start),+],
            [
                "tileloadd tmm4, [{a} + {a_stride}*1]",
                "tileloaddt1 tmm6, [{b} + {b_stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b} + {b_stride}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7"
            ],
            ["tilestored [{out} + {out_stride}*1], tmm0", "tilestored [{out} + {out_stride}*1 + 64], tmm1"]
        );
    };
}

chain_of_two!(two_fresh, ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"]);
chain_of_two!(
    two_on,
    [
        "tileloadd tmm0, [{out} + {out_stride}*1]",
        "tileloadd tmm1, [{out} + {out_stride}*1 + 64]",
        "mov {b}, {out_stride}",
        "shl {b}, 4",
        "add {b}, {out}",
        "tileloadd tmm2, [{b} + {out_stride}*1]",
        "tileloadd tmm3, [{b} + {out_stride}*1 + 64]"
    ]
);
chain_of_one!(one_fresh, ["tilezero tmm0", "tilezero tmm1"]);
chain_of_one!(one_on, ["tileloadd tmm0, [{out} + {out_stride}*1]", "tileloadd tmm1, [{out} + {out_stride}*1 + 64]"]);

/// Scores of 32 queries of 64 elements: the same chains, of two steps. They are too short for [`TileChain`], where a
/// chain's first loads wait behind the stores of the chain before.
pub(super) struct QueryPair<'t> {
    #[expect(dead_code, reason = "it proves that there are tiles")]
    pub registers: &'t TileRegisters,
    /// `[32, 32]` words.
    pub queries: *const f32,
    /// Rows of 32 scores of a block.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl QueryPair<'_> {
    /// The scores of a block of keys, `[32, 32]` words. The queries stay in four tiles from the first block on; sixteen
    /// keys are in two, and those that come next, of this block or the next one, are loaded before scores are stored.
    ///
    /// # Safety
    /// Tiles must be shaped for 32 rows, and not be used for anything else between a first block and those
    /// that follow, whose keys must be those that the block before was given as next. Queries and keys must be
    /// readable; `out` must be writable for 32 rows, unaliased.
    #[inline(always)]
    pub unsafe fn scores(self, first: bool, keys: *const f32, next: Option<*const f32>) {
        let Self { queries, out, out_stride, .. } = self;
        // SAFETY: the caller's promise.
        unsafe {
            if first {
                tile_asm!(
                    "tileloadd tmm4, [{queries} + {stride}*1]",
                    "tileloadd tmm5, [{queries} + {stride}*1 + 2048]",
                    "tileloadd tmm6, [{queries} + {stride}*1 + 64]",
                    "tileloadd tmm7, [{queries} + {stride}*1 + 2112]",
                    "tileloaddt1 tmm2, [{keys} + {stride}*1]",
                    "tileloaddt1 tmm3, [{keys} + {stride}*1 + 2048]",
                    queries = in(reg) queries,
                    keys = in(reg) keys,
                    stride = in(reg) 128usize,
                );
            }
            for (half, next) in [Some(keys.wrapping_add(LANES)), next].into_iter().enumerate() {
                tile_asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tdpbf16ps tmm0, tmm4, tmm2",
                    "tdpbf16ps tmm1, tmm5, tmm2",
                    "tdpbf16ps tmm0, tmm6, tmm3",
                    "tdpbf16ps tmm1, tmm7, tmm3",
                    "tileloaddt1 tmm2, [{next} + {stride}*1]",
                    "tileloaddt1 tmm3, [{next} + {stride}*1 + 2048]",
                    "tilestored [{out} + {out_stride}*1], tmm0",
                    "tilestored [{second} + {out_stride}*1], tmm1",
                    // Without a next one, these again.
                    next = in(reg) next.unwrap_or(keys),
                    stride = in(reg) 128usize,
                    out = in(reg) out.wrapping_add(half * LANES),
                    second = in(reg) out.wrapping_add(half * LANES + LANES * out_stride),
                    out_stride = in(reg) 4 * out_stride,
                );
            }
        }
    }
}
