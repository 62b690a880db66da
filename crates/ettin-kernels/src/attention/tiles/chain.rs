//! The products of tiles that attention needs: up to 32 rows by 32 columns, in four tiles of sums.

use crate::simd::{LANES, TileRegisters, tile_asm};

/// Columns of a product.
pub(super) const COLUMNS: usize = 2 * LANES;

/// `out[r][c] = start + Σ a[r]·b[c]`: one chain per element, that adds the products of 32 elements a step. Strides are in
/// words of 32 bits.
pub(super) struct Chain<'a> {
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

impl Chain<'_> {
    /// Runs it for as many rows as the tiles are shaped for: one tile of rows, or two.
    ///
    /// # Safety
    /// `tiles` must be shaped: for 32 rows if `two`, else for at most sixteen. `a` must be readable for these rows and all
    /// steps, each of `b` for sixteen rows of 32 words; `out` must be writable for the rows, unaliased, and filled if the
    /// chain goes on.
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
        /// As [`Chain::run`], with at least one step.
        #[inline(always)]
        unsafe fn $name(chain: Chain<'_>) {
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
                "tileloadd tmm6, [{b} + {b_stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {b_stride}*1 + 64]",
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
                "tileloadd tmm6, [{b} + {b_stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {b_stride}*1 + 64]",
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
