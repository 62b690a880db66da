//! `out = x·Wᵀ`: the deterministic product of activations and a packed weight, in every [`Scheme`].
//!
//! **Order.** K is cut into blocks at fixed places. Within a block an output element is one chain of multiply-adds over
//! k, from zero; the block sums are added in order, then the bias, then (for [`Store::Add`]) what `out` held. Nothing in
//! that depends on the number of rows, the tile that holds the element, or the thread that computes it: one row equals
//! 4096 rows, bit for bit. Blocks also shorten the chain, which keeps the error below that of a single chain by about
//! √(k / `K_BLOCK`). AMX sums bf16 in an order of its own (`amx.rs`), of which the same holds.
//!
//! **Work.** Activations are first encoded (`operand.rs`): rounded as the scheme says and interleaved tile by tile.
//! Register tiles of `ROWS × PANEL` outputs then run over whole panels of W (`tile.rs`, `amx.rs`); a `Form` says what
//! one step along k loads and does, so that all schemes share one tile. A task takes some rows and some panels; for each
//! panel it passes over all its rows, so a panel is read from memory once per task and from L2 afterwards. A few rows
//! (decoding) take several panels at once to hide the latency of the chains.

#[cfg(target_arch = "x86_64")]
mod amx;
mod fixed;
mod form;
mod layout;
mod operand;
mod order;
mod packed;
mod quantise;
mod rounding;
mod scheme;
mod stored;
mod tile;

pub(crate) use form::Form;
pub(crate) use layout::Layout;
pub use operand::Operand;
pub(crate) use operand::{Parts, Rows};
pub use order::{ReadingOrder, Sharing};
pub use packed::PackedMatrix;
pub use quantise::GROUP;
pub use rounding::rounded;
pub use scheme::Scheme;
pub(crate) use scheme::WithForm;
pub use stored::{Quantisation, QuantisedRow};
use tile::Pass;
pub(crate) use tile::{Tile, Tiles};

use std::{marker::PhantomData, ops::Range};

use crate::{
    simd::{LANES, Task},
    team::{Shared, TASKS_PER_THREAD, Team, share},
};

/// Length of a chain of multiply-adds where the scheme does not say otherwise. Part of the numerical definition: changing
/// it changes results.
pub const K_BLOCK: usize = 256;

/// Activations that one task keeps while it runs over the weight: a quarter of a common L2, which leaves room for a
/// panel and for the one fetched ahead. Twice as much measured slower.
const ROWS_BYTES: usize = 1 << 19;

/// Encoded rows that pass over a weight at a time, in bytes: what stays in a common L2 of 2 MiB beside panels and results. (Of the largest
/// models, the rows of a task do not; read from L3 for every panel, they take a tenth of an MLP's time.)
const AT_ONCE: usize = 704 << 10;

/// Rows per task below which re-reading the weight from L3 would cost more than it balances.
const MIN_ROWS: usize = 112;

/// What becomes of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `out = x·Wᵀ + bias`
    Write,
    /// `out = out + (x·Wᵀ + bias)`, as a residual connection
    Add,
}

/// `x` `[m, k]`, encoded for `w`, times the transpose of `w` `[n, k]`, plus `bias` `[n]`, into `out` `[m, n]`, row-major.
///
/// # Panics
/// If the lengths do not fit together.
pub fn gemm(team: &Team, x: &Operand, w: &PackedMatrix, bias: Option<&[f32]>, store: Store, out: &mut [f32]) {
    let (rows, n) = (x.view(w), w.n());
    let m = rows.rows;
    assert_eq!(out.len(), m * n, "out is not [{m}, {n}]");
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias is not [{n}]");
    if m == 0 || n == 0 {
        return;
    }
    if w.k() == 0 {
        for row in out.chunks_exact_mut(n) {
            for (i, out) in row.iter_mut().enumerate() {
                *out = if store == Store::Add { *out } else { 0.0 } + bias.map_or(0.0, |bias| bias[i]);
            }
        }
        return;
    }
    let hands = team.threads();
    let plan = Plan::new(w, &rows, hands);
    let out = Shared::new(out);
    let work = (2 * m * n).saturating_mul(w.k());
    let tasks = plan.row_parts * plan.column_parts;
    team.run(tasks, work, |task| {
        if plan.row_parts == 1 {
            w.read_by(task, tasks, hands);
        }
        let product = Product {
            rows,
            w,
            bias,
            tiles: share(rows.tiles(), plan.row_parts, task % plan.row_parts),
            panels: plan.panels(w, task / plan.row_parts),
            sink: Sink::Rows { out: out.as_ptr(), stride: n, store },
        };
        // SAFETY: `out` is [m, n], and tasks have disjoint rows × columns of it.
        unsafe { product.run() }
    });
}

