//! Activations in the layout a product reads: tiles of rows, interleaved group by group of steps.

use std::ops::Range;

use super::{
    formats::{Microkernel, PackActivations, RowWriter},
    layout::ActivationLayout,
    scheme::{Scheme, with_microkernel},
    weight::PackedWeight,
};
use crate::{
    buffer::{Buffer, with_scratch},
    isa::Isa,
    norm::{Norm, normalised},
    simd::{Kernel, LANES, Simd},
    team::{Shared, TASKS_PER_THREAD, Team, share},
};

/// Encoded rows in memory of somebody.
#[derive(Clone, Copy)]
pub(crate) struct PackedActivationsView<'a> {
    /// Tile after tile, each as its [`ActivationLayout`] says.
    pub(super) words: &'a [u32],
    /// One per row.
    pub(super) scales: &'a [f32],
    pub(crate) rows: usize,
    pub(super) layout: ActivationLayout,
}

impl PackedActivationsView<'_> {
    pub(crate) fn tiles(&self) -> usize {
        self.layout.tiles(self.rows)
    }

    /// Runs of tiles of nearly the same length, of no more than so many bytes or a tile each.
    pub(crate) fn parts(&self, bytes: usize) -> impl Iterator<Item = Range<usize>> {
        let (tiles, parts) = (self.tiles(), size_of_val(self.words).div_ceil(bytes));
        let parts = parts.clamp(1, tiles.max(1));
        (0..parts).map(move |part| share(tiles, parts, part))
    }
}

impl<'a> PackedActivationsView<'a> {
    /// Encodes `x`, `[rows, k]`, for products with `w` and its like, into `[rows · words]` and `[rows]`; with a norm,
    /// which is applied to every row on the way, in room for one, `[k]`.
    pub(crate) fn encode(
        w: &PackedWeight,
        x: &[f32],
        norm: Option<(Norm<'_>, &mut [f32])>,
        words: &'a mut [u32],
        scales: &'a mut [f32],
    ) -> Self {
        let rows = scales.len();
        assert_eq!(words.len(), rows * w.row_words());
        {
            let (words, tiles) = (Shared::new(&mut *words), 0..w.layout().tiles(rows));
            // SAFETY: the words are borrowed for it.
            unsafe { Packing { w, x, norm, range: 0..rows, rows, tiles, words: &words, scales: &mut *scales }.write() };
        }
        Self { words, scales, rows, layout: w.layout() }
    }
}

/// Some of `rows` on their way into tiles of nearly equal height.
struct Packing<'a, 'x> {
    w: &'a PackedWeight,
    /// `[range, k]`
    x: &'a [f32],
    norm: Option<(Norm<'x>, &'x mut [f32])>,
    range: Range<usize>,
    rows: usize,
    /// Those that they are in.
    tiles: Range<usize>,
    /// Of all rows.
    words: &'a Shared<'a, u32>,
    /// `[range]`
    scales: &'a mut [f32],
}

impl Packing<'_, '_> {
    /// # Safety
    /// Nobody else may use the words of these rows meanwhile.
    unsafe fn write(self) {
        self.w.isa().run_low_precision(self);
    }
}

/// Run only by [`Packing::write`], whose promise it relies on.
impl Kernel for Packing<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, x, mut norm, range, rows, tiles, words, scales } = self;
        let (k, layout) = (w.k(), w.layout());
        for tile in tiles {
            let tile = layout.tile(rows, tile);
            for row in tile.start.max(range.start)..tile.end.min(range.end) {
                let index = row - range.start;
                let mut x = &x[index * k..(index + 1) * k];
                // Before the format is known, so that it is compiled once.
                if let Some((norm, room)) = &mut norm {
                    normalised(s, x, *norm, room);
                    x = room;
                }
                scales[index] = with_microkernel!(w.scheme(), w.isa(), S, F => {
                    let (unit, width) = (LANES * F::STEP_WORDS, F::steps(k) * F::STEP_WORDS);
                    let first = tile.start * width + (row - tile.start) * unit;
                    // SAFETY: the promise of `write`.
                    F::row(s, x, unsafe { RowWriter::new(words, first, tile.len() * unit) })
                });
            }
        }
    }
}

