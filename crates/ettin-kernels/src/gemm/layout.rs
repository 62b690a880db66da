//! How encoded rows lie in memory, and how they are shared out.
//!
//! A tile of rows is stored as `[groups, rows, parts, steps of a group]`: for each group of sixteen steps in order, all
//! rows of the tile. A row of a group is written with whole vectors, and read at fixed distances from one address: by a
//! vector tile step by step, by an AMX tile as it is.

use std::ops::Range;

use super::{
    formats::Microkernel,
    scheme::{Scheme, with_microkernel},
    tile::TileShape,
};
use crate::{isa::Isa, simd::LANES, team::share};

/// Tiles of rows for the products of a scheme on an instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ActivationLayout {
    /// Most rows of a tile.
    pub(super) rows: usize,
    /// Rows are shared out in multiples of this, but for the last.
    unit: usize,
}

impl ActivationLayout {
    /// Two AMX tiles of sixteen rows by 64 bytes.
    pub(crate) const TILES: ActivationLayout = ActivationLayout { rows: 2 * LANES, unit: LANES };

    pub(crate) fn of(isa: Isa, scheme: Scheme) -> Self {
        if isa == Isa::Amx && with_microkernel!(scheme, isa, F => F::AMX) {
            return ActivationLayout::TILES;
        }
        ActivationLayout {
            rows: TileShape::of(isa, 1).rows.min(with_microkernel!(scheme, isa, F => F::MAX_ROWS)),
            unit: 1,
        }
    }

    /// Words of one encoded row.
    pub(super) fn words(isa: Isa, scheme: Scheme, k: usize) -> usize {
        with_microkernel!(scheme, isa, F => F::steps(k) * F::STEP_WORDS)
    }

    /// Tiles that `rows` make.
    pub(super) fn tiles(self, rows: usize) -> usize {
        rows.div_ceil(self.rows)
    }

    /// The rows of a tile.
    #[inline(always)]
    pub(super) fn tile(self, rows: usize, tile: usize) -> Range<usize> {
        self.share(rows, self.tiles(rows), tile)
    }

    /// One of nearly equal parts of `rows`, cut where tiles do not suffer.
    #[inline(always)]
    pub(crate) fn share(self, rows: usize, parts: usize, part: usize) -> Range<usize> {
        let units = share(rows.div_ceil(self.unit), parts, part);
        (units.start * self.unit).min(rows)..(units.end * self.unit).min(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_rows_in_order() {
        let vectors = ActivationLayout { rows: 14, unit: 1 };
        for layout in [vectors, ActivationLayout::TILES] {
            for rows in 0..200 {
                let mut next = 0;
                for tile in 0..layout.tiles(rows) {
                    let range = layout.tile(rows, tile);
                    assert_eq!(range.start, next);
                    assert!((1..=layout.rows).contains(&range.len()), "{layout:?} {rows}: {range:?}");
                    assert!(range.end == rows || range.end.is_multiple_of(layout.unit));
                    next = range.end;
                }
                assert_eq!(next, rows);
            }
        }
    }
}
