//! A part of a product, and its computation by register tiles.

use std::{marker::PhantomData, ops::Range};

use super::{
    activations::PackedActivationsView,
    epilogue::{OUTPUT_TILE_WIDTH, OutputTile, OutputTileMemory, Sink, Store},
    formats::Microkernel,
    scheme::with_microkernel,
    tile::{MAX_L1_STRIP, Pass, Tile, Tiles},
    weight::PackedWeight,
};
use crate::simd::Task;

/// Some tiles of rows times some panels, on the calling thread.
pub(crate) struct Product<'a> {
    pub(crate) rows: PackedActivationsView<'a>,
    pub(crate) w: &'a PackedWeight,
    /// `[n]`
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) tiles: Range<usize>,
    pub(crate) panels: Range<usize>,
    pub(crate) sink: Sink<'a>,
}

impl<'a> Product<'a> {
    /// A tile of rows, of so many steps, times a strip of panels, into rows of `out` that are `stride` apart.
    #[inline(always)]
    pub(super) fn tile<F: Microkernel>(
        &self,
        steps: usize,
        panels: Range<usize>,
        tile: usize,
        (out, stride, store): (*mut f32, usize, Store),
    ) -> Tile<'a> {
        let Product { rows, w, .. } = *self;
        let width = steps * F::STEP_WORDS;
        let range = rows.layout.tile(rows.rows, tile);
        let columns = panels.start * w.width()..(panels.end * w.width()).min(w.n());
        let pass = match (self.tiles.len(), tile - self.tiles.start) {
            _ if size_of_val(w.panel(0..1)) <= MAX_L1_STRIP => Pass::Any,
            (2, 0) => Pass::First,
            (2, _) => Pass::Second,
            _ => Pass::Any,
        };
        Tile {
            rows: range.len(),
            pass,
            steps,
            a: &rows.words[range.start * width..range.end * width],
            row_scales: &rows.scales[range.clone()],
            b: w.panel(panels.clone()),
            scales: w.scales(&panels),
            compensation: w.compensation(&panels),
            bias: self.bias.map(|bias| &bias[columns.clone()]),
            columns: columns.len(),
            store,
            out,
            out_stride: stride,
        }
    }

    /// The first element of a tile in the rows at `out`.
    #[inline(always)]
    pub(super) fn place(&self, panel: usize, tile: usize, out: *mut f32, stride: usize) -> *mut f32 {
        let first = self.rows.layout.tile(self.rows.rows, tile).start;
        out.wrapping_add(first * stride + panel * self.w.width())
    }

    /// What is said of a cell.
    #[inline(always)]
    pub(super) fn cell<'c>(&self, panel: usize, tile: usize, values: [&'c [f32]; 2]) -> OutputTile<'c> {
        let width = self.w.width();
        OutputTile {
            rows: self.rows.layout.tile(self.rows.rows, tile),
            outputs: panel * width..((panel + 1) * width).min(self.w.n()),
            values,
        }
    }

    /// Runs it tile by tile.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub(super) unsafe fn run_by_vectors(self) {
        let isa = self.w.isa();
        with_microkernel!(self.w.scheme(), isa, F => {
            let tiled = VectorTiles::<F>(self, PhantomData);
            if F::LOW_PRECISION { isa.run_low_precision(tiled) } else { isa.run(tiled) }
        });
    }
}

/// A product in a scheme. Built only by [`Product::run_by_vectors`], whose promise it relies on.
struct VectorTiles<'a, F>(Product<'a>, PhantomData<F>);

impl<S: Tiles, F: Microkernel> Task<S> for VectorTiles<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        // A constant, so that nothing is compiled for instruction sets that never run it.
        if const { S::HAS_DOT_I8 && !F::RUNS_WITH_DOT || !S::HAS_DOT_I8 && !F::RUNS_WITHOUT_DOT } {
            unreachable!("a format for another instruction set");
        }
        let mut product = self.0;
        let steps = F::steps(product.w.k());
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
            Sink::Epilogue { apart, take } => {
                let mut memory = OutputTileMemory::default();
                for panel in product.panels.clone().step_by(step) {
                    for tile in product.tiles.clone() {
                        for (half, panel) in
                            [Some(panel), apart.map(|apart| panel + apart)].into_iter().flatten().enumerate()
                        {
                            let out = (memory.0[half].as_mut_ptr(), OUTPUT_TILE_WIDTH, Store::Write);
                            let tile = product.tile::<F>(steps, panel..panel + 1, tile, out);
                            // SAFETY: a tile has at most 2 · LANES rows, and a panel at most OUTPUT_TILE_WIDTH outputs.
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
