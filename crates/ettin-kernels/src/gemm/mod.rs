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

/// Activations that one task keeps while it runs over the weight: about half of a common L2.
const ROWS_BYTES: usize = 1 << 20;

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
pub fn gemm(
    team: &Team,
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    store: Store,
    out: &mut [f32],
) {
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
    let product = Product {
        x,
        w,
        bias,
        store,
        out: Shared::new(out),
    };
    let plan = w.isa().run(MakePlan {
        m,
        k,
        panels: w.panels(),
        threads: team.threads(),
    });
    team.run(
        plan.row_parts * plan.column_parts,
        (2 * m * n).saturating_mul(k),
        |task| {
            let tiles = share(plan.tiles, plan.row_parts, task % plan.row_parts);
            let strips = share(plan.strips, plan.column_parts, task / plan.row_parts);
            let panels = strips.start * plan.strip..(strips.end * plan.strip).min(w.panels());
            w.isa().run(Part {
                product: &product,
                m,
                plan,
                tiles,
                panels,
            });
        },
    );
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
    /// Register tiles down the rows, of nearly equal height.
    tiles: usize,
    /// Panels that a tile takes at once.
    strip: usize,
    strips: usize,
    row_parts: usize,
    column_parts: usize,
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
        let Self {
            m,
            k,
            panels,
            threads,
        } = self;
        let tiles = m.div_ceil(S::ROWS);
        let strip = S::strip(m.div_ceil(tiles));
        let strips = panels.div_ceil(strip);
        let most_rows = (ROWS_BYTES / (4 * k.max(1))).max(S::ROWS);
        let tasks = if threads == 1 {
            1
        } else {
            threads * TASKS_PER_THREAD
        };
        let row_parts = (m / MIN_ROWS)
            .clamp(1, tasks)
            .max(m.div_ceil(most_rows))
            .min(tiles);
        let column_parts = tasks.div_ceil(row_parts).min(strips);
        Plan {
            tiles,
            strip,
            strips,
            row_parts,
            column_parts,
        }
    }
}

/// One task: some tiles of rows times some panels.
struct Part<'a> {
    product: &'a Product<'a>,
    m: usize,
    plan: Plan,
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Part {
            product:
                &Product {
                    x,
                    w,
                    bias,
                    store,
                    ref out,
                },
            m,
            plan,
            tiles,
            panels,
        } = self;
        let (n, k) = (w.n(), w.k());
        let rows_of = |tile| share(m, plan.tiles, tile);
        let rows = rows_of(tiles.start).start..rows_of(tiles.end - 1).end;
        let x = &x[rows.start * k..rows.end * k];
        let multiply = |x: &[f32]| {
            for first in panels.clone().step_by(plan.strip) {
                let columns =
                    first * S::PANEL..((first + plan.strip).min(panels.end) * S::PANEL).min(n);
                for tile in tiles.clone() {
                    let tile_rows = rows_of(tile);
                    let tile = Tile {
                        rows: tile_rows.len(),
                        k,
                        a: &x[(tile_rows.start - rows.start) * k..(tile_rows.end - rows.start) * k],
                        b: w.panel(first..(first + plan.strip).min(panels.end)),
                        bias: bias.map(|bias| &bias[columns.clone()]),
                        columns: columns.len(),
                        store,
                        // SAFETY: inside `out` [m, n]: the tile's first row and column are.
                        out: unsafe { out.as_ptr().add(tile_rows.start * n + columns.start) },
                        out_stride: n,
                    };
                    // SAFETY: tasks have disjoint rows × columns of `out`, and tiles of a task too; `columns` and
                    // `rows` end inside it.
                    unsafe { simd.tile(tile) };
                }
            }
        };
        if rows_of(tiles.start).len() <= tile::DIRECT_ROWS {
            return multiply(x);
        }
        with_scratch(x.len(), |packed| {
            for tile in tiles.clone() {
                let part =
                    (rows_of(tile).start - rows.start) * k..(rows_of(tile).end - rows.start) * k;
                tile::interleave(&x[part.clone()], k, &mut packed[part]);
            }
            multiply(packed);
        })
    }
}
