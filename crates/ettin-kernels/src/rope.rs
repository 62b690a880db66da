//! Rotary position embedding in the half-split ("rotate half") layout, tables in f32.

use std::{ops::Range, sync::OnceLock};

use crate::{
    isa::Isa,
    math::negate,
    simd::{Kernel, LANES, Simd},
    team::Team,
};

/// Positions whose angles are computed together, when the first of them is asked for.
const BLOCK: usize = 256;

/// Cosines and sines of position × frequency, for positions from 0; computed as they are needed, as most texts are much
/// shorter than what a model can take.
///
/// As PyTorch computes them in f32: `1 / θ^(2i/d)` with each step rounded to f32, angle = position × frequency
/// rounded to f32, and the cosine and sine of that rounded angle (here correctly rounded).
#[derive(Clone, Debug)]
pub struct RopeTable {
    positions: usize,
    frequencies: Vec<f32>,
    /// Of a block of positions: `[positions, cos | sin]`, each as long as `frequencies`.
    blocks: Box<[OnceLock<Box<[f32]>>]>,
}

impl RopeTable {
    /// A table for heads of `head_dim` elements and positions below `positions`.
    ///
    /// # Panics
    /// If `head_dim` is odd.
    pub fn new(theta: f32, head_dim: usize, positions: usize) -> Self {
        assert!(head_dim.is_multiple_of(2), "rotary heads have an even size, not {head_dim}");
        let frequencies: Vec<f32> = (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                1.0 / f64::from(theta).powf(f64::from(exponent)) as f32
            })
            .collect();
        let blocks = std::iter::repeat_with(OnceLock::new).take(positions.div_ceil(BLOCK)).collect();
        Self { positions, frequencies, blocks }
    }

    #[cold]
    fn block(&self, block: usize) -> Box<[f32]> {
        let positions = block * BLOCK..((block + 1) * BLOCK).min(self.positions);
        let mut angles = Vec::with_capacity(2 * self.frequencies.len() * positions.len());
        for position in positions {
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            angles.extend(self.frequencies.iter().map(|f| angle(f).cos() as f32));
            angles.extend(self.frequencies.iter().map(|f| angle(f).sin() as f32));
        }
        angles.into()
    }

    /// Positions of the table.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// `θ^(-2i/d)` for i in 0..d/2.
    pub fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// Cosines and sines of a position, each of length d/2.
    ///
    /// # Panics
    /// If the table has no such position.
    pub fn angles(&self, position: usize) -> (&[f32], &[f32]) {
        assert!(position < self.positions, "position {position} of {}", self.positions);
        let (block, half) = (position / BLOCK, self.frequencies.len());
        let angles = self.blocks[block].get_or_init(|| self.block(block));
        angles[2 * half * (position % BLOCK)..][..2 * half].split_at(half)
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
        let half = table.frequencies.len();
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
                    let (x, y) = rotate(s, s.load(&a[i]), s.load(&b[i]), s.load(&cos[i]), s.load(&sin[i]));
                    s.store(x, &mut a[i]);
                    s.store(y, &mut b[i]);
                }
                if !a_tail.is_empty() {
                    let (cos, sin) = (s.load_part(cos_tail), s.load_part(sin_tail));
                    let (x, y) = rotate(s, s.load_part(a_tail), s.load_part(b_tail), cos, sin);
                    s.store_part(x, a_tail);
                    s.store_part(y, b_tail);
                }
            }
        }
    }
}

/// (a, b) rotated.
#[inline(always)]
pub(crate) fn rotate<S: Simd>(s: S, a: S::V, b: S::V, cos: S::V, sin: S::V) -> (S::V, S::V) {
    (s.mul_add(a, cos, s.mul(negate(s, b), sin)), s.mul_add(b, cos, s.mul(a, sin)))
}
