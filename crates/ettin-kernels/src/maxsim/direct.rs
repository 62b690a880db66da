//! Products in f32 with document vectors that are read where they lie.
//!
//! A panel of query vectors stays in L1, and documents stream past it once: a product reads an element of a document
//! as a broadcast, so nothing is packed. The products of a few document vectors are in registers from the first
//! element to the last, and their largest are taken there: nothing is stored but one vector per document and sixteen
//! query vectors.

use crate::{
    buffer::numbers,
    gemm::{K_BLOCK, PackedWeight, Scheme, Tiles},
    simd::{LANES, Simd, Task},
    team::share,
};

/// Document vectors that are taken through all panels before others, in bytes: with a panel of 128 elements, half of
/// an L1 of 48 KiB.
const BLOCK_BYTES: usize = 24 << 10;

/// Whether products with these queries can be computed here: one chain of multiply-adds over all elements, which is
/// the order of the scheme up to [`K_BLOCK`] of them.
pub(super) fn serves(queries: &PackedWeight) -> bool {
    queries.scheme() == Scheme::F32 && queries.k() <= K_BLOCK
}

/// Document vectors of so many elements that are taken at once, at most.
pub(super) fn block_rows(size: usize) -> usize {
    (BLOCK_BYTES / (size_of::<f32>() * size)).max(1)
}

/// The largest product of each query vector with the vectors of one document, or of a part of it.
pub(super) struct DocumentMaxima<'a> {
    pub(super) queries: &'a PackedWeight,
    /// `[rows, size]`
    pub(super) rows: &'a [f32],
    /// One per output of whole panels: the largest before, and after. NaN where a product was not finite.
    pub(super) maxima: &'a mut [f32],
}

impl<S: Tiles> Task<S> for DocumentMaxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Self { queries, rows, maxima } = self;
        let size = queries.k();
        for (p, maxima) in maxima.chunks_exact_mut(S::PANEL).enumerate() {
            let panel = PanelMaxima { panel: numbers(queries.panel(p..p + 1)), rows, size };
            // The second half of a panel costs as much as the first, so a short query does without.
            if S::PANEL > LANES && queries.n() - p * S::PANEL > LANES {
                panel.take::<S, 2>(s, maxima);
            } else {
                panel.take::<S, 1>(s, maxima);
            }
        }
    }
}

/// The first vectors of a panel and some document vectors.
struct PanelMaxima<'a> {
    /// `[size, PANEL]`
    panel: &'a [f32],
    /// `[rows, size]`
    rows: &'a [f32],
    size: usize,
}

impl PanelMaxima<'_> {
    /// Of the first `N` vectors of the panel.
    #[inline(always)]
    fn take<S: Tiles, const N: usize>(&self, s: S, maxima: &mut [f32]) {
        let Self { panel, rows, size } = *self;
        let count = rows.len() / size;
        let maxima = maxima.as_chunks_mut::<LANES>().0;
        let mut largest = Largest { most: [s.zero(); N], broken: [s.zero(); N] };
        for (most, maxima) in largest.most.iter_mut().zip(maxima.iter()) {
            *most = s.load(maxima);
        }
        let tiles = count.div_ceil(S::MAX_ROWS);
        for tile in 0..tiles {
            // Of nearly equal size: a last tile of few rows would wait for its multiply-adds.
            let range = share(count, tiles, tile);
            let rows = &rows[range.start * size..range.end * size];
            macro_rules! tile_of {
                ($($r:literal),+) => {
                    match range.len() {
                        $($r if $r <= S::MAX_ROWS => DocumentTile::<$r, N> { panel, rows, size }.run(s, &mut largest),)+
                        rows => unreachable!("a tile of {rows} rows"),
                    }
                };
            }
            tile_of!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
        }
        for ((&most, &broken), maxima) in largest.most.iter().zip(&largest.broken).zip(maxima) {
            s.store(s.add(most, broken), maxima);
        }
    }
}

/// Of `N` vectors of query vectors.
struct Largest<S: Simd, const N: usize> {
    most: [S::V; N],
    /// 0, or NaN once a product was not finite: the largest of NaN and a number is the number.
    broken: [S::V; N],
}

/// `R` document vectors and `N` vectors of query vectors, whose products are in registers.
struct DocumentTile<'a, const R: usize, const N: usize> {
    panel: &'a [f32],
    rows: &'a [f32],
    size: usize,
}

impl<const R: usize, const N: usize> DocumentTile<'_, R, N> {
    #[inline(always)]
    fn run<S: Tiles>(&self, s: S, largest: &mut Largest<S, N>) {
        let size = self.size;
        assert!(self.rows.len() == R * size && self.panel.len() >= size * S::PANEL && N * LANES <= S::PANEL);
        let (rows, panel) = (self.rows.as_ptr(), self.panel.as_ptr());
        let mut sums = [[s.zero(); N]; R];
        let groups = size / LANES;
        for group in 0..groups {
            // The next tile, line after line: what the CPU sees of this one, a step of each row by turns, it does not
            // follow by itself (without this, 1,000 documents from memory take two thirds more time).
            for r in 0..R {
                s.prefetch(rows.wrapping_add(R * size + (group * R + r) * LANES));
            }
            for k in group * LANES..(group + 1) * LANES {
                // SAFETY: k < size, and both hold as much (checked above).
                unsafe { Self::step(s, rows.add(k), size, panel.add(k * S::PANEL), &mut sums) };
            }
        }
        for k in groups * LANES..size {
            // SAFETY: as above.
            unsafe { Self::step(s, rows.add(k), size, panel.add(k * S::PANEL), &mut sums) };
        }
        // By numbers, not by iterators over arrays: those keep the products in memory.
        for n in 0..N {
            let (mut most, mut broken) = (largest.most[n], largest.broken[n]);
            for sums in &sums {
                most = s.max(sums[n], most);
                broken = s.mul_add(sums[n], s.zero(), broken);
            }
            (largest.most[n], largest.broken[n]) = (most, broken);
        }
    }

    /// One element of every row.
    ///
    /// # Safety
    /// `row` is followed by `R - 1` others, each `size` further on; `panel` has `N` vectors.
    #[inline(always)]
    unsafe fn step<S: Tiles>(s: S, row: *const f32, size: usize, panel: *const f32, sums: &mut [[S::V; N]; R]) {
        let mut query = [s.zero(); N];
        for (n, query) in query.iter_mut().enumerate() {
            // SAFETY: by the caller's promise, here and below.
            *query = s.load(unsafe { &*panel.add(n * LANES).cast() });
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = s.splat(unsafe { *row.add(r * size) });
            for (sum, &query) in sums.iter_mut().zip(&query) {
                *sum = s.mul_add(x, query, *sum);
            }
        }
    }
}
