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
//! time from L1. Rows stay in L2 and pass panel by panel; the next panel is fetched to L2 meanwhile, a part by each tile of
//! rows: tiles that come from L3 would run at a tenth of the speed. None of this has been timed: see `docs/PERFORMANCE.md`.

use std::marker::PhantomData;

use super::{
    Layout, Product, Scheme,
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
        let steps = Layout::steps::<F>(product.w.k());
        let mut tiles = TileRegisters::new(amx);
        let mut sums = Sums([[0; SIDE]; SIDE]);
        for panel in product.panels.clone() {
            for (turn, tile) in product.tiles.clone().enumerate() {
                let tile = product.tile::<F>(steps, panel..panel + 1, tile);
                tiles.shape(tile.rows);
                chains::<F>(&tile, turn, product.tiles.len(), &mut sums);
                for first in [0, LANES] {
                    let outputs = tile.outputs(s, first);
                    for (row, sums) in sums.0[..tile.rows].iter().enumerate() {
                        let sum = F::load(s, &sums.as_chunks().0[first / LANES]);
                        // SAFETY: rows and outputs are writable and ours, by the promise of `run`.
                        unsafe { tile.put::<S, F>(s, row, outputs, sum) };
                    }
                }
            }
        }
    }
}

/// Sums of rows × outputs, bit for bit.
#[repr(C, align(64))]
struct Sums([[u32; SIDE]; SIDE]);

