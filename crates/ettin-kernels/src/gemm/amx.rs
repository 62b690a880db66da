//! Products on AMX: 32 rows by the 32 outputs of a panel, in four tiles of sums.
//!
//! **Order.** An output element is one chain over all of K, in one tile: for every [group](super::layout) of inputs (32 of
//! bf16), the CPU sums the products of the group and adds that to the chain. [`K_BLOCK`](super::K_BLOCK) plays no part: a chain is as
//! long as K has groups. Of split numbers, the products of a group enter one after the other, small ones first. Rows of
//! a tile do not meet, so nothing depends on how many there are. By Intel's definition of `tdpbf16ps`, even and odd inputs
//! of a group are summed apart, each by a chain of multiply-adds from zero, then together; no other instruction set
//! does that, so results in bf16 differ from theirs in the last bits. Sums of bytes are exact and the same everywhere.
//!
//! **Work.** Each step loads two tiles of rows and two of weights for four products, half of what the CPU can load in that
//! time from L1. Rows stay in L2 and pass panel by panel; a panel is read from L2 for all tiles of rows but the first,
//! and the next panel is fetched meanwhile, by all of them in turn: tiles that come from L3 would run at a tenth of the
//! speed. None of this has been timed: see `docs/PERFORMANCE.md`.

use std::marker::PhantomData;

use super::{
    Product, Scheme,
    form::{Bytes, Form, Split},
    tile::Tile,
};
use crate::simd::{Amx, Kernel, LANES, Lanes, Simd, TileRegisters, tile_asm};

/// Rows and outputs of a product of tiles.
const SIDE: usize = 2 * LANES;

/// Runs a product.
///
/// # Safety
/// As [`Product::run`].
///
/// # Panics
/// If there is no AMX.
pub(super) unsafe fn run(product: Product<'_>) {
    let amx = Amx::new().unwrap_or_else(|| panic!("a weight that is packed for AMX, without AMX"));
    let narrow = amx.narrow();
    match product.w.scheme() {
        Scheme::Bf16 => narrow.run(Tiled::<Split<1>>(product, amx, PhantomData)),
        Scheme::Bf16x3 => narrow.run(Tiled::<Split<2>>(product, amx, PhantomData)),
        Scheme::Bf16x6 => narrow.run(Tiled::<Split<3>>(product, amx, PhantomData)),
        Scheme::Int8 => narrow.run(Tiled::<Bytes>(product, amx, PhantomData)),
        scheme @ (Scheme::F32 | Scheme::W8 | Scheme::W4) => unreachable!("{scheme} has no products of tiles"),
    }
}

/// A product in a scheme. Built only by [`run`], whose promise it relies on.
struct Tiled<'a, F>(Product<'a>, Amx, PhantomData<F>);

impl<F: Chained> Kernel for Tiled<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(product, amx, _) = self;
        let turns = product.tiles.len();
        let mut tiles = TileRegisters::new(amx);
        let mut sums = Sums([[0; SIDE]; SIDE]);
        for (turn, tile) in product.tiles::<F>(1).enumerate() {
            tiles.shape(tile.rows);
            chains::<F>(&tile, turn % turns, &mut sums);
            for first in [0, LANES] {
                let outputs = tile.outputs(s, first);
                for (row, sums) in sums.0[..tile.rows].iter().enumerate() {
                    let sum = F::load(s, &sums.as_chunks().0[first / LANES]);
                    // SAFETY: rows and outputs are writable and ours, by the promise of `run`.
                    unsafe { tile.put::<S, F>(s, row, &outputs, sum) };
                }
            }
        }
    }
}

/// Sums of rows × outputs, bit for bit.
#[repr(C, align(64))]
struct Sums([[u32; SIDE]; SIDE]);

/// The sums of a tile of rows. `turn` is its place among those that meet this panel.
#[inline(always)]
fn chains<F: Chained>(tile: &Tile<'_>, turn: usize, sums: &mut Sums) {
    static ZEROS: [u32; SIDE] = [0; SIDE];
    let groups = tile.steps / LANES;
    let row_words = groups * LANES * F::WORDS;
    assert!(groups > 0 && tile.steps == groups * LANES && tile.rows <= SIDE);
    assert!(tile.a.len() == tile.rows * row_words && tile.b.len() == SIDE * row_words);
    let start = if tile.offsets.is_empty() { &ZEROS } else { &tile.offsets.as_chunks().0[0] };
    // The next panel lies behind this one. What is behind the last is fetched in vain.
    let share = groups * F::PRODUCTS * FETCHED;
    let ahead = turn % tile.b.len().div_ceil(share) * share;
    let chain = Chain {
        x: tile.a.as_ptr(),
        x_step: tile.rows * LANES * F::WORDS * size_of::<u32>(),
        w: tile.b.as_ptr(),
        groups,
        start,
        ahead: tile.b.as_ptr().wrapping_add(tile.b.len() + ahead),
        sums,
    };
    // SAFETY: the lengths were asserted: `groups` groups of `rows` rows and of one panel. The caller has shaped the tiles
    // for these rows.
    unsafe { if tile.rows > LANES { F::two(chain) } else { F::one(chain) } }
}

/// Where a chain reads and writes.
struct Chain<'a> {
    x: *const u32,
    /// Bytes from one group of the rows to the next.
    x_step: usize,
    w: *const u32,
    groups: usize,
    start: &'a [u32; SIDE],
    /// What to fetch meanwhile.
    ahead: *const u32,
    sums: &'a mut Sums,
}

/// Words fetched ahead beside every four products of tiles.
const FETCHED: usize = 8 * LANES;