/// Rows that are encoded for products with `w` and its like part by part: some columns of a tile's rows at a time,
/// whole groups of them, by one thread or several.
pub(crate) struct PackedColumns<'a, 'x> {
    pub(crate) w: &'x PackedWeight,
    pub(crate) rows: usize,
    /// `[rows · words]`
    words: Shared<'a, u32>,
    /// `[rows]`
    scales: &'a [f32],
}

impl<'a, 'x> PackedColumns<'a, 'x> {
    /// In memory of somebody: `[rows · words]` and `[rows]`.
    pub(crate) fn new(w: &'x PackedWeight, rows: usize, words: &'a mut [u32], scales: &'a mut [f32]) -> Self {
        assert!(words.len() == rows * w.row_words() && scales.len() == rows);
        scales.fill(1.0);
        Self { w, rows, words: Shared::new(words), scales }
    }

    /// Whether `columns` at a time can be encoded for products with `w`.
    pub(crate) fn possible(w: &PackedWeight, columns: usize) -> bool {
        // What fills up the last group is then written, too: nothing.
        with_microkernel!(w.scheme(), w.isa(), F => {
            !F::SCALE && columns.is_multiple_of(F::K_MULTIPLE) && w.k().is_multiple_of(F::K_MULTIPLE)
        })
    }

    /// Encodes columns from `first` on of a row.
    ///
    /// # Safety
    /// Nobody else may use these columns of the row meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn put<S: Simd, F: Microkernel>(
        &self,
        s: S,
        tile: Range<usize>,
        row: usize,
        first: usize,
        x: &[f32],
    ) {
        let (width, unit) = (F::steps(self.w.k()) * F::STEP_WORDS, LANES * F::STEP_WORDS);
        let stride = tile.len() * unit;
        let start = tile.start * width + first / (F::STEP_INPUTS * LANES) * stride + (row - tile.start) * unit;
        // SAFETY: these columns are the caller's.
        F::row(s, x, unsafe { RowWriter::new(&self.words, start, stride) });
    }

    /// Encodes the columns from `first` on of all rows, of which `x` has nothing else: `[rows, columns]`.
    ///
    /// # Safety
    /// Nobody else may write these columns meanwhile.
    pub(crate) unsafe fn put_all(&self, first: usize, x: &[f32]) {
        self.w.isa().run_low_precision(PackColumns { parts: self, first, x });
    }

    /// All of them.
    pub(crate) fn finish(self) -> PackedActivationsView<'a> {
        // SAFETY: nobody else has them any more.
        let words = unsafe { self.words.slice(0..self.rows * self.w.row_words()) };
        PackedActivationsView { words, scales: self.scales, rows: self.rows, layout: self.w.layout() }
    }
}

/// See [`PackedColumns::put_all`], the only one who builds it.
struct PackColumns<'a, 'p, 'x> {
    parts: &'a PackedColumns<'p, 'x>,
    first: usize,
    x: &'a [f32],
}

impl Kernel for PackColumns<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { parts, first, x } = self;
        let (layout, rows) = (parts.w.layout(), parts.rows);
        let columns = x.len() / rows.max(1);
        with_microkernel!(parts.w.scheme(), parts.w.isa(), S, F => {
            for tile in 0..layout.tiles(rows) {
                let range = layout.tile(rows, tile);
                for row in range.clone() {
                    let x = &x[row * columns..(row + 1) * columns];
                    // SAFETY: the promise of `PackedColumns::put_all`.
                    unsafe { parts.put::<S, F>(s, range.clone(), row, first, x) };
                }
            }
        });
    }
}

/// Encodes some rows, given the tiles that they are in, and scratch, into words of all rows and scales of these.
type EncodeRows<'a> = dyn Fn(Range<usize>, Range<usize>, &mut [f32], &Shared<'_, u32>, &mut [f32]) + Sync + 'a;

/// Encoded rows with memory of their own, kept from use to use.
#[derive(Default)]
pub struct PackedActivations {
    words: Buffer<u32>,
    scales: Buffer,
    scheme: Option<(Isa, Scheme)>,
    rows: usize,
    k: usize,
}

impl PackedActivations {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Encodes `x` `[rows, k]` for products with `w` and its like (instruction set, scheme, inputs).
    ///
    /// # Panics
    /// If `x` is not whole rows.
    pub fn encode(&mut self, team: &Team, w: &PackedWeight, x: &[f32]) {
        self.encode_normed(team, w, x, None);
    }

