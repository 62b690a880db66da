//! A weight in the layout the product reads: panels of outputs, step by step inside.

use std::{ops::Range, sync::Arc};

use super::{
    formats::{Microkernel, PackWeights, PanelBuffers, PanelLayout, PanelRows, QuantizedRow},
    layout::ActivationLayout,
    next_read::NextRead,
    quantization::Quantization,
    scheme::{Scheme, with_microkernel},
    tile::TileShape,
};
use crate::{
    arena::ArenaSlice,
    buffer::{Buffer, as_words, with_scratch},
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, Team},
};

/// A weight `[n, k]` (n outputs), packed once for an instruction set and a scheme.
///
/// Panel p holds the outputs `p·width..(p+1)·width`; outputs beyond n are zero.
#[derive(Clone)]
pub struct PackedWeight {
    isa: Isa,
    scheme: Scheme,
    n: usize,
    k: usize,
    layout: ActivationLayout,
    width: usize,
    panel_words: usize,
    data: ArenaSlice,
    /// One per output, where the scheme has them.
    scales: Buffer,
    /// One per output, where the scheme has them.
    compensation: Buffer<u32>,
    /// What is read next, as far as it is known.
    next: Arc<NextRead>,
}

impl PackedWeight {
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
            let room = LANES * ActivationLayout::words(isa, scheme, k);
            with_scratch(room + rows.len() * k, |scratch| {
                let (room, scratch) = scratch.split_at_mut(room);
                for (row, out) in rows.clone().zip(scratch.chunks_exact_mut(k.max(1))) {
                    fill(row, out);
                }
                let panel = PanelRows { rows: scratch, count: rows.len(), k, vectors };
                PackPanel { isa, scheme, panel, room: as_words(room), parts }.run();
            });
        })
    }

    /// Packs a weight `[n, k]` whose rows are quantized: bit for bit what [`pack`](Self::pack) makes of the weights
    /// they were [made](Quantization::quantize) from. `row` is called from several threads.
    ///
    /// # Panics
    /// If this CPU lacks `isa`, or a row is not one of k weights.
    pub fn pack_quantized<'a>(
        isa: Isa,
        quantization: Quantization,
        team: &Team,
        n: usize,
        k: usize,
        row: &(dyn Fn(usize) -> QuantizedRow<'a> + Sync),
    ) -> Self {
        Self::pack_panels(
            isa,
            quantization.scheme(),
            team,
            n,
            k,
            &|rows, vectors, PanelBuffers { words, scales, .. }| {
                for (output, row) in rows.map(row).enumerate() {
                    quantization.check(k, row.codes, row.scales);
                    with_microkernel!(quantization.scheme(), isa, F => F::place(row, k, vectors, output, words, scales));
                }
            },
        )
    }

    /// `fill(rows, vectors, parts)` writes what a panel of so many vectors keeps of these rows.
    fn pack_panels(
        isa: Isa,
        scheme: Scheme,
        team: &Team,
        n: usize,
        k: usize,
        fill: &(dyn Fn(Range<usize>, usize, PanelBuffers<'_>) + Sync),
    ) -> Self {
        let (most, has_scales, has_compensation) =
            with_microkernel!(scheme, isa, F => (F::MAX_INPUTS, F::SCALES, F::COMPENSATION));
        assert!(k <= most, "{k} inputs are too many for sums of {scheme}");
        let (layout, width) = (ActivationLayout::of(isa, scheme), TileShape::of(isa, 1).panel);
        let panels = n.div_ceil(width);
        let panel_words = panel_words(isa, scheme, width / LANES, k);
        let per_output = |wanted: bool| if wanted { panels * width } else { 0 };
        let mut weight = Self {
            isa,
            scheme,
            n,
            k,
            layout,
            width,
            panel_words,
            data: ArenaSlice::zeroed(panels * panel_words),
            scales: Buffer::zeroed(per_output(has_scales)),
            compensation: Buffer::zeroed(per_output(has_compensation)),
            next: Arc::default(),
        };
        let lengths = (weight.scales.len(), weight.compensation.len());
        let data = Shared::new(&mut weight.data);
        let scales = Shared::new(&mut weight.scales);
        let compensation = Shared::new(&mut weight.compensation);
        let part = |p: usize, of: usize| if of == 0 { 0..0 } else { p * width..(p + 1) * width };
        team.run(panels, 8 * n * k, |p| {
            let rows = p * width..((p + 1) * width).min(n);
            // SAFETY: each task has a panel of its own, with its outputs' scales and compensation.
            let (words, scales, compensation) = unsafe {
                (
                    data.slice(p * panel_words..(p + 1) * panel_words),
                    scales.slice(part(p, lengths.0)),
                    compensation.slice(part(p, lengths.1)),
                )
            };
            fill(rows, width / LANES, PanelBuffers { words, scales, compensation });
        });
        weight
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
        size_of_val::<[u32]>(&self.data) + size_of_val::<[f32]>(&self.scales) + size_of_val::<[u32]>(&self.compensation)
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
        let scale = self.scales.get(n).copied().unwrap_or(1.0);
        let panel = n / self.width;
        let (words, vectors, output) = (self.panel(panel..panel + 1), self.width / LANES, n % self.width);
        with_microkernel!(self.scheme, self.isa, F => F::unpack(words, vectors, output, scale, out));
    }

    /// Asks for row `n` ahead of its use: its weights lie in as many cache lines as it has pairs or so of them.
    fn prefetch_row(&self, n: usize) {
        if n < self.n {
            let panel = n / self.width;
            let panel = self.panel(panel..panel + 1);
            self.isa.run(PrefetchRow { w: self, panel, vector: n % self.width / LANES });
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
    pub(crate) fn layout(&self) -> ActivationLayout {
        self.layout
    }

    /// Words of one row so laid out.
    pub(crate) fn row_words(&self) -> usize {
        ActivationLayout::words(self.isa, self.scheme, self.k)
    }

    /// Outputs of a panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    /// Some panels.
    pub(crate) fn panel(&self, panels: Range<usize>) -> &[u32] {
        &self.data[panels.start * self.panel_words..panels.end * self.panel_words]
    }

    /// The scales of whole panels, or nothing.
    pub(super) fn scales(&self, panels: &Range<usize>) -> &[f32] {
        self.scales.get(panels.start * self.width..panels.end * self.width).unwrap_or(&[])
    }

    /// The compensation of whole panels, or nothing.
    pub(super) fn compensation(&self, panels: &Range<usize>) -> &[u32] {
        self.compensation.get(panels.start * self.width..panels.end * self.width).unwrap_or(&[])
    }
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeight {{ {}, {}, [{}, {}] }}", self.isa, self.scheme, self.n, self.k)
    }
}

/// Words of a panel.
pub(super) fn panel_words(isa: Isa, scheme: Scheme, vectors: usize, k: usize) -> usize {
    with_microkernel!(scheme, isa, F => PanelLayout::<F>::new(vectors, F::steps(k)).words())
}

/// Rows on their way into a panel.
pub(super) struct PackPanel<'a> {
    pub(super) isa: Isa,
    pub(super) scheme: Scheme,
    pub(super) panel: PanelRows<'a>,
    /// Words of sixteen rows as activations.
    pub(super) room: &'a mut [u32],
    pub(super) parts: PanelBuffers<'a>,
}

impl PackPanel<'_> {
    pub(super) fn run(self) {
        self.isa.run_low_precision(self);
    }
}

impl Kernel for PackPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_microkernel!(self.scheme, self.isa, S, F => F::pack(s, self.panel, self.room, self.parts));
    }
}

/// A vector of a panel, to be brought into the cache.
struct PrefetchRow<'a> {
    w: &'a PackedWeight,
    panel: &'a [u32],
    vector: usize,
}

impl Kernel for PrefetchRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, panel, vector } = self;
        with_microkernel!(w.scheme, w.isa, F => {
            let at = PanelLayout::<F>::new(w.width / LANES, F::steps(w.k));
            for step in (0..at.steps).step_by(F::LINE_STEPS) {
                for line in (0..F::LINE_WORDS).step_by(LANES) {
                    s.prefetch(panel.as_ptr().wrapping_add(at.at(step, vector) + line).cast());
                }
            }
        });
    }
}
