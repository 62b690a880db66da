//! The epilogue of the first product of a feed-forward block: GEGLU, while an output tile is in L1.

use crate::{
    Activation, Isa,
    activation::{Function, WithFunction},
    gemm::{CELL, Cell, Form, Parts, WithForm},
    simd::{Kernel, LANES, Simd},
    team::Shared,
};

/// A cell `[a | b]` on its way into the second product: `activation(a) ⊙ b`.
pub(super) struct GegluEpilogue<'a, 'p> {
    pub cell: Cell<'a>,
    pub activation: Activation,
    /// Whether a shorter polynomial serves.
    pub coarse: bool,
    pub parts: &'a Parts<'p, 'p>,
    /// Where rows have to be whole first: `[rows, inner]`.
    pub rows: Option<&'a Shared<'p, f32>>,
}

impl GegluEpilogue<'_, '_> {
    /// # Safety
    /// Nobody else may write the cell's columns of its rows meanwhile.
    #[inline(always)]
    pub unsafe fn run(self, isa: Isa) {
        isa.run_low_precision(self);
    }
}

impl Kernel for GegluEpilogue<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.parts.w.scheme().with(self.parts.w.isa(), GegluAs(s, self))
    }
}

struct GegluAs<'a, 'p, S>(S, GegluEpilogue<'a, 'p>);

impl<S: Simd> WithForm for GegluAs<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run<F: Form>(self) {
        let Self(s, epilogue) = self;
        epilogue.activation.with(epilogue.coarse, GegluBy(s, epilogue, std::marker::PhantomData::<F>));
    }
}

struct GegluBy<'a, 'p, S, F>(S, GegluEpilogue<'a, 'p>, std::marker::PhantomData<F>);

impl<S: Simd, F: Form> WithFunction for GegluBy<'_, '_, S, F> {
    #[inline(always)]
    fn run<A: Function>(self, f: A) {
        let Self(s, GegluEpilogue { cell, parts, rows, .. }, _) = self;
        let (width, inner) = (cell.outputs.len(), parts.w.k());
        let (a, b) = (cell.values[0].as_chunks::<CELL>().0, cell.values[1].as_chunks::<CELL>().0);
        for (i, row) in cell.rows.clone().enumerate() {
            // Whole vectors: lanes behind the outputs are gated in vain.
            let mut gated = [0.0; CELL];
            for half in [0, LANES] {
                let (a, b) = (s.load(vector(&a[i], half)), s.load(vector(&b[i], half)));
                s.store(s.mul(f.of(s, a), b), gated[half..].first_chunk_mut().expect("half a row"));
            }
            let first = cell.outputs.start;
            // SAFETY: nobody else writes these columns, by the promise of `GegluEpilogue::run`.
            unsafe {
                match rows {
                    Some(rows) => {
                        rows.slice(row * inner + first..row * inner + first + width).copy_from_slice(&gated[..width]);
                    }
                    // A length that is known makes it a few instructions.
                    None if width == CELL => parts.put::<S, F>(s, cell.rows.clone(), row, first, &gated),
                    None => parts.put::<S, F>(s, cell.rows.clone(), row, first, &gated[..width]),
                }
            }
        }
    }
}

#[inline(always)]
fn vector(row: &[f32; CELL], from: usize) -> &[f32; LANES] {
    row[from..].first_chunk().expect("half a row")
}