/// The sums of a tile of rows: number `turn` of the `turns` that meet this panel.
#[inline(always)]
fn chains<F: Chained>(tile: &Tile<'_>, turn: usize, turns: usize, sums: &mut Sums) {
    static ZEROS: [u32; SIDE] = [0; SIDE];
    let groups = tile.steps / LANES;
    let row_words = groups * LANES * F::WORDS;
    assert!(groups > 0 && tile.steps == groups * LANES && tile.rows <= SIDE);
    assert!(tile.a.len() == tile.rows * row_words && tile.b.len() == SIDE * row_words);
    let start = if tile.offsets.is_empty() { &ZEROS } else { &tile.offsets.as_chunks().0[0] };
    // Each of some tiles fetches its part of the next panel, which lies behind this one; fewer tiles fetch all of it. What
    // is behind the last panel is fetched in vain.
    let share = groups * F::PRODUCTS * SPREAD * LANES;
    let parts = tile.b.len().div_ceil(share);
    let spread = turns >= parts;
    let chain = Chain {
        x: tile.a.as_ptr(),
        x_step: tile.rows * LANES * F::WORDS * size_of::<u32>(),
        w: tile.b.as_ptr(),
        groups,
        start,
        ahead: tile.b.as_ptr().wrapping_add(tile.b.len() + if spread { turn % parts * share } else { 0 }),
        sums,
    };
    // SAFETY: the lengths were asserted: `groups` groups of `rows` rows and of one panel. The caller has shaped the tiles
    // for these rows.
    unsafe {
        match (tile.rows > LANES, spread) {
            (true, true) => F::two(chain),
            (true, false) => F::two_alone(chain),
            (false, _) => F::one(chain),
        }
    }
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

/// Cache lines that a tile among many fetches beside a product of parts.
const SPREAD: usize = 8;

/// A scheme that AMX multiplies.
trait Chained: Form {
    /// Products of parts.
    const PRODUCTS: usize;

    /// The chains of 17 to 32 rows, one tile among many that pass over a panel.
    ///
    /// # Safety
    /// Tiles must be shaped for the rows; `x` must hold that many, and `w` a panel, of `groups` groups, at least one.
    unsafe fn two(chain: Chain<'_>);

    /// The same where few tiles pass over a panel.
    ///
    /// # Safety
    /// As [`Chained::two`].
    unsafe fn two_alone(chain: Chain<'_>);

    /// The chains of up to 16 rows.
    ///
    /// # Safety
    /// As [`Chained::two`].
    unsafe fn one(chain: Chain<'_>);

    /// Sixteen sums.
    fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S>;
}

/// A function of a chain: sums start as `$start` says, a product of parts does `$step` and fetches `$lines`, sums end as
/// `$store` says. A row's words of a group are `64 · parts` bytes, all parts side by side; a panel has twice as many.
macro_rules! chain {
    ($name:ident, $parts:literal, $lines:expr, [$($start:literal),+], [$(($($step:expr),+))+], [$($store:literal),+]) => {
        #[inline(always)]
        unsafe fn $name(chain: Chain<'_>) {
            // SAFETY: the caller's promise.
            unsafe {
                tile_asm!(
                    $($start,)+
                    "2:",
                    $(
                        $($step,)+
                        ".rept {lines}",
                        "prefetcht1 [{ahead}]",
                        "add {ahead}, 64",
                        ".endr",
                    )+
                    "add {x}, {x_step}",
                    "add {w}, 2048 * {parts}",
                    "dec {groups}",
                    "jnz 2b",
                    "mov {stride:e}, 128",
                    $($store,)+
                    x = inout(reg) chain.x => _,
                    x_step = in(reg) chain.x_step,
                    w = inout(reg) chain.w => _,
                    groups = inout(reg) chain.groups => _,
                    stride = inout(reg) 64usize * $parts => _,
                    start = in(reg) chain.start,
                    ahead = inout(reg) chain.ahead => _,
                    sums = in(reg) chain.sums,
                    parts = const $parts,
                    lines = const $lines,
                )
            }
        }
    };
}

/// `chain!` of 17 to 32 rows.
macro_rules! chain_of_two {
    ($name:ident, $dot:literal, $parts:literal, $lines:expr, $(($x:literal, $w:literal))+) => {
        chain!(
            $name,
            $parts,
            $lines,
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
        );
    };
}

/// Parts, products of parts in order (part of the rows, part of the weights), and the lines of a panel that one of them
/// fetches to fetch it all.
macro_rules! chained {
    ($form:ty, $dot:literal, $parts:literal, $products:literal: $(($x:literal, $w:literal))+, $lines:literal, $load:ident) => {
        impl Chained for $form {
            const PRODUCTS: usize = $products;

            chain_of_two!(two, $dot, $parts, SPREAD, $(($x, $w))+);
            chain_of_two!(two_alone, $dot, $parts, $lines, $(($x, $w))+);
            chain!(
                one,
                $parts,
                $lines,
                ["tileloadd tmm0, [{start}]", "tileloadd tmm1, [{start} + 64]"],
                [$((
                    concat!("tileloadd tmm4, [{x} + {stride}*1 + 64*", $x, "]"),
                    concat!("tileloadd tmm6, [{w} + {stride}*2 + 64*", $w, "]"),
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    concat!("tileloadd tmm7, [{w} + {stride}*2 + 64*(", $w, " + ", $parts, ")]"),
                    concat!($dot, " tmm1, tmm4, tmm7")
                ))+],
                ["tilestored [{sums} + {stride}*1], tmm0", "tilestored [{sums} + {stride}*1 + 64], tmm1"]
            );

            #[inline(always)]
            fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S> {
                $load(s, sums)
            }
        }
    };
}

chained!(Split<1>, "tdpbf16ps", 1, 1: (0, 0), 32, plain);
chained!(Split<2>, "tdpbf16ps", 2, 3: (0, 1) (1, 0) (0, 0), 22, plain);
chained!(Split<3>, "tdpbf16ps", 3, 6: (0, 2) (1, 1) (2, 0) (0, 1) (1, 0) (0, 0), 16, plain);
chained!(Bytes, "tdpbusd", 1, 1: (0, 0), 32, exact);

#[inline(always)]
fn plain<S: Simd>(s: S, sums: &[u32; LANES]) -> S::V {
    s.load(&sums.map(f32::from_bits))
}

#[inline(always)]
fn exact<S: Simd>(s: S, sums: &[u32; LANES]) -> S::Words {
    s.load_words(sums)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{Isa, Operand, PackedMatrix, Store, Team, gemm};

    /// The parts of a number, large ones first.
    fn parts(x: f32) -> [f32; 3] {
        let mut rest = x;
        [(); 3].map(|()| {
            let part = bf16::from_f32(rest).to_f32();
            rest -= part;
            part
        })
    }

    /// What the module's documentation says of one element.
    fn chain(x: &[f32], w: &[f32], products: &[(usize, usize)]) -> f32 {
        let mut sum = 0.0;
        for (x, w) in x.chunks(32).zip(w.chunks(32)) {
            for &(i, j) in products {
                let mut halves = [0.0f32; 2];
                for (at, (&x, &w)) in x.iter().zip(w).enumerate() {
                    halves[at % 2] = parts(x)[i].mul_add(parts(w)[j], halves[at % 2]);
                }
                sum += halves[0] + halves[1];
            }
        }
        sum
    }

    #[test]
    fn numbers_are_added_in_the_order_that_is_documented() {
        if !Isa::Amx.supported() {
            return println!("skipped: no AMX");
        }
        let team = Team::single();
        let number = |i: usize| ((i * 7919 + 13) % 10_007) as f32 / 5003.5 - 1.0;
        for k in [5, 32, 33, 300] {
            for (m, n) in [(1, 1), (21, 40)] {
                let x: Vec<f32> = (0..m * k).map(number).collect();
                let w: Vec<f32> = (0..n * k).map(|i| number(i + 31_337)).collect();
                for (scheme, products) in [
                    (Scheme::Bf16, &[(0, 0)][..]),
                    (Scheme::Bf16x3, &[(0, 1), (1, 0), (0, 0)]),
                    (Scheme::Bf16x6, &[(0, 2), (1, 1), (2, 0), (0, 1), (1, 0), (0, 0)]),
                ] {
                    let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&w[row * k..(row + 1) * k]);
                    let packed = PackedMatrix::pack(Isa::Amx, scheme, &team, n, k, &fill);
                    let mut operand = Operand::new();
                    operand.encode(&team, &packed, &x);
                    let mut out = vec![0.0; m * n];
                    gemm(&team, &operand, &packed, None, Store::Write, &mut out);
                    for (i, got) in out.into_iter().enumerate() {
                        let (row, output) = (i / n, i % n);
                        let want = chain(&x[row * k..(row + 1) * k], &w[output * k..(output + 1) * k], products);
                        assert_eq!(got.to_bits(), want.to_bits(), "{scheme}, k = {k}: {row}, {output}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_tile_outlives_a_product() {
        if !Isa::Amx.supported() {
            return println!("skipped: no AMX");
        }
        let team = Team::single();
        let w = PackedMatrix::pack(Isa::Amx, Scheme::Int8, &team, 3, 5, &|_, out| out.fill(1.0));
        let mut operand = Operand::new();
        operand.encode(&team, &w, &[1.0; 10]);
        gemm(&team, &operand, &w, None, Store::Write, &mut [0.0; 6]);
        let mut shapes = [0xffu8; 64];
        // SAFETY: there is AMX; the instruction writes 64 bytes.
        unsafe { std::arch::asm!("sttilecfg [{}]", in(reg) &mut shapes, options(nostack)) };
        assert_eq!(shapes, [0; 64]);
    }

    /// `words` numbers that end where memory does.
    #[cfg(all(feature = "amx-emulator", target_os = "linux"))]
    fn before_the_end(words: usize) -> &'static mut [u32] {
        const PAGE: usize = 4096;
        let len = (4 * words).next_multiple_of(PAGE);
        // SAFETY: a new mapping, whose last page is then made inaccessible; what remains holds `words` zeros. It is never
        // unmapped.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), len + PAGE, access, flags, -1, 0).cast::<u8>();
            assert_eq!(libc::mprotect(start.add(len).cast(), PAGE, libc::PROT_NONE), 0);
            std::slice::from_raw_parts_mut(start.add(len - 4 * words).cast(), words)
        }
    }

    #[cfg(all(feature = "amx-emulator", target_os = "linux"))]
    #[test]
    fn chains_read_nothing_outside() {
        fn check<F: Chained>() {
            let Some(amx) = Amx::new() else {
                return println!("skipped: no AMX");
            };
            for rows in [1, 15, 16, 17, 31, 32] {
                let steps = 3 * LANES;
                let tile = Tile {
                    rows,
                    steps,
                    a: before_the_end(rows * steps * F::WORDS),
                    row_factors: &[],
                    b: before_the_end(SIDE * steps * F::WORDS),
                    factors: &[],
                    offsets: before_the_end(SIDE),
                    bias: None,
                    columns: SIDE,
                    store: Store::Write,
                    out: std::ptr::null_mut(),
                    out_stride: 0,
                };
                let mut tiles = TileRegisters::new(amx);
                tiles.shape(rows);
                let mut sums = Sums([[7; SIDE]; SIDE]);
                chains::<F>(&tile, 0, 1, &mut sums);
                for (row, sums) in sums.0.iter().enumerate() {
                    assert_eq!(*sums, [if row < rows { 0 } else { 7 }; SIDE]);
                }
            }
        }
        check::<Split<1>>();
        check::<Split<2>>();
        check::<Split<3>>();
        check::<Bytes>();
    }
}
