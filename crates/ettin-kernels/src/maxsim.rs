//! MaxSim: how well documents of many vectors answer queries of many vectors (late interaction).
//!
//! The score of a document is `Σᵢ maxⱼ qᵢ·dⱼ`: every query vector takes its best document vector, and the best are
//! added. The dot products are those of [`gemm`](mod@crate::gemm): query vectors are its weight, packed once, and
//! document vectors its rows. The products never reach memory: a tile of them is reduced while it is in L1. In f32,
//! document vectors are not packed either, and tiles are reduced in registers (`direct.rs`); the numbers are the same.
//!
//! **Order.** A dot product has the order of its scheme. The largest has no rounding; the sum over query vectors runs in
//! f64, in their order, and is rounded once. So a score depends on its query and its document alone, bit for bit: never
//! on other queries, other documents, or threads.

mod direct;

use std::ops::Range;

use self::direct::DocumentMaxima;
use crate::{
    buffer::{as_words, take, with_scratch},
    gemm::{OUTPUT_TILE_WIDTH, OutputTile, PackedActivationsView, PackedWeight, Product, Scheme, Sink},
    isa::Isa,
    simd::{Kernel, LANES, Simd, vector, vector_mut},
    team::{TASKS_PER_THREAD, Team, share},
};

/// The score of a document without vectors, below every other: that of sentence-transformers.
pub const EMPTY_DOCUMENT_SCORE: f32 = -1e9;

/// Encoded document vectors of a task, in bytes: what stays in a common L2 beside the queries.
const CHUNK_BYTES: usize = 256 << 10;

/// Queries of several vectors each, packed once for an instruction set and a scheme.
#[derive(Clone, Debug)]
pub struct MaxSimQueries {
    /// One output per vector.
    vectors: PackedWeight,
    /// The first vector of each query, and the end of the last.
    offsets: Vec<usize>,
}

impl MaxSimQueries {
    /// Packs `vectors` `[n, size]`; query `i` has those from `offsets[i]` to `offsets[i + 1]`.
    ///
    /// [`Scheme::F32`] multiplies as f32; [`Scheme::Bf16`] rounds the vectors of both sides to bf16 first.
    ///
    /// # Panics
    /// If the offsets do not ascend from 0 to n, vectors have no elements, or this CPU lacks `isa`.
    pub fn pack(isa: Isa, scheme: Scheme, team: &Team, vectors: &[f32], size: usize, offsets: &[usize]) -> Self {
        assert!(size > 0, "vectors without elements");
        let n = vectors.len() / size;
        assert!(vectors.len() == n * size, "{} elements are no vectors of {size}", vectors.len());
        check_offsets(offsets, n);
        let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&vectors[row * size..(row + 1) * size]);
        Self { vectors: PackedWeight::pack(isa, scheme, team, n, size, &fill), offsets: offsets.to_vec() }
    }

    /// How many queries there are.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of a vector.
    pub fn size(&self) -> usize {
        self.vectors.k()
    }
}

/// Vectors of documents, `[n, size]`, as they are kept.
#[derive(Clone, Copy, Debug)]
pub enum DocumentVectors<'a> {
    /// f32.
    F32(&'a [f32]),
    /// The bits of bf16: half the memory.
    Bf16(&'a [u16]),
    /// Signed bytes, times a scale per vector: a quarter of the memory.
    Int8 {
        /// `[n, size]`
        codes: &'a [i8],
        /// `[n]`
        scales: &'a [f32],
    },
}

impl<'a> DocumentVectors<'a> {
    /// How many vectors of `size` elements there are.
    ///
    /// # Panics
    /// If there are no whole vectors, or not one scale for each.
    fn count(self, size: usize) -> usize {
        let elements = match self {
            DocumentVectors::F32(x) => x.len(),
            DocumentVectors::Bf16(x) => x.len(),
            DocumentVectors::Int8 { codes, scales } => {
                assert_eq!(codes.len(), scales.len() * size, "{} scales for codes of {size}", scales.len());
                codes.len()
            }
        };
        assert!(elements.is_multiple_of(size), "{elements} elements are no vectors of {size}");
        elements / size
    }

    /// Elements of room that [`rows`](Self::rows) needs for so many elements.
    fn room(self, elements: usize) -> usize {
        if matches!(self, DocumentVectors::F32(_)) { 0 } else { elements }
    }

    /// Some vectors as f32, in `room` where they have to be made.
    fn rows<'b>(self, isa: Isa, rows: Range<usize>, size: usize, room: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        let elements = rows.start * size..rows.end * size;
        match self {
            DocumentVectors::F32(x) => return &x[elements],
            DocumentVectors::Bf16(x) => isa.run(WidenBf16 { x: &x[elements], out: room }),
            DocumentVectors::Int8 { codes, scales } => {
                isa.run(WidenBytes { codes: &codes[elements], scales: &scales[rows], size, out: room });
            }
        }
        room
    }
}

