//! Products on AMX: 32 rows by the 32 outputs of a panel, in four tiles of sums.
//!
//! **Order.** An output element is one chain over all of K, in one tile: for every [group](super::layout) of inputs (32 of
//! bf16), the CPU sums the products of the group and adds that to the chain. [`K_BLOCK`](super::K_BLOCK) plays no part: a chain is as
//! long as K has groups. Of split numbers, the products of a group enter one after the other, in the order that loads
//! fewest tiles. Rows of a tile do not meet, so nothing depends on how many there are. By Intel's definition of
//! `tdpbf16ps`, even and odd inputs of a group are summed apart, each by a chain of multiply-adds from zero, then together; no
//! other instruction set does that, so results in bf16 differ from theirs in the last bits. Sums of bytes are exact and the
//! same everywhere.
//!
//! **Work.** A step loads two tiles of rows and two of weights for four products: 4 KiB in 64 cycles, which L1 can give and
//! L2 nearly can. What does not stay in L1 anyway is loaded past it (`tileloaddt1`): measured, a third faster from L2 than
//! through L1, whose lines would be replaced before they are used again. Rows stay in L2 and pass panel by panel.
//!
//! **Panels from L3.** The first tile to pass over a panel brings it to L2, through L1 (`prefetcht0`) and a little ahead of
//! its use: that is how the CPU's own prefetch recognises a stream, which then comes at the rate of plain reads. The tiles
//! behind it ask for every third line of the next panel (`prefetcht2`): the CPU then fetches its neighbours by itself, and
//! the first tile finds most of it in L2 (in a loop of such products, 8 % faster at K = 768, 4 % at 1152). All lines
//! would take more than they give: requests wait for L3 in the same few buffers that loads from L2 need. Other ways
//! measured slower: leaving the panel to the loads of tiles (a quarter), `prefetcht1` by the first tile (a fifth).

use std::{cell::RefCell, marker::PhantomData};

use super::{
    CELL, CellMemory, Layout, Product, Scheme, Sink, Store,
    form::{Bytes, Form, Split},
    tile::Tile,
};
use crate::{
    buffer::numbers,
    simd::{Amx, Kernel, LANES, Lanes, Simd, TileRegisters, tile_asm},
};

/// Rows and outputs of a product of tiles.
const SIDE: usize = 2 * LANES;

/// Bytes of a panel that stay in L1 while tiles of rows pass: half of 48 KiB.
const NEAR: usize = 24 << 10;

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
    ROOM.with_borrow_mut(|room| match product.w.scheme() {
        Scheme::Bf16 => narrow.run(Tiled::<Split<1>>(product, amx, room, PhantomData)),
        Scheme::Bf16x3 => narrow.run(Tiled::<Split<2>>(product, amx, room, PhantomData)),
        Scheme::Bf16x6 => narrow.run(Tiled::<Split<3>>(product, amx, room, PhantomData)),
        Scheme::Int8 => narrow.run(Tiled::<Bytes>(product, amx, room, PhantomData)),
        scheme @ (Scheme::F32 | Scheme::W8 | Scheme::W4) => unreachable!("{scheme} has no products of tiles"),
    })
}

/// What a product works in. Kept: one row is done in little more time than filling this with zeros takes.
struct Room {
    /// Two, by turns: what tiles have stored can be read without waiting only after a while, so the sums of a cell are
    /// finished behind the chains of the next.
    sums: [[Sums; 2]; 2],
    memory: CellMemory,
}

thread_local!(
    static ROOM: RefCell<Box<Room>> = RefCell::new(Box::new(Room {
        sums: [const { [const { Sums([[0; SIDE]; SIDE]) }; 2] }; 2],
        memory: CellMemory::default(),
    }))
);

/// A product in a scheme. Built only by [`run`], whose promise it relies on.
struct Tiled<'a, 'r, F>(Product<'a>, Amx, &'r mut Room, PhantomData<F>);