impl Rows<'_> {
    /// Some outputs of a product, on the calling thread, from the first element of `out` on, rows `stride` apart.
    ///
    /// # Panics
    /// If the outputs are not whole panels, or the lengths do not fit together.
    pub(crate) fn multiply(
        self,
        w: &PackedMatrix,
        bias: Option<&[f32]>,
        outputs: Range<usize>,
        store: Store,
        out: &mut [f32],
        stride: usize,
    ) {
        assert!(bias.is_none_or(|bias| bias.len() == w.n()), "bias is not [{}]", w.n());
        assert!(
            outputs.end <= w.n() && outputs.len() <= stride && out.len() + stride >= self.rows * stride + outputs.len()
        );
        let panels = w.panels_of(outputs.clone());
        for tiles in self.parts(AT_ONCE) {
            // `wrapping`: the product adds the outputs' place back.
            let sink = Sink::Rows { out: out.as_mut_ptr().wrapping_sub(outputs.start), stride, store };
            // SAFETY: the rows are writable from `out` on, by the assertion, and borrowed.
            unsafe { Product { rows: self, w, bias, tiles, panels: panels.clone(), sink }.run() }
        }
    }
}

/// How a product is cut. Affects speed only.
#[derive(Clone, Copy)]
struct Plan {
    /// Panels that a tile takes at once.
    strip: usize,
    row_parts: usize,
    column_parts: usize,
}

impl Plan {
    fn new(w: &PackedMatrix, rows: &Rows<'_>, threads: usize) -> Self {
        let strip = strip(w, rows);
        let row_bytes = 4 * w.row_words();
        let most_rows = (ROWS_BYTES / row_bytes.max(1)).max(1);
        let tasks = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
        let m = rows.rows;
        let row_parts = (m / MIN_ROWS).clamp(1, tasks).max(m.div_ceil(most_rows)).min(rows.tiles());
        let column_parts = tasks.div_ceil(row_parts).min(w.panels().div_ceil(strip));
        Plan { strip, row_parts, column_parts }
    }

    /// The panels of a part of the columns: whole strips, but for the last.
    fn panels(&self, w: &PackedMatrix, part: usize) -> Range<usize> {
        let strips = share(w.panels().div_ceil(self.strip), self.column_parts, part);
        strips.start * self.strip..(strips.end * self.strip).min(w.panels())
    }
}

/// Panels that the tiles of these rows take at once.
fn strip(w: &PackedMatrix, rows: &Rows<'_>) -> usize {
    match w.layout() {
        #[cfg(target_arch = "x86_64")]
        Layout::TILES => amx::panels_at_once(w, rows.rows),
        _ => w.isa().run(Strip(rows.rows.div_ceil(rows.tiles().max(1)))),
    }
}

struct Strip(usize);

impl<S: Tiles> Task<S> for Strip {
    type Output = usize;

    #[inline(always)]
    fn run(self, _: S) -> usize {
        S::strip(self.0)
    }
}

/// Some tiles of rows times some panels, on the calling thread.
pub(crate) struct Product<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) w: &'a PackedMatrix,
    /// `[n]`
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) tiles: Range<usize>,
    pub(crate) panels: Range<usize>,
    pub(crate) sink: Sink<'a>,
}

/// Where results go.
pub(crate) enum Sink<'a> {
    /// Into rows: where row 0 and output 0 of the whole product go, and how far rows are apart.
    Rows { out: *mut f32, stride: usize, store: Store },
    /// To somebody who takes them cell by cell, while they are in L1: a tile of rows by a panel, or by two panels that
    /// are `apart`. Then only the first of them are in the product's range; neighbours both are.
    Cells { apart: Option<usize>, take: &'a mut dyn FnMut(Cell<'_>) },
}

impl Sink<'_> {
    /// What is left where a sink was taken.
    const NOWHERE: Self = Sink::Rows { out: std::ptr::null_mut(), stride: 0, store: Store::Write };

    /// Panels from one that is visited to the next.
    fn step(&self) -> usize {
        if matches!(self, Sink::Cells { apart: Some(1), .. }) { 2 } else { 1 }
    }
}

/// Some rows of a panel's outputs, or of two panels' side by side.
pub(crate) struct Cell<'a> {
    pub(crate) rows: Range<usize>,
    /// Of the first panel.
    pub(crate) outputs: Range<usize>,
    /// Of the first panel and the second, each `[rows, CELL]` with its outputs first.
    pub(crate) values: [&'a [f32]; 2],
}

/// Elements from one row of a cell's panel to the next: the widest panel of any instruction set.
pub(crate) const CELL: usize = 2 * LANES;

/// Memory of a cell: the rows of a tile of any instruction set, of two panels.
#[repr(C, align(64))]
struct CellMemory([[f32; 2 * LANES * CELL]; 2]);

