//! A weight in the layout the product reads: panels of outputs, step by step inside.

use std::{ops::Range, sync::Arc};

use super::{
    form::Form,
    layout::Layout,
    order::Words,
    quantise::{Panel, Parts, Vectors},
    scheme::{Scheme, WithForm},
    stored::{Quantisation, QuantisedRow},
    tile::Tiles,
};
use crate::{
    arena::Region,
    buffer::{Buffer, as_words, with_scratch},
    isa::Isa,
    simd::{Kernel, LANES, Simd, Task},
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
    next: Arc<Words>,
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
                let place = PlaceRow { row, k, vectors, output, words: &mut *words, factors: &mut *factors };
                quantisation.scheme().with(isa, place);
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
        assert!(scheme != Scheme::Int8 || k <= 1 << 16, "{k} inputs are too many for sums of bytes");
        let (layout, width) = (Layout::of(isa, scheme), isa.run(PanelWidth));
        let panels = n.div_ceil(width);
        let panel_words = scheme.with(isa, PanelWords { vectors: width / LANES, k });
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
            factors: Buffer::zeroed(per_output(matches!(scheme, Scheme::Int8 | Scheme::W8))),
            offsets: Buffer::zeroed(per_output(scheme == Scheme::Int8)),
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
        self.scheme.with(
            self.isa,
            Row {
                panel: self.panel(panel..panel + 1),
                vectors: self.width / LANES,
                output: n % self.width,
                factor,
                out,
            },
        );
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

    pub(super) fn next(&self) -> &Arc<Words> {
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

struct PanelWidth;

impl<S: Tiles> Task<S> for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn run(self, _: S) -> usize {
        S::PANEL
    }
}

/// Words of a panel.
pub(super) struct PanelWords {
    pub(super) vectors: usize,
    pub(super) k: usize,
}

impl WithForm for PanelWords {
    type Output = usize;

    #[inline(always)]
    fn run<F: Form>(self) -> usize {
        Vectors::<F>::new(self.vectors, Layout::steps::<F>(self.k)).words()
    }
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
        self.scheme.with(self.isa, QuantiseOn(s, self));
    }
}

struct QuantiseOn<'a, S>(S, Quantise<'a>);

impl<S: Simd> WithForm for QuantiseOn<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<F: Form>(self) {
        let Self(s, Quantise { panel, room, parts, .. }) = self;
        F::pack(s, panel, room, parts);
    }
}

/// A row that is quantised already, to be put into a panel.
struct PlaceRow<'a> {
    row: QuantisedRow<'a>,
    k: usize,
    vectors: usize,
    output: usize,
    words: &'a mut [u32],
    factors: &'a mut [f32],
}

impl WithForm for PlaceRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<F: Form>(self) {
        F::place(self.row, self.k, self.vectors, self.output, self.words, self.factors);
    }
}

struct Row<'a> {
    panel: &'a [u32],
    vectors: usize,
    output: usize,
    factor: f32,
    out: &'a mut [f32],
}

impl WithForm for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<F: Form>(self) {
        F::unpack(self.panel, self.vectors, self.output, self.factor, self.out);
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
        self.w.scheme.with(self.w.isa, AheadOn(s, self));
    }
}

struct AheadOn<'a, S>(S, Ahead<'a>);

impl<S: Simd> WithForm for AheadOn<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<F: Form>(self) {
        let Self(s, Ahead { w, panel, vector }) = self;
        let at = Vectors::<F>::new(w.width / LANES, Layout::steps::<F>(w.k));
        for step in (0..at.steps).step_by(F::STEPS) {
            for line in (0..F::STORED).step_by(LANES) {
                s.prefetch(panel.as_ptr().wrapping_add(at.at(step, vector) + line).cast());
            }
        }
    }
}