impl<F: Chained> Kernel for Tiled<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(mut product, amx, Room { sums, memory }, _) = self;
        let step = product.sink.step();
        let mut sink = std::mem::replace(&mut product.sink, Sink::NOWHERE);
        let mut tiles = TileRegisters::new(amx);
        let (mut last, mut turn) = (None, 0);
        // Loops and functions, not iterators and closures, which would not be inlined and lose the instruction set.
        for panel in product.panels.clone().step_by(step) {
            for tile in product.tiles.clone() {
                let [first, second] = &mut sums[turn % 2];
                product_of::<F>(&product, (panel, step), tile, &mut tiles, first);
                if let Sink::Cells { apart: Some(apart), .. } = sink {
                    product_of::<F>(&product, (panel + apart, step), tile, &mut tiles, second);
                }
                if let Some(done) = last.replace((panel, tile)) {
                    // SAFETY: the promise of `run`.
                    unsafe { hand_out::<S, F>(s, &product, done, &sums[(turn + 1) % 2], &mut sink, memory) };
                }
                turn += 1;
            }
        }
        if let Some(done) = last {
            // SAFETY: as above.
            unsafe { hand_out::<S, F>(s, &product, done, &sums[(turn + 1) % 2], &mut sink, memory) };
        }
    }
}

/// The results of a tile of rows and a panel, or two, to where they go.
///
/// # Safety
/// As [`Product::run`].
#[inline(always)]
unsafe fn hand_out<S: Simd, F: Chained>(
    s: S,
    product: &Product<'_>,
    (panel, tile): (usize, usize),
    sums: &[Sums; 2],
    sink: &mut Sink<'_>,
    memory: &mut CellMemory,
) {
    match sink {
        Sink::Rows { out, stride, store } => {
            let out = (product.place(panel, tile, *out, *stride), *stride, *store);
            // SAFETY: rows and outputs are writable and ours, by the caller's promise.
            unsafe { finish::<S, F>(s, product, panel, tile, out, &sums[0]) };
        }
        Sink::Cells { apart, take } => {
            take(product.cell(panel, tile, results::<S, F>(s, product, panel, *apart, tile, sums, memory)));
        }
    }
}

/// The sums of a cell as results: where they are, or in memory of their own.
#[inline(always)]
fn results<'a, S: Simd, F: Chained>(
    s: S,
    product: &Product<'_>,
    panel: usize,
    apart: Option<usize>,
    tile: usize,
    sums: &'a [Sums; 2],
    memory: &'a mut CellMemory,
) -> [&'a [f32]; 2] {
    if F::DONE && product.bias.is_none() {
        return [sums[0].numbers(), sums[1].numbers()];
    }
    let [first, second] = &mut memory.0;
    // SAFETY: a tile has at most 2 · LANES rows, and a panel no more outputs than a row of a cell's half.
    unsafe {
        finish::<S, F>(s, product, panel, tile, (first.as_mut_ptr(), CELL, Store::Write), &sums[0]);
        if let Some(apart) = apart {
            finish::<S, F>(s, product, panel + apart, tile, (second.as_mut_ptr(), CELL, Store::Write), &sums[1]);
        }
    }
    [first, second]
}

/// The sums of a tile of rows as results, into rows of `out`.
///
/// Whole panels take a loop of few instructions, so that the next chains are behind it before the CPU has done with the
/// last.
///
/// # Safety
/// As [`Product::run`], for the tile.
#[inline(always)]
unsafe fn finish<S: Simd, F: Chained>(
    s: S,
    product: &Product<'_>,
    panel: usize,
    tile: usize,
    out: (*mut f32, usize, Store),
    sums: &Sums,
) {
    let steps = Layout::steps::<F>(product.w.k());
    let tile = product.tile::<F>(steps, panel..panel + 1, tile, out);
    // SAFETY: the caller's promise.
    unsafe {
        match (tile.columns == SIDE, tile.bias, tile.store) {
            (true, None, Store::Write) => finish_whole::<S, F, false, false>(s, &tile, sums),
            (true, None, Store::Add) => finish_whole::<S, F, false, true>(s, &tile, sums),
            (true, Some(_), Store::Write) => finish_whole::<S, F, true, false>(s, &tile, sums),
            (true, Some(_), Store::Add) => finish_whole::<S, F, true, true>(s, &tile, sums),
            (false, ..) => {
                for half in [0, 1] {
                    let outputs = tile.outputs(s, half * LANES);
                    for row in 0..tile.rows {
                        tile.put::<S, F>(s, row, outputs, F::load(s, &sums.0[row].as_chunks().0[half]));
                    }
                }
            }
        }
    }
}