impl Default for CellMemory {
    fn default() -> Self {
        Self([[0.0; 2 * LANES * CELL]; 2])
    }
}

impl<'a> Product<'a> {
    /// # Safety
    /// Of [`Sink::Rows`]: the rows of `tiles` times the outputs of `panels` must be writable at `out`, and not be touched by
    /// others.
    pub(crate) unsafe fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if self.w.layout() == Layout::TILES {
            // SAFETY: the same promise.
            return unsafe { amx::run(self) };
        }
        self.w.scheme().with(self.w.isa(), self)
    }

    /// A tile of rows, of so many steps, times a strip of panels, into rows of `out` that are `stride` apart.
    #[inline(always)]
    fn tile<F: form::Form>(
        &self,
        steps: usize,
        panels: Range<usize>,
        tile: usize,
        (out, stride, store): (*mut f32, usize, Store),
    ) -> Tile<'a> {
        let Product { rows, w, .. } = *self;
        let width = steps * F::WORDS;
        let range = rows.layout.tile(rows.rows, tile);
        let columns = panels.start * w.width()..(panels.end * w.width()).min(w.n());
        let pass = match (self.tiles.len(), tile - self.tiles.start) {
            _ if size_of_val(w.panel(0..1)) <= tile::SMALL => Pass::Any,
            (2, 0) => Pass::First,
            (2, _) => Pass::Second,
            _ => Pass::Any,
        };
        Tile {
            rows: range.len(),
            pass,
            steps,
            a: &rows.words[range.start * width..range.end * width],
            row_factors: &rows.factors[range.clone()],
            b: w.panel(panels.clone()),
            factors: w.factors(&panels),
            offsets: w.offsets(&panels),
            bias: self.bias.map(|bias| &bias[columns.clone()]),
            columns: columns.len(),
            store,
            out,
            out_stride: stride,
        }
    }

    /// The first element of a tile in the rows at `out`.
    #[inline(always)]
    fn place(&self, panel: usize, tile: usize, out: *mut f32, stride: usize) -> *mut f32 {
        let first = self.rows.layout.tile(self.rows.rows, tile).start;
        out.wrapping_add(first * stride + panel * self.w.width())
    }

    /// What is said of a cell.
    #[inline(always)]
    fn cell<'c>(&self, panel: usize, tile: usize, values: [&'c [f32]; 2]) -> Cell<'c> {
        let width = self.w.width();
        Cell {
            rows: self.rows.layout.tile(self.rows.rows, tile),
            outputs: panel * width..((panel + 1) * width).min(self.w.n()),
            values,
        }
    }
}

impl WithForm for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<F: form::Form>(self) {
        let isa = self.w.isa();
        if F::NARROW {
            isa.run_low_precision(Tiled::<F>(self, PhantomData))
        } else {
            isa.run(Tiled::<F>(self, PhantomData))
        }
    }
}

/// A product in a scheme. Built only by [`Product::run`], whose promise it relies on.
struct Tiled<'a, F>(Product<'a>, PhantomData<F>);

impl<S: Tiles, F: form::Form> Task<S> for Tiled<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let mut product = self.0;
        let steps = Layout::steps::<F>(product.w.k());
        let step = product.sink.step();
        // Loops, not iterators in chains: those would not be inlined, and hand tiles over through memory.
        match std::mem::replace(&mut product.sink, Sink::NOWHERE) {
            Sink::Rows { out, stride, store } => {
                let strip = S::strip(product.rows.rows.div_ceil(product.rows.tiles().max(1)));
                for first in product.panels.clone().step_by(strip) {
                    let panels = first..(first + strip).min(product.panels.end);
                    for tile in product.tiles.clone() {
                        let out = product.place(first, tile, out, stride);
                        // SAFETY: rows and outputs are writable and ours, by the promise of `Product::run`.
                        unsafe {
                            simd.tile::<F>(product.tile::<F>(steps, panels.clone(), tile, (out, stride, store)));
                        }
                    }
                }
            }
            Sink::Cells { apart, take } => {
                let mut memory = CellMemory::default();
                for panel in product.panels.clone().step_by(step) {
                    for tile in product.tiles.clone() {
                        for (half, panel) in
                            [Some(panel), apart.map(|apart| panel + apart)].into_iter().flatten().enumerate()
                        {
                            let out = (memory.0[half].as_mut_ptr(), CELL, Store::Write);
                            let tile = product.tile::<F>(steps, panel..panel + 1, tile, out);
                            // SAFETY: a tile has at most 2 · LANES rows, and a panel at most CELL outputs.
                            unsafe { simd.tile::<F>(tile) };
                        }
                        let [first, second] = &memory.0;
                        take(product.cell(panel, tile, [first, second]));
                    }
                }
            }
        }
    }
}
