//! A weight in the layout the product reads: panels of outputs, k-major inside.

use std::ops::Range;

use crate::{
    buffer::{Buffer, with_scratch},
    isa::Isa,
    simd::{Kernel, Simd},
    team::{Shared, Team},
};

/// A weight `[n, k]` (n outputs), packed once for an instruction set.
///
/// Panel p holds outputs `p·width..(p+1)·width` as `[k, width]`; outputs beyond n are zero.
#[derive(Clone)]
pub struct PackedMatrix {
    isa: Isa,
    n: usize,
    k: usize,
    width: usize,
    data: Buffer,
}

impl PackedMatrix {
    /// Packs a weight `[n, k]` row by row: `fill(row, out)` writes one row of length k. It is called once per row,
    /// from several threads, and must not call parallel kernels; no second copy of the weight is made.
    ///
    /// # Panics
    /// If this CPU lacks `isa`.
    pub fn pack(isa: Isa, team: &Team, n: usize, k: usize, fill: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Self {
        let width = isa.run(PanelWidth);
        let panels = n.div_ceil(width);
        let mut data = Buffer::zeroed(panels * width * k);
        let shared = Shared::new(&mut data);
        team.run(panels, 8 * n * k, |p| {
            let rows = p * width..((p + 1) * width).min(n);
            // SAFETY: each task has a panel of its own.
            let panel = unsafe { shared.slice(p * width * k..(p + 1) * width * k) };
            with_scratch(rows.len() * k, |scratch| {
                for (i, row) in rows.clone().enumerate() {
                    fill(row, &mut scratch[i * k..(i + 1) * k]);
                }
                for (t, out) in panel.chunks_exact_mut(width).enumerate() {
                    for (i, out) in out[..rows.len()].iter_mut().enumerate() {
                        *out = scratch[i * k + t];
                    }
                }
            });
        });
        Self { isa, n, k, width, data }
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

    /// Memory held, padding included.
    pub fn bytes(&self) -> usize {
        size_of_val::<[f32]>(&self.data)
    }

    /// Unpacks row `n` into `out` of length k: token lookup in an embedding tied to the output weight.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        assert!(n < self.n, "row {n} of {}", self.n);
        assert_eq!(out.len(), self.k);
        let panel = self.panel(n / self.width..n / self.width + 1);
        for (out, row) in out.iter_mut().zip(panel.chunks_exact(self.width)) {
            *out = row[n % self.width];
        }
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    pub(super) fn panel(&self, panels: Range<usize>) -> &[f32] {
        &self.data[panels.start * self.width * self.k..panels.end * self.width * self.k]
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix {{ {}, [{}, {}] }}", self.isa, self.n, self.k)
    }
}

struct PanelWidth;

impl Kernel for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::PANEL
    }
}
