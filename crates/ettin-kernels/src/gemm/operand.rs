//! Activations in the layout a product reads: tiles of rows, interleaved group by group of steps.

use std::ops::Range;

use super::{
    PackedMatrix,
    form::{Bytes, Form, Full, Nibbles, Split, Wide},
    layout::Layout,
    scheme::{Scheme, WithForm},
};
use crate::{
    buffer::{Buffer, as_numbers, with_scratch},
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, TASKS_PER_THREAD, Team, share},
};

/// Where a row lies in its tile: the words of its group g start at `first + g · stride`.
pub(crate) struct Place<'a> {
    pub(super) words: &'a mut [u32],
    pub(super) first: usize,
    pub(super) stride: usize,
}

impl Place<'_> {
    /// The words of a group of steps, `[parts, steps]` or as the scheme says.
    #[inline(always)]
    fn group<F: Form>(&mut self, group: usize) -> &mut [u32] {
        &mut self.words[self.first + group * self.stride..][..F::WORDS * LANES]
    }
}

/// How a scheme writes one row of activations.
pub(crate) trait Encode {
    /// Writes a row, filled up with zeros to whole groups, and gives its factor.
    fn row<S: Simd>(s: S, x: &[f32], place: Place<'_>) -> f32;
}

macro_rules! encode_as_f32 {
    ($($form:ty),+) => {
        $(impl Encode for $form {
            #[inline(always)]
            fn row<S: Simd>(s: S, x: &[f32], mut place: Place<'_>) -> f32 {
                for group in 0..Layout::steps::<$form>(x.len()) / LANES {
                    let x = x.get(group * LANES..x.len().min((group + 1) * LANES)).unwrap_or(&[]);
                    let words = as_numbers(place.group::<$form>(group));
                    s.store(s.load_part(x), &mut words.as_chunks_mut().0[0]);
                }
                1.0
            }
        })+
    };
}

encode_as_f32!(Full, Wide, Nibbles);

impl<const PARTS: usize> Encode for Split<PARTS> {
    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: Place<'_>) -> f32 {
        for (group, x) in x.chunks(2 * LANES).enumerate() {
            let (low, high) = x.split_at(x.len().min(LANES));
            let mut rest = [s.load_part(low), s.load_part(high)];
            let parts = place.group::<Self>(group).as_chunks_mut().0;
            for (part, words) in parts.iter_mut().enumerate() {
                let pairs = s.round(rest[0], rest[1]);
                s.store_words(pairs, words);
                if part + 1 < PARTS {
                    let taken = s.zip(s.even(pairs), s.odd(pairs));
                    rest = [s.sub(rest[0], taken[0]), s.sub(rest[1], taken[1])];
                }
            }
        }
        1.0
    }
}

/// 1.5 · 2²³: added to a small number, it leaves the nearest integer in the lowest bits.
pub(super) const TO_INTEGER: f32 = 12_582_912.0;

/// Magnitude of the largest byte.
pub(super) const BYTE: f32 = 127.0;

impl Encode for Bytes {
    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], mut place: Place<'_>) -> f32 {
        let (mut most, mut broken) = (s.zero(), s.zero());
        for x in x.chunks(LANES) {
            let x = s.load_part(x);
            most = s.max(most, s.max(x, s.sub(s.zero(), x)));
            broken = s.mul_add(x, s.zero(), broken);
        }
        // NaN where anything is not finite: the whole row then is NaN, not wrong.
        let most = s.largest(most) + s.sum(broken);
        let scale = if most == 0.0 { 0.0 } else { BYTE / most };
        let (scale, to_integer) = (s.splat(scale), s.splat(TO_INTEGER));
        for (group, x) in x.chunks(4 * LANES).enumerate() {
            let mut bytes = [[0; LANES]; 4];
            for (bytes, x) in bytes.iter_mut().zip(x.chunks(LANES)) {
                let mut integers = [0.0; LANES];
                s.store(s.add(s.mul(s.load_part(x), scale), to_integer), &mut integers);
                for (byte, integer) in bytes.iter_mut().zip(integers) {
                    *byte = (integer.to_bits() as u8) ^ 0x80;
                }
            }
            for (word, bytes) in place.group::<Self>(group).iter_mut().zip(bytes.as_flattened().as_chunks().0) {
                *word = u32::from_le_bytes(*bytes);
            }
        }
        most / BYTE
    }
}

/// Encoded rows in memory of somebody.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Tile after tile, each as its [`Layout`] says.
    pub(super) words: &'a [u32],
    /// One per row.
    pub(super) factors: &'a [f32],
    pub(crate) rows: usize,
    pub(super) layout: Layout,
}

