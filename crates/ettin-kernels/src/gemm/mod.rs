//! `out = x·Wᵀ`: the deterministic product of activations and a packed weight, in every [`Scheme`].
//!
//! **Order.** K is cut into blocks at fixed places. Within a block an output element is one chain of multiply-adds over
//! k, from zero; the block sums are added in order, then the bias, then (for [`Store::Add`]) what `out` held. Nothing
//! in that depends on the number of rows, the tile that holds the element, or the thread that computes it: one row
//! equals 4096 rows, bit for bit. Blocks also shorten the chain, which keeps the error below that of a single chain by
//! about √(k / `K_BLOCK`). AMX sums bf16 in an order of its own (`amx.rs`), of which the same holds.
//!
//! **Work.** Activations are first encoded (`activations.rs`): rounded as the scheme says and interleaved tile by tile.
//! Register tiles of `ROWS × PANEL` outputs then run over whole panels of W (`tile.rs`, `amx.rs`); a `Microkernel` says
//! what one step along k loads and does, so that all schemes share one tile. A task takes some rows and some panels;
//! for each panel it passes over all its rows, so a panel is read from memory once per task and from L2 afterwards. A
//! few rows (decoding) take several panels at once to hide the latency of the chains.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod amx;
mod activations;
mod epilogue;
pub(crate) mod formats;
mod layout;
mod next_read;
mod product;
mod quantization;
mod reading_order;
mod rounding;
mod scheme;
mod tile;
mod weight;

pub use activations::PackedActivations;
pub(crate) use activations::{PackedActivationsView, PackedColumns};
pub use epilogue::Store;
pub(crate) use epilogue::{OUTPUT_TILE_WIDTH, OutputTile, Sink};
pub use formats::{K_BLOCK, QuantizedRow, w4::GROUP};
pub(crate) use layout::ActivationLayout;
pub(crate) use product::Product;
pub use quantization::Quantization;
pub use reading_order::{ReadingOrder, Sharing};
pub use rounding::rounded;
pub use scheme::Scheme;
pub(crate) use scheme::with_microkernel;
use tile::TileShape;
pub(crate) use tile::Tiles;
pub use weight::PackedWeight;

use std::ops::Range;

use crate::team::{Shared, TASKS_PER_THREAD, Team, share};

/// Activations that one task keeps while it runs over the weight: a quarter of a common L2, which leaves room for a
/// panel and for the one fetched ahead. Twice as much measured slower.
const ROWS_BYTES: usize = 1 << 19;

/// Encoded rows that pass over a weight at a time, in bytes: what stays in a common L2 of 2 MiB beside panels and
/// results. (Of the largest models, the rows of a task do not; read from L3 for every panel, they take a tenth of an
/// MLP's time.)
const PASS_BYTES: usize = 704 << 10;

/// Rows per task below which re-reading the weight from L3 would cost more than it balances.
const MIN_ROWS: usize = 112;

/// `x` `[m, k]`, encoded for `w`, times the transpose of `w` `[n, k]`, plus `bias` `[n]`, into `out` `[m, n]`,
/// row-major.
///
/// # Panics
/// If the lengths do not fit together.
pub fn gemm(team: &Team, x: &PackedActivations, w: &PackedWeight, bias: Option<&[f32]>, store: Store, out: &mut [f32]) {
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
    let workers = team.threads();
    let plan = Plan::new(w, &rows, workers);
    let out = Shared::new(out);
    let work = (2 * m * n).saturating_mul(w.k());
    let tasks = plan.row_parts * plan.column_parts;
    team.run(tasks, work, |task| {
        if plan.row_parts == 1 {
            w.read_by(task, tasks, workers);
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

impl PackedActivationsView<'_> {
    /// Some outputs of a product, on the calling thread, from the first element of `out` on, rows `stride` apart.
    ///
    /// # Panics
    /// If the outputs are not whole panels, or the lengths do not fit together.
    pub(crate) fn multiply(
        self,
        w: &PackedWeight,
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
        for tiles in self.parts(PASS_BYTES) {
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
    fn new(w: &PackedWeight, rows: &PackedActivationsView<'_>, threads: usize) -> Self {
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
    fn panels(&self, w: &PackedWeight, part: usize) -> Range<usize> {
        let strips = share(w.panels().div_ceil(self.strip), self.column_parts, part);
        strips.start * self.strip..(strips.end * self.strip).min(w.panels())
    }
}

/// Panels that the tiles of these rows take at once.
fn strip(w: &PackedWeight, rows: &PackedActivationsView<'_>) -> usize {
    match w.layout() {
        #[cfg(target_arch = "x86_64")]
        ActivationLayout::TILES => amx::panels_at_once(w, rows.rows),
        _ => TileShape::of(w.isa(), rows.rows.div_ceil(rows.tiles().max(1))).strip,
    }
}

impl Product<'_> {
    /// # Safety
    /// Of [`Sink::Rows`]: the rows of `tiles` times the outputs of `panels` must be writable at `out`, and not be
    /// touched by others.
    pub(crate) unsafe fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if self.w.layout() == ActivationLayout::TILES {
            // SAFETY: the same promise.
            return unsafe { amx::run(self) };
        }
        // SAFETY: the same promise.
        unsafe { self.run_by_vectors() }
    }
}