/// A scheme that AMX multiplies.
trait Chained: Form {
    /// Products of parts.
    const PRODUCTS: usize;

    /// The chains of 17 to 32 rows.
    ///
    /// # Safety
    /// Tiles must be shaped for the rows; `x` must hold that many, and `w` a panel, of `groups` groups, at least one.
    unsafe fn two(chain: Chain<'_>);

    /// The chains of up to 16 rows.
    ///
    /// # Safety
    /// As [`Chained::two`].
    unsafe fn one(chain: Chain<'_>);

    /// Sixteen sums.
    fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S>;
}

/// `asm!` of a chain, where `$step` is what a product of parts (part of the rows, part of the weights) does. A row's
/// words of a group are `64 · parts` bytes, all parts side by side; a panel has twice as many.
macro_rules! chain {
    ($chain:ident, $parts:literal, [$($start:literal),+], [$(($($step:expr),+))+], [$($store:literal),+]) => {
        tile_asm!(
            $($start,)+
            "2:",
            $($($step,)+
            "prefetcht1 [{ahead}]",
            "prefetcht1 [{ahead} + 64]",
            "prefetcht1 [{ahead} + 128]",
            "prefetcht1 [{ahead} + 192]",
            "prefetcht1 [{ahead} + 256]",
            "prefetcht1 [{ahead} + 320]",
            "prefetcht1 [{ahead} + 384]",
            "prefetcht1 [{ahead} + 448]",
            "add {ahead}, 512",)+
            "add {x}, {x_step}",
            concat!("add {w}, 2048 * ", $parts),
            "dec {groups}",
            "jnz 2b",
            "mov {stride:e}, 128",
            $($store,)+
            x = inout(reg) $chain.x => _,
            x_step = in(reg) $chain.x_step,
            w = inout(reg) $chain.w => _,
            groups = inout(reg) $chain.groups => _,
            stride = inout(reg) 64usize * $parts => _,
            start = in(reg) $chain.start,
            ahead = inout(reg) $chain.ahead => _,
            sums = in(reg) $chain.sums,
        )
    };
}

macro_rules! chained {
    ($form:ty, $dot:literal, $parts:literal, $products:literal: $(($x:literal, $w:literal))+, $load:ident) => {
        impl Chained for $form {
            const PRODUCTS: usize = $products;

            #[inline(always)]
            unsafe fn two(chain: Chain<'_>) {
                // SAFETY: the same promise.
                unsafe {
                    chain!(
                        chain,
                        $parts,
                        [
                            "tileloadd tmm0, [{start}]",
                            "tileloadd tmm1, [{start} + 64]",
                            "tileloadd tmm2, [{start}]",
                            "tileloadd tmm3, [{start} + 64]"
                        ],
                        [$((
                            concat!("tileloadd tmm4, [{x} + {stride}*1 + 64*", $x, "]"),
                            concat!("tileloadd tmm6, [{w} + {stride}*2 + 64*", $w, "]"),
                            concat!($dot, " tmm0, tmm4, tmm6"),
                            concat!("tileloadd tmm7, [{w} + {stride}*2 + 64*(", $w, " + ", $parts, ")]"),
                            concat!($dot, " tmm1, tmm4, tmm7"),
                            concat!("tileloadd tmm5, [{x} + {stride}*1 + 64*(", $x, " + 16*", $parts, ")]"),
                            concat!($dot, " tmm2, tmm5, tmm6"),
                            concat!($dot, " tmm3, tmm5, tmm7")
                        ))+],
                        [
                            "tilestored [{sums} + {stride}*1], tmm0",
                            "tilestored [{sums} + {stride}*1 + 64], tmm1",
                            "tilestored [{sums} + {stride}*1 + 2048], tmm2",
                            "tilestored [{sums} + {stride}*1 + 2112], tmm3"
                        ]
                    )
                }
            }

            #[inline(always)]
            unsafe fn one(chain: Chain<'_>) {
                // SAFETY: the same promise.
                unsafe {
                    chain!(
                        chain,
                        $parts,
                        ["tileloadd tmm0, [{start}]", "tileloadd tmm1, [{start} + 64]"],
                        [$((
                            concat!("tileloadd tmm4, [{x} + {stride}*1 + 64*", $x, "]"),
                            concat!("tileloadd tmm6, [{w} + {stride}*2 + 64*", $w, "]"),
                            concat!($dot, " tmm0, tmm4, tmm6"),
                            concat!("tileloadd tmm7, [{w} + {stride}*2 + 64*(", $w, " + ", $parts, ")]"),
                            concat!($dot, " tmm1, tmm4, tmm7")
                        ))+],
                        [
                            "tilestored [{sums} + {stride}*1], tmm0",
                            "tilestored [{sums} + {stride}*1 + 64], tmm1"
                        ]
                    )
                }
            }

            #[inline(always)]
            fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S> {
                $load(s, sums)
            }
        }
    };
}

chained!(Split<1>, "tdpbf16ps", 1, 1: (0, 0), plain);
chained!(Split<2>, "tdpbf16ps", 2, 3: (0, 1) (1, 0) (0, 0), plain);
chained!(Split<3>, "tdpbf16ps", 3, 6: (0, 2) (1, 1) (2, 0) (0, 1) (1, 0) (0, 0), plain);
chained!(Bytes, "tdpbusd", 1, 1: (0, 0), exact);

#[inline(always)]
fn plain<S: Simd>(s: S, sums: &[u32; LANES]) -> S::V {
    s.load(&sums.map(f32::from_bits))
}

#[inline(always)]
fn exact<S: Simd>(s: S, sums: &[u32; LANES]) -> S::Words {
    s.load_words(sums)
}
