//! Rotary position embedding in the half-split ("rotate half") layout, tables in f32.

use std::ops::Range;

use crate::{
    isa::Isa,
    math::negate,
    simd::{Kernel, LANES, Simd},
    team::Team,
};

/// Cosines and sines of position × frequency, for positions from 0.
///
/// As PyTorch computes them in f32: `1 / θ^(2i/d)` with each step rounded to f32, angle = position × frequency
/// rounded to f32, and the cosine and sine of that rounded angle (here correctly rounded).
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    frequencies: Vec<f32>,
    /// `[positions, cos | sin]`, each `half` long.
    data: Vec<f32>,
}

impl RopeTable {
    /// A table for heads of `head_dim` elements and positions below `positions`.
    ///
    /// # Panics
    /// If `head_dim` is odd.
    pub fn new(theta: f32, head_dim: usize, positions: usize) -> Self {
        assert!(head_dim.is_multiple_of(2), "rotary heads have an even size, not {head_dim}");
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                1.0 / f64::from(theta).powf(f64::from(exponent)) as f32
            })
            .collect();
        let mut table = Self { half, frequencies, data: Vec::new() };
        table.extend(positions);
        table
    }

    /// Makes room for positions below `positions`; those present stay as they are.
    pub fn extend(&mut self, positions: usize) {
        self.data.reserve((2 * self.half * positions).saturating_sub(self.data.len()));
        for position in self.positions()..positions {
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            self.data.extend(self.frequencies.iter().map(|f| angle(f).cos() as f32));
            self.data.extend(self.frequencies.iter().map(|f| angle(f).sin() as f32));
        }
    }

    /// Positions present.
    pub fn positions(&self) -> usize {
        self.data.len().checked_div(2 * self.half).unwrap_or(usize::MAX)
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// `θ^(-2i/d)` for i in 0..d/2.
    pub fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// Cosines and sines of a position, each of length d/2.
    ///
    /// # Panics
    /// If the position is not present.
    pub fn angles(&self, position: usize) -> (&[f32], &[f32]) {
        self.data[2 * self.half * position..2 * self.half * (position + 1)].split_at(self.half)
    }
}

/// Heads to rotate in place: `heads` consecutive heads from column `offset` of each row of `rows` `[m, stride]`.
#[derive(Debug)]
pub struct RopeRows<'a> {
    /// `[m, stride]`
    pub rows: &'a mut [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Column of the first head.
    pub offset: usize,
    /// Consecutive heads. In a packed `[q | k | v]` buffer, q and k together are `2 · heads` from column 0.
    pub heads: usize,
}

/// Rotates each row's heads by the angles of its position (`positions`: one per row).
///
/// # Panics
/// If the lengths do not fit together or a position is not in the table.
pub fn rope(isa: Isa, team: &Team, table: &RopeTable, positions: &[u32], target: RopeRows<'_>) {
    let RopeRows { rows, stride, offset, heads } = target;
    let width = heads * table.head_dim();
    assert_eq!(rows.len(), positions.len() * stride, "rows are not [{}, {stride}]", positions.len());
    assert!(offset + width <= stride, "{heads} heads from column {offset} pass the row's end, {stride}");
    team.run_rows(rows, stride, 8 * width * positions.len(), |first, rows| {
        isa.run(Rotate { rows, positions: &positions[first..], stride, columns: offset..offset + width, table });
    });
}

struct Rotate<'a> {
    /// `[m, stride]`
    rows: &'a mut [f32],
    /// `[m]` or more
    positions: &'a [u32],
    stride: usize,
    columns: Range<usize>,
    table: &'a RopeTable,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rotate { rows, positions, stride, columns, table } = self;
        let half = table.half;
        if half == 0 {
            return;
        }
        for (row, &position) in rows.chunks_exact_mut(stride).zip(positions) {
            let (cos, sin) = table.angles(position as usize);
            for head in row[columns.clone()].chunks_exact_mut(2 * half) {
                let (a, b) = head.split_at_mut(half);
                let (a, a_tail) = a.as_chunks_mut::<LANES>();
                let (b, b_tail) = b.as_chunks_mut::<LANES>();
                let (cos, cos_tail) = cos.as_chunks();
                let (sin, sin_tail) = sin.as_chunks();
                // By index: iterators side by side would be kept in memory, and waited for.
                let vectors = a.len();
                let (b, cos, sin) = (&mut b[..vectors], &cos[..vectors], &sin[..vectors]);
                for i in 0..vectors {
                    let (x, y) = turn(s, s.load(&a[i]), s.load(&b[i]), s.load(&cos[i]), s.load(&sin[i]));
                    s.store(x, &mut a[i]);
                    s.store(y, &mut b[i]);
                }
                if !a_tail.is_empty() {
                    let (cos, sin) = (s.load_part(cos_tail), s.load_part(sin_tail));
                    let (x, y) = turn(s, s.load_part(a_tail), s.load_part(b_tail), cos, sin);
                    s.store_part(x, a_tail);
                    s.store_part(y, b_tail);
                }
            }
        }
    }
}

/// (a, b) rotated.
#[inline(always)]
pub(crate) fn turn<S: Simd>(s: S, a: S::V, b: S::V, cos: S::V, sin: S::V) -> (S::V, S::V) {
    (s.mul_add(a, cos, s.mul(negate(s, b), sin)), s.mul_add(b, cos, s.mul(a, sin)))
}