/// The same of a whole panel.
///
/// # Safety
/// As [`Product::run`], for the tile, which must have a bias if `BIAS`.
#[inline(always)]
unsafe fn finish_whole<S: Simd, F: Chained, const BIAS: bool, const ADD: bool>(s: S, tile: &Tile<'_>, sums: &Sums) {
    assert!(tile.row_factors.len() == tile.rows && tile.rows <= SIDE);
    let mut bias = [s.zero(); 2];
    let mut factors: [&[f32]; 2] = [&[]; 2];
    for half in 0..2 {
        if BIAS {
            bias[half] = s.load(&tile.bias.unwrap_or(&[]).as_chunks().0[half]);
        }
        factors[half] = tile.factors.get(half * LANES..(half + 1) * LANES).unwrap_or(&[]);
    }
    let mut out = tile.out;
    for (sums, &row_factor) in sums.0[..tile.rows].iter().zip(tile.row_factors) {
        // SAFETY: rows of a whole panel are writable and ours, by the caller's promise.
        let to = unsafe { &mut *out.cast::<[[f32; LANES]; 2]>() };
        for half in 0..2 {
            let mut value = F::finish(s, F::load(s, &sums.as_chunks().0[half]), factors[half], row_factor);
            if BIAS {
                value = s.add(value, bias[half]);
            }
            if ADD {
                value = s.add(s.load(&to[half]), value);
            }
            s.store(value, &mut to[half]);
        }
        out = out.wrapping_add(tile.out_stride);
    }
}

/// The sums of a tile of rows and a panel, behind which the one `step` further will be visited.
#[inline(always)]
fn product_of<F: Chained>(
    product: &Product<'_>,
    (panel, step): (usize, usize),
    tile: usize,
    tiles: &mut TileRegisters,
    sums: &mut Sums,
) {
    let steps = Layout::steps::<F>(product.w.k());
    let nowhere = (std::ptr::null_mut(), 0, Store::Write);
    let passed = tile - product.tiles.start;
    let tile = product.tile::<F>(steps, panel..panel + 1, tile, nowhere);
    tiles.shape(tile.rows);
    chains::<F>(&tile, passed, step, sums);
}

/// Sums of rows × outputs, bit for bit.
#[repr(C, align(64))]
struct Sums([[u32; SIDE]; SIDE]);

impl Sums {
    /// Where they are numbers.
    fn numbers(&self) -> &[f32] {
        numbers(self.0.as_flattened())
    }
}