/// The score of every document for every query, into `out` `[documents, queries]`; document `i` has the vectors from
/// `offsets[i]` to `offsets[i + 1]`.
///
/// A document without vectors has [`EMPTY_DOCUMENT_SCORE`], a query without vectors scores 0 elsewhere. A score is NaN
/// where a product of its query and its document is not finite.
///
/// # Panics
/// If the lengths do not fit together, or the offsets do not ascend from 0 to the number of vectors.
pub fn max_sim(
    team: &Team,
    queries: &MaxSimQueries,
    documents: DocumentVectors<'_>,
    offsets: &[usize],
    out: &mut [f32],
) {
    let (w, size) = (&queries.vectors, queries.size());
    let rows = documents.count(size);
    check_offsets(offsets, rows);
    assert_eq!(out.len(), (offsets.len() - 1) * queries.len(), "out is not [{}, {}]", offsets.len() - 1, queries.len());
    if out.is_empty() {
        return;
    }
    let tasks = if team.threads() == 1 { 1 } else { team.threads() * TASKS_PER_THREAD };
    let most = (CHUNK_BYTES / (4 * w.row_words())).min(rows.div_ceil(tasks)).max(1);
    let cuts = chunks(offsets, most);
    let work = (2 * rows * w.n()).saturating_mul(size);
    team.run_parts(out, queries.len(), &cuts, work, |chunk, out| {
        let offsets = &offsets[cuts[chunk]..=cuts[chunk + 1]];
        DocumentChunk { queries, documents, offsets }.score(out);
    });
}

/// # Panics
/// If the offsets do not ascend from 0 to `end`.
fn check_offsets(offsets: &[usize], end: usize) {
    let ends = (offsets.first(), offsets.last());
    assert!(ends == (Some(&0), Some(&end)) && offsets.is_sorted(), "offsets that do not ascend from 0 to {end}");
}

/// The first documents of runs of so many vectors, or of one document with more, and the end.
fn chunks(offsets: &[usize], most: usize) -> Vec<usize> {
    let mut cuts = vec![0];
    let mut first = 0;
    for document in 1..offsets.len() - 1 {
        if offsets[document + 1] - offsets[first] > most {
            cuts.push(document);
            first = document;
        }
    }
    cuts.push(offsets.len() - 1);
    cuts
}

/// Some documents, on the calling thread.
struct DocumentChunk<'a> {
    queries: &'a MaxSimQueries,
    documents: DocumentVectors<'a>,
    /// Of the chunk's documents, and the end of the last.
    offsets: &'a [usize],
}

