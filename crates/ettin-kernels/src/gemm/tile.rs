//! The register tile: a few rows times a few panels, accumulators in registers.

use std::{marker::PhantomData, ops::Range};

use super::{
    epilogue::Store,
    formats::{Microkernel, PanelLayout},
};
use crate::{
    isa::Isa,
    simd::{Kernel, LANES, Portable, Simd, Task},
};

/// How far ahead the weight is fetched by hand, in words: some 3 KiB, what L3 needs. Hardware prefetch alone leaves a
/// fifth of the speed on the table, with many rows too (the first tile to meet a panel reads it from L3).
const FETCH_AHEAD: usize = 768;

/// Rows of tiles that have it fetched to L2 alone, where more lines can be on their way at once than to L1: those that
/// work too long on a line for loads to run ahead, and not long enough to wait for nothing (measured in f32 of weights
/// from memory: 8 rows 11 % faster than fetching to L1; many rows, in tiles of 14, 10 % slower).
const FETCHED_TO_L2: Range<usize> = 5..11;

/// Of two tiles, the second asks for each of so many lines of the panel behind, whose neighbours the CPU then fetches
/// by itself (every line is slower than none).
const ANNOUNCE_EVERY: usize = 3;

/// Bytes of panels that stay in L1 while two tiles pass: these gain nothing.
pub(super) const MAX_L1_STRIP: usize = 16 << 10;

/// Where a tile finds its panels, and what it fetches meanwhile.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pass {
    /// In L3 or memory, or in L2 after many others, as it may be: its own, further on.
    Any,
    /// Of two tiles the first: what the second has asked for is in L2; the rest of its own, to L1.
    First,
    /// Of two tiles the second: in L2, all of them. What the first one reads next, as nothing would come from memory
    /// meanwhile (16 rows take 5 % to 9 % less time for it).
    Second,
}

/// `out[rows, columns] (+)= a·bᵀ + bias` for one tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(super) rows: usize,
    pub(super) pass: Pass,
    /// Steps of a row.
    pub(super) steps: usize,
    /// As the [`layout`](super::layout) says: `[groups, rows, words of a group]`.
    pub(super) a: &'a [u32],
    /// One per row.
    pub(super) row_scales: &'a [f32],
    /// Whole panels.
    pub(super) b: &'a [u32],
    /// One per output of the panels, or nothing.
    pub(super) scales: &'a [f32],
    /// One per output of the panels, or nothing.
    pub(super) compensation: &'a [u32],
    /// `[columns]`
    pub(super) bias: Option<&'a [f32]>,
    /// Valid outputs: more than one panel less than `b` holds, and no more than it holds.
    pub(super) columns: usize,
    pub(super) store: Store,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// The tile shapes of an instruction set.
pub(crate) trait Tiles: Simd {
    /// Most rows of a tile.
    const MAX_ROWS: usize;
    /// Outputs of a panel.
    const PANEL: usize;

    /// Panels taken at once by a tile of `rows`.
    fn strip(rows: usize) -> usize;

