//! Activations in the layout a product reads: tiles of rows, interleaved step by step.

use std::ops::Range;

use super::{
    PackedMatrix,
    form::{Bytes, Form, Full, Nibbles, Split, Wide},
    layout::Layout,
    scheme::{Scheme, WithForm},
};
use crate::{
    buffer::{Buffer, as_words, bits, with_scratch},
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::{Shared, TASKS_PER_THREAD, Team, share},
    transpose::interleave,
};

/// Steps of a row, filled up as the scheme asks.
#[inline(always)]
pub(super) fn steps<F: Form>(k: usize) -> usize {
    k.next_multiple_of(F::PAD) / F::UNIT
}

/// How a scheme writes one row of activations.
pub(crate) trait Encode {
    /// Whether a row's words are its numbers.
    const PLAIN: bool = false;

    /// Writes a row, steps in order, and gives its factor. What `words` has beyond the row is zero already.
    fn row<S: Simd>(s: S, x: &[f32], words: &mut [u32]) -> f32;
}

macro_rules! encode_as_f32 {
    ($($form:ty),+) => {
        $(impl Encode for $form {
            const PLAIN: bool = true;

            #[inline(always)]
            fn row<S: Simd>(_: S, x: &[f32], words: &mut [u32]) -> f32 {
                for (word, x) in words.iter_mut().zip(x) {
                    *word = x.to_bits();
                }
                1.0
            }
        })+
    };
}

encode_as_f32!(Full, Wide, Nibbles);

impl<const PARTS: usize> Encode for Split<PARTS> {
    #[inline(always)]
    fn row<S: Simd>(s: S, x: &[f32], words: &mut [u32]) -> f32 {
        for (x, words) in x.chunks(2 * LANES).zip(words.chunks_mut(PARTS * LANES)) {
            let mut rest = [[0.0; LANES]; 2];
            rest.as_flattened_mut()[..x.len()].copy_from_slice(x);
            for part in 0..PARTS {
                let mut pairs = [0; LANES];
                s.store_words(s.round(s.load(&rest[0]), s.load(&rest[1])), &mut pairs);
                for (words, pair) in words.chunks_exact_mut(PARTS).zip(pairs) {
                    words[part] = pair;
                }
                if part + 1 < PARTS {
                    for (rest, pair) in rest.as_flattened_mut().as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                        rest[0] -= f32::from_bits(pair << 16);
                        rest[1] -= f32::from_bits(pair & 0xffff_0000);
                    }
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
    fn row<S: Simd>(s: S, x: &[f32], words: &mut [u32]) -> f32 {
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
        for (x, words) in x.chunks(LANES).zip(words.chunks_mut(LANES / 4)) {
            let mut integers = [0.0; LANES];
            s.store(s.add(s.mul(s.load_part(x), scale), to_integer), &mut integers);
            let mut bytes = [0; LANES];
            for (byte, integer) in bytes.iter_mut().zip(integers) {
                *byte = (integer.to_bits() as u8) ^ 0x80;
            }
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
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
    /// For a tile on its way, `[tile rows · words]`; see [`line_words`].
    pub(crate) line: &'x mut [u32],
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
        let Self(s, Encoding { w, x, rows, words, factors, line }) = self;
        let (k, layout) = (w.k(), w.layout());
        let width = layout.steps::<F>(k) * F::WORDS;
        for tile in 0..layout.tiles(rows) {
            let range = layout.tile(rows, tile);
            let out = &mut words[range.start * width..range.end * width];
            if range.len() == 1 && layout.group == 1 {
                out.fill(0);
                factors[range.start] = F::row(s, &x[range.start * k..range.end * k], out);
                continue;
            }
            if F::PLAIN && width == k {
                interleave(bits(&x[range.start * k..range.end * k]), range.len(), width, out);
                factors[range].fill(1.0);
                continue;
            }
            let line = &mut line[..range.len() * width];
            line.fill(0);
            for (row, line) in range.clone().zip(line.chunks_exact_mut(width.max(1))) {
                factors[row] = F::row(s, &x[row * k..(row + 1) * k], line);
            }
            if layout.group == 1 {
                interleave(line, range.len(), width, out);
            } else {
                regroup(line, range.len(), layout.group, F::WORDS, out);
            }
        }
        Rows { words, factors, rows, layout }
    }
}

/// Scratch that an encoding needs.
pub(crate) fn line_words(w: &PackedMatrix, rows: usize) -> usize {
    rows.min(w.layout().rows) * w.row_words()
}

/// `[rows, groups, group, parts]` to `[groups, rows, parts, group]`.
#[inline(always)]
fn regroup(lines: &[u32], rows: usize, group: usize, parts: usize, out: &mut [u32]) {
    let unit = group * parts;
    assert!(lines.len() == out.len() && lines.len().is_multiple_of(rows * unit));
    for (r, line) in lines.chunks_exact((lines.len() / rows).max(1)).enumerate() {
        for (g, steps) in line.chunks_exact(unit).enumerate() {
            let out = &mut out[(g * rows + r) * unit..][..unit];
            if parts == 1 {
                out.copy_from_slice(steps);
                continue;
            }
            for (i, step) in steps.chunks_exact(parts).enumerate() {
                for (part, &word) in step.iter().enumerate() {
                    out[part * group + i] = word;
                }
            }
        }
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
                let line = line_words(w, range.len());
                with_scratch(line + range.len() * k, |scratch| {
                    let (line, x) = scratch.split_at_mut(line);
                    fill(range.clone(), x);
                    // SAFETY: tiles are disjoint.
                    let (words, factors) =
                        unsafe { (words.slice(range.start * width..range.end * width), factors.slice(range.clone())) };
                    isa.run_narrow(Encoding { w, x, rows: range.len(), words, factors, line: as_words(line) });
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
