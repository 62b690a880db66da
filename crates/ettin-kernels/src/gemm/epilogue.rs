//! Where results go: into rows, or tile by tile to somebody who takes them while they are in L1.

use std::ops::Range;

use crate::simd::LANES;

/// What becomes of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `out = x·Wᵀ + bias`
    Write,
    /// `out = out + (x·Wᵀ + bias)`, as a residual connection
    Add,
}

/// Where results go.
pub(crate) enum Sink<'a> {
    /// Into rows: where row 0 and output 0 of the whole product go, and how far rows are apart.
    Rows { out: *mut f32, stride: usize, store: Store },
    /// To somebody who takes them cell by cell, while they are in L1: a tile of rows by a panel, or by two panels that
    /// are `apart`. Then only the first of them are in the product's range; neighbours both are.
    Epilogue { apart: Option<usize>, take: &'a mut dyn FnMut(OutputTile<'_>) },
}

impl Sink<'_> {
    /// What is left where a sink was taken.
    pub(super) const NOWHERE: Self = Sink::Rows { out: std::ptr::null_mut(), stride: 0, store: Store::Write };

    /// Panels from one that is visited to the next.
    pub(super) fn step(&self) -> usize {
        if matches!(self, Sink::Epilogue { apart: Some(1), .. }) { 2 } else { 1 }
    }
}

/// Some rows of a panel's outputs, or of two panels' side by side.
pub(crate) struct OutputTile<'a> {
    pub(crate) rows: Range<usize>,
    /// Of the first panel.
    pub(crate) outputs: Range<usize>,
    /// Of the first panel and the second, each `[rows, OUTPUT_TILE_WIDTH]` with its outputs first.
    pub(crate) values: [&'a [f32]; 2],
}

/// Elements from one row of a cell's panel to the next: the widest panel of any instruction set.
pub(crate) const OUTPUT_TILE_WIDTH: usize = 2 * LANES;

/// Memory of a cell: the rows of a tile of any instruction set, of two panels.
#[repr(C, align(64))]
pub(super) struct OutputTileMemory(pub(super) [[f32; 2 * LANES * OUTPUT_TILE_WIDTH]; 2]);

impl Default for OutputTileMemory {
    fn default() -> Self {
        Self([[0.0; 2 * LANES * OUTPUT_TILE_WIDTH]; 2])
    }
}