    /// # Safety
    /// `tile.out` must be valid for `rows` rows of `columns`, unaliased. `rows` is in `1..=ROWS`.
    unsafe fn tile<F: Microkernel>(self, tile: Tile<'_>);
}

/// What an instruction set does at once.
#[derive(Clone, Copy)]
pub(super) struct TileShape {
    /// Most rows of a tile.
    pub(super) rows: usize,
    /// Outputs of a panel.
    pub(super) panel: usize,
    /// Panels that a tile of some rows takes.
    pub(super) strip: usize,
}

impl TileShape {
    /// Of an instruction set, for tiles of so many rows.
    pub(super) fn of(isa: Isa, rows: usize) -> Self {
        struct OfRows(usize);
        impl<S: Tiles> Task<S> for OfRows {
            type Output = TileShape;
            #[inline(always)]
            fn run(self, _: S) -> TileShape {
                TileShape { rows: S::MAX_ROWS, panel: S::PANEL, strip: S::strip(self.0) }
            }
        }
        isa.run(OfRows(rows))
    }
}

/// `rows => strip`: enough accumulators to hide the latency of a multiply-add (4 cycles × 2 per cycle), few enough
/// to stay in registers.
macro_rules! tiles {
    ($token:ty, $most:literal rows, $vectors:literal vectors, { $($rows:literal => $strip:literal),+ }) => {
        impl Tiles for $token {
            const MAX_ROWS: usize = $most;
            const PANEL: usize = $vectors * LANES;

            #[inline(always)]
            fn strip(rows: usize) -> usize {
                match rows {
                    $($rows => $strip,)+
                    _ => 1,
                }
            }

            #[inline(always)]
            unsafe fn tile<F: Microkernel>(self, tile: Tile<'_>) {
                let panel = PanelLayout::<F>::new($vectors, tile.steps).words();
                match tile.rows {
                    // The last strip may hold fewer panels.
                    $($rows if $rows <= F::MAX_ROWS && tile.b.len() == panel * $strip => {
                        micro::<Self, F, $rows, $strip, $vectors>(self, tile)
                    })+
                    $($rows if $rows <= F::MAX_ROWS => {
                        for part in tile.panels(Self::PANEL, panel) {
                            micro::<Self, F, $rows, 1, $vectors>(self, part)
                        }
                    })+
                    rows => unreachable!("a tile of {rows} rows"),
                }
            }
        }
    };
}

tiles!(Portable, 2 rows, 1 vectors, { 1 => 2, 2 => 1 });
#[cfg(target_arch = "aarch64")]
tiles!(crate::simd::Neon, 6 rows, 1 vectors, { 1 => 4, 2 => 2, 3 => 1, 4 => 1, 5 => 1, 6 => 1 });
#[cfg(target_arch = "x86_64")]
tiles!(crate::simd::Avx2, 6 rows, 1 vectors, { 1 => 4, 2 => 2, 3 => 1, 4 => 1, 5 => 1, 6 => 1 });
#[cfg(target_arch = "x86_64")]
tiles!(crate::simd::Avx512, 14 rows, 2 vectors, {
    1 => 4, 2 => 4, 3 => 2, 4 => 2, 5 => 2, 6 => 2, 7 => 1, 8 => 1, 9 => 1, 10 => 1, 11 => 1, 12 => 1, 13 => 1, 14 => 1
});
#[cfg(target_arch = "x86_64")]
tiles!(crate::simd::Avx512Bf16, 14 rows, 2 vectors, {
    1 => 4, 2 => 4, 3 => 2, 4 => 2, 5 => 2, 6 => 2, 7 => 1, 8 => 1, 9 => 1, 10 => 1, 11 => 1, 12 => 1, 13 => 1, 14 => 1
});

impl<'a> Tile<'a> {
    /// The same tile, one panel of `words` at a time.
    #[inline(always)]
    fn panels(self, width: usize, words: usize) -> impl Iterator<Item = Tile<'a>> {
        (0..self.columns.div_ceil(width)).map(move |p| {
            let columns = p * width..self.columns.min((p + 1) * width);
            let outputs = p * width..(p + 1) * width;
            Tile {
                b: &self.b[p * words..(p + 1) * words],
                scales: self.scales.get(outputs.clone()).unwrap_or(&[]),
                compensation: self.compensation.get(outputs).unwrap_or(&[]),
                bias: self.bias.map(|bias| &bias[columns.clone()]),
                columns: columns.len(),
                // `wrapping`: only dereferenced under the promise of `Tiles::tile`.
                out: self.out.wrapping_add(columns.start),
                ..self
            }
        })
    }
}