impl Rows<'_> {
    pub(crate) fn tiles(&self) -> usize {
        self.layout.tiles(self.rows)
    }
}

/// Encodes rows `[rows, k]` for products with `w` and its like: tiles of nearly equal height.
pub(crate) struct Encoding<'a, 'x> {
    pub(crate) w: &'x PackedMatrix,
    pub(crate) x: &'x [f32],
    pub(crate) rows: usize,
    /// `[rows · words]`
    pub(crate) words: &'a mut [u32],
    /// `[rows]`
    pub(crate) factors: &'a mut [f32],
}

impl<'a> Kernel for Encoding<'a, '_> {
    type Output = Rows<'a>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Rows<'a> {
        self.w.scheme().with(EncodeAs(s, self))
    }
}

struct EncodeAs<'a, 'x, S>(S, Encoding<'a, 'x>);

impl<'a, S: Simd> WithForm for EncodeAs<'a, '_, S> {
    type Output = Rows<'a>;

    #[inline(always)]
    fn run<F: Form>(self) -> Rows<'a> {
        let Self(s, Encoding { w, x, rows, words, factors }) = self;
        let (k, layout) = (w.k(), w.layout());
        let width = Layout::steps::<F>(k) * F::WORDS;
        for tile in 0..layout.tiles(rows) {
            let range = layout.tile(rows, tile);
            let words = &mut words[range.start * width..range.end * width];
            for (i, row) in range.clone().enumerate() {
                let unit = LANES * F::WORDS;
                let place = Place { words: &mut *words, first: i * unit, stride: range.len() * unit };
                factors[row] = F::row(s, &x[row * k..(row + 1) * k], place);
            }
        }
        Rows { words, factors, rows, layout }
    }
}

/// Encoded rows with memory of their own, kept from use to use.
#[derive(Default)]
pub struct Operand {
    words: Buffer<u32>,
    factors: Buffer,
    scheme: Option<(Isa, Scheme)>,
    rows: usize,
    k: usize,
}

impl Operand {
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
    pub fn encode(&mut self, team: &Team, w: &PackedMatrix, x: &[f32]) {
        let k = w.k();
        let rows = x.len().checked_div(k).unwrap_or(0);
        assert_eq!(x.len(), rows * k, "x is not [rows, {k}]");
        self.produce(team, w, rows, &|rows, out| out.copy_from_slice(&x[rows.start * k..rows.end * k]));
    }

    /// As [`encode`](Self::encode), of rows that `fill(rows, out)` writes as `[rows.len(), k]`, a few at a time, each
    /// exactly once, from several threads. It must not call parallel kernels.
    pub fn produce(
        &mut self,
        team: &Team,
        w: &PackedMatrix,
        rows: usize,
        fill: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
    ) {
        let (isa, k, width, layout) = (w.isa(), w.k(), w.row_words(), w.layout());
        self.words.grow(rows * width);
        self.factors.grow(rows);
        self.scheme = Some((isa, w.scheme()));
        (self.rows, self.k) = (rows, k);
        let tiles = layout.tiles(rows);
        let parts = tiles.min(team.threads() * TASKS_PER_THREAD);
        let words = Shared::new(&mut self.words);
        let factors = Shared::new(&mut self.factors);
        team.run(parts, 8 * rows * k, |part| {
            for tile in share(tiles, parts, part) {
                let range = layout.tile(rows, tile);
                with_scratch(range.len() * k, |x| {
                    fill(range.clone(), x);
                    // SAFETY: tiles are disjoint.
                    let (words, factors) =
                        unsafe { (words.slice(range.start * width..range.end * width), factors.slice(range.clone())) };
                    isa.run_narrow(Encoding { w, x, rows: range.len(), words, factors });
                });
            }
        });
    }

    /// # Panics
    /// If it was encoded for another kind of weight.
    pub(super) fn view(&self, w: &PackedMatrix) -> Rows<'_> {
        assert_eq!(self.scheme, Some((w.isa(), w.scheme())), "the rows were encoded for another scheme than {w:?}");
        assert_eq!(self.k, w.k(), "rows of {} inputs for {w:?}", self.k);
        let words = &self.words[..self.rows * w.row_words()];
        Rows { words, factors: &self.factors[..self.rows], rows: self.rows, layout: w.layout() }
    }
}

impl std::fmt::Debug for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Operand {{ {:?}, [{}, {}] }}", self.scheme, self.rows, self.k)
    }
}