/// The sums of a tile of rows, behind so many that have passed over this panel; the next one is `step` panels further.
#[inline(always)]
fn chains<F: Chained>(tile: &Tile<'_>, passed: usize, step: usize, sums: &mut Sums) {
    static ZEROS: [u32; SIDE] = [0; SIDE];
    let groups = tile.steps / LANES;
    let row_words = groups * LANES * F::WORDS;
    assert!(groups > 0 && tile.steps == groups * LANES && tile.rows <= SIDE);
    assert!(tile.a.len() == tile.rows * row_words && tile.b.len() == SIDE * row_words);
    let first = passed == 0;
    let ahead = if first {
        AHEAD
    } else {
        // Where the last tile stopped; what it has asked for already, where the next panel has no more.
        let begun = (passed - 1) * groups * APART * F::WORDS;
        if begun < tile.b.len() { step * tile.b.len() + begun } else { 0 }
    };
    let chain = Chain {
        x: tile.a.as_ptr(),
        x_step: tile.rows * LANES * F::WORDS * size_of::<u32>(),
        w: tile.b.as_ptr(),
        groups,
        start: if tile.offsets.is_empty() { &ZEROS } else { &tile.offsets.as_chunks().0[0] },
        ahead: tile.b.as_ptr().wrapping_add(ahead),
        sums,
    };
    // SAFETY: the lengths were asserted: `groups` groups of `rows` rows and of one panel. The caller has shaped the tiles
    // for these rows.
    unsafe {
        match (tile.rows > LANES, first) {
            (false, true) => F::one_first(chain),
            (false, false) => F::one(chain),
            (true, true) => F::two_first(chain),
            (true, false) if size_of_val(tile.b) <= NEAR => F::two_near(chain),
            (true, false) => F::two(chain),
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
    /// What is fetched beside the work; any address.
    ahead: *const u32,
    sums: &'a mut Sums,
}

/// Words that a panel is fetched ahead of its use: 3 KiB. From 2 to 16 it hardly matters; 32 measured slower.
const AHEAD: usize = 768;

/// Words from one line of the next panel that is asked for to the following one: three lines. In the loop, two and four
/// gave 3 % less, six nothing.
const APART: usize = 3 * LANES;

/// A scheme that AMX multiplies.
///
/// # Safety
/// Tiles must be shaped for the rows; `x` must hold that many, and `w` a panel, of `groups` groups, at least one.
trait Chained: Form {
    /// The chains of 17 to 32 rows, behind others that passed over the panel.
    ///
    /// # Safety
    /// As the trait says; so below.
    unsafe fn two(chain: Chain<'_>);

    /// The same where the panel stays in L1.
    ///
    /// # Safety
    /// As above.
    unsafe fn two_near(chain: Chain<'_>);

    /// The same of the first to pass, which fetches the panel.
    ///
    /// # Safety
    /// As above.
    unsafe fn two_first(chain: Chain<'_>);

    /// The chains of up to 16 rows.
    ///
    /// # Safety
    /// As above.
    unsafe fn one(chain: Chain<'_>);

    /// The same of the first to pass, which fetches the panel.
    ///
    /// # Safety
    /// As above.
    unsafe fn one_first(chain: Chain<'_>);

    /// Whether sums are results, but for the bias.
    const DONE: bool;

    /// Sixteen sums.
    fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S>;
}

/// A function of a chain: sums start as `$start` says, a product of parts does each of `$step`, sums end as `$store` says. A
/// row's words of a group are `64 · parts` bytes, all parts side by side; a panel has twice as many. `$fetch` is what is done in every
/// group for panels to come ([`fetch!`]); what is behind the last panel is fetched in vain.
macro_rules! chain {
    ($name:ident, $parts:literal, $fetch:ident, [$($start:expr),+], [$($step:expr),+], [$($store:literal),+]) => {
        #[inline(always)]
        unsafe fn $name(chain: Chain<'_>) {
            // SAFETY: the caller's promise.
            unsafe {
                tile_asm!(
                    "/* from zeros, or {start} */",
                    $($start,)+
                    "2:",
                    $($step,)+
                    fetch!($fetch),
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
                    apart = const APART * size_of::<u32>(),
                )
            }
        }
    };
}

/// Fetching beside a group: all its lines of a panel by the `first` tile, a few of the next panel by those `behind`.
macro_rules! fetch {
    (first) => {
        ".rept 32 * {parts}\nprefetcht0 [{ahead}]\nadd {ahead}, 64\n.endr\n/* {apart} */"
    };
    (behind) => {
        ".rept {parts}\nprefetcht2 [{ahead}]\nadd {ahead}, {apart}\n.endr"
    };
}

/// Instructions of a step for 17 to 32 rows. `both`: a part of the rows and one of the weights are loaded and multiplied;
/// `rows`, `weights`: the other one is there already.
macro_rules! step_of_two {
    (both, $x:literal, $w:literal, $parts:literal, $dot:literal, $load_x:literal, $load_w:literal) => {
        concat!(
            step_of_two!(@w 6, $w, 0, $parts, $load_w), step_of_two!(@x 4, $x, 0, $parts, $load_x), $dot, " tmm0, tmm4, tmm6\n",
            step_of_two!(@w 7, $w, 1, $parts, $load_w), $dot, " tmm1, tmm4, tmm7\n",
            step_of_two!(@x 5, $x, 16, $parts, $load_x), $dot, " tmm2, tmm5, tmm6\n", $dot, " tmm3, tmm5, tmm7"
        )
    };
    (rows, $x:literal, $w:literal, $parts:literal, $dot:literal, $load_x:literal, $load_w:literal) => {
        concat!(
            step_of_two!(@x 4, $x, 0, $parts, $load_x), $dot, " tmm0, tmm4, tmm6\n", $dot, " tmm1, tmm4, tmm7\n",
            step_of_two!(@x 5, $x, 16, $parts, $load_x), $dot, " tmm2, tmm5, tmm6\n", $dot, " tmm3, tmm5, tmm7"
        )
    };
    (weights, $x:literal, $w:literal, $parts:literal, $dot:literal, $load_x:literal, $load_w:literal) => {
        concat!(
            step_of_two!(@w 6, $w, 0, $parts, $load_w), $dot, " tmm0, tmm4, tmm6\n", $dot, " tmm2, tmm5, tmm6\n",
            step_of_two!(@w 7, $w, 1, $parts, $load_w), $dot, " tmm1, tmm4, tmm7\n", $dot, " tmm3, tmm5, tmm7"
        )
    };
    (@x $tile:literal, $x:literal, $row:literal, $parts:literal, $load:literal) => {
        concat!($load, " tmm", $tile, ", [{x} + {stride}*1 + 64*(", $x, " + ", $row, "*", $parts, ")]\n")
    };
    (@w $tile:literal, $w:literal, $half:literal, $parts:literal, $load:literal) => {
        concat!($load, " tmm", $tile, ", [{w} + {stride}*2 + 64*(", $w, " + ", $half, "*", $parts, ")]\n")
    };
}

/// The same for up to 16 rows.
macro_rules! step_of_one {
    (both, $x:literal, $w:literal, $parts:literal, $dot:literal, $load:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {stride}*1 + 64*",
            $x,
            "]\n",
            step_of_one!(weights, $x, $w, $parts, $dot, $load)
        )
    };
    (rows, $x:literal, $w:literal, $parts:literal, $dot:literal, $load:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {stride}*1 + 64*",
            $x,
            "]\n",
            $dot,
            " tmm0, tmm4, tmm6\n",
            $dot,
            " tmm1, tmm4, tmm7"
        )
    };
    (weights, $x:literal, $w:literal, $parts:literal, $dot:literal, $load:literal) => {
        concat!(
            $load,
            " tmm6, [{w} + {stride}*2 + 64*",
            $w,
            "]\n",
            $dot,
            " tmm0, tmm4, tmm6\n",
            $load,
            " tmm7, [{w} + {stride}*2 + 64*(",
            $w,
            " + ",
            $parts,
            ")]\n",
            $dot,
            " tmm1, tmm4, tmm7"
        )
    };
}

/// What two tiles of sums start from: zeros, or the outputs' offsets.
macro_rules! starts {
    (zeros $first:literal $second:literal) => {
        concat!("tilezero tmm", $first, "\ntilezero tmm", $second)
    };
    (offsets $first:literal $second:literal) => {
        concat!("tileloadd tmm", $first, ", [{start}]\ntileloadd tmm", $second, ", [{start} + 64]")
    };
}

macro_rules! chain_of_two {
    ($name:ident, $start:ident, $dot:literal, $parts:literal, $fetch:ident, $load_x:literal, $load_w:literal, $(($step:ident $x:literal $w:literal))+) => {
        chain!(
            $name,
            $parts,
            $fetch,
            [starts!($start 0 1), starts!($start 2 3)],
            [$(step_of_two!($step, $x, $w, $parts, $dot, $load_x, $load_w)),+],
            [
                "tilestored [{sums} + {stride}*1], tmm0",
                "tilestored [{sums} + {stride}*1 + 64], tmm1",
                "tilestored [{sums} + {stride}*1 + 2048], tmm2",
                "tilestored [{sums} + {stride}*1 + 2112], tmm3"
            ]
        );
    };
}

macro_rules! chain_of_one {
    ($name:ident, $start:ident, $dot:literal, $parts:literal, $fetch:ident, $load:literal, $(($step:ident $x:literal $w:literal))+) => {
        chain!(
            $name,
            $parts,
            $fetch,
            [starts!($start 0 1)],
            [$(step_of_one!($step, $x, $w, $parts, $dot, $load)),+],
            ["tilestored [{sums} + {stride}*1], tmm0", "tilestored [{sums} + {stride}*1 + 64], tmm1"]
        );
    };
}

/// Parts, and products of parts in order: what is loaded, part of the rows, part of the weights.
macro_rules! chained {
    ($form:ty, $start:ident, $dot:literal, $parts:literal, $load:ident, $done:literal: $($step:tt)+) => {
        impl Chained for $form {
            const DONE: bool = $done;

            chain_of_two!(two, $start, $dot, $parts, behind, "tileloaddt1", "tileloaddt1", $($step)+);
            chain_of_two!(two_near, $start, $dot, $parts, behind, "tileloaddt1", "tileloadd", $($step)+);
            chain_of_two!(two_first, $start, $dot, $parts, first, "tileloaddt1", "tileloadd", $($step)+);
            chain_of_one!(one, $start, $dot, $parts, behind, "tileloaddt1", $($step)+);
            chain_of_one!(one_first, $start, $dot, $parts, first, "tileloadd", $($step)+);

            #[inline(always)]
            fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S> {
                $load(s, sums)
            }
        }
    };
}

chained!(Split<1>, zeros, "tdpbf16ps", 1, plain, true: (both 0 0));
chained!(Split<2>, zeros, "tdpbf16ps", 2, plain, true: (both 0 1) (weights 0 0) (rows 1 0));
chained!(Split<3>, zeros, "tdpbf16ps", 3, plain, true: (both 0 2) (weights 0 1) (rows 1 1) (weights 1 0) (rows 2 0) (rows 0 0));
chained!(Bytes, offsets, "tdpbusd", 1, exact, false: (both 0 0));

#[inline(always)]
fn plain<S: Simd>(s: S, sums: &[u32; LANES]) -> S::V {
    s.load(&numbers(sums).as_chunks().0[0])
}

#[inline(always)]
fn exact<S: Simd>(s: S, sums: &[u32; LANES]) -> S::Words {
    s.load_words(sums)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{Isa, Operand, PackedMatrix, Team, gemm};

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
                    (Scheme::Bf16x3, &[(0, 1), (0, 0), (1, 0)]),
                    (Scheme::Bf16x6, &[(0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)]),
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
                for passed in [0, 1, 1000] {
                    let mut sums = Sums([[7; SIDE]; SIDE]);
                    chains::<F>(&tile, passed, 1, &mut sums);
                    for (row, sums) in sums.0.iter().enumerate() {
                        assert_eq!(*sums, [if row < rows { 0 } else { 7 }; SIDE]);
                    }
                }
            }
        }
        check::<Split<1>>();
        check::<Split<2>>();
        check::<Split<3>>();
        check::<Bytes>();
    }
}