/// A tile of `R` rows, `P` panels of `N` vectors, under the promise of [`Tiles::tile`]: a function of its own, so that
/// the shapes of a scheme do not become one.
#[inline(always)]
fn micro<S: Simd, F: Microkernel, const R: usize, const P: usize, const N: usize>(s: S, tile: Tile<'_>) {
    if F::MAX_ROWS == usize::MAX {
        s.run(RegisterTile::<F, R, P, N, P, N>(tile, PhantomData))
    } else if 2 * R <= F::MAX_ROWS {
        s.run(RegisterTile::<F, R, P, N, 1, N>(tile, PhantomData))
    } else {
        s.run(RegisterTile::<F, R, P, N, 1, 1>(tile, PhantomData))
    }
}

/// `Q` panels and `C` of their vectors have chains at once.
struct RegisterTile<'a, F, const R: usize, const P: usize, const N: usize, const Q: usize, const C: usize>(
    Tile<'a>,
    PhantomData<F>,
);

impl<F: Microkernel, const R: usize, const P: usize, const N: usize, const Q: usize, const C: usize> Kernel
    for RegisterTile<'_, F, R, P, N, Q, C>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tile = self.0;
        let at = PanelLayout::<F>::new(N, tile.steps);
        assert!(tile.a.len() == R * tile.steps * F::STEP_WORDS && tile.b.len() == P * at.words());
        assert!(tile.bias.is_none_or(|bias| bias.len() == tile.columns) && tile.row_scales.len() == R);
        assert!(at.blocks() > 0, "a product without inputs");
        // SAFETY: there is a block, and it begins in the first group. (All of these are written over.)
        let unset = unsafe {
            let group = self.group(0, 0);
            F::open(s, F::start(s, tile.compensation, group, 0), group, self.trailer(at, 0, 0, 0))
        };
        let mut sums = [[[unset; N]; P]; R];
        for block in 0..at.blocks() {
            self.take(s, at, block, &mut sums);
        }
        for p in 0..P {
            for c in 0..N {
                let outputs = tile.outputs(s, (p * N + c) * LANES);
                for (r, sum) in sums.iter().enumerate() {
                    // SAFETY: r < R, and the promise of `Tiles::tile`.
                    unsafe { tile.put::<S, F>(s, r, outputs, sum[p][c]) };
                }
            }
        }
    }
}

/// Up to sixteen outputs of a tile: what their sums become results with.
#[derive(Clone, Copy)]
pub(super) struct Outputs<'a, V> {
    first: usize,
    len: usize,
    bias: Option<V>,
    scales: &'a [f32],
}

impl<'a> Tile<'a> {
    /// Those from `first` on.
    #[inline(always)]
    pub(super) fn outputs<S: Simd>(&self, s: S, first: usize) -> Outputs<'a, S::V> {
        let len = self.columns.saturating_sub(first).min(LANES);
        let bias = match self.bias {
            Some(bias) if len > 0 => Some(s.load_part(&bias[first..first + len])),
            _ => None,
        };
        Outputs { first, len, bias, scales: self.scales.get(first..first + LANES).unwrap_or(&[]) }
    }

    /// Finishes the sums of a row, and stores or adds them.
    ///
    /// # Safety
    /// As [`Tiles::tile`], and `row` is one of the tile.
    #[inline(always)]
    pub(super) unsafe fn put<S: Simd, F: Microkernel>(
        &self,
        s: S,
        row: usize,
        outputs: Outputs<'_, S::V>,
        sum: F::Sum<S>,
    ) {
        let value = F::finish(s, sum, outputs.scales, self.row_scales[row]);
        let value = match outputs.bias {
            Some(bias) => s.add(value, bias),
            None => value,
        };
        let out = self.out.wrapping_add(row * self.out_stride + outputs.first);
        // SAFETY: `columns` outputs of the row are writable and ours, by the caller's promise.
        put(s, value, self.store, unsafe { std::slice::from_raw_parts_mut(out, outputs.len) });
    }
}

