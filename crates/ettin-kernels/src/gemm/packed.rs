//! A weight in the layout the product reads: panels of outputs, step by step inside.

use std::{ops::Range, sync::Arc};

use super::{
    formats::{Form, Pack, Panel, Parts, QuantisedRow, Vectors},
    layout::Layout,
    next_read::NextRead,
    quantisation::Quantisation,
    scheme::{Scheme, with_form},
    tile::TileShape,
};
use crate::{
    arena::Region,
    buffer::{Buffer, as_words, with_scratch},
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, Team},
};

/// A weight `[n, k]` (n outputs), packed once for an instruction set and a scheme.
///
/// Panel p holds the outputs `p·width..(p+1)·width`; outputs beyond n are zero.
#[derive(Clone)]
pub struct PackedMatrix {
    isa: Isa,
    scheme: Scheme,
    n: usize,
    k: usize,
    layout: Layout,
    width: usize,
    panel_words: usize,
    data: Region,
    /// One per output, where the scheme has them.
    factors: Buffer,
    /// One per output, where the scheme has them.
    offsets: Buffer<u32>,
    /// What is read next, as far as it is known.
    next: Arc<NextRead>,
}

impl PackedMatrix {
    /// Packs a weight `[n, k]` row by row: `fill(row, out)` writes one row of length k. It is called once per row,
    /// from several threads, and must not call parallel kernels; no second copy of the weight is made.
    ///
    /// # Panics
    /// If this CPU lacks `isa`, or an [`Int8`](Scheme::Int8) product would have more than 65,536 inputs.
    pub fn pack(
        isa: Isa,
        scheme: Scheme,
        team: &Team,
        n: usize,
        k: usize,
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Self {
        Self::pack_panels(isa, scheme, team, n, k, &|rows, vectors, parts| {
            let room = LANES * Layout::words(isa, scheme, k);
            with_scratch(room + rows.len() * k, |scratch| {
                let (room, scratch) = scratch.split_at_mut(room);
                for (row, out) in rows.clone().zip(scratch.chunks_exact_mut(k.max(1))) {
                    fill(row, out);
                }
                let panel = Panel { rows: scratch, count: rows.len(), k, vectors };
                isa.run_low_precision(Quantise { isa, scheme, panel, room: as_words(room), parts });
            });
        })
    }

    /// Packs a weight `[n, k]` whose rows are quantised: bit for bit what [`pack`](Self::pack) makes of the weights they were
    /// [made](Quantisation::quantise) from. `row` is called from several threads.
    ///
    /// # Panics
    /// If this CPU lacks `isa`, or a row is not one of k weights.
    pub fn pack_quantised<'a>(
        isa: Isa,
        quantisation: Quantisation,
        team: &Team,
        n: usize,
        k: usize,
        row: &(dyn Fn(usize) -> QuantisedRow<'a> + Sync),
    ) -> Self {
        Self::pack_panels(isa, quantisation.scheme(), team, n, k, &|rows, vectors, Parts { words, factors, .. }| {
            for (output, row) in rows.map(row).enumerate() {
                quantisation.check(k, row.codes, row.factors);
                with_form!(quantisation.scheme(), isa, F => F::place(row, k, vectors, output, words, factors));
            }
        })
    }

    /// `fill(rows, vectors, parts)` writes what a panel of so many vectors keeps of these rows.
    fn pack_panels(
        isa: Isa,
        scheme: Scheme,
        team: &Team,
        n: usize,
        k: usize,
        fill: &(dyn Fn(Range<usize>, usize, Parts<'_>) + Sync),
    ) -> Self {
        let (most, has_factors, has_offsets) = with_form!(scheme, isa, F => (F::MOST, F::FACTORS, F::OFFSETS));
        assert!(k <= most, "{k} inputs are too many for sums of {scheme}");
        let (layout, width) = (Layout::of(isa, scheme), TileShape::of(isa, 1).panel);
        let panels = n.div_ceil(width);
        let panel_words = panel_words(isa, scheme, width / LANES, k);
        let per_output = |wanted: bool| if wanted { panels * width } else { 0 };
        let mut packed = Self {
            isa,
            scheme,
            n,
            k,
            layout,
            width,
            panel_words,
            data: Region::zeroed(panels * panel_words),
            factors: Buffer::zeroed(per_output(has_factors)),
            offsets: Buffer::zeroed(per_output(has_offsets)),
            next: Arc::default(),
        };
        let lengths = (packed.factors.len(), packed.offsets.len());
        let data = Shared::new(&mut packed.data);
        let factors = Shared::new(&mut packed.factors);
        let offsets = Shared::new(&mut packed.offsets);
        let part = |p: usize, of: usize| if of == 0 { 0..0 } else { p * width..(p + 1) * width };
        team.run(panels, 8 * n * k, |p| {
            let rows = p * width..((p + 1) * width).min(n);
            // SAFETY: each task has a panel of its own, with its outputs' factors and offsets.
            let (words, factors, offsets) = unsafe {
                (
                    data.slice(p * panel_words..(p + 1) * panel_words),
                    factors.slice(part(p, lengths.0)),
                    offsets.slice(part(p, lengths.1)),
                )
            };
            fill(rows, width / LANES, Parts { words, factors, offsets });
        });
        packed
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The instruction set it was packed for, whose kernels multiply it.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number format it is stored in.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Memory held, padding included.
    pub fn bytes(&self) -> usize {
        size_of_val::<[u32]>(&self.data) + size_of_val::<[f32]>(&self.factors) + size_of_val::<[u32]>(&self.offsets)
    }

    /// Unpacks some rows, by number, into `out`, `[rows, k]`: token lookup in an embedding tied to the output weight.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn rows(&self, rows: &[u32], out: &mut [f32]) {
        assert_eq!(out.len(), rows.len() * self.k, "out is not [{}, {}]", rows.len(), self.k);
        for (i, out) in out.chunks_exact_mut(self.k.max(1)).enumerate() {
            if let Some(&next) = rows.get(i + 1) {
                self.prefetch_row(next as usize);
            }
            self.row(rows[i] as usize, out);
        }
    }

    /// Unpacks row `n` into `out` of length k.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        assert!(n < self.n, "row {n} of {}", self.n);
        assert_eq!(out.len(), self.k);
        let factor = self.factors.get(n).copied().unwrap_or(1.0);
        let panel = n / self.width;
        let (words, vectors, output) = (self.panel(panel..panel + 1), self.width / LANES, n % self.width);
        with_form!(self.scheme, self.isa, F => F::unpack(words, vectors, output, factor, out));
    }

    /// Asks for row `n` ahead of its use: its weights lie in as many cache lines as it has pairs or so of them.
    fn prefetch_row(&self, n: usize) {
        if n < self.n {
            let panel = n / self.width;
            let panel = self.panel(panel..panel + 1);
            self.isa.run(Ahead { w: self, panel, vector: n % self.width / LANES });
        }
    }

    /// The panels of some outputs.
    ///
    /// # Panics
    /// If they are not whole panels.
    pub(crate) fn panels_of(&self, outputs: Range<usize>) -> Range<usize> {
        let whole = |at: usize| at.is_multiple_of(self.width) || at == self.n;
        assert!(whole(outputs.start) && whole(outputs.end), "{outputs:?} are not whole panels of {}", self.width);
        outputs.start / self.width..outputs.end.div_ceil(self.width)
    }

    pub(super) fn next(&self) -> &Arc<NextRead> {
        &self.next
    }

    /// All of its panels.
    pub(super) fn words(&self) -> &[u32] {
        &self.data
    }

    /// How rows are laid out for products with it.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Words of one row so laid out.
    pub(crate) fn row_words(&self) -> usize {
        Layout::words(self.isa, self.scheme, self.k)
    }

    /// Outputs of a panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    pub(super) fn panel(&self, panels: Range<usize>) -> &[u32] {
        &self.data[panels.start * self.panel_words..panels.end * self.panel_words]
    }

    /// The factors of whole panels, or nothing.
    pub(super) fn factors(&self, panels: &Range<usize>) -> &[f32] {
        self.factors.get(panels.start * self.width..panels.end * self.width).unwrap_or(&[])
    }

    /// The offsets of whole panels, or nothing.
    pub(super) fn offsets(&self, panels: &Range<usize>) -> &[u32] {
        self.offsets.get(panels.start * self.width..panels.end * self.width).unwrap_or(&[])
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix {{ {}, {}, [{}, {}] }}", self.isa, self.scheme, self.n, self.k)
    }
}

/// Words of a panel.
pub(super) fn panel_words(isa: Isa, scheme: Scheme, vectors: usize, k: usize) -> usize {
    with_form!(scheme, isa, F => Vectors::<F>::new(vectors, F::steps(k)).words())
}

struct Quantise<'a> {
    isa: Isa,
    scheme: Scheme,
    panel: Panel<'a>,
    room: &'a mut [u32],
    parts: Parts<'a>,
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_form!(self.scheme, self.isa, F => F::pack(s, self.panel, self.room, self.parts));
    }
}

/// A vector of a panel, to be brought into the cache.
struct Ahead<'a> {
    w: &'a PackedMatrix,
    panel: &'a [u32],
    vector: usize,
}

impl Kernel for Ahead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, panel, vector } = self;
        with_form!(w.scheme, w.isa, F => {
            let at = Vectors::<F>::new(w.width / LANES, F::steps(w.k));
            for step in (0..at.steps).step_by(F::STEPS) {
                for line in (0..F::STORED).step_by(LANES) {
                    s.prefetch(panel.as_ptr().wrapping_add(at.at(step, vector) + line).cast());
                }
            }
        });
    }
}
