//! Products on AMX: 32 rows by the 32 outputs of a panel, in four tiles of sums.
//!
//! **Order.** An output element is one chain over all of K, in one tile: for every [group](super::layout) of inputs (32
//! of bf16), the CPU sums the products of the group and adds that to the chain. [`K_BLOCK`](super::K_BLOCK) plays no
//! part: a chain is as long as K has groups. Of split numbers, the products of a group enter one after the other, in
//! the order that loads fewest tiles. Rows of a tile do not meet, so nothing depends on how many there are. By Intel's
//! definition of `tdpbf16ps`, even and odd inputs of a group are summed apart, each by a chain of multiply-adds from
//! zero, then together; no other instruction set does that, so results in bf16 differ from theirs in the last bits.
//! Sums of bytes are exact and the same everywhere.
//!
//! **Work.** A step loads two tiles of rows and two of weights for four products: 4 KiB in 64 cycles, which L1 can give
//! and L2 nearly can. What does not stay in L1 anyway is loaded past it (`tileloaddt1`): measured, a third faster from
//! L2 than through L1, whose lines would be replaced before they are used again. Rows stay in L2 and pass panel by
//! panel.
//!
//! **Panels from L3.** The first tile to pass over a panel brings it to L2, through L1 (`prefetcht0`) and a little
//! ahead of its use: that is how the CPU's own prefetch recognises a stream, which then comes at the rate of plain
//! reads. The tiles behind it ask for every third line of the next panel (`prefetcht2`): the CPU then fetches its
//! neighbours by itself, and the first tile finds most of it in L2 (in a loop of such products, 8 % faster at K = 768,
//! 4 % at 1152). All lines would take more than they give: requests wait for L3 in the same few buffers that loads from
//! L2 need. Other ways measured slower: leaving the panel to the loads of tiles (a quarter), `prefetcht1` by the first
//! tile (a fifth).
//!
//! **Pairs.** Up to 16 rows leave half of the tiles free, and are done with a panel before it has come from memory.
//! They take two panels at once, as two streams of weights are faster than one (7 % at 16 rows, 150m in bf16). Those of
//! small models come from L3, where one stream is all that a core takes: two were a tenth slower at K = 256, 3 % at
//! 512.

#[macro_use]
pub(super) mod chain;

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use super::{
    epilogue::{OUTPUT_TILE_WIDTH, OutputTileMemory, Sink, Store},
    formats::{bf16::Bf16Parts, int8::W8A8},
    product::Product,
    scheme::Scheme,
    tile::Tile,
    weight::PackedWeight,
};
use crate::simd::{Amx, Kernel, LANES, Lanes, Simd, TileRegisters};
use chain::{AmxMicrokernel, SIDE, Sums};

/// Bytes of a panel up to which panels are visited one by one: those of models whose weights L3 holds, by and large.
const MAX_SINGLE_PANEL: usize = 32 << 10;

/// Panels that a product of so many rows visits at once, if it can.
pub(super) fn panels_at_once(w: &PackedWeight, rows: usize) -> usize {
    if rows <= LANES && size_of_val(w.panel(0..1)) > MAX_SINGLE_PANEL { 2 } else { 1 }
}

/// Runs a product.
///
/// # Safety
/// As [`Product::run`].
///
/// # Panics
/// If there is no AMX.
pub(super) unsafe fn run(product: Product<'_>) {
    let amx = Amx::new().unwrap_or_else(|| panic!("a weight that is weight for AMX, without AMX"));
    let narrow = amx.narrow();
    ROOM.with_borrow_mut(|room| match product.w.scheme() {
        Scheme::Bf16 => narrow.run(AmxTiles::<Bf16Parts<1>>(product, amx, room, PhantomData)),
        Scheme::Bf16x3 => narrow.run(AmxTiles::<Bf16Parts<2>>(product, amx, room, PhantomData)),
        Scheme::Bf16x6 => narrow.run(AmxTiles::<Bf16Parts<3>>(product, amx, room, PhantomData)),
        Scheme::Int8 => narrow.run(AmxTiles::<W8A8>(product, amx, room, PhantomData)),
        scheme @ (Scheme::F32 | Scheme::W8 | Scheme::W4) => unreachable!("{scheme} has no products of tiles"),
    })
}