/// One vector of results to up to sixteen outputs.
#[inline(always)]
fn put<S: Simd>(s: S, value: S::V, store: Store, out: &mut [f32]) {
    if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
        let value = if store == Store::Add { s.add(s.load(out), value) } else { value };
        s.store(value, out);
    } else {
        let mut values = [0.0; LANES];
        s.store(value, &mut values);
        put_part(&values, store, out);
    }
}

/// The same of less than a vector: only the last outputs of a product come here, so this is compiled once, not for
/// every tile.
#[cold]
#[inline(never)]
fn put_part(values: &[f32; LANES], store: Store, out: &mut [f32]) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = if store == Store::Add { *out + value } else { value };
    }
}

/// A statement for each step of a round, of which there are at most eight.
macro_rules! each_step {
    ($steps:expr, $step:ident => $do:expr) => {
        each_step!(@ $steps, $step => $do, 0 1 2 3 4 5 6 7)
    };
    (@ $steps:expr, $step:ident => $do:expr, $($value:literal)+) => {
        const { assert!($steps <= 8) };
        $(if $value < $steps {
            let $step = $value;
            $do;
        })+
    };
}

impl<F: Microkernel, const R: usize, const P: usize, const N: usize, const Q: usize, const C: usize>
    RegisterTile<'_, F, R, P, N, Q, C>
{
    /// Steps of a block in a group.
    const PART_STEPS: usize = if PanelLayout::<F>::BLOCK_STEPS < LANES { PanelLayout::<F>::BLOCK_STEPS } else { LANES };

    #[inline(always)]
    fn trailer(&self, at: PanelLayout<F>, block: usize, p: usize, c: usize) -> &[u32] {
        if F::TRAILER_WORDS == 0 { &[] } else { &self.0.b[p * at.words() + at.trailer(block, c)..][..F::TRAILER_WORDS] }
    }

    /// Takes a block into the sums, as the first or another. (The chains of both are the same code: twice as much would
    /// take twice as long to compile, and gains nothing.)
    #[inline(always)]
    fn take<S: Simd>(&self, s: S, at: PanelLayout<F>, block: usize, sums: &mut [[[F::Sum<S>; N]; P]; R]) {
        for p in (0..P).step_by(Q) {
            for c in (0..N).step_by(C) {
                let chains = self.chain(s, at, block, p, c);
                for q in 0..Q {
                    for d in 0..C {
                        let trailer = self.trailer(at, block, p + q, c + d);
                        for (r, chains) in chains.iter().enumerate() {
                            let (sum, chain) = (&mut sums[r][p + q][c + d], chains[q][d]);
                            let group = self.group(block, r);
                            // SAFETY: it is the group that the block begins in.
                            *sum = unsafe {
                                if block == 0 {
                                    F::open(s, chain, group, trailer)
                                } else {
                                    F::fold(s, *sum, chain, group, trailer)
                                }
                            };
                        }
                    }
                }
            }
        }
    }

    /// The group of a row that a block begins in.
    #[inline(always)]
    fn group(&self, block: usize, row: usize) -> *const u32 {
        let group = block * PanelLayout::<F>::BLOCK_STEPS / LANES;
        self.0.a.as_ptr().wrapping_add((group * R + row) * LANES * F::STEP_WORDS)
    }

    /// The sums over one block of steps, each a single chain, of the panels and vectors from `p` and `c` on.
    #[inline(always)]
    fn chain<S: Simd>(
        &self,
        s: S,
        at: PanelLayout<F>,
        block: usize,
        p: usize,
        c: usize,
    ) -> [[[F::AmxChain<S>; C]; Q]; R] {
        let Tile { a, b, steps, compensation, pass, .. } = self.0;
        let first = block * PanelLayout::<F>::BLOCK_STEPS;
        let in_group = first % LANES / Self::PART_STEPS;
        // SAFETY: it is the group that the block begins in, here and below.
        let mut sums = [[[unsafe { F::start(s, compensation, self.group(block, 0), in_group) }; C]; Q]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (q, sums) in sums.iter_mut().enumerate() {
                for (d, sum) in sums.iter_mut().enumerate() {
                    let compensation = compensation.get(((p + q) * N + c + d) * LANES..).unwrap_or(&[]);
                    // SAFETY: as above.
                    *sum = unsafe { F::start(s, compensation, self.group(block, r), in_group) };
                }
            }
        }
        let start = at.block(block);
        // Groups do not cross blocks, or several blocks are a group; rounds do not cross groups.
        const {
            let block = PanelLayout::<F>::BLOCK_STEPS;
            assert!(block.is_multiple_of(LANES) || LANES.is_multiple_of(block));
            assert!(Self::PART_STEPS.is_multiple_of(F::LINE_STEPS));
        }
        let b = b.as_ptr().wrapping_add(p * at.words() + c * F::LINE_WORDS);
        for part in 0..(steps - first).min(PanelLayout::<F>::BLOCK_STEPS) / Self::PART_STEPS {
            let step = first + part * Self::PART_STEPS;
            let a = a[step / LANES * R * LANES * F::STEP_WORDS..][..R * LANES * F::STEP_WORDS].as_ptr();
            for round in 0..Self::PART_STEPS / F::LINE_STEPS {
                let words = start + (part * (Self::PART_STEPS / F::LINE_STEPS) + round) * N * F::LINE_WORDS;
                // Behind the end of a panel, the one that follows it in the strip is being read already.
                let next = if words + FETCH_AHEAD < at.words() { 0 } else { (P - 1) * at.words() };
                for q in 0..Q {
                    let panel = b.wrapping_add(q * at.words() + words);
                    for word in (0..C * F::LINE_WORDS).step_by(LANES) {
                        let own = panel.wrapping_add(next + FETCH_AHEAD + word).cast();
                        match pass {
                            Pass::Any if FETCHED_TO_L2.contains(&R) => s.prefetch_to_l2(own),
                            Pass::Any | Pass::First => s.prefetch(own),
                            Pass::Second if ((words + word) / LANES).is_multiple_of(ANNOUNCE_EVERY) => {
                                s.prefetch_to_l2(panel.wrapping_add(P * at.words() + word).cast());
                            }
                            Pass::Second => {}
                        }
                    }
                }
                let inputs = in_group * Self::PART_STEPS + round * F::LINE_STEPS;
                // SAFETY: the round is in the block; `a` holds a group of R rows and `b` P panels (checked by `run`).
                unsafe {
                    let b = b.add(words);
                    // Written out: a step's place in its round is then a constant.
                    each_step!(F::LINE_STEPS, step => Self::step(s, &mut sums, a, inputs, b, at.words(), step));
                }
            }
        }
        sums
    }

    /// A step of the round at `b`, in each panel of so many `words`; the first step of the round is one of the group at
    /// `a`.
    ///
    /// # Safety
    /// There must be such a round, and the step in it.
    #[inline(always)]
    unsafe fn step<S: Simd>(
        s: S,
        sums: &mut [[[F::AmxChain<S>; C]; Q]; R],
        a: *const u32,
        first: usize,
        b: *const u32,
        words: usize,
        step: usize,
    ) {
        // SAFETY: by the caller's promise, here and below.
        let mut weights = [[unsafe { F::weights(s, b, step) }; C]; Q];
        for (q, panel) in weights.iter_mut().enumerate() {
            for (c, weight) in panel.iter_mut().enumerate() {
                // SAFETY: as above.
                *weight = unsafe { F::weights(s, b.add(q * words + c * F::LINE_WORDS), step) };
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above; r < R.
            let x = unsafe { F::inputs(s, a.add(r * LANES * F::STEP_WORDS), first + step) };
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = F::multiply(s, *sum, x, *weight);
                }
            }
        }
    }
}