    /// The same, of rows that are normalised first.
    pub(crate) fn encode_normed(&mut self, team: &Team, w: &PackedWeight, x: &[f32], norm: Option<Norm<'_>>) {
        let k = w.k();
        let rows = x.len().checked_div(k).unwrap_or(0);
        assert_eq!(x.len(), rows * k, "x is not [rows, {k}]");
        self.shared_out(team, w, rows, k, &|range, tiles, room, words, scales| {
            let norm = norm.map(|norm| (norm, room));
            let x = &x[range.start * k..range.end * k];
            // SAFETY: rows are shared out.
            unsafe { Packing { w, x, norm, range, rows, tiles, words, scales }.write() };
        });
    }

    /// As [`encode`](Self::encode), of rows that `fill(rows, out)` writes as `[rows.len(), k]`, a few at a time, each
    /// exactly once, from several threads. It must not call parallel kernels.
    pub fn produce(
        &mut self,
        team: &Team,
        w: &PackedWeight,
        rows: usize,
        fill: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
    ) {
        let (k, most) = (w.k(), w.layout().rows);
        self.shared_out(team, w, rows, most * k, &|range, tiles, x, words, scales| {
            let x = &mut x[..range.len() * k];
            fill(range.clone(), x);
            // SAFETY: rows are shared out.
            unsafe { Packing { w, x, norm: None, range, rows, tiles, words, scales }.write() };
        });
    }

    /// Makes room for `rows` and has them encoded tile by tile, with so much scratch for each; where there are fewer
    /// tiles than threads, row by row.
    fn shared_out(&mut self, team: &Team, w: &PackedWeight, rows: usize, scratch: usize, encode: &EncodeRows<'_>) {
        let layout = w.layout();
        self.make_room(w, rows);
        let (tiles, threads) = (layout.tiles(rows), team.threads());
        let words = Shared::new(&mut self.words);
        let scales = Shared::new(&mut self.scales);
        let encode = |range: Range<usize>, tiles: Range<usize>, scratch: &mut [f32]| {
            // SAFETY: whoever calls has rows of his own.
            let scales = unsafe { scales.slice(range.clone()) };
            encode(range, tiles, scratch, &words, scales);
        };
        let work = 8 * rows * w.k();
        if tiles < threads {
            let parts = rows.min(threads);
            return team.run(parts, work, |part| {
                with_scratch(scratch, |scratch| encode(share(rows, parts, part), 0..tiles, scratch));
            });
        }
        let parts = tiles.min(threads * TASKS_PER_THREAD);
        team.run(parts, work, |part| {
            with_scratch(scratch, |scratch| {
                for tile in share(tiles, parts, part) {
                    encode(layout.tile(rows, tile), tile..tile + 1, scratch);
                }
            });
        });
    }

    /// Room for `rows` that are encoded part by part, all of which must be done before a product.
    pub(crate) fn parts<'a, 'x>(&'a mut self, w: &'x PackedWeight, rows: usize) -> PackedColumns<'a, 'x> {
        self.make_room(w, rows);
        PackedColumns::new(w, rows, &mut self.words[..rows * w.row_words()], &mut self.scales[..rows])
    }

    fn make_room(&mut self, w: &PackedWeight, rows: usize) {
        self.words.grow(rows * w.row_words());
        self.scales.grow(rows);
        self.scheme = Some((w.isa(), w.scheme()));
        (self.rows, self.k) = (rows, w.k());
    }

    /// # Panics
    /// If it was encoded for another kind of weight.
    pub(crate) fn view(&self, w: &PackedWeight) -> PackedActivationsView<'_> {
        assert_eq!(self.scheme, Some((w.isa(), w.scheme())), "the rows were encoded for another scheme than {w:?}");
        assert_eq!(self.k, w.k(), "rows of {} inputs for {w:?}", self.k);
        let words = &self.words[..self.rows * w.row_words()];
        PackedActivationsView { words, scales: &self.scales[..self.rows], rows: self.rows, layout: w.layout() }
    }
}

impl std::fmt::Debug for PackedActivations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedActivations {{ {:?}, [{}, {}] }}", self.scheme, self.rows, self.k)
    }
}
