//! `out = x·Wᵀ`: the deterministic f32 product of activations and a packed weight.
//!
//! **Order.** K is cut into blocks of [`K_BLOCK`] at fixed places. Within a block an output element is one chain of
//! multiply-adds over k, from zero; the block sums are added in order, then the bias, then (for [`Store::Add`]) what
//! `out` held. Nothing in that depends on the number of rows, the tile that holds the element, or the thread that
//! computes it: one row equals 4096 rows, bit for bit. Blocks also shorten the chain, which keeps the error below
//! that of a single chain by about √(k / `K_BLOCK`).
//!
//! **Work.** Register tiles of `ROWS × PANEL` outputs run over whole panels of W. A task takes some rows and some
//! panels; for each panel it passes over all its rows, so a panel is read from memory once per task and from L2
//! afterwards. A few rows (decoding) take several panels at once to hide the latency of the chains.

mod packed;
mod tile;

pub use packed::PackedMatrix;
pub(crate) use tile::{Tile, Tiles};

use std::ops::Range;

use crate::{
    buffer::with_scratch,
    simd::{Kernel, Simd},
    team::{Shared, TASKS_PER_THREAD, Team, share},
};

/// Length of a chain of multiply-adds. Part of the numerical definition: changing it changes results.
pub const K_BLOCK: usize = 256;

/// Activations that one task keeps while it runs over the weight: a quarter of a common L2, which leaves room for a
/// panel and for the one fetched ahead. Twice as much measured slower.
const ROWS_BYTES: usize = 1 << 19;

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

/// `x` `[m, k]` times the transpose of `w` `[n, k]`, plus `bias` `[n]`, into `out` `[m, n]`; all row-major.
///
/// # Panics
/// If the lengths do not fit together.
pub fn gemm(team: &Team, x: &[f32], w: &PackedMatrix, bias: Option<&[f32]>, store: Store, out: &mut [f32]) {
    let (n, k) = (w.n(), w.k());
    if n == 0 {
        return assert!(out.is_empty(), "a product with no outputs");
    }
    let m = out.len() / n;
    assert_eq!(out.len(), m * n, "out is not [rows, {n}]");
    assert_eq!(x.len(), m * k, "x is not [{m}, {k}]");
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias is not [{n}]");
    if m == 0 {
        return;
    }
    let product = Product { x, w, bias, store, out: Shared::new(out) };
    let plan = w.isa().run(MakePlan { m, k, panels: w.panels(), threads: team.threads() });
    let work = (2 * m * n).saturating_mul(k);
    team.run(plan.row_parts * plan.column_parts, work, |task| {
        let part = Part {
            product: &product,
            tiles: share(plan.tiles, plan.row_parts, task % plan.row_parts),
            panels: plan.panels(task / plan.row_parts),
            plan,
        };
        if plan.rows(part.tiles.start).len() <= tile::DIRECT_ROWS {
            w.isa().run(part);
        } else {
            let len = plan.rows_of(&part.tiles).len() * k;
            with_scratch(len, |scratch| w.isa().run(Interleaved { part, scratch }));
        }
    });
}

struct Product<'a> {
    x: &'a [f32],
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    store: Store,
    out: Shared<'a, f32>,
}

/// How a product is cut. Affects speed only.
#[derive(Clone, Copy)]
struct Plan {
    m: usize,
    /// Register tiles down the rows, of nearly equal height.
    tiles: usize,
    all_panels: usize,
    /// Panels that a tile takes at once.
    strip: usize,
    row_parts: usize,
    column_parts: usize,
}

impl Plan {
    /// The rows of a tile.
    fn rows(&self, tile: usize) -> Range<usize> {
        share(self.m, self.tiles, tile)
    }

    /// The rows of some tiles, of which there is at least one.
    fn rows_of(&self, tiles: &Range<usize>) -> Range<usize> {
        self.rows(tiles.start).start..self.rows(tiles.end - 1).end
    }

    /// The panels of a part of the columns: whole strips, but for the last.
    fn panels(&self, part: usize) -> Range<usize> {
        let strips = share(self.all_panels.div_ceil(self.strip), self.column_parts, part);
        strips.start * self.strip..(strips.end * self.strip).min(self.all_panels)
    }
}

struct MakePlan {
    m: usize,
    k: usize,
    panels: usize,
    threads: usize,
}

impl Kernel for MakePlan {
    type Output = Plan;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Plan {
        let Self { m, k, panels, threads } = self;
        let tiles = m.div_ceil(S::ROWS);
        let strip = S::strip(m.div_ceil(tiles));
        let most_rows = (ROWS_BYTES / (4 * k.max(1))).max(S::ROWS);
        let tasks = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
        let row_parts = (m / MIN_ROWS).clamp(1, tasks).max(m.div_ceil(most_rows)).min(tiles);
        let column_parts = tasks.div_ceil(row_parts).min(panels.div_ceil(strip));
        Plan { m, tiles, all_panels: panels, strip, row_parts, column_parts }
    }
}

/// One task: some tiles of rows times some panels.
struct Part<'a> {
    product: &'a Product<'a>,
    plan: Plan,
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (rows, k) = (self.plan.rows_of(&self.tiles), self.product.w.k());
        self.multiply(simd, &self.product.x[rows.start * k..rows.end * k]);
    }
}

/// A task whose rows are interleaved into scratch first.
struct Interleaved<'a> {
    part: Part<'a>,
    scratch: &'a mut [f32],
}

impl Kernel for Interleaved<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { part, scratch } = self;
        let (x, k) = (part.product.x, part.product.w.k());
        let first = part.plan.rows_of(&part.tiles).start;
        for tile in part.tiles.clone() {
            let rows = part.plan.rows(tile);
            let out = &mut scratch[(rows.start - first) * k..(rows.end - first) * k];
            tile::interleave(&x[rows.start * k..rows.end * k], rows.len(), k, out);
        }
        part.multiply(simd, scratch);
    }
}

impl Part<'_> {
    /// `a`: this part's rows, tile after tile.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, a: &[f32]) {
        let Product { w, bias, store, ref out, .. } = *self.product;
        let (n, k) = (w.n(), w.k());
        let first_row = self.plan.rows_of(&self.tiles).start;
        for first in self.panels.clone().step_by(self.plan.strip) {
            let panels = first..(first + self.plan.strip).min(self.panels.end);
            let columns = panels.start * S::PANEL..(panels.end * S::PANEL).min(n);
            for tile in self.tiles.clone() {
                let rows = self.plan.rows(tile);
                let tile = Tile {
                    rows: rows.len(),
                    k,
                    a: &a[(rows.start - first_row) * k..(rows.end - first_row) * k],
                    b: w.panel(panels.clone()),
                    bias: bias.map(|bias| &bias[columns.clone()]),
                    columns: columns.len(),
                    store,
                    // SAFETY: inside `out` [m, n]: the tile's first row and column are.
                    out: unsafe { out.as_ptr().add(rows.start * n + columns.start) },
                    out_stride: n,
                };
                // SAFETY: tasks have disjoint rows × columns of `out`, and tiles of a task too; `columns` and
                // `rows` end inside it.
                unsafe { simd.tile(tile) };
            }
        }
    }
}