impl DocumentChunk<'_> {
    /// `out` is `[documents, queries]`.
    fn score(&self, out: &mut [f32]) {
        let &Self { queries, documents, offsets } = self;
        let (w, size) = (&queries.vectors, queries.size());
        let (rows, count) = (self.rows().len(), offsets.len() - 1);
        // Whole panels: the kernel writes whole vectors.
        let stride = w.n().next_multiple_of(w.width());
        let direct = direct::serves(w);
        // Directly, rows are widened a few at a time and never packed.
        let (widened, packed) = if direct { (direct::block_rows(size), 0) } else { (rows, rows) };
        let room = documents.room(widened * size);
        let sizes = [count * stride, room, packed * w.row_words(), packed].map(|len| len.next_multiple_of(LANES));
        with_scratch(sizes.iter().sum(), |scratch| {
            let mut left = scratch;
            let [maxima, widened, words, scales] = sizes.map(|len| take(&mut left, len));
            let (maxima, room) = (&mut maxima[..count * stride], &mut widened[..room]);
            maxima.fill(f32::NEG_INFINITY);
            if rows > 0 && w.n() > 0 {
                match direct {
                    true => self.find_directly(room, maxima, stride),
                    false => self.find_packed([room, words, scales], maxima, stride),
                }
            }
            for (document, out) in out.chunks_exact_mut(queries.len()).enumerate() {
                let best = &maxima[document * stride..(document + 1) * stride];
                let empty = offsets[document] == offsets[document + 1];
                for (out, query) in out.iter_mut().zip(queries.offsets.windows(2)) {
                    *out = match empty {
                        true => EMPTY_DOCUMENT_SCORE,
                        false => best[query[0]..query[1]].iter().fold(0.0, |sum, &best| sum + f64::from(best)) as f32,
                    };
                }
            }
        });
    }

    /// The vectors of all its documents.
    fn rows(&self) -> Range<usize> {
        self.offsets[0]..self.offsets[self.offsets.len() - 1]
    }

    /// The largest products of each document, `[documents, stride]`.
    fn find_directly(&self, room: &mut [f32], maxima: &mut [f32], stride: usize) {
        let (w, size) = (&self.queries.vectors, self.queries.size());
        for (document, maxima) in self.offsets.windows(2).zip(maxima.chunks_exact_mut(stride)) {
            let rows = document[1] - document[0];
            let blocks = rows.div_ceil(direct::block_rows(size));
            for block in 0..blocks {
                let part = share(rows, blocks, block);
                let part = document[0] + part.start..document[0] + part.end;
                let elements = self.documents.room(part.len() * size);
                let rows = self.documents.rows(w.isa(), part, size, &mut room[..elements]);
                w.isa().run(DocumentMaxima { queries: w, rows, maxima: &mut *maxima });
            }
        }
    }

    /// The same by products of packed rows, in `[room, words, scales]` of them.
    fn find_packed(&self, [room, words, scales]: [&mut [f32]; 3], maxima: &mut [f32], stride: usize) {
        let (w, size) = (&self.queries.vectors, self.queries.size());
        let (first, rows) = (self.offsets[0], self.rows().len());
        let x = self.documents.rows(w.isa(), self.rows(), size, room);
        let words = as_words(&mut words[..rows * w.row_words()]);
        let view = PackedActivationsView::encode(w, x, None, words, &mut scales[..rows]);
        let mut reduce = |cell: OutputTile<'_>| {
            w.isa().run(Maxima { cell, first, offsets: self.offsets, maxima: &mut *maxima, stride });
        };
        let sink = Sink::Epilogue { apart: None, take: &mut reduce };
        let (tiles, panels) = (0..view.tiles(), w.panels_of(0..w.n()));
        // SAFETY: no rows are written.
        unsafe { Product { rows: view, w, bias: None, tiles, panels, sink }.run() };
    }
}

/// Takes the largest product of each document in a tile.
struct Maxima<'a> {
    cell: OutputTile<'a>,
    /// Number of the chunk's first vector among all.
    first: usize,
    /// Of the chunk's documents, and the end of the last.
    offsets: &'a [usize],
    /// `[documents, stride]`
    maxima: &'a mut [f32],
    stride: usize,
}

impl Kernel for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { cell, first, offsets, maxima, stride } = self;
        let (values, start) = (cell.values[0], cell.rows.start);
        let mut row = start;
        // Of the document that holds the row; documents without rows end before it.
        let mut document = offsets[1..].partition_point(|&end| end - first <= row);
        while row < cell.rows.end {
            let end = (offsets[document + 1] - first).min(cell.rows.end);
            for column in (0..cell.outputs.len()).step_by(LANES) {
                let out = vector_mut(maxima, document * stride + cell.outputs.start + column);
                let mut most = s.load(out);
                // 0, or NaN once a product was not finite: the largest of NaN and a number is the number.
                let mut broken = s.zero();
                for row in row..end {
                    let x = s.load(vector(values, (row - start) * OUTPUT_TILE_WIDTH + column));
                    most = s.max(x, most);
                    broken = s.mul_add(x, s.zero(), broken);
                }
                s.store(s.add(most, broken), out);
            }
            row = end;
            while document + 1 < offsets.len() && offsets[document + 1] - first <= row {
                document += 1;
            }
        }
    }
}

/// bf16 to f32.
struct WidenBf16<'a> {
    x: &'a [u16],
    out: &'a mut [f32],
}

impl Kernel for WidenBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = f32::from_bits(u32::from(x) << 16);
        }
    }
}

/// Bytes times the scale of their vector.
struct WidenBytes<'a> {
    codes: &'a [i8],
    scales: &'a [f32],
    size: usize,
    out: &'a mut [f32],
}

impl Kernel for WidenBytes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { codes, scales, size, out } = self;
        for ((out, codes), &scale) in out.chunks_exact_mut(size).zip(codes.chunks_exact(size)).zip(scales) {
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = f32::from(code) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::chunks;

    #[test]
    fn chunks_are_short_or_one_document() {
        assert_eq!(chunks(&[0], 4), [0, 0]);
        assert_eq!(chunks(&[0, 9], 4), [0, 1]);
        assert_eq!(chunks(&[0, 2, 4, 5, 14, 14, 15], 4), [0, 2, 3, 4, 6]);
        assert_eq!(chunks(&[0, 0, 0, 0], 4), [0, 3]);
    }
}