/// What a product works in. Kept: one row is done in little more time than filling this with zeros takes.
struct Room {
    /// Two, by turns: what tiles have stored can be read without waiting only after a while, so the sums of a cell are
    /// finished behind the chains of the next.
    sums: [[Sums; 2]; 2],
    memory: OutputTileMemory,
}

thread_local!(
    static ROOM: RefCell<Box<Room>> = RefCell::new(Box::new(Room {
        sums: [const { [const { Sums([[0; SIDE]; SIDE]) }; 2] }; 2],
        memory: OutputTileMemory::default(),
    }))
);

/// A product in a scheme. Built only by [`run`], whose promise it relies on.
struct AmxTiles<'a, 'r, F>(Product<'a>, Amx, &'r mut Room, PhantomData<F>);

impl<F: AmxMicrokernel> Kernel for AmxTiles<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(mut product, amx, Room { sums, memory }, _) = self;
        let (step, apart) = match product.sink {
            Sink::Epilogue { apart, .. } => (product.sink.step(), apart),
            Sink::Rows { .. } => match panels_at_once(product.w, product.rows.rows) {
                1 => (1, None),
                step => (step, Some(1)),
            },
        };
        let mut sink = std::mem::replace(&mut product.sink, Sink::NOWHERE);
        let mut tiles = TileRegisters::new(amx);
        let (mut last, mut turn) = (None, 0);
        // Loops and functions, not iterators and closures, which would not be inlined and lose the instruction set.
        for panel in product.panels.clone().step_by(step) {
            let panels = Panels::new(&product.panels, panel, step, apart);
            for tile in product.tiles.clone() {
                products_of::<F>(&product, panels, tile, &mut tiles, &mut sums[turn % 2]);
                if let Some(done) = last.replace((panels, tile)) {
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

/// What is visited at once: a panel, or two.
#[derive(Clone, Copy)]
struct Panels {
    first: usize,
    second: Option<usize>,
    /// From these to the next ones; 0 where these are the last.
    next: usize,
}

impl Panels {
    /// Those from `first` on in a range that is visited in steps; the second one is so far `apart`, if there is one.
    #[inline(always)]
    fn new(range: &Range<usize>, first: usize, step: usize, apart: Option<usize>) -> Self {
        // Of neighbours, the last may be without one.
        let inside = |&second: &usize| step == 1 || second < range.end;
        let second = apart.map(|apart| first + apart).filter(inside);
        Self { first, second, next: if first + step < range.end { step } else { 0 } }
    }
}

/// The results of a tile of rows and a panel, or two, to where they go.
///
/// # Safety
/// As [`Product::run`].
#[inline(always)]
unsafe fn hand_out<S: Simd, F: AmxMicrokernel>(
    s: S,
    product: &Product<'_>,
    (panels, tile): (Panels, usize),
    sums: &[Sums; 2],
    sink: &mut Sink<'_>,
    memory: &mut OutputTileMemory,
) {
    match sink {
        Sink::Rows { out, stride, store } => {
            for (panel, sums) in [Some(panels.first), panels.second].into_iter().flatten().zip(sums) {
                let out = (product.place(panel, tile, *out, *stride), *stride, *store);
                // SAFETY: rows and outputs are writable and ours, by the caller's promise.
                unsafe { finish::<S, F>(s, product, panel, tile, out, sums) };
            }
        }
        Sink::Epilogue { take, .. } => {
            take(product.cell(panels.first, tile, results::<S, F>(s, product, panels, tile, sums, memory)));
        }
    }
}

/// The sums of a cell as results: where they are, or in memory of their own.
#[inline(always)]
fn results<'a, S: Simd, F: AmxMicrokernel>(
    s: S,
    product: &Product<'_>,
    panels: Panels,
    tile: usize,
    sums: &'a [Sums; 2],
    memory: &'a mut OutputTileMemory,
) -> [&'a [f32]; 2] {
    if F::DONE && product.bias.is_none() {
        return [sums[0].numbers(), sums[1].numbers()];
    }
    let [first, second] = &mut memory.0;
    // SAFETY: a tile has at most 2 · LANES rows, and a panel no more outputs than a row of a cell's half.
    unsafe {
        finish::<S, F>(s, product, panels.first, tile, (first.as_mut_ptr(), OUTPUT_TILE_WIDTH, Store::Write), &sums[0]);
        if let Some(panel) = panels.second {
            finish::<S, F>(s, product, panel, tile, (second.as_mut_ptr(), OUTPUT_TILE_WIDTH, Store::Write), &sums[1]);
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
unsafe fn finish<S: Simd, F: AmxMicrokernel>(
    s: S,
    product: &Product<'_>,
    panel: usize,
    tile: usize,
    out: (*mut f32, usize, Store),
    sums: &Sums,
) {
    let steps = F::steps(product.w.k());
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
unsafe fn finish_whole<S: Simd, F: AmxMicrokernel, const BIAS: bool, const ADD: bool>(
    s: S,
    tile: &Tile<'_>,
    sums: &Sums,
) {
    assert!(tile.row_scales.len() == tile.rows && tile.rows <= SIDE);
    let mut bias = [s.zero(); 2];
    let mut scales: [&[f32]; 2] = [&[]; 2];
    for half in 0..2 {
        if BIAS {
            bias[half] = s.load(&tile.bias.unwrap_or(&[]).as_chunks().0[half]);
        }
        scales[half] = tile.scales.get(half * LANES..(half + 1) * LANES).unwrap_or(&[]);
    }
    let mut out = tile.out;
    for (sums, &row_scale) in sums.0[..tile.rows].iter().zip(tile.row_scales) {
        // SAFETY: rows of a whole panel are writable and ours, by the caller's promise.
        let to = unsafe { &mut *out.cast::<[[f32; LANES]; 2]>() };
        for half in 0..2 {
            let mut value = F::finish(s, F::load(s, &sums.as_chunks().0[half]), scales[half], row_scale);
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

/// The sums of a tile of rows and the panels that are visited.
#[inline(always)]
fn products_of<F: AmxMicrokernel>(
    product: &Product<'_>,
    panels: Panels,
    tile: usize,
    tiles: &mut TileRegisters,
    sums: &mut [Sums; 2],
) {
    let steps = F::steps(product.w.k());
    let passed = tile - product.tiles.start;
    let of = |panel: usize| product.tile::<F>(steps, panel..panel + 1, tile, (std::ptr::null_mut(), 0, Store::Write));
    let first = of(panels.first);
    tiles.shape(first.rows);
    let Some(second) = panels.second.map(of) else {
        return chain::one::<F>(&first, passed, panels.next, &mut sums[0]);
    };
    if panels_at_once(product.w, first.rows) == 2 && passed == 0 {
        return chain::pair::<F>([&first, &second], panels.next, sums);
    }
    chain::one::<F>(&first, passed, panels.next, &mut sums[0]);
    chain::one::<F>(&second, passed, panels.next, &mut sums[1]);
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{Isa, PackedActivations, Team, gemm};

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
                    let weight = PackedWeight::pack(Isa::Amx, scheme, &team, n, k, &fill);
                    let mut activations = PackedActivations::new();
                    activations.encode(&team, &weight, &x);
                    let mut out = vec![0.0; m * n];
                    gemm(&team, &activations, &weight, None, Store::Write, &mut out);
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
        let w = PackedWeight::pack(Isa::Amx, Scheme::Int8, &team, 3, 5, &|_, out| out.fill(1.0));
        let mut activations = PackedActivations::new();
        activations.encode(&team, &w, &[1.0; 10]);
        gemm(&team, &activations, &w, None, Store::Write, &mut [0.0; 6]);
        let mut shapes = [0xffu8; 64];
        // SAFETY: there is AMX; the instruction writes 64 bytes.
        unsafe { std::arch::asm!("sttilecfg [{}]", in(reg) &mut shapes, options(nostack)) };
        assert_eq!(shapes, [0; 64]);
    }
}
