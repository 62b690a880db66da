//! The epilogue of the first product of a feed-forward block: GEGLU, while an output tile is in L1.

use crate::{
    Activation, Isa,
    activation::{Function, with_function},
    gemm::{OUTPUT_TILE_WIDTH, OutputTile, PackedColumns, Tiles, with_microkernel},
    simd::{LANES, Simd, Task},
    team::Shared,
};

/// An output tile `[a | b]` on its way into the second product: `activation(a) ⊙ b`.
pub(super) struct GegluEpilogue<'a, 'p> {
    pub cell: OutputTile<'a>,
    pub activation: Activation,
    /// Whether a shorter polynomial serves.
    pub coarse: bool,
    pub memory: &'a mut GatedRows,
    pub parts: &'a PackedColumns<'p, 'p>,
    /// Where rows have to be whole first: `[rows, inner]`.
    pub rows: Option<&'a Shared<'p, f32>>,
}

/// Room for the gated rows of an output tile.
#[repr(C, align(64))]
pub(super) struct GatedRows([[f32; OUTPUT_TILE_WIDTH]; 2 * LANES]);

impl Default for GatedRows {
    fn default() -> Self {
        Self([[0.0; OUTPUT_TILE_WIDTH]; 2 * LANES])
    }
}

impl GegluEpilogue<'_, '_> {
    /// # Safety
    /// Nobody else may write the tile's columns of its rows meanwhile.
    #[inline(always)]
    pub unsafe fn run(self, isa: Isa) {
        isa.run_low_precision(self);
    }
}

/// Run only by [`GegluEpilogue::run`], whose promise it relies on.
///
/// All rows are gated, then all are packed: so each function and each format is compiled once, not every pair of them.
impl<S: Tiles> Task<S> for GegluEpilogue<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Self { cell, activation, coarse, memory, parts, rows } = self;
        let (a, b) = (cell.values[0].as_chunks().0, cell.values[1].as_chunks().0);
        let gated = &mut memory.0[..cell.rows.len()];
        with_function!(activation, coarse, f => gate(s, f, a, b, gated));
        let (inner, first) = (parts.w.k(), cell.outputs.start);
        assert_eq!(cell.outputs.len(), S::PANEL, "gates come in whole panels");
        if let Some(rows) = rows {
            for (row, gated) in cell.rows.zip(gated) {
                let start = row * inner + first;
                // SAFETY: nobody else writes these columns, by the promise of `GegluEpilogue::run`.
                unsafe { rows.slice(start..start + S::PANEL).copy_from_slice(&gated[..S::PANEL]) };
            }
            return;
        }
        with_microkernel!(parts.w.scheme(), parts.w.isa(), S, F => {
            for (row, gated) in cell.rows.clone().zip(gated) {
                // SAFETY: as above. (A length that is known makes it a few instructions.)
                unsafe { parts.put::<S, F>(s, cell.rows.clone(), row, first, &gated[..S::PANEL]) };
            }
        });
    }
}

/// Whole vectors: lanes behind the outputs are gated in vain.
#[inline(always)]
fn gate<S: Simd>(
    s: S,
    f: impl Function,
    a: &[[f32; OUTPUT_TILE_WIDTH]],
    b: &[[f32; OUTPUT_TILE_WIDTH]],
    out: &mut [[f32; OUTPUT_TILE_WIDTH]],
) {
    let rows = out.len();
    let (a, b) = (&a[..rows], &b[..rows]);
    for i in 0..rows {
        for half in [0, LANES] {
            let (a, b) = (s.load(vector(&a[i], half)), s.load(vector(&b[i], half)));
            s.store(s.mul(f.of(s, a), b), out[i][half..].first_chunk_mut().expect("half a row"));
        }
    }
}

#[inline(always)]
fn vector(row: &[f32; OUTPUT_TILE_WIDTH], from: usize) -> &[f32; LANES] {
    row[from..].first_chunk().expect("half a row")
}
