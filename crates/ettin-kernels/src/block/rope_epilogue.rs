//! The epilogue of the projection to queries, keys and values, while an output tile is in L1: rotation, scale and
//! rounding to bf16.

use crate::{
    Isa, RopeTable,
    gemm::{OUTPUT_TILE_WIDTH, OutputTile},
    rope::rotate,
    simd::{Kernel, LANES, Simd},
};

/// Words of a row: the halves of a head are two panels, and a pair of bf16 is a word.
pub(super) const ROW: usize = OUTPUT_TILE_WIDTH;

/// A cell of a head's two halves on its way to attention.
pub(super) struct RopeEpilogue<'a> {
    pub cell: OutputTile<'a>,
    /// Angles, and the position of every row; none for values.
    pub angles: Option<(&'a RopeTable, &'a [u32])>,
    /// Multiplied by afterwards.
    pub factor: f32,
    /// The head's rows: pairs of bf16.
    pub out: &'a mut [[u32; ROW]],
}

impl RopeEpilogue<'_> {
    #[inline(always)]
    pub fn run(self, isa: Isa) {
        isa.run_low_precision(self);
    }
}

impl Kernel for RopeEpilogue<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { cell, angles, factor, out } = self;
        let factor = s.splat(factor);
        let (a, b) =
            (cell.values[0].as_chunks::<OUTPUT_TILE_WIDTH>().0, cell.values[1].as_chunks::<OUTPUT_TILE_WIDTH>().0);
        let rows = cell.rows.clone();
        let (a, b, out) = (&a[..rows.len()], &b[..rows.len()], &mut out[rows.clone()]);
        for i in 0..rows.len() {
            let ([a0, a1], [b0, b1]) = (halves(&a[i]), halves(&b[i]));
            let (mut a, mut b) = ([s.load(a0), s.load(a1)], [s.load(b0), s.load(b1)]);
            if let Some((table, positions)) = angles {
                let (cos, sin) = table.angles(positions[rows.start + i] as usize);
                let (cos, sin) = (cos.as_chunks().0, sin.as_chunks().0);
                (a[0], b[0]) = rotate(s, a[0], b[0], s.load(&cos[0]), s.load(&sin[0]));
                (a[1], b[1]) = rotate(s, a[1], b[1], s.load(&cos[1]), s.load(&sin[1]));
            }
            let [first, second] = halves_mut(&mut out[i]);
            s.store_words(s.round(s.mul(a[0], factor), s.mul(a[1], factor)), first);
            s.store_words(s.round(s.mul(b[0], factor), s.mul(b[1], factor)), second);
        }
    }
}

#[inline(always)]
fn halves(row: &[f32; OUTPUT_TILE_WIDTH]) -> [&[f32; LANES]; 2] {
    let [first, second] = row.as_chunks().0 else { unreachable!("two vectors") };
    [first, second]
}

#[inline(always)]
fn halves_mut(row: &mut [u32; ROW]) -> [&mut [u32; LANES]; 2] {
    let [first, second] = row.as_chunks_mut().0 else { unreachable!("two vectors") };
    [first, second]
}
